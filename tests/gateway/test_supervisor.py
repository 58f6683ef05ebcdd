"""`tritium serve` as a tree of processes: what it says, what it survives, how it ends, what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway import supervisor
from gateway.settings import Settings
from tests.processes import alive, command_line, descendants
from tests.servers import Tritium, echo_repository, serving, status
from tests.waiting import eventually

pytestmark = pytest.mark.slow  # whole processes are started, broken and stopped

MODELS = {"good": {}, "bad": {"nonsense": 1}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tritium]:
    """Two server processes, one model that works and one that does not. Tests may kill what it will restart."""
    repository = echo_repository(tmp_path_factory.mktemp("models"), MODELS)
    with serving(repository, "--workers", "2", "--max-restarts", "100") as tritium:
        yield tritium
        tritium.stop()
        assert "bad failed: Model 'bad': model.json has no option 'nonsense'" in tritium.output().splitlines()[-1]


def servers(tritium: Tritium) -> set[int]:
    return {pid for pid in descendants(tritium.pid) if "-m gateway.server" in command_line(pid)}


def engines(tritium: Tritium) -> set[int]:
    below = {pid: command_line(pid) for pid in descendants(tritium.pid)}
    return {pid for pid, line in below.items() if "-m backends.echo" in line and "guard.py" not in line}


def state(tritium: Tritium, model: str = "good") -> str:
    return str(httpx.get(f"{tritium.url}/v1/models/{model}").json()["state"])


def chat(tokens: int = 3) -> dict[str, object]:
    return {"model": "good", "messages": [{"role": "user", "content": "word " * tokens}], "stream": True}


def words(response: httpx.Response) -> list[str]:
    return [line for line in response.iter_lines() if line.startswith("data: ")]


def test_it_says_once_what_it_serves(server: Tritium) -> None:
    lines = eventually(lambda: "curl -N" in server.output() and server.output().splitlines())
    assert lines
    for expected in (
        f"OpenAI API  {server.url}/v1",
        f"Docs        {server.url}/docs",
        f"Metrics     {server.metrics_url}/metrics",
        "good  READY",
    ):
        assert lines.count(expected) == 1
    assert sum(line.startswith("bad   FAILED: Model 'bad'") for line in lines) == 1


def test_a_model_that_fails_to_load_says_why_and_the_others_serve(server: Tritium) -> None:
    bad = httpx.get(f"{server.url}/v1/models/bad").json()
    assert bad["state"] == "FAILED"
    assert "'nonsense'" in bad["reason"]
    assert httpx.post(f"{server.url}/v1/chat/completions", json=chat()).status_code == 200


def test_kill_9_of_a_server_process_restarts_it_and_touches_no_engine(server: Tritium) -> None:
    eventually(lambda: state(server) == "READY" and len(servers(server)) == 2)
    before, engines_before = servers(server), engines(server)
    os.kill(min(before), signal.SIGKILL)
    eventually(lambda: len(servers(server)) == 2 and servers(server) != before, seconds=20)
    # No connection is refused meanwhile: those for the dead process wait for its successor.
    assert [httpx.post(f"{server.url}/v1/chat/completions", json=chat()).status_code for _ in range(20)] == [200] * 20
    assert engines(server) == engines_before


def test_kill_9_of_an_engine_restarts_it_and_touches_no_server_process(server: Tritium) -> None:
    eventually(lambda: state(server) == "READY" and len(servers(server)) == 2)
    before, (engine,) = servers(server), engines(server)
    os.kill(engine, signal.SIGKILL)
    eventually(lambda: state(server) == "READY" and engines(server) not in (set(), {engine}), seconds=20)
    eventually(lambda: httpx.post(f"{server.url}/v1/chat/completions", json=chat()).status_code == 200)
    assert servers(server) == before


def test_both_server_processes_count(server: Tritium) -> None:
    metrics = httpx.get(f"{server.metrics_url}/metrics").text
    assert "tritium_server_processes 2.0" in metrics


def test_a_second_gateway_on_the_same_port_is_refused(server: Tritium, tmp_path: Path) -> None:
    for workers in ("1", "2"):
        folder = echo_repository(tmp_path / workers, {"good": {}})
        flags = ("--workers", workers, "--http-port", str(server.http_port))
        with serving(folder, *flags, is_awaited=False) as second:
            assert second.process.wait(30) == 1
            assert "Address already in use" in second.output()
            assert str(server.http_port) in second.output()


def test_a_taken_metrics_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        folder = echo_repository(tmp_path, {"good": {}})
        with serving(folder, "--metrics-port", port, is_awaited=False) as tritium:
            assert tritium.process.wait(30) == 1
            assert port in tritium.output()


def test_one_model_that_fails_ends_it_where_that_is_asked_for(tmp_path: Path) -> None:
    with serving(echo_repository(tmp_path, MODELS), "--exit-on-error", is_awaited=False) as tritium:
        assert tritium.process.wait(60) == 1
        assert "A model could not be loaded, and --exit-on-error is on." in tritium.output()
        assert "bad failed: Model 'bad'" in tritium.output()


def test_in_poll_mode_a_repository_of_broken_models_waits_to_be_mended(tmp_path: Path) -> None:
    folder = echo_repository(tmp_path, {"m": {"nonsense": 1}})
    flags = ("--model-control-mode", "poll", "--repository-poll-secs", "0.1", "--no-allow-metrics", "--no-allow-grpc")
    with serving(folder, *flags, is_awaited=False) as tritium:
        eventually(lambda: "m  FAILED" in tritium.output(), seconds=30)
        assert "gRPC" not in tritium.output()
        for port in (tritium.metrics_port, tritium.grpc_port):
            with socket.socket() as client:
                assert client.connect_ex(("127.0.0.1", port)) != 0
        (folder / "m" / "1" / "model.json").write_text("{}")
        eventually(tritium.is_ready, seconds=20)


def test_nothing_to_serve_ends_with_status_1_and_each_reason(tmp_path: Path) -> None:
    folder = echo_repository(tmp_path, {"wrong": {"nonsense": 1}, "crash": {"start_error": "no weights here"}})
    with serving(folder, is_awaited=False) as tritium:
        assert tritium.process.wait(60) == 1
        assert "No model could be loaded." in tritium.output()
        assert "wrong failed: Model 'wrong': model.json has no option 'nonsense'" in tritium.output()
        assert "crash failed: exited with status" in tritium.output()
        assert "no weights here" in tritium.output()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--load-model", "good"), "--load-model needs --model-control-mode explicit"),
        (("--model-repository", "/no/such/folder"), "'/no/such/folder' is not a directory"),
    ],
)
def test_what_cannot_be_served_is_refused_in_words(tmp_path: Path, flags: tuple[str, ...], words: str) -> None:
    with serving(echo_repository(tmp_path, {"good": {}}), *flags, is_awaited=False) as tritium:
        assert tritium.process.wait(30) == 1
        assert words in tritium.output()


def test_explicit_mode_without_a_model_serves_none(tmp_path: Path) -> None:
    folder = echo_repository(tmp_path, {"good": {}})
    with serving(folder, "--model-control-mode", "explicit") as tritium:
        assert httpx.get(f"{tritium.url}/v1/models").json()["data"] == []
        eventually(lambda: "No model is loaded." in tritium.output())


def test_sigterm_lets_streams_finish_and_leaves_nothing(tmp_path: Path) -> None:
    folder = echo_repository(tmp_path, {"good": {"itl_ms": 50}})
    with serving(folder) as tritium:
        below = descendants(tritium.pid)
        with httpx.stream("POST", f"{tritium.url}/v1/chat/completions", json=chat(tokens=30)) as response:
            assert response.status_code == 200
            os.kill(tritium.pid, signal.SIGTERM)
            eventually(lambda: status(f"{tritium.url}/health/ready") == 503)
            assert words(response)[-1] == "data: [DONE]"
        assert tritium.stop() == 0
        assert not any(alive(pid) for pid in below)
        assert list(tritium.runtime_dir.iterdir()) == []


def test_a_second_sigint_ends_everything_at_once(tmp_path: Path) -> None:
    folder = echo_repository(tmp_path, {"good": {"itl_ms": 1000, "ignore_sigterm": True}})
    with serving(folder) as tritium:
        below = descendants(tritium.pid)
        with httpx.stream("POST", f"{tritium.url}/v1/chat/completions", json=chat(tokens=1000)) as response:
            assert response.status_code == 200
            os.kill(tritium.pid, signal.SIGINT)
            eventually(lambda: status(f"{tritium.url}/health/ready") == 503)
            os.kill(tritium.pid, signal.SIGINT)
            assert tritium.process.wait(5) == 0
        eventually(lambda: not any(alive(pid) for pid in below), seconds=5)


def test_kill_9_of_the_supervisor_leaves_no_orphan(tmp_path: Path) -> None:
    folder = echo_repository(tmp_path, {"good": {}, "other": {}})
    with serving(folder, "--workers", "2") as tritium:
        below = descendants(tritium.pid)
        assert len(below) == 2 + 2 * 3  # server processes; engines, each under a guard of two
        tritium.process.kill()
        tritium.process.wait()
        eventually(lambda: not any(alive(pid) for pid in below), seconds=15)


def test_a_key_file_that_cannot_be_used_is_refused_in_words(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sha256:nonsense\n")
    with serving(echo_repository(tmp_path, {"good": {}}), "--api-key-file", str(keys), is_awaited=False) as tritium:
        assert tritium.process.wait(30) == 1
        assert "not a SHA-256 digest" in tritium.output()


def test_what_a_client_sets_at_one_server_process_holds_at_all_of_them(server: Tritium) -> None:
    url = f"{server.url}/v2/logging"
    assert httpx.post(url, json={"log_format": "ISO8601"}).status_code == 200
    assert {httpx.get(url).json()["log_format"] for _ in range(12)} == {"ISO8601"}


def test_what_clients_have_set_ends_with_the_server(tmp_path: Path) -> None:
    left = tmp_path / "kserve.json"
    left.write_text("{}")
    with supervisor._runtime_dir(Settings(runtime_dir=tmp_path)) as folder:
        assert Path(folder) == tmp_path
        assert not left.exists()


def test_a_start_line_of_tritonserver_is_served(tmp_path: Path) -> None:
    log = tmp_path / "tritium.log"
    line = (
        f"--http-address=127.0.0.1 --grpc-address=127.0.0.2 --metrics-address=127.0.0.3 --strict-readiness=true "
        f"--log-file={log} --log-verbose 1 --http-thread-count=8 --metrics-config=summary_latencies=true "
        "--metrics-config=summary_quantiles=0.25:0.05 --allow-cpu-metrics=false "
        "--http-restricted-api=statistics:key=value"
    )
    with serving(echo_repository(tmp_path / "models", {"good": {}}), *line.split()) as tritium:
        with socket.create_connection(("127.0.0.2", tritium.grpc_port)):
            pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", tritium.grpc_port))
        httpx.post(f"{tritium.url}/v2/models/good/generate", json={"text_input": "hi"}).raise_for_status()
        metrics = httpx.get(f"http://127.0.0.3:{tritium.metrics_port}/metrics").text
        (quantile,) = re.findall(r'nv_inference_request_summary_us{model="good",.*quantile="0.25"} (.+)', metrics)
        assert float(quantile) > 0
        assert "nv_cpu_utilization" not in metrics
        assert httpx.get(f"{tritium.url}/v2/models/stats").status_code == 403
        assert httpx.get(f"{tritium.url}/v2/models/stats", headers={"key": "value"}).status_code == 200
        assert "good: READY" in log.read_text()
        told = httpx.get(f"{tritium.url}/v2/logging").json()
        assert (told["log_file"], told["log_verbose_level"]) == (str(log), 1)
        assert "--http-thread-count 8 does nothing here" in tritium.output()
