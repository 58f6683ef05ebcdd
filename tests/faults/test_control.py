"""Models, endpoints and keys that change while streams are under way: none of them is dropped."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engines import EchoEngine, echo_engine
from tests.faults.looking import engine_pids
from tests.faults.talking import Answer, ask, asking, data_of, question
from tests.processes import alive, descendants
from tests.servers import ROOT, TRITIUM, Tritium, echo_repository, serving
from tests.waiting import eventually

WORDS = " ".join(f"w{number}" for number in range(40))
STEADY = {"itl_ms": 50}
FILE = 'parameters { key: "endpoints_file" value { string_value: "endpoints" } }'


@dataclass(slots=True)
class Gateway:
    """A running server and its repository."""

    server: Tritium
    folder: Path

    def write(self, name: str, arguments: dict[str, Any] | None = None, config: str = "") -> None:
        (self.folder / name / "1").mkdir(parents=True, exist_ok=True)
        (self.folder / name / "config.pbtxt").write_text(f'backend: "echo"\n{config}\n')
        (self.folder / name / "1" / "model.json").write_text(json.dumps(arguments or {}))

    def models(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`tritium models …` against it."""
        argv = [TRITIUM, "models", *arguments, "--url", self.server.url]
        return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    def states(self, model: str) -> dict[str, int]:
        """How many endpoints of a model are in which state, as server processes see it."""
        return dict(self.show(model).get("endpoints", {}))

    def show(self, model: str) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.server.url}/v1/models/{model}").json()
        return found

    def admin(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.server.url}/admin/{path}").raise_for_status().json()
        return found

    def endpoints(self, model: str) -> list[dict[str, Any]]:
        return [
            endpoint
            for each in self.admin("endpoints")["models"]
            if each["name"] == model
            for endpoint in each["endpoints"]
        ]


@contextmanager
def running(folder: Path, models: dict[str, dict[str, Any]], *flags: str) -> Iterator[Gateway]:
    with serving(echo_repository(folder / "models", models), *flags) as server:
        yield Gateway(server, folder / "models")


@asynccontextmanager
async def streams(
    server: Tritium, count: int, model: str = "echo", itl_ms: int = STEADY["itl_ms"]
) -> AsyncIterator[list[Answer]]:
    """So many streams under way, their first events read."""
    async with AsyncExitStack() as stack:
        body = question(words=WORDS, model=model, stream=True, echo={"itl_ms": itl_ms})
        answers = [await stack.enter_async_context(asking(server.url, body)) for _ in range(count)]
        for answer in answers:
            assert await answer.head() == 200
            await answer.event()
        yield answers


async def whole(answers: list[Answer]) -> bool:
    """Whether each stream brings all of its text and a proper end."""

    async def text(answer: Answer) -> str:
        *events, last = [event async for event in answer.events()]
        assert last == b"data: [DONE]", last
        return "".join(data_of(event)["choices"][0]["delta"].get("content", "") for event in events)

    return [*await asyncio.gather(*map(text, answers))] == [WORDS] * len(answers)


async def test_a_reload_drops_no_stream_and_the_new_configuration_serves_what_comes(tmp_path: Path) -> None:
    with running(tmp_path, {"echo": {}}, "--workers", "2") as gateway:
        before = engine_pids(gateway.server)
        async with streams(gateway.server, 6, itl_ms=200) as answers:  # longer than a busy machine takes to reload
            gateway.write("echo", {"max_model_len": 777})
            ended = await asyncio.to_thread(gateway.models, "load", "echo")
            assert (ended.stdout, ended.returncode) == ("echo: READY\n", 0), ended.stderr
            assert gateway.show("echo")["context_length"] == 777
            answer, _ = await ask(gateway.server.url, question())
            assert answer.status == 200
            assert set(before) < set(engine_pids(gateway.server))
            assert await whole(answers)
        eventually(lambda: not set(before) & set(engine_pids(gateway.server)))
        assert gateway.states("echo") == {"READY": 1}


async def test_a_reload_that_is_wrong_is_refused_whole(tmp_path: Path) -> None:
    with running(tmp_path, {"echo": {}}) as gateway:
        before = engine_pids(gateway.server)
        for arguments, words in (({"nonsense": 1}, "no option 'nonsense'"), ({"start_error": "no luck"}, "no luck")):
            gateway.write("echo", arguments)
            ended = await asyncio.to_thread(gateway.models, "load", "echo")
            assert ended.returncode == 1
            assert words in ended.stderr
            answer, _ = await ask(gateway.server.url, question())
            assert answer.status == 200
            assert engine_pids(gateway.server) == before


