"""Whom KServe's HTTP API lets in: keys, tenants' limits, permits, and nobody while the process drains."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from gateway.auth import Keys
from gateway.tenants import read
from tests.gateway.kserve.http_client import SIMPLE, served, until


async def test_a_process_that_drains_takes_no_new_work_and_says_so() -> None:
    async with served() as (client, plane, _models):
        plane.draining = True
        connection = await client.open()
        await connection.send("/v2/models/simple/infer", SIMPLE)
        status, fields, data = await connection.receive()
        assert (status, fields["connection"]) == (503, "close")
        assert json.loads(data) == {"error": "The server is shutting down."}
        connection.close()
        assert await client.ask("/v2/health/ready", method="GET") == (400, None)
        assert await client.ask("/v2/health/live", method="GET") == (200, None)


async def test_with_keys_work_and_metadata_want_one_and_probes_do_not(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text('[tenants.a]\nkeys = ["secret-a"]\nmodels = ["simple"]\n')
    async with served(Keys(read(file))) as (client, _, _models):
        connection = await client.open()
        await connection.send("/v2/models/simple/infer", SIMPLE)
        status, fields, data = await connection.receive()
        assert (status, fields["www-authenticate"]) == (401, "bearer")
        assert json.loads(data)["error"].startswith("No API key was given")
        connection.close()
        assert (await client.ask("/v2/models/simple/config", method="GET"))[0] == 401
        assert (await client.ask("/v2/health/ready", method="GET"))[0] == 200
        key = {"authorization": "Bearer secret-a"}
        assert (await client.ask("/v2/models/simple/infer", SIMPLE, **key))[0] == 200
        assert await client.ask("/v2/models/repeat/generate", {"IN": [5]}, **key) == (
            404,
            {"error": "Request for unknown model: 'repeat' is not found"},
        )
        _, answer = await client.ask("/v2/models/stats", method="GET", **key)
        assert [model["name"] for model in answer["model_stats"]] == ["simple"]


async def test_the_limits_of_a_tenant_hold_for_inferences_too(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text('[tenants.a]\nkeys = ["secret-a"]\nrequests_per_minute = 2\n')
    async with served(Keys(read(file))) as (client, _, models):
        key = {"authorization": "Bearer secret-a"}
        assert (await client.ask("/v2/models/simple/infer", SIMPLE, **key))[0] == 200
        assert (await client.ask("/v2/models/simple/infer", {"inputs": []}, **key))[0] == 400
        status, answer = await client.ask("/v2/models/simple/infer", SIMPLE, **key)
        assert status == 429
        assert answer["error"].startswith("Tenant 'a' has reached its limit of 2 requests a minute")
        assert len(models["simple"].requests) == 1


async def test_requests_wait_for_a_permit_of_a_model_that_runs_so_many_at_once() -> None:
    async with served() as (client, plane, models):
        gate = plane.registry.find("repeat").gate
        gate.resize(1)
        first = await client.open()
        await first.send("/v2/models/repeat/generate_stream", {"IN": [5, 0]})
        assert (await first.head())[0] == 200
        waiting = asyncio.create_task(client.ask("/v2/models/repeat/generate", {"IN": [6]}))
        await until(lambda: gate.queued == 1)
        assert len(models["repeat"].requests) == 1
        first.close()
        assert (await waiting)[1]["OUT"] == 6
        await until(lambda: gate.running == 0)
