"""The steps of a pipeline in their order, each with a deadline and what is done where it fails."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta

from backends.errors import DeadlineExceeded, InvalidRequest, NotFound, ServingError
from ensembles.options import read
from ensembles.step import Step, StepModule, Surroundings, Turn, reason
from ensembles.together import together

Policy = Literal["degrade", "fail"]

# Without passages there is nothing to answer from: that is the one failure which is told by default.
_DEFAULTS: dict[str, tuple[float, Policy]] = {
    "rewrite": (10.0, "degrade"),
    "embed": (5.0, "degrade"),
    "retrieve": (10.0, "fail"),
    "rerank": (5.0, "degrade"),
    "excerpt": (5.0, "degrade"),
    "prompt": (5.0, "degrade"),
}
STEPS = tuple(_DEFAULTS)


class _Terms(msgspec.Struct, frozen=True):
    """What every step has beside its own options."""

    deadline_seconds: Annotated[float, Meta(gt=0)]
    on_failure: Policy


@dataclass(frozen=True, slots=True)
class Stage:
    """A step with its terms.

    Without it: a rewritten question is the question as it is, without embedding words alone are searched by, without
    retrieval nothing is found, without reranking the order is the fused one, without excerpts passages are whole,
    without a count of tokens their number is estimated.
    """

    name: str
    step: Step
    terms: _Terms

    async def run(self, turn: Turn) -> None:
        """Run the step. Raises what it raises where its policy is `fail`, or where the request itself is wrong."""
        began = monotonic()
        error: ServingError
        try:
            async with asyncio.timeout(self.terms.deadline_seconds):
                await self.step.run(turn)
            return
        except TimeoutError:
            turn.degraded[self.name] = "deadline"
            error = DeadlineExceeded(f"The step '{self.name}' took more than {self.terms.deadline_seconds:g} s.")
        except ServingError as failure:
            turn.degraded[self.name] = reason(failure)
            error = failure
        finally:
            turn.timings[self.name] = monotonic() - began
        is_retrieval = self.name == "retrieve"
        if is_retrieval and isinstance(error, InvalidRequest | NotFound):
            raise error
        # What was found before the deadline is worth more than an error.
        if self.terms.on_failure == "fail" and not (is_retrieval and turn.passages):
            raise error


class Stages:
    """All steps of a pipeline that come before the answer."""

    def __init__(self, stages: Mapping[str, Stage]) -> None:
        self._stages = stages

    async def retrieve(self, turn: Turn) -> None:
        """Find the passages for a turn: the question is embedded while its words are searched for."""
        await self._run("rewrite", turn)
        await together((self._embed(turn), self._run("retrieve", turn)))
        await self.order(turn)

    async def order(self, turn: Turn) -> None:
        """Put passages that were found in their last order, and leave the best that are wanted."""
        if turn.is_reranked:
            await self._run("rerank", turn)
        best = [passage for passage in turn.passages if passage.score >= turn.score_threshold]
        turn.passages = best[: turn.limit]

    async def prepare(self, turn: Turn) -> None:
        """Put the passages, or what of them bears on the question, into the messages."""
        await self._run("excerpt", turn)
        await self._run("prompt", turn)

    async def _embed(self, turn: Turn) -> None:
        try:
            if turn.weights is None or turn.weights[0]:
                await self._run("embed", turn)
        finally:
            turn.embedded.set()

    async def _run(self, name: str, turn: Turn) -> None:
        stage = self._stages.get(name)
        if stage is not None:
            await stage.run(turn)


def load(options: Mapping[str, Mapping[str, Any]], names: Sequence[str], surroundings: Surroundings) -> Stages:
    """The steps of these names with their options. Raises `InvalidRequest` naming the step and the key."""
    stages = {}
    for name in names:
        seconds, policy = _DEFAULTS[name]
        own = {"deadline_seconds": seconds, "on_failure": policy, **options.get(name, {})}
        terms = {key: own.pop(key) for key in ("deadline_seconds", "on_failure")}
        module = cast("StepModule", importlib.import_module(f"ensembles.steps.{name}"))
        stages[name] = Stage(name, module.load(own, surroundings), read(terms, _Terms, f"The step '{name}'"))
    return Stages(stages)