async def test_draining_and_unloading_let_streams_finish(tmp_path: Path) -> None:
    with running(tmp_path, {"echo": {}, "other": {}}, "--workers", "2") as gateway:
        for action, said, status in (("drain", "echo: STOPPED\n", 503), ("unload", "echo: UNLOADED\n", 404)):
            async with streams(gateway.server, 4) as answers:
                ending = asyncio.create_task(asyncio.to_thread(gateway.models, action, "echo"))
                while (await ask(gateway.server.url, question()))[0].status == 200:
                    pass
                answer, _ = await ask(gateway.server.url, question())
                assert answer.status == status
                assert not ending.done()
                assert await whole(answers)
            ended = await ending
            assert (ended.stdout, ended.returncode) == (said, 0), ended.stderr
            assert len(engine_pids(gateway.server)) == 1
            again = await asyncio.to_thread(gateway.models, "load", "echo")
            assert (again.stdout, again.returncode) == ("echo: READY\n", 0), again.stderr
            answer, _ = await ask(gateway.server.url, question())
            assert answer.status == 200


async def test_who_waits_for_a_permit_of_an_unloaded_model_is_refused_and_costs_nobody_its_stream(
    tmp_path: Path,
) -> None:
    with running(tmp_path, {"echo": {"slots": 2}}) as gateway:
        async with streams(gateway.server, 2) as answers, asking(gateway.server.url, question(words=WORDS)) as waiting:
            eventually(lambda: queued(gateway.admin("queue"), "echo") == (2, 1))
            ending = asyncio.create_task(asyncio.to_thread(gateway.models, "unload", "echo"))
            assert await whole(answers)
            assert await waiting.head() == 503
            assert (await ending).stdout == "echo: UNLOADED\n"


def test_sigterm_does_not_wait_for_a_model_that_loads(tmp_path: Path) -> None:
    with running(tmp_path, {"echo": {}}) as gateway:
        server = gateway.server
        for name in ("echo", "new"):
            gateway.write(name, {"start_delay_ms": 600_000})
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(engine_pids(server)) == 3)
        below = descendants(server.pid)
        assert server.stop() == 0
        assert not any(alive(pid) for pid in below)
        assert list(server.runtime_dir.iterdir()) == []


def test_a_model_that_is_not_there_cannot_be_controlled(tmp_path: Path) -> None:
    with running(tmp_path, {"echo": {}}) as gateway:
        for action in ("load", "unload", "drain"):
            ended = gateway.models(action, "zz")
            assert ended.returncode == 1
            assert "'zz'" in ended.stderr


async def test_a_file_of_endpoints_may_change_under_streams(tmp_path: Path) -> None:
    with echo_engine(tcp=True, model="far") as first, echo_engine(tcp=True, model="far") as second:
        echo_repository(tmp_path / "models", {"far": {"config": FILE}})
        file = tmp_path / "models" / "far" / "endpoints"
        file.write_text(f"{first.address}  # the first one\n")
        with serving(tmp_path / "models", "--workers", "2", "--health-interval", "0.1") as server:
            gateway = Gateway(server, tmp_path / "models")
            async with streams(server, 6, "far") as answers:
                file.write_text(f"{second.address}\n")
                eventually(lambda: gateway.states("far") == {"READY": 1, "DRAINING": 1})
                served = taken(first)
                for _ in range(8):
                    answer, _ = await ask(server.url, question(model="far"))
                    assert answer.status == 200
                assert taken(first) == served
                assert await whole(answers)
            eventually(lambda: gateway.states("far") == {"READY": 1})
            (endpoint,) = gateway.endpoints("far")
            assert endpoint["address"] == second.address


async def test_processes_and_urls_serve_side_by_side(tmp_path: Path) -> None:
    with echo_engine(tcp=True) as remote:
        parameters = {"endpoints": remote.address, "routing_policy": "round_robin"}
        lines = [
            f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in parameters.items()
        ]
        config = "\n".join(["instance_group [{ count: 2 }]", *lines])
        with running(tmp_path, {"echo": {"config": config}}) as gateway:
            eventually(lambda: gateway.states("echo") == {"READY": 3})
            for _ in range(9):
                answer, _ = await ask(gateway.server.url, question())
                assert answer.status == 200
            assert taken(remote) == 3


def taken(engine: EchoEngine) -> int:
    """How many requests an engine has had."""
    return int(engine.stats()["requests"])


