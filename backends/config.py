"""A model's configuration: Triton's `ModelConfig`, as frozen values with Triton's field names.

`repository.py` reads it from `config.pbtxt`; `read` takes it from the JSON document that everything else hands on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec


class RateLimiterResource(msgspec.Struct, frozen=True, rename={"is_global": "global"}):
    name: str = ""
    is_global: bool = False
    count: int = 1


class RateLimiter(msgspec.Struct, frozen=True):
    resources: tuple[RateLimiterResource, ...] = ()
    priority: int = 0


class InstanceGroup(msgspec.Struct, frozen=True):
    """How many instances, of which kind (`KIND_AUTO`, `KIND_CPU`, `KIND_GPU`, `KIND_MODEL`), on which GPUs."""

    count: int = 1
    kind: str = "KIND_AUTO"
    gpus: tuple[int, ...] = ()
    name: str = ""
    passive: bool = False
    profile: tuple[str, ...] = ()
    rate_limiter: RateLimiter | None = None


class Reshape(msgspec.Struct, frozen=True):
    shape: tuple[int, ...] = ()


class Input(msgspec.Struct, frozen=True):
    """`data_type` is Triton's (`TYPE_FP32`); `dims` is without the batch dimension, -1 where any size will do."""

    name: str
    data_type: str = "TYPE_INVALID"
    dims: tuple[int, ...] = ()
    reshape: Reshape | None = None
    format: str = "FORMAT_NONE"
    optional: bool = False
    allow_ragged_batch: bool = False
    is_shape_tensor: bool = False
    is_non_linear_format_io: bool = False


class Output(msgspec.Struct, frozen=True):
    name: str
    data_type: str = "TYPE_INVALID"
    dims: tuple[int, ...] = ()
    reshape: Reshape | None = None
    label_filename: str = ""
    is_shape_tensor: bool = False
    is_non_linear_format_io: bool = False


class BatchInput(msgspec.Struct, frozen=True):
    """An input that the batcher makes: `BATCH_ELEMENT_COUNT`, `BATCH_ACCUMULATED_ELEMENT_COUNT` or the like."""

    kind: str = "BATCH_ELEMENT_COUNT"
    target_name: tuple[str, ...] = ()
    data_type: str = "TYPE_INVALID"
    source_input: tuple[str, ...] = ()


class BatchOutput(msgspec.Struct, frozen=True):
    target_name: tuple[str, ...] = ()
    kind: str = "BATCH_SCATTER_WITH_INPUT_SHAPE"
    source_input: tuple[str, ...] = ()


class QueuePolicy(msgspec.Struct, frozen=True):
    """`default_timeout_microseconds` 0: none. `max_queue_size` 0: no limit."""

    timeout_action: str = "REJECT"
    default_timeout_microseconds: int = 0
    allow_timeout_override: bool = False
    max_queue_size: int = 0


class DynamicBatching(msgspec.Struct, frozen=True):
    preferred_batch_size: tuple[int, ...] = ()
    max_queue_delay_microseconds: int = 0
    preserve_ordering: bool = False
    priority_levels: int = 0
    default_priority_level: int = 0
    default_queue_policy: QueuePolicy = QueuePolicy()
    priority_queue_policy: dict[int, QueuePolicy] = {}


class Control(msgspec.Struct, frozen=True):
    """`CONTROL_SEQUENCE_START`, `_READY`, `_END` (two values, false and true) or `_CORRID` (a `data_type`)."""

    kind: str = "CONTROL_SEQUENCE_START"
    int32_false_true: tuple[int, ...] = ()
    fp32_false_true: tuple[float, ...] = ()
    bool_false_true: tuple[bool, ...] = ()
    data_type: str = "TYPE_INVALID"


class ControlInput(msgspec.Struct, frozen=True):
    name: str
    control: tuple[Control, ...] = ()


class InitialState(msgspec.Struct, frozen=True):
    """Zeros where it says so, whichever way, else what is in the file."""

    name: str = ""
    data_type: str = "TYPE_INVALID"
    dims: tuple[int, ...] = ()
    zero_data: bool | None = None
    data_file: str = ""


class SequenceState(msgspec.Struct, frozen=True):
    input_name: str
    output_name: str
    data_type: str = "TYPE_INVALID"
    dims: tuple[int, ...] = ()
    initial_state: tuple[InitialState, ...] = ()


