"""What is wrong with a configuration, in Triton's words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from backends.config import Control, DynamicBatching, Input, ModelConfig, QueuePolicy, SequenceBatching

_IMAGE_DIMS = 3
_LABEL = re.compile("[a-zA-Z_][a-zA-Z0-9_]*")
_TENSORRT = "tensorrt_plan"
_CORRELATION = "CONTROL_SEQUENCE_CORRID"
_OF_CORRELATIONS = ("TYPE_UINT64", "TYPE_INT64", "TYPE_UINT32", "TYPE_INT32", "TYPE_STRING")


def refusal(config: ModelConfig) -> str:
    """Why a model of this configuration is not taken in at all; empty where nothing is wrong."""
    return next(_refusals(config), "")


def fault(config: ModelConfig) -> str:
    """Why a version of this completed configuration cannot be loaded; empty where nothing is wrong."""
    return next(_faults(config), "")


def group_fault(config: ModelConfig, gpus: Sequence[int]) -> str:
    """Why this machine, with these GPUs, has no place for the instances; empty where it has."""
    for group in config.instance_group:
        what = f"instance group {group.name} of model {config.name}"
        if group.profile and config.platform != _TENSORRT:
            platform = f"{config.platform} " if config.platform else ""
            return f"{what} and platform {platform}specifies profile field which is only supported for TensorRT models"
        if group.kind in {"KIND_CPU", "KIND_MODEL"} and group.gpus:
            return f"{what} has kind {group.kind} but specifies one or more GPUs"
        if group.kind == "KIND_GPU" and not group.gpus:
            return f"{what} has kind KIND_GPU but no GPUs are available"
        for gpu in group.gpus:
            if gpu not in gpus:
                available = ",".join(map(str, gpus))
                return (
                    f"{what} specifies invalid or unsupported gpu id {gpu}. GPUs with at least the minimum required "
                    f"CUDA compute compatibility of 6.000000 are: {available}"
                )
    if config.instance_group and all(group.passive for group in config.instance_group):
        # Triton takes it, and dies of the first request.
        return f"model {config.name} has no instance group that is not passive"
    return ""


def _refusals(config: ModelConfig) -> Iterator[str]:
    name = config.name
    if config.platform == "ensemble" and config.ensemble_scheduling is None:
        yield f"ensemble scheduling must be set for ensemble {name} whose platform is ensemble"
    if config.platform != "ensemble" and config.ensemble_scheduling is not None:
        yield f"ensemble scheduling cannot be set for model '{name}' whose platform is not ensemble"
    if config.backend == "ensemble" and config.platform != "ensemble":
        yield f"Ensemble model '{name}' must have platform type 'ensemble' and empty backend type"
    for tag in config.metric_tags:
        if tag and not _LABEL.fullmatch(tag):
            # Triton dies of some; a scrape of all models would fail on it.
            yield f"metric tag '{tag}' must have the name of a Prometheus label for {name}"
    if config.max_batch_size < 0:
        yield f"'max_batch_size' must be non-negative value for {name}"
    if config.dynamic_batching is not None:
        yield from _batching_refusals(config.dynamic_batching, name, config.max_batch_size)
    if config.sequence_batching is not None:
        yield from _sequence_refusals(config.sequence_batching, name, config.max_batch_size)
    if config.response_cache.enable:
        uncached = f"Response Cache does not currently support model {name} with"
        if config.model_transaction_policy.decoupled:
            yield f"{uncached} 'decoupled' transaction policy. Please disable the response cache."
        if config.sequence_batching is not None:
            yield f"{uncached} sequence batching scheduler. Please disable the response cache."


def _batching_refusals(batching: DynamicBatching, name: str, largest: int) -> Iterator[str]:
    for size in batching.preferred_batch_size:
        if size <= 0:
            yield f"dynamic batching preferred size must be positive for {name}"
        if size > largest:
            yield f"dynamic batching preferred size must be <= max batch size for {name}"
    levels = batching.priority_levels
    if levels:
        if not 1 <= batching.default_priority_level <= levels:
            yield f"default priority level must be in range [1, {levels}] for {name}"
        if not all(1 <= level <= levels for level in batching.priority_queue_policy):
            yield f"priority queue policy must have priority level in range [1, {levels}] for {name}"
    if batching.preserve_ordering:
        if levels > 1:
            yield f"Only one priority level is allowed when 'preserve_ordering' is true for {name}"
        policies = (batching.default_queue_policy, *batching.priority_queue_policy.values())
        if any(map(_may_reorder, policies)):
            yield (f"Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true for {name}")


def _sequence_refusals(batching: SequenceBatching, name: str, largest: int) -> Iterator[str]:
    if batching.direct is not None and not 0 <= batching.direct.minimum_slot_utilization <= 1:
        yield f"sequence batching minimum slot utilization must be in range (0.0, 1.0] for {name}"
    for size in () if batching.oldest is None else batching.oldest.preferred_batch_size:
        if size <= 0:
            yield f"sequence batching preferred batch size must be positive for {name}"
        if size > largest:
            yield f"sequence batching preferred batch size must be <= max batch size for {name}"
    names: set[str] = set()
    kinds: set[str] = set()
    for tensor in batching.control_input:
        if not tensor.name:
            yield f"sequence batching control tensor must have a name for {name}"
        if tensor.name in names:
            yield f"sequence batching control tensor '{tensor.name}' is specified for multiple control kinds for {name}"
        names.add(tensor.name)
        for control in tensor.control:
            if control.kind in kinds:
                yield f"sequence batching specifies multiple {control.kind} tensors for {name}"
            kinds.add(control.kind)
            yield from _control_refusals(control, name)


def _control_refusals(control: Control, name: str) -> Iterator[str]:
    given = {
        choice: values
        for choice in ("int32_false_true", "fp32_false_true", "bool_false_true")
        if (values := getattr(control, choice))
    }
    either, of_kind = "'int32_false_true', 'fp32_false_true'", f"for {control.kind} for {name}"
    if control.kind == _CORRELATION:
        if given:
            yield f"sequence batching must not specify either {either} or 'bool_false_true' {of_kind}"
        if control.data_type not in _OF_CORRELATIONS:
            *most, last = _OF_CORRELATIONS
            yield (
                f"unexpected data type for control {control.kind} for {name}. Allowed data types are "
                f"{', '.join(most)} and {last}"
            )
    elif not given:
        yield f"sequence batching must specify either {either} or 'bool_false_true' {of_kind}"
    elif len(given) > 1:
        yield f"sequence batching specifies more than one from {either} and 'bool_false_true' {of_kind}"
    for choice, values in given.items():
        if len(values) != len((False, True)):
            yield f"sequence batching control '{choice}' must have exactly 2 entries {of_kind}"


def _may_reorder(policy: QueuePolicy) -> bool:
    return policy.default_timeout_microseconds != 0 and policy.timeout_action == "DELAY"


def _faults(config: ModelConfig) -> Iterator[str]:
    for word, tensors in (("input", config.input), ("output", config.output)):
        for tensor in tensors:
            what = f"model {word} '{tensor.name}'"
            if not tensor.name:
                yield f"model {word} must specify 'name' for {config.name}"
            if tensor.data_type == "TYPE_INVALID":
                yield f"{what} must specify 'data_type' for {config.name}"
            if not tensor.dims:
                yield f"{what} must specify 'dims' for {config.name}"
            if not _are_sizes(tensor.dims):
                yield (
                    f"{what} dimension must be integer >= 1, or -1 to indicate a variable-size dimension "
                    f"for {config.name}"
                )
            if tensor.reshape is not None:
                yield from _reshape_faults(config, what, tensor.dims, tensor.reshape.shape)
            if isinstance(tensor, Input) and tensor.format != "FORMAT_NONE" and len(tensor.dims) != _IMAGE_DIMS:
                yield f"model input NHWC/NCHW require {_IMAGE_DIMS} dims for {config.name}"
            if config.platform != _TENSORRT and tensor.is_shape_tensor:
                yield f"shape tensors are only supported for TensorRT platform for {config.name}"
            if config.platform != _TENSORRT and tensor.is_non_linear_format_io:
                yield f"Non-linear IO format is only supported for the TensorRT platform for {config.name}"
    yield from _batch_faults(config)


def _batch_faults(config: ModelConfig) -> Iterator[str]:
    """Tensors that the batcher makes or takes apart."""
    outputs = {output.name for output in config.output}
    targets: set[str] = set()
    for made in config.batch_input:
        if made.data_type == "TYPE_INVALID":
            yield f"unexpected batch input data type '{made.data_type}'"
        if made.data_type not in {"TYPE_INT32", "TYPE_FP32"}:
            yield f"batch input data type must be TYPE_INT32 or TYPE_FP32 for {config.name}"
        yield from _source_faults(config, f"batch input kind '{made.kind}'", made.source_input)
    for parted in config.batch_output:
        for target in parted.target_name:
            if target not in outputs:
                yield f"unknown target output name '{target}' for {config.name}"
            if target in targets:
                yield f"target output name '{target}' can only be specified once for {config.name}"
            targets.add(target)
        yield from _source_faults(config, f"batch output kind '{parted.kind}'", parted.source_input)


def _source_faults(config: ModelConfig, what: str, sources: Sequence[str]) -> Iterator[str]:
    if len(sources) != 1:
        yield f"{what} expects 1 source input, got {len(sources)} for {config.name}"
    for source in sources:
        if all(source != tensor.name for tensor in config.input):
            yield f"unknown source input name '{source}' for {config.name}"


def _reshape_faults(config: ModelConfig, what: str, dims: Sequence[int], shape: Sequence[int]) -> Iterator[str]:
    if not shape and not config.max_batch_size:
        yield (
            f"{what} cannot have empty reshape for non-batching model as scalar tensors are not supported "
            f"for {config.name}"
        )
    if not _are_sizes(shape):
        yield (
            f"{what} reshape dimensions must be integer >= 1, or -1 to indicate a variable-size dimension "
            f"for {config.name}"
        )
    given, wanted = _element_counts(dims), _element_counts(shape)
    if len(given) > 1 and len(wanted) > 1 and len(given) != len(wanted):
        yield f"{what} has different number of variable-size dimensions for dims and reshape for {config.name}"
    if given != wanted:
        yield f"{what} has different size for dims and reshape for {config.name}"


def _are_sizes(dims: Sequence[int]) -> bool:
    return all(dim >= 1 or dim == -1 for dim in dims)


def _element_counts(dims: Sequence[int]) -> list[int]:
    """How many elements there are before, between and after the dimensions of any size: these stay where they are."""
    counts = [1]
    for dim in dims:
        if dim == -1:
            counts.append(1)
        else:
            counts[-1] *= dim
    return counts
