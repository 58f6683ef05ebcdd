"""Processes that die with streams under way: what clients see, what goes on, what the counters say."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from time import monotonic

import pytest

from tests.faults.looking import at_rest, count, engine_of, engine_pids, samples, server_pids
from tests.faults.talking import CHAT, COMPLETIONS, Answer, ask, asking, data_of, error_of, question
from tests.processes import alive, descendants
from tests.servers import Tritium, echo_repository, serving
from tests.waiting import eventually, eventually_async

Start = Callable[..., Tritium]

ENDLESS = question(words="w " * 5000, stream=True, echo={"itl_ms": 20})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tritium]:
    """Two server processes; tests kill what the supervisor restarts."""
    repository = echo_repository(tmp_path_factory.mktemp("models"), {"echo": {}, "other": {}})
    with serving(repository, "--workers", "2", "--max-restarts", "100", "--health-interval", "0.2") as tritium:
        yield tritium


def whole_again(server: Tritium) -> None:
    eventually(
        lambda: (
            len(server_pids(server)) == 2
            and count(server, "server_processes") == 2
            and count(server, "model_ready") == 2
            and count(server, "requests_in_flight") == 0
        ),
        seconds=20,
        what="two server processes and two models that are ready",
    )


def totals(server: Tritium) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Everything that may only grow."""
    endings = ("_total", "_count", "_sum", "_bucket")
    return {
        key: value
        for key, value in samples(server).items()
        if key[0].startswith("tritium_") and key[0].endswith(endings) and "lag" not in key[0]
    }


async def streams(stack: AsyncExitStack, server: Tritium, number: int) -> list[Answer]:
    """So many endless streams with their first words out."""
    answers = [await stack.enter_async_context(asking(server.url, ENDLESS)) for _ in range(number)]
    for answer in answers:
        assert await answer.head() == 200
        await answer.event()
        await answer.event()
    return answers


async def test_kill_9_of_an_engine_breaks_its_streams_by_an_event_and_the_next_request_is_served(
    server: Tritium,
) -> None:
    whole_again(server)
    restarts = count(server, "engine_restarts_total", model="echo")
    others = set(engine_pids(server))
    serving_now = server_pids(server)
    with engine_of(server) as engine:
        pid = engine.stats()["pid"]
    async with AsyncExitStack() as stack:
        answers = await streams(stack, server, 4)
        start = monotonic()
        os.kill(pid, signal.SIGKILL)
        for answer in answers:
            events = [event async for event in answer.events()]
            assert error_of(events[-1])["code"] == "engine_error"
            assert b"data: [DONE]" not in events
        seconds = monotonic() - start
        while (await ask(server.url, question()))[0].status != 200:
            assert monotonic() - start < 20
            await asyncio.sleep(0.02)
        back = monotonic() - start
    print(f"kill -9 of an engine: streams told after {seconds * 1000:.0f} ms, served again after {back:.1f} s")
    assert seconds < 1
    eventually(lambda: count(server, "engine_restarts_total", model="echo") == restarts + 1)
    assert count(server, "engine_restarts_total", model="other") == 0
    assert others - set(engine_pids(server)) == {pid}
    assert server_pids(server) == serving_now
    answer, body = await ask(server.url, question(stream=True))
    assert body.endswith(b"data: [DONE]\n\n")


async def test_while_an_engine_restarts_its_model_is_a_503_and_the_others_serve(server: Tritium) -> None:
    whole_again(server)
    with engine_of(server) as engine:
        os.kill(engine.stats()["pid"], signal.SIGKILL)
    seen = set()
    while 200 not in seen:
        answer, _ = await ask(server.url, question())
        seen.add(answer.status)
        answer, _ = await ask(server.url, question(model="other"))
        assert answer.status == 200
    assert seen <= {200, 502, 503}


async def test_kill_9_of_a_server_process_leaves_the_other_and_the_engines_at_work(server: Tritium) -> None:
    whole_again(server)
    engines = engine_pids(server)
    before = totals(server)
    async with AsyncExitStack() as stack:
        answers = await streams(stack, server, 16)
        victim, survivor = server_pids(server)
        os.kill(victim, signal.SIGKILL)

        async def goes_on(answer: Answer) -> bool:
            try:
                for _ in range(20):
                    assert await answer.event()
            except (asyncio.IncompleteReadError, ConnectionResetError):
                return False
            return True

        lives = await asyncio.gather(*map(goes_on, answers))
        assert any(lives)
        assert not all(lives)
        with engine_of(server) as engine:  # the slots of the streams that died with it are free
            await engine.holds(sum(lives), seconds=1)
        # No connection is refused: those for the dead process wait for its successor.
        assert [(await ask(server.url, question()))[0].status for _ in range(20)] == [200] * 20
    whole_again(server)
    assert survivor in server_pids(server)
    assert engine_pids(server) == engines
    after = totals(server)
    assert not [key for key in before if after.get(key, 0) < before[key]]


