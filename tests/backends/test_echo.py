"""The `echo` kind: what it starts, how it is connected to, how its process starts and ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from backends.config import InstanceGroup, ModelConfig
from backends.echo import connect, launch
from backends.errors import InvalidRequest
from backends.model import ENGINE_CAPABILITIES, Endpoint, Endpoints, OpenAIRequest, State
from tests.engines import echo_engine
from tests.servers import ROOT


class NoModels:
    """The engine kinds ask for no other model."""

    def openai(self, name: str) -> NoReturn:
        raise AssertionError(name)


def config(count: int = 1, **arguments: Any) -> ModelConfig:
    return ModelConfig("small", "echo", instance_group=(InstanceGroup(count=count),), arguments=arguments)


def test_launch_gives_one_command_with_the_models_options(tmp_path: Path) -> None:
    (command,) = launch(config(ttft_ms=5, slots=3, ignore_sigterm=True), runtime_dir=str(tmp_path))
    uds = f"{tmp_path}/small-1.sock"
    assert command.address == f"unix:{uds}"
    assert command.argv[:3] == (sys.executable, "-m", "backends.echo")
    flags = ("--uds", uds, "--model", "small", "--ttft-ms", "5.0", "--slots", "3", "--ignore-sigterm")
    assert command.argv[3:] == flags
    assert (command.health, command.metrics) == ("/health", "/metrics")


def test_each_instance_is_a_process_of_its_own(tmp_path: Path) -> None:
    commands = launch(config(count=2, slots=4), runtime_dir=str(tmp_path))
    assert len({command.address for command in commands}) == 2
    assert connect(config(count=2, slots=4), Endpoints(), NoModels()).parallelism == 8


@pytest.mark.parametrize("wrong", [{"speed": 3}, {"slots": 0}, {"tokens": "many"}, {"fault": "unheard-of"}])
def test_wrong_arguments_are_refused_by_name(wrong: dict[str, Any], tmp_path: Path) -> None:
    key = next(iter(wrong))
    with pytest.raises(InvalidRequest, match=key) as raised:
        launch(config(**wrong), runtime_dir=str(tmp_path))
    assert "small" in raised.value.message
    with pytest.raises(InvalidRequest, match=key):
        connect(config(**wrong), Endpoints(), NoModels())


async def test_connect_reaches_the_process_for_every_operation() -> None:
    with echo_engine(model="small") as engine:
        endpoints = Endpoints((Endpoint("small-0", engine.address, State.READY),))
        model = connect(config(slots=9), endpoints, NoModels())
        assert model.ready()
        assert model.capabilities == ENGINE_CAPABILITIES
        assert model.parallelism == 9
        body = b'{"model":"small","messages":[{"role":"user","content":"hello world"}]}'
        response = await model.respond(OpenAIRequest("/v1/chat/completions", body, "small", stream=False))
        assert response.status == 200
        assert b'"content":"hello world"' in b"".join([part async for part in response.body])
        await response.body.aclose()
        model.close()


def test_it_listens_and_exits_on_sigterm_over_both_kinds_of_socket() -> None:
    for tcp in (True, False):
        with echo_engine(tcp=tcp) as engine:
            assert engine.control.get("/health").status_code == 200
            assert engine.stats()["pid"] == engine.pid
            assert engine.stop() == 0


def test_it_can_be_told_to_ignore_sigterm() -> None:
    with echo_engine("--ignore-sigterm") as engine:
        engine.process.send_signal(signal.SIGTERM)
        assert engine.control.get("/health").status_code == 200
        assert engine.kill() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--start-error", "no weights in /nowhere"], 1, "no weights in /nowhere"),
        (["--slots", "0"], 2, "slots"),
        (["--fault", "unheard-of"], 2, "unheard-of"),
    ],
)
def test_it_says_why_it_does_not_start(flags: list[str], status: int, message: str) -> None:
    argv = [sys.executable, "-m", "backends.echo", "--port", "0", "--model", "m", *flags]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == status
    assert message in done.stderr