def test_sighup_follows_the_repository_and_the_keys(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first\n")
    flags = ("--api-key-file", str(keys), "--workers", "2")

    def listed(key: str) -> list[str] | int:
        answer = httpx.get(f"{gateway.server.url}/v1/models", headers={"authorization": f"Bearer {key}"})
        return [model["id"] for model in answer.json()["data"]] if answer.status_code == 200 else answer.status_code

    with running(tmp_path, {"echo": {}, "gone": {}}, *flags) as gateway:
        assert listed("first") == ["echo", "gone"]
        gateway.write("new")
        for path in sorted((gateway.folder / "gone").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (gateway.folder / "gone").rmdir()
        gateway.write("echo", {"nonsense": 1})
        keys.write_text("second\n")
        gateway.server.process.send_signal(signal.SIGHUP)
        eventually(lambda: listed("second") == ["echo", "new"])
        eventually(lambda: [listed("first") for _ in range(8)] == [401] * 8)
        assert (
            "echo: the reload is refused: Model 'echo': model.json has no option 'nonsense'" in gateway.server.output()
        )
        keys.write_text("sha256:nonsense\n")
        gateway.server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "the reload is refused" in gateway.server.output().splitlines()[-1])
        assert listed("second") == ["echo", "new"]


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_admin_tells_what_is_under_way_in_all_server_processes(tmp_path: Path, workers: str) -> None:
    models = {"echo": {"config": "instance_group [{ count: 2 }]"}, "narrow": {"slots": 1}}
    with running(tmp_path, models, "--workers", workers, "--load-interval", "0.1") as gateway:
        url, get = gateway.server.url, gateway.admin
        body = question(model="narrow", words=WORDS, stream=True, echo=STEADY)
        async with streams(gateway.server, 8) as answers, AsyncExitStack() as stack:
            for _ in range(6):
                await stack.enter_async_context(asking(url, body))
            eventually(lambda: sum(queued(get("queue"), "narrow")) == 6)
            assert queued(get("queue"), "echo") == (8, 0)
            endpoints = gateway.endpoints("echo")
            assert {endpoint["state"] for endpoint in endpoints} == {"READY"}
            assert sum(sum(endpoint["in_flight"].values()) for endpoint in endpoints) == 8
            assert all(len(endpoint["in_flight"]) == int(workers) for endpoint in endpoints)
            eventually(lambda: sum(endpoint["load"]["running"] for endpoint in gateway.endpoints("echo")) == 8)
            under_way = get("decisions?limit=1000")["decisions"]
            assert len(under_way) == 14
            assert {decision["status"] for decision in under_way} == {None}
            assert await whole(answers)
        eventually(lambda: all(decision["status"] for decision in get("decisions")["decisions"]))
        decisions = [each for each in get("decisions?limit=1000")["decisions"] if each["asked"] == "echo"]
        assert {decision["outcome"] for decision in decisions} == {"done"}
        assert {decision["routes"][0]["endpoint"] for decision in decisions} <= {"echo-1-0", "echo-1-1"}
        assert all(decision["total_ms"] >= decision["first_token_ms"] > 0 for decision in decisions)
        moments = [decision["at"] for decision in decisions]
        assert moments == sorted(moments, reverse=True)
        assert "prompt" not in decisions[0]
        assert len(get("decisions?limit=3")["decisions"]) == 3
        assert [model["state"] for model in get("models")["models"]] == ["READY", "READY"]


def queued(answer: dict[str, Any], model: str) -> tuple[int, int]:
    """(running, waiting) of a model."""
    queue = answer["models"][model]
    return queue["running"], sum(queue["waiting"].values())


async def test_prompts_are_remembered_only_where_asked(tmp_path: Path) -> None:
    with running(tmp_path, {"echo": {}}, "--decision-log-prompts", "--decision-log-size", "2") as gateway:
        for words in ("first", "second", "third"):
            await ask(gateway.server.url, question(words=words))
        decisions = gateway.admin("decisions")["decisions"]
        assert len(decisions) == 2
        assert '"third"' in decisions[0]["prompt"]


def test_admin_wants_its_own_key_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "admin").write_text("root\n")
    with running(tmp_path, {"echo": {}}, "--admin-key-file", str(tmp_path / "admin")) as gateway:
        url = f"{gateway.server.url}/admin/models"
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, headers={"authorization": "Bearer wrong"}).status_code == 401
        assert httpx.get(url, headers={"authorization": "Bearer root"}).status_code == 200
        assert gateway.models("drain", "echo").returncode == 1
        assert gateway.models("drain", "echo", "--admin-key", "root").stdout == "echo: STOPPED\n"