async def test_two_server_processes_count_as_one(server: Tritium) -> None:
    whole_again(server)
    names = {
        "requests": ("requests_total", {"model": "other", "endpoint": "chat_completions", "status": "200"}),
        "streams": ("time_to_first_token_seconds_count", {"model": "other"}),
        "gaps": ("inter_token_latency_seconds_count", {"model": "other"}),
        "waits": ("queue_wait_seconds_count", {"model": "other"}),
        "overheads": ("gateway_overhead_seconds_count", {"model": "other"}),
        "completion": ("completion_tokens_total", {"model": "other"}),
        "prompt": ("prompt_tokens_total", {"model": "other"}),
        "errors": ("errors_total", {"model": "other"}),
        "unknown": ("requests_total", {"model": "unknown", "status": "404"}),
        "text": ("requests_total", {"model": "other", "endpoint": "completions", "status": "200"}),
    }

    def now() -> dict[str, float]:
        at_rest(server)
        return {name: count(server, metric, **labels) for name, (metric, labels) in names.items()}

    before = now()
    jobs = [
        ask(server.url, question(model="other", stream=n % 2 == 0, echo={"tokens": 5, "itl_ms": 5})) for n in range(40)
    ]
    jobs += [ask(server.url, question(model="nobody")) for _ in range(10)]
    jobs += [ask(server.url, question(COMPLETIONS, model="other", echo={"tokens": 5}), COMPLETIONS) for _ in range(6)]
    jobs += [ask(server.url, question(model="other", echo={"fault": "refuse"})) for _ in range(4)]
    await asyncio.gather(*jobs)
    after = now()
    grown = {name: after[name] - before[name] for name in names}
    gaps = grown.pop("gaps")
    assert 20 * 3 <= gaps <= 20 * 6
    assert grown.pop("prompt") >= 46
    assert grown == {
        "requests": 40,
        "streams": 20,
        "waits": 50,
        "overheads": 46,
        "completion": 46 * 5,
        "errors": 4,
        "unknown": 10,
        "text": 6,
    }
    lags = {dict(key[1])["process"] for key in samples(server) if key[0] == "tritium_event_loop_lag_max_seconds"}
    assert lags == {"0", "1"}


async def test_the_engines_own_metrics_carry_their_model(server: Tritium) -> None:
    whole_again(server)
    await ask(server.url, question(model="other"))
    found = samples(server, "/metrics/engines")
    running = {dict(labels)["model"] for name, labels in found if name == "vllm:num_requests_running"}
    assert running == {"echo", "other"}
    made = {
        dict(labels)["model"]: value
        for (name, labels), value in found.items()
        if name == "vllm:generation_tokens_total"
    }
    assert made["other"] >= 3
    up = {dict(labels)["model"]: value for (name, labels), value in found.items() if name == "tritium_engine_scrape_up"}
    assert up == {"echo": 1, "other": 1}


async def gone(pids: list[int], seconds: float) -> None:
    async def probe() -> bool:
        return not any(alive(pid) for pid in pids)

    await eventually_async(probe, seconds=seconds, what="no process left")


async def test_kill_9_of_the_supervisor_with_streams_under_way_leaves_no_process(echo_server: Start) -> None:
    server = echo_server("--workers", "2")
    below = descendants(server.pid)
    async with AsyncExitStack() as stack:
        answers = await streams(stack, server, 4)
        start = monotonic()
        server.process.kill()
        server.process.wait()
        await gone(below, 5)
        print(f"kill -9 of the supervisor: its {len(below)} processes gone after {monotonic() - start:.1f} s")
        for answer in answers:
            try:
                rest = await answer.rest()
            except (asyncio.IncompleteReadError, ConnectionResetError):
                continue
            assert rest.count(b'data: {"error"') == 1  # its engine was gone before its server process
            assert b"[DONE]" not in rest


async def test_one_sigint_drains_and_a_second_ends_everything_at_once(echo_server: Start) -> None:
    server = echo_server("--workers", "2")
    below = descendants(server.pid)
    async with AsyncExitStack() as stack:
        (answer, *_) = await streams(stack, server, 4)
        server.process.send_signal(signal.SIGINT)
        while (await ask(server.url, question()))[0].status != 503:
            await asyncio.sleep(0.01)
        for _ in range(5):
            assert data_of(await answer.event())["choices"]  # it goes on
        start = monotonic()
        server.process.send_signal(signal.SIGINT)
        await gone([server.pid, *below], 3)
        print(f"a second SIGINT ended everything in {monotonic() - start:.1f} s")
        assert server.process.wait() == 0


async def test_a_ctrl_c_of_the_terminal_reaches_all_and_still_drains(echo_server: Start) -> None:
    """A terminal signals the whole foreground group: engines and server processes must not die of it."""
    server = echo_server()
    asked = question(words="w " * 30, stream=True, echo={"itl_ms": 30})
    async with asking(server.url, asked, CHAT) as answer:
        assert await answer.head() == 200
        for pid in {server.pid, *server_pids(server)}:
            os.kill(pid, signal.SIGINT)
        *_, last = [event async for event in answer.events()]
        assert last == b"data: [DONE]"
    assert server.process.wait(10) == 0
