"""Texts through an embedder: many a request, several at once, patient while it is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from backends.errors import Code, InferenceError, InvalidRequest, ModelNotReady, ServingError, UpstreamError
from ensembles.ingest.embed import Embedder
from tests.processes import holds


class Model:
    """Answers with the texts themselves; fails first with `errors`; `gate` holds answers back; refuses "bad"."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.errors: list[ServingError] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.under_way = 0
        self.most_under_way = 0

    async def ask(self, texts: Sequence[str], name: str) -> list[bytes]:
        assert name == "model"
        self.asked.append(list(texts))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
            if self.errors:
                raise self.errors.pop(0)
            if "bad" in texts:
                raise InvalidRequest("a bad text")
            return [text.encode() for text in texts]
        finally:
            self.under_way -= 1


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
async def embed(model: Model) -> AsyncIterator[Callable]:
    embedder = Embedder(model.ask, first_delay_seconds=0.001)
    yield lambda *texts: embedder.embed("model", texts)
    await embedder.close()


async def test_each_text_gets_its_vector(embed, model):
    texts = [str(number) for number in range(1000)]
    assert await embed(*texts) == [text.encode() for text in texts]
    assert len(model.asked) < 100


async def test_nothing_is_asked_for_nothing(embed, model):
    assert await embed() == []
    assert model.asked == []


async def test_texts_of_several_callers_share_requests(embed, model):
    model.gate.clear()
    calls = [asyncio.create_task(embed(str(number))) for number in range(20)]
    await holds(lambda: model.under_way > 0)
    model.gate.set()
    assert [await call for call in calls] == [[str(number).encode()] for number in range(20)]
    assert len(model.asked) < 10


async def test_a_few_requests_are_under_way_at_once(embed, model):
    await embed(*map(str, range(200)))
    assert model.most_under_way == 2


async def test_a_fast_model_gets_more_texts_a_request(embed, model):
    await embed(*map(str, range(2000)))
    assert len(model.asked[0]) < max(map(len, model.asked)) == 256


async def test_a_request_is_not_made_smaller_for_having_waited_behind_another():
    now = 0.0
    asked: list[int] = []
    turn = asyncio.Lock()

    async def ask(texts: Sequence[str], name: str) -> list[bytes]:
        nonlocal now
        asked.append(len(texts))
        async with turn:
            await asyncio.sleep(0)
            now += 0.02 * len(texts)
        return [name.encode()] * len(texts)

    embedder = Embedder(ask, clock=lambda: now)
    await embedder.embed("model", ["a"] * 80)
    await embedder.close()
    assert asked == [8] * 10


@pytest.mark.parametrize(
    "error", [ModelNotReady("not yet"), UpstreamError("broke"), InferenceError("gone", Code.UNAVAILABLE)]
)
async def test_a_model_that_is_away_is_waited_for(embed, model, error):
    model.errors = [error, error]
    assert await embed("a") == [b"a"]


async def test_a_model_that_always_fails_is_given_up(embed, model):
    model.errors = [InferenceError("no") for _ in range(6)]
    with pytest.raises(InferenceError, match="no"):
        await embed("a")
    assert await embed("a") == [b"a"]


async def test_a_refused_text_fails_its_own_caller_alone(embed, model):
    model.gate.clear()
    first = asyncio.create_task(embed(*"a" * 16))
    await holds(lambda: model.under_way == 2)
    good, bad = asyncio.create_task(embed("b")), asyncio.create_task(embed("bad"))
    await asyncio.sleep(0)
    model.gate.set()
    with pytest.raises(InvalidRequest, match="a bad text"):
        await bad
    assert await good == [b"b"]
    await first
    assert ["b", "bad"] in model.asked


async def test_texts_of_a_caller_who_left_are_not_sent(embed, model):
    model.gate.clear()
    held = asyncio.create_task(embed(*"a" * 16))
    await holds(lambda: model.under_way == 2)
    leaver = asyncio.create_task(embed("never"))
    await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.wait((leaver,))
    model.gate.set()
    await held
    assert await embed("b") == [b"b"]
    assert not any("never" in texts for texts in model.asked)


async def test_nobody_is_waited_for_who_left_while_the_model_is_away(embed, model):
    model.errors = [ModelNotReady("not yet") for _ in range(1000)]
    leaver = asyncio.create_task(embed("a"))
    await holds(lambda: len(model.asked) > 1)
    leaver.cancel()
    await asyncio.wait((leaver,))
    model.errors = []
    assert await embed("b") == [b"b"]


async def test_closing_cancels_what_is_under_way(model):
    model.gate.clear()
    embedder = Embedder(model.ask)
    call = asyncio.create_task(embedder.embed("model", ["a"]))
    await holds(lambda: model.under_way == 1)
    await embedder.close()
    assert model.under_way == 0
    with pytest.raises(asyncio.CancelledError):
        await call
