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
        (
            'backend: "ensemble" platform: "other"',
            "Ensemble model 'm' must have platform type 'ensemble' and empty backend type",
        ),
        (
            'metric_tags { key: "a-b" value: "c" }',
            "metric tag 'a-b' must have the name of a Prometheus label for m",
        ),
        (
            "response_cache { enable: true } sequence_batching { }",
            (
                "Response Cache does not currently support model m with sequence batching scheduler. "
                "Please disable the response cache."
            ),
        ),
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
            (
                "unexpected data type for control CONTROL_SEQUENCE_CORRID for m. Allowed data types are TYPE_UINT64, "
                "TYPE_INT64, TYPE_UINT32, TYPE_INT32 and TYPE_STRING"
            ),
        ),
    ],
)
def test_what_is_not_taken_in_says_why(text: str, words: str) -> None:
    assert refusal(config(text)) == words


def controls(*controls: str, name: str = "C") -> str:
    return f'control_input [ {{ name: "{name}" control [ {", ".join(controls)} ] }} ]'


START = "kind: CONTROL_SEQUENCE_START"
FLAG = "int32_false_true: [ 0, 1 ]"
ONE_FLAG = f"{{ {START} {FLAG} }}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("direct { minimum_slot_utilization: 2 }", "minimum slot utilization must be in range (0.0, 1.0]"),
        ("direct { minimum_slot_utilization: inf }", "minimum slot utilization must be in range (0.0, 1.0]"),
        ("direct { minimum_slot_utilization: nan }", "minimum slot utilization must be in range (0.0, 1.0]"),
        ("oldest { preferred_batch_size: [ 0 ] }", "preferred batch size must be positive"),
        ("oldest { preferred_batch_size: [ 9 ] }", "preferred batch size must be <= max batch size"),
        (controls(ONE_FLAG, name=""), "control tensor must have a name"),
        (controls(ONE_FLAG) + controls(), "control tensor 'C' is specified for multiple control kinds"),
        (controls(ONE_FLAG) + controls(ONE_FLAG, name="D"), "specifies multiple CONTROL_SEQUENCE_START tensors"),
        (
            controls(f"{{ {START} {FLAG} fp32_false_true: [ 0, 1 ] }}"),
            (
                "specifies more than one from 'int32_false_true', 'fp32_false_true' and 'bool_false_true' for "
                "CONTROL_SEQUENCE_START"
            ),
        ),
        (
            controls(f"{{ {START} bool_false_true: [ true ] }}"),
            "control 'bool_false_true' must have exactly 2 entries for CONTROL_SEQUENCE_START",
        ),
        (
            controls(f"{{ {CORRELATION} {FLAG} }}"),
            (
                "must not specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' for "
                "CONTROL_SEQUENCE_CORRID"
            ),
        ),
    ],
)
def test_sequences_that_cannot_be_batched_are_not_taken_in(text: str, words: str) -> None:
    refused = refusal(config(f"max_batch_size: 4 sequence_batching {{ {text} }}"))
    assert refused == f"sequence batching {words} for m"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "max_batch_size: 8 dynamic_batching { preferred_batch_size: [ 4, 8 ] }",
        "dynamic_batching { priority_levels: 3 default_priority_level: 2 }",
        "dynamic_batching { preserve_ordering: true }",
        "response_cache { enable: true }",
        'metric_tags { key: "team_1" value: "a" } metric_tags { value: "of no name" }',
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
        (f"input [ {{ {TENSOR} format: FORMAT_NCHW }} ]", "model input NHWC/NCHW require 3 dims for m"),
        (
            f"output [ {{ {TENSOR} is_shape_tensor: true }} ]",
            "shape tensors are only supported for TensorRT platform for m",
        ),
        (
            f"input [ {{ {TENSOR} is_non_linear_format_io: true }} ]",
            "Non-linear IO format is only supported for the TensorRT platform for m",
        ),
        (f'platform: "tensorrt_plan" input [ {{ {TENSOR} is_shape_tensor: true }} ]', ""),
    ],
)
def test_tensors_must_be_whole(text: str, words: str) -> None:
    assert fault(config(text)) == words