class Direct(msgspec.Struct, frozen=True):
    max_queue_delay_microseconds: int = 0
    minimum_slot_utilization: float = 0.0


class Oldest(msgspec.Struct, frozen=True):
    max_candidate_sequences: int = 0
    preferred_batch_size: tuple[int, ...] = ()
    max_queue_delay_microseconds: int = 0
    preserve_ordering: bool = False


class SequenceBatching(msgspec.Struct, frozen=True):
    """Direct where `oldest` is None."""

    direct: Direct | None = None
    oldest: Oldest | None = None
    max_sequence_idle_microseconds: int = 1_000_000
    control_input: tuple[ControlInput, ...] = ()
    state: tuple[SequenceState, ...] = ()
    iterative_sequence: bool = False


class EnsembleStep(msgspec.Struct, frozen=True):
    """Maps go from the composing model's tensor to the ensemble's. `model_version` -1: the latest."""

    model_name: str
    model_version: int = -1
    input_map: dict[str, str] = {}
    output_map: dict[str, str] = {}
    model_namespace: str = ""


class EnsembleScheduling(msgspec.Struct, frozen=True):
    step: tuple[EnsembleStep, ...] = ()
    max_inflight_requests: int = 0


class WarmupInput(msgspec.Struct, frozen=True):
    """Random where it says so, zeros where it says either of them, else what is in the file."""

    data_type: str = "TYPE_INVALID"
    dims: tuple[int, ...] = ()
    zero_data: bool | None = None
    random_data: bool | None = None
    input_data_file: str = ""


class Warmup(msgspec.Struct, frozen=True):
    name: str = ""
    batch_size: int = 0
    inputs: dict[str, WarmupInput] = {}
    count: int = 0


class TransactionPolicy(msgspec.Struct, frozen=True):
    decoupled: bool = False


class ResponseCache(msgspec.Struct, frozen=True):
    enable: bool = False


class ModelConfig(msgspec.Struct, frozen=True):
    """One version of one model, as the supervisor read it and as server processes and workers receive it.

    Fields up to `parameters` are Triton's; those that nothing here asks for are in `document` alone. `parameters` maps
    each key to its `string_value`. `version` is the version directory's number, `path` that directory (absolute),
    `arguments` the decoded JSON object of the engine-argument file in it (`default_model_filename`, else
    `model.json`), empty when there is none. `document` is Triton's JSON of the whole configuration, completed with
    Triton's defaults: what the model configuration extension answers and a `model.py` is given.
    `default_max_batch_size` is for a model that can take batches and does not say how large.
    """

    name: str
    backend: str
    platform: str = ""
    max_batch_size: int = 0
    input: tuple[Input, ...] = ()
    output: tuple[Output, ...] = ()
    batch_input: tuple[BatchInput, ...] = ()
    batch_output: tuple[BatchOutput, ...] = ()
    dynamic_batching: DynamicBatching | None = None
    sequence_batching: SequenceBatching | None = None
    ensemble_scheduling: EnsembleScheduling | None = None
    default_model_filename: str = ""
    instance_group: tuple[InstanceGroup, ...] = ()
    metric_tags: dict[str, str] = {}
    model_warmup: tuple[Warmup, ...] = ()
    model_transaction_policy: TransactionPolicy = TransactionPolicy()
    response_cache: ResponseCache = ResponseCache()
    parameters: dict[str, str] = {}
    version: int = 1
    path: str = ""
    arguments: dict[str, Any] = {}
    document: str = ""
    default_max_batch_size: int = 4


def beside(config: ModelConfig, *names: str) -> Path:
    """A file in the model's folder, beside its versions. As in Triton, a leading slash leads out of no folder."""
    return Path(config.path).parent.joinpath(*(name.lstrip("/") for name in names))


def read(document: str, *, version: int, path: str, arguments: dict[str, Any]) -> ModelConfig:
    """The configuration of one version from Triton's JSON of it. Raises `msgspec.ValidationError`."""
    fields = msgspec.json.decode(document)
    fields["parameters"] = {
        key: value.get("string_value", "") for key, value in (fields.get("parameters") or {}).items()
    }
    fields |= {"version": version, "path": path, "arguments": arguments, "document": document}
    fields.setdefault("backend", "")
    return msgspec.convert(fields, ModelConfig, strict=False)
