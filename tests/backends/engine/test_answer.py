"""An answer under way: how its holder leaves, how it is forwarded, how a slow holder holds the engine back."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Coroutine
from typing import Any

import pytest

from backends.engine.answer import HIGH_WATER_BYTES, Answer
from backends.engine.upstream import Pool
from backends.errors import UpstreamError
from tests.backends.engine.scripted import OK, WAYS, Conversation, Drain, Scripted, asked, iterated
from tests.processes import holds

# What the kernel and the loop may hold beyond what the client has decided to.
SLACK_BYTES = 1 << 20


async def test_cancelling_before_the_head_closes_the_connection(server: Scripted, pool: Pool) -> None:
    for parts in ([], [OK + b"content-le"]):
        task, conversation = await asked(pool, server)
        await conversation.say(*parts)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await conversation.gone()
    await holds(lambda: pool.open_count == 0)


@pytest.mark.parametrize("drain", WAYS)
async def test_closing_before_the_end_closes_the_connection(drain: Drain, server: Scripted, pool: Pool) -> None:
    task, conversation = await asked(pool, server)
    await conversation.say(OK + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n")
    answer = await task
    reading = asyncio.create_task(drain(answer))
    await conversation.say(b"1\r\nb\r\n")
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await answer.aclose()
    await answer.aclose()
    await conversation.gone()
    await holds(lambda: pool.open_count == 0)
    await iterated(answer)  # there is no more to come, and it does not wait


async def test_closing_an_answer_that_was_never_read_closes_the_connection(server: Scripted, pool: Pool) -> None:
    task, conversation = await asked(pool, server)
    await conversation.say(OK + b"content-length: 10\r\n\r\n0123")
    await (await task).aclose()
    await conversation.gone()


async def test_an_answer_that_is_whole_before_it_is_read_gives_its_connection_back(
    server: Scripted, pool: Pool
) -> None:
    task, conversation = await asked(pool, server)
    await conversation.say(OK + b"content-length: 2\r\n\r\nok")
    answer = await task
    await answer.aclose()
    assert pool.idle_count == 1


# Forwarding


async def test_what_write_raises_comes_out_and_nothing_more_is_written(server: Scripted, pool: Pool) -> None:
    task, conversation = await asked(pool, server)
    await conversation.say(OK + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n")
    answer = await task
    seen: list[bytes] = []

    def write(data: bytes) -> None:
        seen.append(data)
        if data == b"b":
            raise LookupError("enough")

    pumping = asyncio.create_task(answer.pump(write))
    await conversation.say(b"1\r\nb\r\n", b"1\r\nc\r\n")
    with pytest.raises(LookupError, match="enough"):
        await pumping
    assert seen == [b"a", b"b"]
    await answer.aclose()
    await conversation.gone()


async def test_what_write_raises_at_the_first_bytes_comes_out_too(server: Scripted, pool: Pool) -> None:
    task, conversation = await asked(pool, server)
    await conversation.say(OK + b"content-length: 1\r\n\r\na")
    answer = await task

    def write(data: bytes) -> None:
        raise LookupError(data.decode())

    with pytest.raises(LookupError, match="a"):
        await answer.pump(write)
    await answer.aclose()


async def test_what_an_awaited_write_raises_comes_out(server: Scripted, pool: Pool) -> None:
    task, conversation = await asked(pool, server)
    await conversation.say(OK + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n")
    answer = await task

    async def fail() -> None:
        raise LookupError("late")

    with pytest.raises(LookupError, match="late"):
        await answer.pump(lambda _: fail())
    await answer.aclose()
    await conversation.gone()


async def test_a_write_that_was_to_be_awaited_by_who_was_cancelled_at_that_moment_is_closed(
    server: Scripted, pool: Pool
) -> None:
    task, conversation = await asked(pool, server)
    await conversation.say(OK + b"transfer-encoding: chunked\r\n\r\n")
    answer = await task
    waits = asyncio.sleep(60)

    def write(_: bytes) -> Coroutine[Any, Any, None]:
        pumping.cancel()
        return waits

    pumping = asyncio.create_task(answer.pump(write))
    await conversation.say(b"1\r\na\r\n")
    with pytest.raises(asyncio.CancelledError):
        await pumping
    assert inspect.getcoroutinestate(waits) == inspect.CORO_CLOSED
    await answer.aclose()


async def test_a_break_while_a_write_is_awaited_comes_after_what_was_received(server: Scripted, pool: Pool) -> None:
    task, conversation = await asked(pool, server)
    await conversation.say(OK + b"transfer-encoding: chunked\r\n\r\n")
    answer = await task
    seen: list[bytes] = []
    free = asyncio.Event()

    def write(data: bytes) -> Coroutine[Any, Any, None] | None:
        seen.append(data)
        return wait() if len(seen) == 1 else None

    async def wait() -> None:
        await free.wait()

    pumping = asyncio.create_task(answer.pump(write))
    await conversation.say(b"1\r\na\r\n", b"1\r\nb\r\n")
    conversation.end()
    assert seen == [b"a"]
    free.set()
    with pytest.raises(UpstreamError):
        await pumping
    assert seen == [b"a", b"b"]


# Back-pressure

TOTAL = 16 << 20


async def poured(answer: Answer, conversation: Conversation) -> int:
    """How much the server got rid of until the client stopped reading."""
    await holds(lambda: answer._paused)
    before = -1
    while before != conversation.sent:
        before = conversation.sent
        for _ in range(50):
            await asyncio.sleep(0)
    return conversation.sent


@pytest.mark.parametrize("is_pumped", [False, True])
async def test_a_holder_that_does_not_take_more_stops_the_server(is_pumped: bool, server: Scripted, pool: Pool) -> None:
    task, conversation = await asked(pool, server)
    await conversation.say(OK + b"content-length: %d\r\n\r\n" % TOTAL)
    answer = await task
    taken = 0
    free = asyncio.Event()

    async def wait() -> None:
        await free.wait()

    def write(data: bytes) -> Coroutine[Any, Any, None] | None:
        nonlocal taken
        taken += len(data)
        return None if free.is_set() else wait()

    pumping = asyncio.create_task(answer.pump(write)) if is_pumped else None
    conversation.sent = 0
    pouring = asyncio.create_task(conversation.pour(TOTAL))
    assert await poured(answer, conversation) < HIGH_WATER_BYTES + SLACK_BYTES
    assert sum(map(len, answer.chunks)) <= HIGH_WATER_BYTES + (256 << 10)  # and what one read brings
    free.set()
    if pumping is None:
        async for data in answer:
            taken += len(data)
    else:
        await pumping
    await pouring
    assert taken == TOTAL
    assert pool.idle_count == 1


async def test_closing_a_paused_answer_closes_the_connection(server: Scripted, pool: Pool) -> None:
    task, conversation = await asked(pool, server)
    await conversation.say(OK + b"content-length: %d\r\n\r\n" % TOTAL)
    answer = await task
    pouring = asyncio.create_task(conversation.pour(TOTAL))
    await holds(lambda: answer._paused)
    await answer.aclose()
    with pytest.raises(ConnectionError):
        await pouring
    await holds(lambda: pool.open_count == 0)
