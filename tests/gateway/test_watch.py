"""The watch over one exchange, by an injected clock: what interrupts it, what only shows life, and when it looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic

import pytest

from backends.errors import DeadlineExceeded, InvalidRequest, ServingError, Unavailable, UpstreamTimeout
from backends.model import OpenAIRequest
from gateway.settings import Settings
from gateway.watch import Watch, read_timeout
from gateway.wire import Outbox, Wire

SETTINGS = Settings(first_token_timeout=30, stall_timeout=10, keepalive_seconds=5)


class Watched:
    """A watch, the task that it interrupts and the client's wire."""

    def __init__(self, settings: Settings = SETTINGS, seconds: float = 600) -> None:
        loop = asyncio.get_running_loop()
        self.wire = Wire(asyncio.Transport(), Outbox(loop))
        self.task = loop.create_task(asyncio.Event().wait())
        self.start = monotonic()
        self.watch = Watch(settings, self.task, self.wire, self.start + seconds)
        self.comments = 0

    def comment(self) -> None:
        self.comments += 1

    def stream(self) -> None:
        """The answer streams, and the engine has been asked."""
        self.watch.stream(self.comment)
        self.watch.heard_at = self.start
        self.watch.on_engine = True

    def token(self, seconds: float) -> None:
        self.watch.first = False
        self.watch.heard_at = self.start + seconds

    def tick(self, seconds: float) -> type[ServingError] | None:
        """What interrupted by that time, if anything did."""
        self.watch.tick(self.start + seconds)
        return type(self.watch.error) if self.watch.error is not None else None

    async def is_interrupted(self) -> bool:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return self.task.cancelled()


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    one = Watched()
    yield one
    one.task.cancel()


async def test_the_deadline_interrupts_stream_or_not(watched: Watched) -> None:
    assert watched.tick(599) is None
    assert watched.tick(600) is DeadlineExceeded
    assert await watched.is_interrupted()


async def test_the_clients_deadline_counts_when_it_is_the_sooner(watched: Watched) -> None:
    watched.watch.shorten(watched.start + 1000)
    assert watched.watch.deadline == watched.start + 600
    watched.watch.shorten(watched.start + 20)
    assert watched.watch.due == watched.start + 20
    assert watched.tick(20) is DeadlineExceeded


async def test_an_answer_in_one_piece_has_no_first_token_to_wait_for(watched: Watched) -> None:
    watched.watch.on_engine = True
    assert watched.tick(500) is None
    assert watched.comments == 0


async def test_a_first_token_that_does_not_come_interrupts(watched: Watched) -> None:
    watched.stream()
    assert watched.tick(29) is None
    assert watched.tick(30) is UpstreamTimeout
    assert "no first token within 30 s" in str(watched.watch.error)


async def test_a_stall_between_tokens_interrupts_sooner(watched: Watched) -> None:
    watched.stream()
    watched.token(3)
    assert watched.tick(12.9) is None
    assert watched.tick(13) is UpstreamTimeout
    assert "nothing more within 10 s" in str(watched.watch.error)


