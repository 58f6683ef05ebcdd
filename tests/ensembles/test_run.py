"""The traces of an ensemble's steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from backends.config import ModelConfig
from backends.model import InferRequest, InferResponse
from backends.tensors import Tensor
from tests.ensembles.composing import Fake, ask, config, ensemble, ensemble_config, mapping, numbers, step, values

X_TO_Y = ({"X": "INT32 [-1]"}, {"Y": "INT32 [-1]"})


class Noted:
    """A `Trace` that writes down what it is told, under its model's name."""

    def __init__(self, name: str, notes: list[tuple[str, object]]) -> None:
        self.name, self.notes = name, notes

    def child(self, model: ModelConfig) -> Noted:
        return Noted(model.name, self.notes)

    def mark(self, activity: str, ns: int = 0) -> None:  # noqa: ARG002  # the trace's
        self.notes.append((self.name, activity))

    def queued(self, inputs: Sequence[Tensor]) -> None:
        self.notes.append((self.name, {tensor.name: values(tensor) for tensor in inputs}))

    answered = queued

    def worked(self, queued_ns: int, began_ns: int, ended_ns: int) -> None:
        self.notes.append((self.name, (queued_ns, began_ns, ended_ns)))

    def finish(self) -> None:
        self.notes.append((self.name, "finished"))


async def test_the_trace_of_a_step_hears_of_its_tensors_and_of_its_end() -> None:
    chain = ensemble_config(*X_TO_Y, step("double", {"IN": "X"}, {"OUT": "t"}), step("plus", {"IN": "t"}, {"OUT": "Y"}))
    trace = Noted("graph", [])
    await ask(
        ensemble(chain, mapping("double", lambda n: 2 * n), mapping("plus", lambda n: n + 1)),
        numbers("X", 1),
        trace=trace,
    )
    assert trace.notes == [
        ("graph", "QUEUE_START"),
        *(("double", note) for note in ({"IN": [1]}, {"OUT": [2]}, "finished")),
        *(("plus", note) for note in ({"IN": [2]}, {"OUT": [3]}, "finished")),
    ]


async def test_the_trace_of_a_step_that_is_left_ends_with_it() -> None:
    waiting = asyncio.Event()

    async def wait(request: InferRequest) -> AsyncIterator[InferResponse]:  # noqa: ARG001
        await waiting.wait()
        yield InferResponse()

    trace = Noted("graph", [])
    slow = Fake(config("slow", {"IN": "INT32 [-1]"}, {"OUT": "INT32 [-1]"}), wait)
    model = ensemble(ensemble_config(*X_TO_Y, step("slow", {"IN": "X"}, {"OUT": "Y"})), slow)
    responses = model.infer(InferRequest("graph", [numbers("X", 1)], trace=trace))
    await responses.aclose()
    assert trace.notes[-1] == ("slow", "finished")