BOTH = f"input [ {{ {TENSOR} }} ] output [ {{ {TENSOR} }} ]"
MADE = 'kind: BATCH_ELEMENT_COUNT target_name: "E"'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f'batch_input {{ {MADE} data_type: TYPE_FP32 source_input: "I" }}', ""),
        (f'batch_input {{ {MADE} source_input: "I" }}', "unexpected batch input data type 'TYPE_INVALID'"),
        (
            f'batch_input {{ {MADE} data_type: TYPE_FP64 source_input: "I" }}',
            "batch input data type must be TYPE_INT32 or TYPE_FP32 for m",
        ),
        (
            f'batch_input {{ {MADE} data_type: TYPE_FP32 source_input: [ "I", "I" ] }}',
            "batch input kind 'BATCH_ELEMENT_COUNT' expects 1 source input, got 2 for m",
        ),
        (
            f'batch_input {{ {MADE} data_type: TYPE_FP32 source_input: "X" }}',
            "unknown source input name 'X' for m",
        ),
        ('batch_output { target_name: "I" source_input: "I" }', ""),
        ('batch_output { target_name: "X" source_input: "I" }', "unknown target output name 'X' for m"),
        (
            'batch_output { target_name: [ "I", "I" ] source_input: "I" }',
            "target output name 'I' can only be specified once for m",
        ),
        (
            'batch_output { target_name: "I" }',
            "batch output kind 'BATCH_SCATTER_WITH_INPUT_SHAPE' expects 1 source input, got 0 for m",
        ),
    ],
)
def test_what_the_batcher_makes_and_takes_apart_is_there(text: str, words: str) -> None:
    assert fault(config(f"max_batch_size: 4 {BOTH} {text}")) == words


NO_SCALAR = "cannot have empty reshape for non-batching model as scalar tensors are not supported for m"
NO_SIZE = "reshape dimensions must be integer >= 1, or -1 to indicate a variable-size dimension for m"
OTHER_SIZE = "has different size for dims and reshape for m"
OTHER_NUMBER = "has different number of variable-size dimensions for dims and reshape for m"


@pytest.mark.parametrize(
    ("dims", "shape", "words"),
    [
        ("4", "2, 2", ""),
        ("-1", "-1, 1", ""),
        ("2, -1, 3, -1, 2", "-1, 6, -1, 2", OTHER_SIZE),
        ("3, -1, 2, -1", "3, 1, -1, 2, -1", ""),
        ("4", "3", OTHER_SIZE),
        ("4", "-1", OTHER_SIZE),
        ("-1, 4", "4", OTHER_SIZE),
        ("-1, 2", "2, -1", OTHER_SIZE),
        ("-1", "-1, -1", OTHER_NUMBER),
        ("4", "0", NO_SIZE),
        ("4", "-2", NO_SIZE),
        ("1", "", NO_SCALAR),
    ],
)
def test_a_reshape_keeps_the_elements_where_they_are(dims: str, shape: str, words: str) -> None:
    text = f'input [ {{ name: "I" data_type: TYPE_FP32 dims: [ {dims} ] reshape {{ shape: [ {shape} ] }} }} ]'
    assert fault(config(text)) == (f"model input 'I' {words}" if words else "")


def test_a_model_with_batches_may_have_one_element_a_row() -> None:
    text = 'max_batch_size: 4 input [ { name: "I" data_type: TYPE_FP32 dims: [ %s ] reshape { } } ]'
    assert fault(config(text % "1")) == ""
    assert fault(config(text % "4")) == f"model input 'I' {OTHER_SIZE}"


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
            (
                "instance group m_0 of model m specifies invalid or unsupported gpu id 3. GPUs with at least the "
                "minimum required CUDA compute compatibility of 6.000000 are: 0,1"
            ),
        ),
        (
            "instance_group [ { kind: KIND_MODEL gpus: [ 0 ] } ]",
            (0,),
            "instance group m_0 of model m has kind KIND_MODEL but specifies one or more GPUs",
        ),
        (
            'instance_group [ { kind: KIND_CPU profile: "0" } ]',
            (),
            (
                "instance group m_0 of model m and platform specifies profile field which is only supported for "
                "TensorRT models"
            ),
        ),
        ("instance_group [ { passive: true } ]", (), "model m has no instance group that is not passive"),
        ("instance_group [ { passive: true }, { } ]", (), ""),
    ],
)
def test_instances_need_a_place(text: str, gpus: tuple[int, ...], words: str) -> None:
    assert group_fault(config(text, gpus), gpus) == words
