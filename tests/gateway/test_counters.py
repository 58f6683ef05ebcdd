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

import pytest

from backends.errors import Unavailable
from gateway.counters import Counters, MemoryCounters, counters_for
from gateway.redis_counters import RedisCounters
from gateway.settings import Settings
from gateway.shared_counters import SharedCounters
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


async def settled(counters: Counters, key: str, total: int) -> None:
    async def holds() -> bool:
        return await counters.incr(key, 60, 0) == total

    await eventually_async(holds)


async def test_a_count_is_the_sum_of_what_was_added_whoever_adds_at_once(counters: Counters) -> None:
    totals = await asyncio.gather(*(counters.incr("sum", 60, 3) for _ in range(200)))
    assert sorted(totals) == list(range(3, 603, 3))
    assert await counters.incr("another", 60) == 1


async def test_a_correction_is_added_soon(counters: Counters) -> None:
    await counters.incr("corrected", 60, 100)
    for amount in (-30, -30, 5):
        counters.adjust("corrected", 60, amount)
    await settled(counters, "corrected", 45)


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


def test_the_settings_say_where_it_is_counted(tmp_path: Path) -> None:
    assert isinstance(counters_for(Settings(), 0), MemoryCounters)
    shared = counters_for(Settings(workers=2, runtime_dir=tmp_path), 1)
    assert isinstance(shared, SharedCounters)
    assert isinstance(counters_for(Settings(workers=2, limits_storage_url="redis://127.0.0.1:1"), 0), RedisCounters)


async def test_memory_forgets_what_is_over() -> None:
    counters = MemoryCounters(sweep_seconds=0.01)
    counters.adjust("never", 60, -5)
    assert await counters.incr("never", 60) == 1
    await counters.incr("over", -1)
    async with running(counters):

        async def swept() -> bool:
            return "over" not in counters._counts

        await eventually_async(swept)
    assert "never" in counters._counts


ADD = """
import asyncio, sys
from pathlib import Path
from gateway.shared_counters import SharedCounters
async def main():
    counters = SharedCounters(Path(sys.argv[1]), int(sys.argv[2]), 4)
    taken = 0
    for _ in range(500):
        await counters.incr("together", 60, 2)
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
        assert await ours.incr("together", 60, 0) == 4 * 500 * 2
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
    for _ in range(3):
        (process, *others) = adders(path)
        for other in others:
            other.kill()
            other.communicate()
        eventually(path.exists)
        process.kill()
        process.communicate()
        counters = SharedCounters(path, 1, 4)
        assert await counters.incr("alive", 60) > 0


async def test_a_full_table_is_an_error_until_windows_are_over(tmp_path: Path) -> None:
    counters = SharedCounters(tmp_path / "limits", 0, 1, records=128)

    async def fill() -> None:
        for number in range(129):
            await counters.incr(f"key {number}", 60)

    with pytest.raises(Unavailable, match="full"):
        await fill()
    counters = SharedCounters(tmp_path / "others", 0, 1, records=128)
    for number in range(1000):
        await counters.incr(f"key {number}", -60)


@pytest.mark.slow
async def test_redis_that_is_out_says_so_at_once_and_counts_again_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with redis_server() as server:
        async with running(RedisCounters(server.url, lease_seconds=60)) as counters:
            assert await counters.incr("k", 60) == 1
            assert await counters.occupy("t", 2)
            server.stop()
            with pytest.raises(Unavailable):
                await counters.incr("k", 60)
            with pytest.raises(Unavailable):
                await counters.occupy("t", 1)
            counters.adjust("k", 60, 41)
            counters.vacate("t")
            started = asyncio.get_running_loop().time()
            for _ in range(100):
                with pytest.raises(Unavailable):
                    await counters.incr("k", 60)
            assert asyncio.get_running_loop().time() - started < 0.5
            server.start()

            async def corrected() -> bool:
                try:
                    return await counters.incr("k", 60, 0) == 41
                except Unavailable:
                    return False

            await eventually_async(corrected)
            assert await counters.occupy("t", 1)
            counters.vacate("t")
    assert [line.levelname for line in caplog.records] == ["ERROR", "WARNING"]


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
