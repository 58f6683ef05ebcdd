"""The HTTP client of the hot path against a server that sends scripted bytes: what is sent, and the pool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from backends.engine.upstream import IDLE_SECONDS, Pool
from backends.errors import Unavailable, UpstreamError
from tests.backends.engine.scripted import (
    EMPTY,
    OK,
    Conversation,
    Scripted,
    asked,
    chunked,
    get,
    iterated,
    pumped,
    scripted,
)
from tests.processes import holds

# What is sent


async def test_a_request_goes_out_whole_with_its_fields(server: Scripted) -> None:
    pool = Pool(server.address, "The toy", ((b"authorization", b"Bearer k"),))
    task = get(pool, "/v1/chat/completions?x=1", b'{"a":1}')
    conversation = await server.next()
    head, body = await conversation.request()
    line, *fields = head.decode().strip().split("\r\n")
    assert line == "POST /v1/chat/completions?x=1 HTTP/1.1"
    assert sorted(fields) == [
        "authorization: Bearer k",
        "content-length: 7",
        "content-type: application/json",
        "host: localhost",
        "x-request-id: r1",
    ]
    assert body == b'{"a":1}'
    await conversation.say(EMPTY)
    await (await task).aclose()
    pool.close()


async def test_the_path_of_a_base_url_stands_before_every_path() -> None:
    async with scripted() as server:
        tcp = await asyncio.start_server(server.accept, "127.0.0.1", 0)
        port = tcp.sockets[0].getsockname()[1]
        pool = Pool(f"http://127.0.0.1:{port}/base/", "The toy")
        task = get(pool)
        conversation = await server.next()
        head, _ = await conversation.request()
        assert head.startswith(b"POST /base/v1/x HTTP/1.1\r\n")
        assert b"host: 127.0.0.1:%d\r\n" % port in head
        await conversation.say(EMPTY)
        await (await task).aclose()
        pool.close()
        conversation.reset()
        tcp.close()


async def test_paths_with_ids_in_them_do_not_pile_up(server: Scripted, pool: Pool) -> None:
    conversation = None
    for number in range(200):
        task = get(pool, f"/v1/responses/{number}")
        conversation = conversation or await server.next()
        head, _ = await conversation.request()
        assert head.startswith(b"POST /v1/responses/%d HTTP" % number)
        await conversation.say(EMPTY)
        await task
    assert len(pool._heads) <= 64
    assert server.opened == 1


# The pool


async def test_a_connection_is_used_again_and_an_idle_one_is_counted(server: Scripted, pool: Pool) -> None:
    task, conversation = await asked(pool, server)
    assert (pool.open_count, pool.idle_count) == (1, 0)
    await conversation.say(OK + b"content-length: 2\r\n\r\nok")
    assert await iterated(await task) == b"ok"
    for number in range(3):
        assert (pool.open_count, pool.idle_count) == (1, 1)
        task = get(pool)
        await conversation.request()
        assert pool.idle_count == 0
        await conversation.say(OK + b"transfer-encoding: chunked\r\n\r\n" + chunked([b"n%d" % number]))
        answer = await task
        assert await pumped(answer) == b"n%d" % number
        await answer.aclose()  # after the end it closes nothing
        await answer.aclose()
    assert server.opened == 1


async def test_requests_at_once_take_a_connection_each(server: Scripted, pool: Pool) -> None:
    first, one = await asked(pool, server)
    second, two = await asked(pool, server)
    await two.say(OK + b"content-length: 1\r\n\r\n2")
    await one.say(OK + b"content-length: 1\r\n\r\n1")
    assert [await iterated(await task) for task in (first, second)] == [b"1", b"2"]
    assert (pool.open_count, pool.idle_count) == (2, 2)


async def test_an_idle_connection_that_the_server_closes_is_forgotten(server: Scripted, pool: Pool) -> None:
    task, conversation = await asked(pool, server)
    await conversation.say(EMPTY)
    await task
    conversation.end()
    await holds(lambda: pool.idle_count == 0)
    task, conversation = await asked(pool, server)
    await conversation.say(EMPTY)
    assert (await task).status == 200
    assert server.opened == 2


@pytest.mark.parametrize("way", [Conversation.end, Conversation.reset])
async def test_a_request_on_stale_connections_is_sent_again_on_a_fresh_one(
    way: Callable[[Conversation], None], server: Scripted, pool: Pool
) -> None:
    opened = [await asked(pool, server) for _ in range(3)]
    for task, conversation in opened:
        await conversation.say(EMPTY)
        await task
    assert pool.idle_count == 3
    again = get(pool, body=b'{"again":1}')
    for _, conversation in reversed(opened):  # the newest first
        assert (await conversation.request())[1] == b'{"again":1}'
        way(conversation)
    fresh = await server.next()
    assert (await fresh.request())[1] == b'{"again":1}'
    await fresh.say(EMPTY)
    assert (await again).status == 200


@pytest.mark.parametrize("way", [Conversation.end, Conversation.reset])
async def test_a_fresh_connection_that_closes_without_an_answer_is_an_error(
    way: Callable[[Conversation], None], server: Scripted, pool: Pool
) -> None:
    task, conversation = await asked(pool, server)
    way(conversation)
    with pytest.raises(UpstreamError, match="closed the connection before its answer was complete"):
        await task
    assert server.opened == 1


async def test_a_reused_connection_that_breaks_within_its_answer_is_not_tried_again(
    server: Scripted, pool: Pool
) -> None:
    task, conversation = await asked(pool, server)
    await conversation.say(EMPTY)
    await task
    task = get(pool)
    await conversation.request()
    await conversation.say(b"H")
    conversation.end()
    with pytest.raises(UpstreamError):
        await task
    assert server.opened == 1


async def test_a_connection_that_was_idle_for_too_long_is_closed_and_not_used(server: Scripted, pool: Pool) -> None:
    task, conversation = await asked(pool, server)
    await conversation.say(EMPTY)
    await task
    pool._idle[0].idle_since -= IDLE_SECONDS
    task, fresh = await asked(pool, server)
    await conversation.gone()
    await fresh.say(EMPTY)
    await task
    assert (pool.open_count, pool.idle_count) == (1, 1)


async def test_connections_that_are_not_needed_any_more_are_let_go(server: Scripted, pool: Pool) -> None:
    opened = [await asked(pool, server) for _ in range(4)]
    for task, conversation in opened:
        await conversation.say(EMPTY)
        await task
    for connection in pool._idle[:3]:
        connection.idle_since -= IDLE_SECONDS
    pool._sweep(asyncio.get_running_loop())
    assert pool.idle_count == 1
    for _, conversation in opened[:3]:
        await conversation.gone()
    assert pool.open_count == 1
    pool._idle[0].idle_since -= IDLE_SECONDS
    pool._sweep(asyncio.get_running_loop())
    await opened[3][1].gone()
    assert pool._sweeper is None  # nothing is left to look after


async def test_bytes_that_nobody_asked_for_close_the_connection(server: Scripted, pool: Pool) -> None:
    task, conversation = await asked(pool, server)
    await conversation.say(EMPTY)
    await task
    await conversation.say(OK)
    await conversation.gone()
    await holds(lambda: pool.open_count == 0)
    assert pool.idle_count == 0


HALVES = [OK, OK + b"x-junk: 1\r\n", b"\r\nHT", OK + b"content-length: 5\r\n\r\nju"]


@pytest.mark.parametrize("junk", [EMPTY, EMPTY * 2, b"junk", *HALVES])
async def test_bytes_behind_an_answer_do_not_get_into_the_next_one(junk: bytes, server: Scripted, pool: Pool) -> None:
    task, first = await asked(pool, server)
    await first.say(OK + b"content-length: 2\r\n\r\nok" + junk)
    answer = await task
    assert await iterated(answer) == b"ok"
    await answer.aclose()
    task = get(pool)
    try:
        conversation = first
        await first.request()
    except (asyncio.IncompleteReadError, ConnectionError):  # it was closed: the next request has another
        conversation = await server.next()
        await conversation.request()
    await conversation.say(OK + b"content-length: 3\r\nx-own: 1\r\n\r\nyes")
    answer = await task
    assert answer.headers == [(b"x-own", b"1")]
    assert await iterated(answer) == b"yes"


async def test_an_endpoint_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    for address in (f"unix:{tmp_path}/none", "http://127.0.0.1:1"):
        pool = Pool(address, "The toy")
        with pytest.raises(Unavailable, match="The toy cannot be reached"):
            await pool.send("GET", "/", (), b"")
        assert pool.open_count == 0


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_who_leaves_as_the_connection_is_made_leaves_none(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def leave() -> None:
        async with scripted() as server:
            pool = Pool(server.address, "The toy")
            task = get(pool)
            while not pool.open_count:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await (await server.next()).gone()
            await holds(lambda: pool.open_count == 0)

    run(leave())


async def test_closing_the_pool_leaves_those_in_use_to_their_answers(server: Scripted) -> None:
    pool = Pool(server.address, "The toy")
    idle, conversation = await asked(pool, server)
    used, busy = await asked(pool, server)
    await conversation.say(EMPTY)
    await idle
    pool.close()
    await conversation.gone()
    await busy.say(OK + b"content-length: 2\r\n\r\nok")
    assert await iterated(await used) == b"ok"
    pool.close()
    await busy.gone()
