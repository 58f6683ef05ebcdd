"""What Triton refuses is refused in its words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backends.completion import complete
from backends.config import ModelConfig, read
from backends.pbtxt import read_text
from backends.validation import fault, group_fault, refusal

DELAY = "timeout_action: DELAY default_timeout_microseconds: 1"
CORRELATION = "kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64"
TENSOR = 'name: "I" data_type: TYPE_FP32 dims: [ 1 ]'


def config(text: str, gpus: tuple[int, ...] = ()) -> ModelConfig:
    fields = read_text(f'backend: "python" {text}' if "platform" not in text else text)
    complete(fields, "m", None, gpus)
    return read(json.dumps(fields), version=1, path=str(Path("/m/1")), arguments={})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_batch_size: -2", "'max_batch_size' must be non-negative value for m"),
        ('platform: "ensemble"', "ensemble scheduling must be set for ensemble m whose platform is ensemble"),
        ("ensemble_scheduling { }", "ensemble scheduling cannot be set for model 'm' whose platform is not ensemble"),
        (
            "max_batch_size: 4 dynamic_batching { preferred_batch_size: [ 8 ] }",
            "dynamic batching preferred size must be <= max batch size for m",
        ),
        (
            "max_batch_size: 4 dynamic_batching { preferred_batch_size: [ 0 ] }",
            "dynamic batching preferred size must be positive for m",
        ),
        ("dynamic_batching { priority_levels: 2 }", "default priority level must be in range [1, 2] for m"),
        (
            "dynamic_batching { priority_levels: 2 default_priority_level: 3 }",
            "default priority level must be in range [1, 2] for m",
        ),
        (
            "dynamic_batching { priority_levels: 1 default_priority_level: 1 priority_queue_policy { key: 2 } }",
            "priority queue policy must have priority level in range [1, 1] for m",
        ),
        (
            "dynamic_batching { preserve_ordering: true priority_levels: 2 default_priority_level: 1 }",
            "Only one priority level is allowed when 'preserve_ordering' is true for m",
        ),
        (
            f"dynamic_batching {{ preserve_ordering: true default_queue_policy {{ {DELAY} }} }}",
            "Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true for m",
        ),
        (
            "model_transaction_policy { decoupled: true } response_cache { enable: true }",
            (
                "Response Cache does not currently support model m with 'decoupled' transaction policy. "
                "Please disable the response cache."
            ),
        ),
        (
            'sequence_batching { control_input [ { name: "S" control [ { kind: CONTROL_SEQUENCE_START } ] } ] }',
            (
                "sequence batching must specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' "
                "for CONTROL_SEQUENCE_START for m"
            ),
        ),
        (
            'sequence_batching { control_input [ { name: "C" control [ { kind: CONTROL_SEQUENCE_CORRID } ] } ] }',
            "sequence batching must specify 'data_type' for CONTROL_SEQUENCE_CORRID for m",
        ),
    ],
)
def test_what_is_not_taken_in_says_why(text: str, words: str) -> None:
    assert refusal(config(text)) == words


@pytest.mark.parametrize(
    "text",
    [
        "",
        "max_batch_size: 8 dynamic_batching { preferred_batch_size: [ 4, 8 ] }",
        "dynamic_batching { priority_levels: 3 default_priority_level: 2 }",
        "dynamic_batching { preserve_ordering: true }",
        "response_cache { enable: true }",
        f'sequence_batching {{ control_input [ {{ name: "C" control [ {{ {CORRELATION} }} ] }} ] }}',
    ],
)
def test_what_is_right_is_not_refused(text: str) -> None:
    assert refusal(config(text)) == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('input [ { name: "I" data_type: TYPE_FP32 } ]', "model input 'I' must specify 'dims' for m"),
        ('input [ { name: "I" dims: [ 1 ] } ]', "model input 'I' must specify 'data_type' for m"),
        ("input [ { data_type: TYPE_FP32 dims: [ 1 ] } ]", "model input must specify 'name' for m"),
        (
            'output [ { name: "O" data_type: TYPE_FP32 dims: [ 0 ] } ]',
            "model output 'O' dimension must be integer >= 1, or -1 to indicate a variable-size dimension for m",
        ),
        (f"input [ {{ {TENSOR} }} ]", ""),
    ],
)
def test_tensors_must_be_whole(text: str, words: str) -> None:
    assert fault(config(text)) == words


@pytest.mark.parametrize(
    ("text", "gpus", "words"),
    [
        ("", (), ""),
        ("instance_group [ { kind: KIND_GPU } ]", (0,), ""),
        (
            "instance_group [ { kind: KIND_GPU } ]",
            (),
            "instance group m_0 of model m has kind KIND_GPU but no GPUs are available",
        ),
        (
            "instance_group [ { kind: KIND_CPU gpus: [ 0 ] } ]",
            (0,),
            "instance group m_0 of model m has kind KIND_CPU but specifies one or more GPUs",
        ),
        (
            "instance_group [ { kind: KIND_GPU gpus: [ 3 ] } ]",
            (0, 1),
            "instance group m_0 of model m specifies invalid or unsupported gpu id 3. GPUs available are: 0,1",
        ),
    ],
)
def test_instances_need_a_place(text: str, gpus: tuple[int, ...], words: str) -> None:
    assert group_fault(config(text, gpus), gpus) == words
