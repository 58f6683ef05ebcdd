"""One model after the other: who is asked, with what in hand, and whose failure comes out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from backends.engine.naming import Naming
from backends.errors import InvalidRequest, ModelNotReady, ServingError, UpstreamError, UpstreamTimeout
from gateway.access_log import NoLog
from gateway.fallback import Covers, Refused, Stall, first_of
from gateway.settings import Settings
from gateway.telemetry import Exchange, Telemetry
from gateway.watch import Watch
from gateway.wire import Outbox, Wire

NAMES = ["a", "b", "c"]
STALLED = UpstreamTimeout("The engine sent no first token.")


class Models:
    """Three models, of which some fail; who was asked, in order."""

    def __init__(self, **failures: ServingError | Callable[[Stall | None], None]) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self.watch = Watch(Settings(), task, Wire(asyncio.Transport(), Outbox(loop)), loop.time() + 60)
        telemetry = Telemetry(dict, NoLog())
        telemetry.know(NAMES)
        self.record: Exchange = telemetry.begin("chat_completions", "POST", "/", "", None)
        self.record.route("a", stream=True)
        self.asked: list[str] = []
        self.covers: list[bool] = []
        self._failures = failures

    async def attempt(self, name: str, covers: Covers | None, stall: Stall | None) -> None:
        self.asked.append(name)
        self.covers.append(covers is not None and covers(503))
        failure = self._failures.get(name)
        if isinstance(failure, ServingError):
            raise failure
        if failure is not None:
            failure(stall)
            await asyncio.Event().wait()

    async def run(self, naming: Naming | None = None) -> list[str]:
        async with asyncio.timeout(10):
            await first_of(NAMES, naming or Naming(), self.attempt, self.record, self.watch)
        return self.asked


async def test_the_first_one_that_answers_is_the_last_one_asked() -> None:
    assert await Models().run() == ["a"]
    models = Models(a=ModelNotReady("no"))
    assert await models.run() == ["a", "b"]
    assert models.record.metrics.name == "b"


async def test_only_where_there_is_another_model_a_bad_status_is_refused() -> None:
    models = Models(a=Refused("503"), b=Refused("503"))
    assert await models.run() == NAMES
    assert models.covers == [True, True, False]


async def test_the_last_failure_comes_out() -> None:
    models = Models(a=ModelNotReady("a"), b=UpstreamError("b"), c=ModelNotReady("c"))
    with pytest.raises(ModelNotReady, match="c"):
        await models.run()
    assert models.asked == NAMES


@pytest.mark.parametrize(
    ("failure", "naming"),
    [(InvalidRequest("no"), Naming()), (ModelNotReady("no"), Naming(fallback_on=frozenset({"timeout"})))],
)
async def test_what_is_not_covered_comes_out_at_once(failure: ServingError, naming: Naming) -> None:
    models = Models(a=failure)
    with pytest.raises(type(failure)):
        await models.run(naming)
    assert models.asked == ["a"]


async def test_once_bytes_have_gone_out_nobody_else_is_asked() -> None:
    models = Models(a=UpstreamError("broke off"))
    models.watch.first = False
    with pytest.raises(UpstreamError):
        await models.run()
    assert models.asked == ["a"]


def stalls(stall: Stall | None) -> None:
    assert stall is not None
    assert stall(STALLED)
    assert not stall(STALLED)  # once is enough


async def test_a_stalled_model_is_broken_off_for_the_next_one() -> None:
    assert await Models(a=stalls).run() == ["a", "b"]


async def test_a_stall_that_is_not_covered_comes_out_as_itself() -> None:
    with pytest.raises(UpstreamTimeout, match="no first token"):
        await Models(a=stalls).run(Naming(fallback_on=frozenset({"503"})))


async def test_a_stream_that_has_begun_is_not_broken_off_for_another_model() -> None:
    def begun(stall: Stall | None) -> None:
        models.watch.first = False
        assert stall is not None
        assert not stall(STALLED)
        raise UpstreamError("the end of it")

    models = Models(a=begun)
    with pytest.raises(UpstreamError, match="the end of it"):
        await models.run()


async def test_a_client_that_leaves_ends_it_all() -> None:
    models: list[Models] = []

    async def serve() -> None:
        models.append(Models(a=lambda _: None))
        await models[0].run()

    task = asyncio.create_task(serve())
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()
    assert models[0].asked == ["a"]
