"""What an ensemble's configuration comes to: steps, and which of them wait for which tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backends.config import EnsembleStep, ModelConfig


@dataclass(frozen=True, slots=True)
class Step:
    """A composing model and its tensors by the ensemble's names.

    `inputs` are pairs (the model's name, the ensemble's). `outputs` maps the other way round to what `Plan` needs.
    """

    index: int
    model: str
    version: int
    inputs: tuple[tuple[str, str], ...]
    outputs: Mapping[str, str]
    tensors: frozenset[str]
    """Those of the ensemble that it waits for."""


@dataclass(frozen=True, slots=True)
class Sink:
    """What an answer consists of: the wanted outputs with their dimensions, as they stand in an answer."""

    outputs: tuple[tuple[str, tuple[int, ...]], ...]
    tensors: frozenset[str]


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps that some outputs need, in the order of the configuration.

    `consumers` are, for each tensor, the steps and the sink that wait for it. `feeds` are, for each step's index, the
    steps that its outputs go to.
    """

    steps: tuple[Step, ...]
    sink: Sink
    consumers: Mapping[str, tuple[Step | Sink, ...]]
    feeds: Mapping[int, tuple[Step, ...]] = field(default_factory=dict)


def plan(config: ModelConfig, wanted: Sequence[str] = ()) -> Plan:
    """The plan for the wanted outputs, for all of them where none is named. The configuration has been checked."""
    assert config.ensemble_scheduling is not None
    steps = [_step(index, step) for index, step in enumerate(config.ensemble_scheduling.step)]
    names = frozenset(wanted) or frozenset(output.name for output in config.output)
    # Triton's own table has the last output first; clients that go by position find them there.
    outputs = tuple(
        (output.name, output.dims if output.reshape is None else output.reshape.shape)
        for output in reversed(config.output)
        if output.name in names
    )
    sink = Sink(outputs, names)
    needed = _needed(steps, names)
    chosen = tuple(step for step in steps if step.index in needed)
    waiting: dict[str, list[Step | Sink]] = {}
    everyone: tuple[Step | Sink, ...] = (*chosen, sink)
    for consumer in everyone:
        for tensor in consumer.tensors:
            waiting.setdefault(tensor, []).append(consumer)
    consumers = {tensor: tuple(found) for tensor, found in waiting.items()}
    feeds = {
        step.index: tuple(consumer for consumer in chosen if not consumer.tensors.isdisjoint(step.outputs.values()))
        for step in chosen
    }
    return Plan(chosen, sink, consumers, feeds)


def _step(index: int, step: EnsembleStep) -> Step:
    inputs = tuple(step.input_map.items())
    version = max(step.model_version, 0)
    return Step(index, step.model_name, version, inputs, step.output_map, frozenset(step.input_map.values()))


def _needed(steps: Sequence[Step], names: frozenset[str]) -> set[int]:
    """The steps that these tensors come from, and all before them."""
    producers = {tensor: step for step in steps for tensor in step.outputs.values()}
    needed: set[int] = set()
    sought = list(names)
    while sought:
        step = producers.get(sought.pop())
        if step is not None and step.index not in needed:
            needed.add(step.index)
            sought.extend(step.tensors)
    return needed
