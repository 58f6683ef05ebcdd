"""Engines of a real model killed again and again under streams: no client sees it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from backends.weights import missing
from tests.clients.served import START_SECONDS, require
from tests.conftest import DEMO_MODEL
from tests.faults.disturbing import (
    Witness,
    difference_rate,
    engine_pids,
    kill_one_each_second,
    repository,
    stream_for,
)
from tests.faults.looking import count, samples
from tests.servers import ROOT, Tritium, serving, unavailable
from tests.waiting import eventually

SECONDS = 60.0
CALM_SECONDS = 25.0
VLLM_SECONDS = 20.0
LLAMACPP = "backends.engine.llamacpp_server"
VLLM = "api_server"
STARTED = "time_to_first_token_seconds_count"
COUNTED = ("tritium_resumes_total", "tritium_retries_total", "tritium_ejections_total")


@pytest.mark.engine
async def test_no_client_sees_that_an_engine_is_killed_each_second_of_a_minute(tmp_path: Path) -> None:
    if missing(ROOT / "model_repository" / DEMO_MODEL):
        unavailable(f"the weights of {DEMO_MODEL} are not fetched: run `make weights`")
    models = repository(tmp_path / "models", 3, n_threads=1)
    with serving(models, "--strict-readiness") as server:
        calm = [await stream_for(server, CALM_SECONDS) for _ in range(2)]
        stormy, counted = await storm(server)
    for run in (*calm, stormy):
        assert not run.errors, run.errors[:5]
    counts = {name: sum(value for (found, _), value in counted.items() if found == name) for name in COUNTED}
    near_ties = difference_rate(calm[1:], calm[0])
    differing = difference_rate([stormy], calm[0])
    answers = sum(map(len, stormy.texts.values()))
    print(
        f"\n{stormy.kills} kills, {answers} answers, {counts}; answers that differ: "
        f"{near_ties:.1%} between two calm runs, {differing:.1%} between the stormy and a calm one"
    )
    assert stormy.kills >= SECONDS / 2  # a busy machine takes its time to find them
    assert counts["tritium_resumes_total"] >= stormy.kills / 4
    assert answers >= 24
    assert differing <= near_ties + 0.1


async def storm(server: Tritium) -> tuple[Witness, dict[tuple[str, frozenset[tuple[str, str]]], float]]:
    """A minute of streams and kills, and the gateway's counters after it."""
    kills = Witness()
    killing = asyncio.create_task(kill_one_each_second(server, LLAMACPP, SECONDS, kills))
    stormy = await stream_for(server, SECONDS)
    await killing
    stormy.kills = kills.kills
    return stormy, await asyncio.to_thread(samples, server)


@pytest.mark.engine
@pytest.mark.timeout(900)
async def test_no_client_sees_that_one_of_two_vllm_is_killed(tmp_path: Path) -> None:
    require("vllm")
    models = repository(tmp_path / "models", 2, engine="vllm")
    with serving(models, "--strict-readiness", is_awaited=False) as server:
        await asyncio.to_thread(eventually, server.is_ready, seconds=START_SECONDS, what="readiness of both")
        calm = [await stream_for(server, VLLM_SECONDS, clients=8) for _ in range(2)]
        streaming = asyncio.create_task(stream_for(server, VLLM_SECONDS, clients=8))
        started = await asyncio.to_thread(count, server, STARTED)
        await asyncio.to_thread(eventually, lambda: count(server, STARTED) >= started + 12, what="streams half-way")
        victim = engine_pids(server, VLLM)[0]
        os.kill(victim, signal.SIGKILL)
        stormy = await streaming
        resumed = await asyncio.to_thread(count, server, "resumes_total")
    for run in (*calm, stormy):
        assert not run.errors, run.errors[:5]
    near_ties = difference_rate(calm[1:], calm[0])
    differing = difference_rate([stormy], calm[0])
    print(
        f"\n{resumed:.0f} resumes, {sum(map(len, stormy.texts.values()))} answers; answers that differ: "
        f"{near_ties:.1%} between two calm runs, {differing:.1%} between the stormy and a calm one"
    )
    assert resumed >= 1
    assert differing <= near_ties + 0.1
