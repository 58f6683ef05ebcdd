"""Counters keep the same promises wherever they count: exact sums, places that are as many as there are."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import time
from typing import Literal

import pytest
from pydantic import ValidationError

from backends.errors import Unavailable
from gateway.counters import Counters, MemoryCounters, counters_for
from gateway.redis_counters import RedisCounters
from gateway.settings import Settings
from gateway.shared_counters import SharedCounters
from gateway.tenants import Window
from tests.redis_servers import RedisServer, redis_server
from tests.servers import ROOT
from tests.waiting import eventually, eventually_async

Make = Callable[[], Counters]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@asynccontextmanager
async def running(counters: Counters) -> AsyncIterator[Counters]:
    work = asyncio.create_task(counters.run())
    try:
        yield counters
    finally:
        work.cancel()
        await asyncio.wait([work])


@pytest.fixture(params=["memory", "shared", pytest.param("redis", marks=pytest.mark.slow)])
async def counters(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Counters]:
    made: Counters
    if request.param == "memory":
        made = MemoryCounters()
    elif request.param == "shared":
        made = SharedCounters(tmp_path / "limits", 0, 2)
    else:
        made = RedisCounters(request.getfixturevalue("redis").url, lease_seconds=60)
    async with running(made) as ready:
        yield ready


def window(name: str, what: Literal["requests", "tokens"] = "tokens") -> Window:
    return Window(name, what, 60, 1000)


async def total(counters: Counters, of: Window, now: float) -> int:
    """What was counted so far."""
    return (await counters.take([of], now, 0))[0]


async def test_a_count_is_the_sum_of_what_was_added_whoever_adds_at_once(counters: Counters) -> None:
    windows = [window("sum"), window("sum", "requests")]
    now = time()
    totals = await asyncio.gather(*(counters.take(windows, now, 3) for _ in range(200)))
    assert sorted(tokens for tokens, _ in totals) == list(range(3, 603, 3))
    assert sorted(requests for _, requests in totals) == list(range(1, 201))
    assert await counters.take([window("another", "requests")], now, 3) == [1]


async def test_the_next_window_begins_with_nothing_and_corrections_stay_in_theirs(counters: Counters) -> None:
    short, now = window("short"), time()
    assert await counters.take([short], now, 7) == [7]
    assert await counters.take([short], now + 60, 5) == [5]
    counters.adjust(short, now, -7)
    counters.adjust(short, now + 60, 2)

    async def corrected() -> bool:
        return await total(counters, short, now + 60) == 7

    await eventually_async(corrected)


async def test_a_correction_is_added_soon(counters: Counters) -> None:
    of, now = window("corrected"), time()
    await counters.take([of], now, 100)
    for amount in (-30, -30, 5):
        counters.adjust(of, now, amount)

    async def corrected() -> bool:
        return await total(counters, of, now) == 45

    await eventually_async(corrected)


async def test_there_are_as_many_places_as_there_are(counters: Counters) -> None:
    taken = await asyncio.gather(*(counters.occupy("crowd", 5) for _ in range(20)))
    assert taken.count(True) == 5
    assert await counters.occupy("alone", 1)
    counters.vacate("crowd")
    counters.vacate("crowd")

    async def free() -> bool:
        return await counters.occupy("crowd", 5)

    await eventually_async(free)
    await eventually_async(free)
    assert not await counters.occupy("crowd", 5)
    for tenant in ("crowd",) * 5 + ("alone",):
        counters.vacate(tenant)


async def test_who_leaves_while_it_is_counted_was_never_there(counters: Counters) -> None:
    of, now = window("left"), time()
    for _ in range(20):
        for step in (counters.take([of], now, 5), counters.occupy("left", 1)):
            task = asyncio.create_task(step)  # type: ignore[arg-type]  # the one or the other
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():  # it was done before
                if task.result() is True:
                    counters.vacate("left")
                else:
                    counters.adjust(of, now, -5)

    async def nothing_left() -> bool:
        return await total(counters, of, now) == 0

    async def free() -> bool:
        return await counters.occupy("left", 1)

    await eventually_async(nothing_left)
    await eventually_async(free)
    counters.vacate("left")


@pytest.mark.parametrize("url", ["http://127.0.0.1", "redis://", "127.0.0.1:6379"])
def test_a_url_that_is_not_of_redis_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="limits_storage_url"):
        Settings(limits_storage_url=url)


def test_the_settings_say_where_it_is_counted(tmp_path: Path) -> None:
    assert isinstance(counters_for(Settings(), 0), MemoryCounters)
    shared = counters_for(Settings(workers=2, runtime_dir=tmp_path), 1)
    assert isinstance(shared, SharedCounters)
    assert isinstance(counters_for(Settings(workers=2, limits_storage_url="redis://127.0.0.1:1"), 0), RedisCounters)


ADD = """
import asyncio, sys
from pathlib import Path
from time import time
from typing import Literal
from time import time
from gateway.shared_counters import SharedCounters
from gateway.tenants import Window
window = Window("together", "tokens", 86400, 1000)
async def main():
    counters = SharedCounters(Path(sys.argv[1]), int(sys.argv[2]), 4)
    taken = 0
    for _ in range(500):
        await counters.take([window], time(), 2)
        taken += await counters.occupy("crowd", 300)
    print(taken, flush=True)
    sys.stdin.read()
