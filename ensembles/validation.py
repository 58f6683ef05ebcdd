"""What is wrong with an ensemble's steps, in Triton's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from backends.config import EnsembleStep, Input, ModelConfig, Output

Configs = Mapping[str, Mapping[int, ModelConfig]]
"""Models by name and version: those that are loaded."""


def refusal(config: ModelConfig) -> str:
    """Why an ensemble is not taken in at all, whatever its models are; empty where nothing is wrong."""
    return next(_refusals(config), "")


def check(config: ModelConfig, configs: Configs) -> str:
    """Why an ensemble cannot be served with the models there are; empty where nothing is wrong.

    `configs` are the completed configurations. A cycle of ensembles is found by `circle` before anything is loaded.
    """
    return next(_faults(config, configs), "")


def is_decoupled(config: ModelConfig, configs: Configs) -> bool:
    """Whether an ensemble that was checked answers as often as one of its steps does."""
    assert config.ensemble_scheduling is not None
    for step in config.ensemble_scheduling.step:
        found = _composing(step, configs)
        if found is not None and found.model_transaction_policy.decoupled:
            return True
    return False


def circle(name: str, ensembles: Mapping[str, ModelConfig]) -> str:
    """Why an ensemble cannot be loaded that has itself among its steps' steps; empty where it has not."""
    path: list[str] = []
    done: set[str] = set()

    def visit(current: str) -> str:
        config = ensembles.get(current)
        if config is None or config.ensemble_scheduling is None or current in done:
            return ""
        done.add(current)
        path.append(current)
        for step in config.ensemble_scheduling.step:
            if step.model_name == name:
                return f"circular dependency between ensembles: {name} -> ... -> {path[-1]} -> {name}"
            if found := visit(step.model_name):
                return found
        path.pop()
        return ""

    return visit(name)


@dataclass(slots=True)
class _Wire:
    """A tensor of the ensemble's: who reads it, who writes it, which tensors it is made of."""

    is_output: bool = False
    is_read: bool = False
    sources: list[str] = field(default_factory=list)


def _refusals(config: ModelConfig) -> Iterator[str]:
    name, scheduling = config.name, config.ensemble_scheduling
    if scheduling is None:
        return
    if not scheduling.step:
        yield f"must specify 'step' for ensemble '{name}'"
    if config.instance_group:
        yield f"instance group should not be specified for ensemble '{name}'"
    if config.model_warmup:
        yield f"model_warmup can not be specified for ensemble '{name}'"
    wires: dict[str, _Wire] = {}
    for index, step in enumerate(scheduling.step):
        yield from _link(name, index, step, wires)
    yield from _loose(config, wires)


def _link(name: str, index: int, step: EnsembleStep, wires: dict[str, _Wire]) -> Iterator[str]:
    if not step.model_name:
        yield f"must specify 'model_name' in step {index} of ensemble '{name}'"
    if not step.input_map:
        yield f"must specify 'input_map' in step {index} of ensemble '{name}'"
    if not step.output_map:
        yield f"must specify 'output_map' in step {index} of ensemble '{name}'"
    for tensor in step.output_map.values():
        wire = wires.setdefault(tensor, _Wire())
        if wire.is_output:
            yield (
                f"ensemble tensor '{tensor}' can appear in an output map only once for ensemble '{name}' step {index}"
            )
        wire.is_output = True
        wire.sources = list(step.input_map.values())
    for tensor in step.input_map.values():
        wires.setdefault(tensor, _Wire()).is_read = True


def _loose(config: ModelConfig, wires: dict[str, _Wire]) -> Iterator[str]:
    """Ends that are not connected. Triton's own text lacks the quotation mark."""
    name = config.name
    for tensor in config.input:
        if tensor.name not in wires or not wires[tensor.name].is_read:
            yield f"ensemble input '{tensor.name}' for ensemble {name}' is not used"
        elif wires[tensor.name].is_output:
            # Triton takes it, and runs the step on its own output for ever.
            yield f"ensemble input '{tensor.name}' for ensemble '{name}' is written by a step"
    for output in config.output:
        if output.name not in wires:
            yield f"ensemble output '{output.name}' for ensemble {name}' is not used"
    outputs = {output.name for output in config.output}
    connected = _connected(config, wires)
    for output in config.output:
        if output.name not in connected:
            lacking = _lacking(output.name, wires, connected)
            yield (
                f"output '{output.name}' for ensemble '{name}' is not written: at least one of its depending tensors, "
                f"'{lacking}', is not connected"
            )
    for key, wire in wires.items():
        if key not in connected or (not wire.is_read and key not in outputs):
            yield f"ensemble tensor '{key}' is unused in ensemble '{name}'"


def _connected(config: ModelConfig, wires: Mapping[str, _Wire]) -> set[str]:
    """The tensors that the ensemble's inputs lead to."""
    connected = {tensor.name for tensor in config.input}
    while True:
        found = {
            tensor
            for tensor, wire in wires.items()
            if tensor not in connected and wire.is_output and connected.issuperset(wire.sources)
        }
        if not found:
            return connected
        connected |= found


def _lacking(tensor: str, wires: Mapping[str, _Wire], connected: set[str]) -> str:
    return next((source for source in wires[tensor].sources if source not in connected), tensor)


@dataclass(slots=True)
class _Node:
    """What is known of a tensor: its type and shapes, and which model says so."""

    model: str
    data_type: str
    dims: tuple[int, ...]
    full_dims: tuple[int, ...]


