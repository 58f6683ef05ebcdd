"""Whether the steps of an ensemble fit each other and the models that they name, in Triton's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from backends.config import EnsembleStep, Input, ModelConfig, Output


def refusal(config: ModelConfig) -> str:
    """Why an ensemble is not taken in, whatever its models are; empty where nothing is wrong, or it is none."""
    return next(_refusals(config), "")


def missing(config: ModelConfig, present: Mapping[str, object]) -> str:
    """That models are missing which the ensemble names; empty where none is."""
    absent = sorted({name for name in parts(config) if name not in present})
    if not absent:
        return ""
    return f"ensemble {config.name} contains models that are not available or ambiguous: {', '.join(absent)}"


def check(config: ModelConfig, models: Mapping[str, ModelConfig]) -> str:
    """Why an ensemble cannot be served by these models, which are all that it names; empty where it can."""
    return next(_faults(config, models), "")


def parts(config: ModelConfig) -> tuple[str, ...]:
    """The models that an ensemble names, each once; none where it is no ensemble."""
    return tuple(dict.fromkeys(step.model_name for step in _steps(config)))


def _steps(config: ModelConfig) -> Sequence[EnsembleStep]:
    return () if config.ensemble_scheduling is None else config.ensemble_scheduling.step


def _refusals(config: ModelConfig) -> Iterator[str]:
    if config.ensemble_scheduling is None:
        return
    name, steps = config.name, _steps(config)
    if config.instance_group:
        yield f"instance group should not be specified for ensemble '{name}'"
    if not steps:
        yield f"must specify 'step' for ensemble '{name}'"
    yield from _incomplete_steps(name, steps)
    read = {tensor for step in steps for tensor in step.input_map.values()}
    written = {tensor for step in steps for tensor in step.output_map.values()}
    for given in config.input:
        if given.name not in read:
            yield f"ensemble input '{given.name}' for ensemble '{name}' is not used"
    for wanted in config.output:
        if wanted.name not in written:
            yield f"ensemble output '{wanted.name}' for ensemble '{name}' is not used"
    yield from _unwritten(config)


def _incomplete_steps(name: str, steps: Sequence[EnsembleStep]) -> Iterator[str]:
    written: set[str] = set()
    for number, step in enumerate(steps):
        for field, value in (
            ("model_name", step.model_name),
            ("input_map", step.input_map),
            ("output_map", step.output_map),
        ):
            if not value:
                yield f"must specify '{field}' in step {number} of ensemble '{name}'"
        for tensor in step.output_map.values():
            if tensor in written:
                yield (
                    f"ensemble tensor '{tensor}' can appear in an output map only once for ensemble '{name}' "
                    f"step {number}"
                )
            written.add(tensor)


def _unwritten(config: ModelConfig) -> Iterator[str]:
    """Outputs that no order of the steps ever writes."""
    there = {given.name for given in config.input}
    waiting = list(_steps(config))
    while ready := [step for step in waiting if there.issuperset(step.input_map.values())]:
        waiting = [step for step in waiting if step not in ready]
        there.update(tensor for step in ready for tensor in step.output_map.values())
    for step in waiting:
        lacking = next(tensor for tensor in step.input_map.values() if tensor not in there)
        for tensor in step.output_map.values():
            if any(wanted.name == tensor for wanted in config.output):
                yield (
                    f"output '{tensor}' for ensemble '{config.name}' is not written: at least one of its depending "
                    f"tensors, '{lacking}', is not connected"
                )


@dataclass(frozen=True, slots=True)
class _Inferred:
    """What one model says that a tensor of the ensemble is."""

    model: ModelConfig
    tensor: Input | Output

    @property
    def whole(self) -> tuple[int, ...]:
        return (-1, *self.tensor.dims) if self.model.max_batch_size > 0 else self.tensor.dims


def _faults(config: ModelConfig, models: Mapping[str, ModelConfig]) -> Iterator[str]:
    name = config.name
    known: dict[str, _Inferred] = {}
    for declared in (config.input, config.output):
        known |= {tensor.name: _Inferred(config, tensor) for tensor in declared}
    for step in _steps(config):
        model = models[step.model_name]
        if config.max_batch_size > model.max_batch_size:
            yield (
                f"ensemble {name} allows maximum batch size {config.max_batch_size}, but it contains model "
                f"{model.name} which only allows maximum batch size to be {model.max_batch_size}"
            )
        inputs = {tensor.name: tensor for tensor in model.input}
        outputs = {tensor.name: tensor for tensor in model.output}
        for theirs, ours in step.input_map.items():
            if theirs not in inputs:
                yield (
                    f"in ensemble {name}, ensemble tensor {ours} is mapping to non-existing input {theirs} in model "
                    f"{model.name}"
                )
            yield from _difference(name, ours, known, _Inferred(model, inputs[theirs]))
        for tensor in inputs.values():
            if tensor.name not in step.input_map and not tensor.optional:
                yield (
                    f"in ensemble {name}, input {tensor.name} in model {model.name} is not mapped to any ensemble "
                    "tensors"
                )
        for theirs, ours in step.output_map.items():
            if theirs not in outputs:
                yield (
                    f"in ensemble {name}, ensemble tensor {ours} is mapped from non-existing output {theirs} in model "
                    f"{model.name}"
                )
            yield from _difference(name, ours, known, _Inferred(model, outputs[theirs]))


def _difference(name: str, tensor: str, known: dict[str, _Inferred], found: _Inferred) -> Iterator[str]:
    """How two models disagree about a tensor. Whoever says something first is right."""
    first = known.setdefault(tensor, found)
    what = f"in ensemble {name}, ensemble tensor {tensor}: inconsistent"
    sources = f"is inferred from model {first.model.name} while", f"is inferred from model {found.model.name}"
    if first.tensor.data_type != found.tensor.data_type:
        yield f"{what} data type: {first.tensor.data_type} {sources[0]} {found.tensor.data_type} {sources[1]}"
    if not _match(first.whole, found.whole):
        yield f"{what} shape: {_shape(first.whole)} {sources[0]} {_shape(found.whole)} {sources[1]}"


def _match(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) == len(other) and all(a == b or -1 in {a, b} for a, b in zip(one, other, strict=True))


def _shape(dims: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, dims))}]"