asyncio.run(main())
"""


def adders(path: Path) -> list[subprocess.Popen[str]]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    return [
        subprocess.Popen([sys.executable, "-c", ADD, str(path), str(number)], **pipes)  # type: ignore[call-overload]
        for number in range(4)
    ]


async def test_processes_that_share_a_table_lose_nothing_and_a_dead_ones_places_come_back(tmp_path: Path) -> None:
    path = tmp_path / "limits"
    processes = adders(path)
    try:
        taken = [int(process.stdout.readline()) for process in processes if process.stdout]
        assert sum(taken) == 300
        ours = SharedCounters(path, 0, 4)  # the successor of the first of them
        assert await total(ours, Window("together", "tokens", 86400, 1000), time()) == 4 * 500 * 2
        free = 0
        while await ours.occupy("crowd", 300):
            free += 1
        assert free == taken[0]
    finally:
        for process in processes:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()


async def test_a_killed_process_leaves_the_table_unlocked(tmp_path: Path) -> None:
    path = tmp_path / "limits"
    for number in range(3):
        (process, *others) = adders(path)
        for other in others:
            other.kill()
            other.communicate()
        eventually(path.exists)
        process.kill()
        process.communicate()
        counters = SharedCounters(path, 1, 4)
        assert await counters.take([window(f"alive {number}")], time(), 1) == [1]


async def test_a_full_table_is_an_error_until_windows_are_over(tmp_path: Path) -> None:
    counters = SharedCounters(tmp_path / "limits", 0, 1, records=128)

    async def fill() -> None:
        for number in range(129):
            await counters.take([window(f"key {number}")], time(), 1)

    with pytest.raises(Unavailable, match="full"):
        await fill()
    counters = SharedCounters(tmp_path / "others", 0, 1, records=128)
    for number in range(1000):
        await counters.take([window(f"key {number}")], time() - 3600, 1)


@pytest.mark.slow
async def test_redis_that_is_out_says_so_at_once_and_counts_again_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with redis_server() as server:
        async with running(RedisCounters(server.url, lease_seconds=60)) as counters:
            of, now = window("k"), time()
            assert await counters.take([of], now, 1) == [1]
            assert await counters.occupy("t", 2)
            server.stop()
            with pytest.raises(Unavailable):
                await counters.take([of], now, 1)
            with pytest.raises(Unavailable):
                await counters.occupy("t", 1)
            counters.adjust(of, now, 41)
            counters.vacate("t")
            started = asyncio.get_running_loop().time()
            for _ in range(100):
                with pytest.raises(Unavailable):
                    await counters.take([of], now, 1)
            assert asyncio.get_running_loop().time() - started < 0.5
            server.start()

            async def corrected() -> bool:
                try:
                    return await total(counters, of, now) == 41
                except Unavailable:
                    return False

            await eventually_async(corrected)
            assert await counters.occupy("t", 1)
            counters.vacate("t")
    assert [line.levelname for line in caplog.records] == ["ERROR", "WARNING"]


@pytest.mark.slow
async def test_while_redis_hangs_one_request_at_a_time_waits_for_it() -> None:
    with redis_server() as server:
        async with running(RedisCounters(server.url, lease_seconds=60)) as counters:
            of, now = window("h"), time()
            assert await counters.take([of], now, 1) == [1]
            assert server.process is not None
            server.process.send_signal(signal.SIGSTOP)
            with pytest.raises(Unavailable):
                await counters.take([of], now, 1)
            loop = asyncio.get_running_loop()
            waits: list[float] = []

            async def one(delay: float) -> None:
                await asyncio.sleep(delay)
                started = loop.time()
                with pytest.raises(Unavailable):
                    await counters.take([of], now, 1)
                waits.append(loop.time() - started)

            await asyncio.gather(*(one(number / 20) for number in range(60)))
            assert sum(wait > 0.2 for wait in waits) <= 2
            server.process.send_signal(signal.SIGCONT)

            async def counts() -> bool:
                try:
                    return bool(await counters.take([of], now, 1))
                except Unavailable:
                    return False

            await eventually_async(counts)


@pytest.mark.slow
async def test_places_of_a_gateway_that_died_come_back_with_their_lease(redis: RedisServer) -> None:
    dead = RedisCounters(redis.url, lease_seconds=-4)  # a second, with what is spared
    assert await dead.occupy("lease", 1)
    alive = RedisCounters(redis.url, lease_seconds=60)
    assert not await alive.occupy("lease", 1)

    async def free() -> bool:
        return await alive.occupy("lease", 1)

    await eventually_async(free)
    for counters in (dead, alive):
        await counters._redis.aclose()
        await counters._redis.connection_pool.disconnect()
