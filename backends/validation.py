"""What is wrong with a configuration, in Triton's words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backends.config import DynamicBatching, ModelConfig, QueuePolicy, SequenceBatching


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
        if group.kind == "KIND_CPU" and group.gpus:
            return f"{what} has kind KIND_CPU but specifies one or more GPUs"
        if group.kind == "KIND_GPU" and not group.gpus:
            return f"{what} has kind KIND_GPU but no GPUs are available"
        for gpu in group.gpus:
            if gpu not in gpus:
                available = ",".join(map(str, gpus))
                return f"{what} specifies invalid or unsupported gpu id {gpu}. GPUs available are: {available}"
    return ""


def _refusals(config: ModelConfig) -> Iterator[str]:
    name = config.name
    if config.platform == "ensemble" and config.ensemble_scheduling is None:
        yield f"ensemble scheduling must be set for ensemble {name} whose platform is ensemble"
    if config.platform != "ensemble" and config.ensemble_scheduling is not None:
        yield f"ensemble scheduling cannot be set for model '{name}' whose platform is not ensemble"
    if config.max_batch_size < 0:
        yield f"'max_batch_size' must be non-negative value for {name}"
    if config.dynamic_batching is not None:
        yield from _batching_refusals(config.dynamic_batching, name, config.max_batch_size)
    if config.sequence_batching is not None:
        yield from _control_refusals(config.sequence_batching, name)
    if config.response_cache.enable and config.model_transaction_policy.decoupled:
        yield (
            f"Response Cache does not currently support model {name} with 'decoupled' transaction policy. "
            "Please disable the response cache."
        )


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


def _control_refusals(batching: SequenceBatching, name: str) -> Iterator[str]:
    for tensor in batching.control_input:
        for control in tensor.control:
            values = (control.int32_false_true, control.fp32_false_true, control.bool_false_true)
            if control.kind == "CONTROL_SEQUENCE_CORRID":
                if control.data_type == "TYPE_INVALID":
                    yield f"sequence batching must specify 'data_type' for {control.kind} for {name}"
            elif not any(values):
                yield (
                    "sequence batching must specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' "
                    f"for {control.kind} for {name}"
                )


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
            if any(dim < 1 and dim != -1 for dim in tensor.dims):
                yield (
                    f"{what} dimension must be integer >= 1, or -1 to indicate a variable-size dimension "
                    f"for {config.name}"
                )