def _faults(config: ModelConfig, configs: Configs) -> Iterator[str]:
    scheduling, name = config.ensemble_scheduling, config.name
    if scheduling is None:
        return
    yield from _missing(config, configs)
    nodes: dict[str, _Node] = {}
    declared: tuple[Input | Output, ...] = (*config.input, *config.output)
    for tensor in declared:
        dims = tensor.dims if tensor.reshape is None else tensor.reshape.shape
        nodes.setdefault(tensor.name, _node(name, tensor.data_type, dims, config))
    for step in scheduling.step:
        found = _composing(step, configs)
        assert found is not None
        if 0 < found.max_batch_size < config.max_batch_size:
            yield (
                f"ensemble {name} allows maximum batch size {config.max_batch_size}, but it contains model "
                f"{step.model_name} which only allows maximum batch size to be {found.max_batch_size}"
            )
        yield from _mapped(name, step, found, nodes)
    yield from _mixed(config, configs, nodes)


def _missing(config: ModelConfig, configs: Configs) -> Iterator[str]:
    assert config.ensemble_scheduling is not None
    steps = config.ensemble_scheduling.step
    unknown = sorted({step.model_name for step in steps if step.model_name not in configs})
    if unknown:
        yield f"ensemble {config.name} contains models that are not available or ambiguous: {', '.join(unknown)}"
    for step in steps:
        if not configs[step.model_name]:
            yield f"ensemble '{config.name}' depends on '{step.model_name}' which has no loaded version."
        if step.model_version > 0 and step.model_version not in configs[step.model_name]:
            yield (
                f"ensemble '{config.name}' depends on '{step.model_name}' whose required version {step.model_version} "
                "is not loaded."
            )


def _mapped(name: str, step: EnsembleStep, model: ModelConfig, nodes: dict[str, _Node]) -> Iterator[str]:
    """Compare a step's maps with what its model takes and gives."""
    model_name = step.model_name
    inputs = {tensor.name: tensor for tensor in model.input}
    outputs = {tensor.name: tensor for tensor in model.output}
    for key, tensor in step.input_map.items():
        if key not in inputs:
            yield (
                f"in ensemble {name}, ensemble tensor {tensor} is mapping to non-existing input {key} in model "
                f"{model_name}"
            )
    for key, declared in inputs.items():
        if key in step.input_map:
            node = _node(model_name, declared.data_type, declared.dims, model)
            yield from _differing(name, step.input_map[key], nodes, node)
        elif not declared.optional:
            yield f"in ensemble {name}, input {key} in model {model_name} is not mapped to any ensemble tensors"
    for key, tensor in step.output_map.items():
        if key not in outputs:
            yield (
                f"in ensemble {name}, ensemble tensor {tensor} is mapped from non-existing output {key} in model "
                f"{model_name}"
            )
        else:
            node = _node(model_name, outputs[key].data_type, outputs[key].dims, model)
            yield from _differing(name, tensor, nodes, node)


def _differing(name: str, tensor: str, nodes: dict[str, _Node], node: _Node) -> Iterator[str]:
    known = nodes.setdefault(tensor, node)
    where = f"in ensemble {name}, ensemble tensor {tensor}: "
    if known.data_type != node.data_type:
        yield (
            f"{where}inconsistent data type: {known.data_type} is inferred from model {known.model} while "
            f"{node.data_type} is inferred from model {node.model}"
        )
    if not _agree(known.dims, node.dims) and not _agree(known.full_dims, node.full_dims):
        yield (
            f"{where}inconsistent shape: {_listed(known.full_dims)} is inferred from model {known.model} while "
            f"{_listed(node.full_dims)} is inferred from model {node.model}"
        )


def _mixed(config: ModelConfig, configs: Configs, nodes: Mapping[str, _Node]) -> Iterator[str]:
    """Tensors that come in different numbers cannot be put together: each decoupled step has numbers of its own."""
    assert config.ensemble_scheduling is not None
    labels = {tensor.name: 0 for tensor in config.input}
    waiting = list(config.ensemble_scheduling.step)
    count = 0
    while ready := [step for step in waiting if labels.keys() >= set(step.input_map.values())]:
        for step in ready:
            waiting.remove(step)
            found = {labels[tensor] for tensor in step.input_map.values()}
            if len(found) > 1:
                yield _unequal(config.name, nodes[next(iter(step.output_map.values()))].model)
            model = _composing(step, configs)
            label = found.pop()
            if model is not None and model.model_transaction_policy.decoupled:
                count += 1
                label = count
            labels |= dict.fromkeys(step.output_map.values(), label)
    if len({labels[output.name] for output in config.output if output.name in labels}) > 1:
        yield _unequal(config.name, config.name)


def _unequal(name: str, model: str) -> str:
    return f"in ensemble {name}, step of model '{model}' receives inputs originated from different decoupled models"


def _composing(step: EnsembleStep, configs: Configs) -> ModelConfig | None:
    versions = configs.get(step.model_name)
    if not versions:
        return None
    return versions.get(step.model_version) or versions[max(versions)]


def _node(model: str, data_type: str, dims: tuple[int, ...], config: ModelConfig) -> _Node:
    return _Node(model, data_type, dims, (-1, *dims) if config.max_batch_size > 0 else dims)


def _agree(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) == len(other) and all(a == b or -1 in {a, b} for a, b in zip(one, other, strict=True))


def _listed(dims: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, dims))}]"
