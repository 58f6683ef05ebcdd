"""Limits of tenants as clients meet them: exact whoever counts, settled to the truth, and what an outage does."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count as numbers
from pathlib import Path
from time import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from gateway.tenants import Limits, Tenant
from tests.faults.looking import at_rest, complaints, count, engine_of, samples
from tests.faults.talking import CHAT, Answer, ask, asking, question
from tests.redis_servers import redis_server
from tests.servers import Tritium, echo_repository, serving
from tests.waiting import eventually, eventually_async

KEY = "authorization: Bearer sk-t"
WAYS = ("memory", "two processes", "redis")


@contextmanager
def limited(folder: Path, way: str, *flags: str, **limits: Any) -> Iterator[Tritium]:
    """A gateway with one tenant, whose key is `sk-t`, that counts in one of the `WAYS`."""
    write(folder / "tenants.toml", name(), **limits)
    flags = ("--api-key-file", str(folder / "tenants.toml"), *flags)
    if way != "memory":
        flags = (*flags, "--workers", "2")
    repository = echo_repository(folder / "models", {"echo": {}})
    if way != "redis":
        with serving(repository, *flags) as server:
            yield server
        return
    with redis_server() as redis, serving(repository, *flags, "--limits-storage-url", redis.url) as server:
        yield server


def write(file: Path, tenant: str, key: str = "sk-t", **limits: Any) -> None:
    lines = [f"[tenants.{tenant}]", f'keys = ["{key}"]', *(f"{name} = {value}" for name, value in limits.items())]
    file.write_text("\n".join(lines))


def name() -> str:
    """A tenant whose minute has just begun."""
    limits = Limits(requests_per_minute=1)
    return next(f"t{number}" for number in numbers() if Tenant(f"t{number}", limits).windows[0].left(time()) > 40)


async def answers(server: Tritium, bodies: list[dict[str, Any]]) -> list[tuple[Answer, bytes]]:
    return await asyncio.gather(*(ask(server.url, body, CHAT, KEY) for body in bodies))


def used(answer: Answer, body: bytes) -> int:
    """The tokens that an answer says it cost."""
    if answer.status != 200:
        return 0
    whole = [line.removeprefix(b"data: ") for line in body.splitlines() if b'"usage":{' in line]
    return int(json.loads(whole[-1])["usage"]["total_tokens"])


async def remaining(server: Tritium) -> int:
    """The tokens that are left to the tenant, as a request hears that is refused for its size."""
    answer, _ = await ask(server.url, question(max_tokens=10**9), CHAT, KEY)
    assert (answer.status, answer.headers["x-should-retry"]) == (429, "false")
    return int(answer.headers["x-ratelimit-remaining-tokens"])


@pytest.mark.parametrize("way", WAYS)
async def test_of_requests_at_once_exactly_as_many_pass_as_the_limit_says(way: str, tmp_path: Path) -> None:
    with limited(tmp_path, way, requests_per_minute=50) as server:
        done = await answers(server, [question(stream=number % 2 == 0) for number in range(200)])
        assert Counter(answer.status for answer, _ in done) == {200: 50, 429: 150}
        refused = next((answer, body) for answer, body in done if answer.status == 429)
        assert json.loads(refused[1])["error"]["code"] == "rate_limit_exceeded"
        assert 0 < int(refused[0].headers["retry-after"]) <= 60
        assert refused[0].headers["x-ratelimit-remaining-requests"] == "0"


@pytest.mark.parametrize("way", WAYS)
async def test_tokens_are_never_over_the_limit_and_settle_to_the_true_count(way: str, tmp_path: Path) -> None:
    limit = 3000  # less than all of them use, however late they settle
    with limited(tmp_path, way, tokens_per_day=limit) as server:
        bodies = []
        for number in range(120):
            stream = {"stream": True, "stream_options": {"include_usage": True}} if number % 2 else {}
            bodies.append(question(words="w " * (1 + number % 40), max_tokens=50 + number, **stream))
        done = await answers(server, bodies)
        statuses = Counter(answer.status for answer, _ in done)
        spent = sum(used(*each) for each in done)
        assert set(statuses) == {200, 429}
        assert spent <= limit
        at_rest(server)

        async def settled() -> bool:
            return await remaining(server) == limit - spent

        await eventually_async(settled)
        print(f"{way}: {statuses[200]} let in, {statuses[429]} refused, {spent} of {limit} tokens spent and counted")


async def test_streams_that_break_or_are_left_cost_what_came_and_refused_ones_nothing(tmp_path: Path) -> None:
    with limited(tmp_path, "memory", tokens_per_day=20_000) as server:
        left = await remaining(server)

        async def cost() -> int:
            nonlocal left
            at_rest(server)
            before, left = left, await remaining(server)
            return before - left

        for refused in (question(echo={"fault": "500"}), question(model="no such"), {"model": "echo"}):
            answer, _ = await ask(server.url, refused, CHAT, KEY)
            assert answer.status >= 400
            assert await cost() == 0
        body = question(stream=True, max_tokens=9000, echo={"itl_ms": 20, "tokens": 500})
        estimate = len(json.dumps(body).encode()) // 4
        async with asking(server.url, body, CHAT, KEY) as answer:
            await answer.head()
            for _ in range(10):
                await answer.event()
        assert estimate + 8 <= await cost() <= estimate + 40
        body = question(stream=True, max_tokens=9000, echo={"fault": "cut", "after": 20, "tokens": 100})
        estimate = len(json.dumps(body).encode()) // 4
        await ask(server.url, body, CHAT, KEY)
        assert estimate < await cost() <= estimate + 25


@pytest.mark.parametrize("way", WAYS)
async def test_streams_at_once_are_limited_until_one_ends(way: str, tmp_path: Path) -> None:
    with limited(tmp_path, way, concurrent_streams=3) as server:
        slow = question(stream=True, echo={"itl_ms": 50, "tokens": 4000})
        async with asking(server.url, slow, CHAT, KEY) as first:
            assert await first.head() == 200
            async with asking(server.url, slow, CHAT, KEY) as second:
                assert await second.head() == 200
                done = await answers(server, [question(stream=True, echo={"ttft_ms": 300}) for _ in range(10)])
                assert Counter(answer.status for answer, _ in done) == {200: 1, 429: 9}
                answer, _ = await ask(server.url, question(), CHAT, KEY)
                assert answer.status == 200  # it does not stream
            at = question(stream=True, echo={"ttft_ms": 300})

            async def two_more() -> bool:
                done = await answers(server, [at, at, at])
                return Counter(answer.status for answer, _ in done) == {200: 2, 429: 1}

            await eventually_async(two_more)


@pytest.mark.parametrize("on_error", ["open", "closed"])
async def test_an_outage_of_redis_lets_in_or_refuses_as_configured_and_ends(on_error: str, tmp_path: Path) -> None:
    write(tmp_path / "tenants.toml", name(), requests_per_minute=2)
    repository = echo_repository(tmp_path / "models", {"echo": {}})
    flags = ("--api-key-file", str(tmp_path / "tenants.toml"), "--limits-on-error", on_error)
    with redis_server() as redis, serving(repository, *flags, "--limits-storage-url", redis.url) as server:
        for expected in (200, 200, 429):
            answer, _ = await ask(server.url, question(), CHAT, KEY)
            assert answer.status == expected
        redis.stop()
        for _ in range(5):
            answer, body = await ask(server.url, question(), CHAT, KEY)
            assert answer.status == (200 if on_error == "open" else 503)
            assert "x-ratelimit-limit-requests" not in answer.headers
        if on_error == "closed":
            assert json.loads(body)["error"]["code"] == "service_unavailable"
            assert answer.headers["retry-after"] == "1"
        redis.start()

        async def limits_again() -> bool:
            answer, _ = await ask(server.url, question(), CHAT, KEY)
            return "x-ratelimit-limit-requests" in answer.headers

        await eventually_async(limits_again)
        assert [line for line in complaints(server) if "Redis" not in line] == []


@pytest.mark.parametrize("signalled", [True, False])
async def test_keys_change_without_a_restart_and_a_bad_file_changes_nothing(signalled: bool, tmp_path: Path) -> None:
    file = tmp_path / "tenants.toml"
    with limited(tmp_path, "two processes", requests_per_minute=1000) as server:

        async def status(key: str) -> set[int]:
            done = await asyncio.gather(*(ask(server.url, question(), CHAT, f"x-api-key: {key}") for _ in range(8)))
            return {answer.status for answer, _ in done}

        assert await status("sk-t") == {200}
        write(file, "t2", "sk-new")
        if signalled:
            server.process.send_signal(signal.SIGHUP)

        async def changed() -> bool:
            return await status("sk-new") == {200} and await status("sk-t") == {401}

        await eventually_async(changed)
        write(file, "t3", "sk-other", weight=-1)
        if signalled:
            server.process.send_signal(signal.SIGHUP)
        eventually(lambda: server.output().count("stay as they were") >= 2)
        assert await status("sk-new") == {200}
        assert await status("sk-other") == {401}


async def test_identity_tokens_are_limited_by_the_tenant_that_they_name(tmp_path: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    keys = {"keys": [RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)]}
    (tmp_path / "jwks.json").write_text(json.dumps(keys))
    (tmp_path / "tenants.toml").write_text("[tenants.free]\n[default]\nconcurrent_streams = 1\n")
    flags = ("--api-key-file", str(tmp_path / "tenants.toml"), "--jwt-jwks-url", str(tmp_path / "jwks.json"))
    with serving(echo_repository(tmp_path / "models", {"echo": {}}), *flags, "--workers", "2") as server:

        async def statuses(tenant: str, secret: Any = key) -> Counter[int]:
            token = jwt.encode({"exp": time() + 60, "tenant": tenant}, secret, "RS256")
            body = question(stream=True, echo={"ttft_ms": 300})
            done = [ask(server.url, body, CHAT, f"authorization: Bearer {token}") for _ in range(5)]
            return Counter(answer.status for answer, _ in await asyncio.gather(*done))

        assert await statuses("free") == {200: 5}
        assert await statuses("anybody") == {200: 1, 429: 4}
        other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        assert await statuses("free", other) == {401: 5}


async def test_engines_see_a_salt_of_the_tenant_and_metrics_its_name(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("shh")
    with limited(tmp_path, "memory", "--cache-salt-file", str(tmp_path / "secret"), tokens_per_day=1000) as server:
        with engine_of(server) as engine:
            await ask(server.url, question(words="one two", stream=True), CHAT, KEY)
            seen = engine.stats()["last"]["body"]
            body = json.loads(seen) if isinstance(seen, str) else seen
            assert len(body["cache_salt"]) == 32
            assert body["messages"] == question(words="one two")["messages"]
        at_rest(server)
        labels = {label for (_, each) in samples(server) for name, label in each if name == "tenant"}
        assert len(labels) == 1
        assert count(server, "tenant_requests_total") == 1
        assert count(server, "tenant_completion_tokens_total") == 2