class Elsewhere:
    """A model that may try elsewhere so many times when an engine stalls."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.told: list[str] = []

    def __call__(self, error: UpstreamTimeout) -> bool:
        self.told.append(error.message)
        return len(self.told) <= self.times


def elsewhere(watched: Watched, times: int = 1) -> Elsewhere:
    """The request is on its way to such a model."""
    asked = watched.watch.request = OpenAIRequest("/v1/x", b"{}", "m", stream=True)
    asked.stall = model = Elsewhere(times)
    return model


async def test_a_stall_is_told_to_the_model_and_its_next_engine_has_the_same_time(watched: Watched) -> None:
    watched.stream()
    model = elsewhere(watched)
    assert watched.tick(29) is None
    assert model.told == []
    assert watched.tick(30) is None
    assert model.told == ["The engine sent no first token within 30 s."]
    assert watched.tick(59) is None
    assert len(model.told) == 1
    assert not await watched.is_interrupted()
    assert watched.tick(60) is UpstreamTimeout
    assert len(model.told) == 2
    assert await watched.is_interrupted()


async def test_a_stall_in_mid_stream_is_told_too(watched: Watched) -> None:
    watched.stream()
    model = elsewhere(watched, times=2)
    watched.token(3)
    assert watched.tick(13) is None
    assert watched.tick(23) is None
    assert model.told == ["The engine sent nothing more within 10 s."] * 2
    watched.token(24)
    assert watched.tick(33) is None
    assert watched.tick(34) is UpstreamTimeout


async def test_a_model_that_tries_elsewhere_lets_the_deadline_and_the_signs_of_life_be(watched: Watched) -> None:
    watched.stream()
    elsewhere(watched, times=1000)
    for second in range(1, 600):
        assert watched.tick(second) is None
    assert watched.comments == 119
    assert watched.tick(600) is DeadlineExceeded


async def test_a_model_with_nothing_to_break_off_leaves_the_stall_to_the_watch(watched: Watched) -> None:
    watched.stream()
    model = elsewhere(watched, times=0)
    assert watched.tick(30) is UpstreamTimeout
    assert len(model.told) == 1
    other = Watched()
    other.stream()
    elsewhere(other)
    assert other.watch.request is not None
    other.watch.request.stall = None  # the answer is closed, or the model has one endpoint
    assert other.tick(30) is UpstreamTimeout
    other.task.cancel()


async def test_a_model_that_waits_for_no_engine_is_not_told_of_a_stall(watched: Watched) -> None:
    watched.stream()
    model = elsewhere(watched)
    watched.watch.on_engine = False
    assert watched.tick(500) is None
    assert model.told == []


async def test_the_queue_and_a_slow_client_are_not_the_engines_silence(watched: Watched) -> None:
    watched.stream()
    watched.watch.on_engine = False
    assert watched.tick(500) is None
    watched.watch.on_engine = True
    watched.token(500)
    assert watched.tick(509) is None
    assert watched.tick(510) is UpstreamTimeout


async def test_silence_brings_a_comment_at_each_interval_and_a_token_begins_it_anew(watched: Watched) -> None:
    watched.stream()
    for second, comments in ((4.9, 0), (5, 1), (6, 1), (9.9, 1), (10, 2)):
        watched.tick(second)
        assert watched.comments == comments
    watched.token(11)
    watched.tick(15)
    assert watched.comments == 2
    watched.tick(16)
    assert watched.comments == 3


async def test_it_looks_again_no_later_than_anything_can_be_due(watched: Watched) -> None:
    watched.stream()
    watched.watch.stream(watched.comment)
    assert watched.watch.due <= monotonic() + 5
    closer = Watched(Settings(first_token_timeout=2, stall_timeout=1, keepalive_seconds=500))
    closer.stream()
    closer.watch.tick(monotonic())
    assert closer.watch.due <= monotonic() + 1
    closer.task.cancel()


async def test_what_ends_it_first_is_what_ends_it(watched: Watched) -> None:
    watched.stream()
    watched.watch.interrupt(Unavailable("first"))
    watched.watch.interrupt(Unavailable("second"))
    assert str(watched.watch.error) == "first"
    assert watched.tick(1000) is Unavailable
    assert watched.watch.due == float("inf")


async def test_a_client_that_leaves_interrupts_once(watched: Watched) -> None:
    watched.watch.departure()
    watched.wire.lose()
    assert watched.watch.left
    assert await watched.is_interrupted()
    watched.watch.interrupt(Unavailable("too late"))
    assert watched.watch.error is None


async def test_a_client_that_had_left_already_interrupts_too(watched: Watched) -> None:
    watched.wire.lose()
    assert not await watched.is_interrupted()
    watched.watch.departure()
    assert watched.watch.left
    assert await watched.is_interrupted()


async def test_a_closed_watch_sees_nothing_any_more(watched: Watched) -> None:
    watched.stream()
    watched.watch.departure()
    watched.watch.close()
    watched.watch.close()
    assert watched.tick(10_000) is None
    watched.wire.lose()
    assert not watched.watch.left
    assert not await watched.is_interrupted()
    assert watched.comments == 0


@pytest.mark.parametrize(("value", "seconds"), [(b"1", 0.001), (b"1500", 1.5), (b" 250.5 ", 0.2505), (b"1e3", 1.0)])
def test_milliseconds_are_read(value: bytes, seconds: float) -> None:
    assert read_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"0", b"-1", b"nan", b"inf", b"-inf", b"1e999", b"soon", b"\xff", b"1,5"])
def test_what_is_no_number_of_milliseconds_is_refused_by_its_value(value: bytes) -> None:
    with pytest.raises(InvalidRequest, match="X-Request-Timeout-Ms must be a positive number of milliseconds"):
        read_timeout(value)
