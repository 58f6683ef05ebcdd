"""The command line, as a person meets it: real processes, a pseudo-terminal, a small server behind."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gateway.settings import Settings, flag
from tests.servers import ROOT, TRITIUM, free_ports

MODEL = "small"
WAIT_SECONDS = 20


class FakeServer(ThreadingHTTPServer):
    """An OpenAI server that answers with the number of messages it was sent; odd questions bring odd answers."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.requests = []
        self.client_left = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeServer

    def log_message(self, *_):
        pass

    def do_GET(self):
        model = {
            "id": MODEL,
            "state": "READY",
            "backend": "echo",
            "context_length": 512,
            "endpoints": {"READY": 2, "RESTARTING": 1},
            "capabilities": ["chat", "score"],
        }
        if self.path == "/v1/models":
            self._answer(200, {"object": "list", "data": [model]})
        elif self.path == f"/v1/models/{MODEL}":
            self._answer(200, model)
        else:
            self._answer(
                404, {"error": {"message": f"no model at {self.path}", "type": "x", "param": None, "code": None}}
            )

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append({**request, "authorization": self.headers["authorization"]})
        question = request["messages"][-1]["content"]
        if question == "refuse":
            self._answer(503, {"error": {"message": "the model is not ready"}})
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        self._send({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        self.wfile.write(b": keep-alive\n\n")
        if question == "break":
            self._send({"error": {"message": "the engine died"}})
            return
        for word in (f"{len(request['messages'])}", " messages"):
            self._send({"choices": [{"delta": {"content": word}}]})
        if question == "cut":
            return
        if question == "hang":
            self.connection.settimeout(WAIT_SECONDS)
            if self.connection.recv(1) == b"":
                self.server.client_left.set()
            return
        self._send({"choices": [], "usage": {"completion_tokens": 7}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _send(self, event):
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _answer(self, status, body):
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


@pytest.fixture
def server():
    fake = FakeServer()
    thread = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield fake
    fake.shutdown()
    thread.join()
    fake.server_close()


def tritium(*arguments, stdin="", environment=None, cwd=ROOT):
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TRITIUM_")}
    return subprocess.run(
        [TRITIUM, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        env={**ours, "COLUMNS": "200", "NO_COLOR": "1", **(environment or {})},
        cwd=cwd,
        check=False,
    )


class Terminal:
    """A `tritium chat` in a pseudo-terminal."""

    def __init__(self, *arguments):
        self.main, child = pty.openpty()
        self.process = subprocess.Popen(
            [TRITIUM, "chat", *arguments],
            stdin=child,
            stdout=child,
            stderr=child,
            env={**os.environ, "TERM": "dumb"},
            start_new_session=True,
            cwd=ROOT,
        )
        os.close(child)
        self.seen = ""

    def type(self, text):
        os.write(self.main, text.encode())

    def read_until(self, pattern):
        """Everything up to the first match of `pattern`, which is taken off."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not (match := re.search(pattern, self.seen)):
            left = deadline - time.monotonic()
            assert left > 0, f"{pattern!r} did not come: {self.seen!r}"
            assert select.select([self.main], [], [], left)[0], f"{pattern!r} did not come: {self.seen!r}"
            self.seen += os.read(self.main, 4096).decode()
        before, self.seen = self.seen[: match.end()], self.seen[match.end() :]
        return before

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.main)


@pytest.fixture
def chat(server):
    terminals = []

    def start(*arguments):
        terminals.append(Terminal(MODEL, "--url", server.url, *arguments))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


def test_the_version_is_printed():
    ended = tritium("--version")
    assert (ended.returncode, ended.stdout) == (0, "tritium 0.1.0\n")


def test_serve_offers_a_flag_for_every_setting_with_its_description():
    help_text = " ".join(tritium("serve", "--help").stdout.replace("│", " ").split())
    for name, field in Settings.model_fields.items():
        assert f" {flag(name)} " in help_text, name
        assert field.description in help_text, name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--http-port", "high"], "tritium: --http-port: "),
        (["--host", "0.0.0.0"], "--insecure"),
        (["--config", "nowhere.toml"], "nowhere.toml: No such file"),
        (["--bogus"], "No such option: --bogus"),
    ],
)
def test_serve_refuses_wrong_settings_with_status_2_and_no_traceback(arguments, said):
    ended = tritium("serve", *arguments)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not ended.stdout


def test_serve_reads_the_environment():
    ended = tritium("serve", environment={"TRITIUM_WORKERS": "none"})
    assert ended.returncode == 2
    assert ended.stderr.startswith("tritium: TRITIUM_WORKERS: ")


def test_a_piped_question_gets_its_answer_on_stdout_and_its_speed_on_stderr(server):
    ended = tritium("chat", MODEL, "--url", server.url, "--api-key", "k", "--max-tokens", "9", stdin="how many?\n")
    assert (ended.returncode, ended.stdout) == (0, "1 messages\n")
    assert re.fullmatch(r"7 tokens, [\d.]+ tokens/s, the first after [\d.]+ s\n", ended.stderr)
    request = server.requests[0]
    assert request["authorization"] == "Bearer k"
    assert request["max_tokens"] == 9
    assert request["stream_options"] == {"include_usage": True}
    assert request["messages"] == [{"role": "user", "content": "how many?"}]


def test_a_system_prompt_comes_first(server):
    tritium("chat", MODEL, "--url", f"{server.url}/v1", "--system", "be kind", stdin="hello")
    assert [message["role"] for message in server.requests[0]["messages"]] == ["system", "user"]


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("refuse", "the model is not ready"),
        ("break", "the engine died"),
        ("cut", "broke off before the answer ended"),
        ("", "there is no question on stdin"),
    ],
)
def test_a_failed_answer_is_one_line_on_stderr_and_status_1(server, question, said):
    ended = tritium("chat", MODEL, "--url", server.url, stdin=question)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_no_server_is_said_so():
    ended = tritium("chat", MODEL, stdin="hello", environment={"TRITIUM_HTTP_PORT": str(free_ports(1)[0])})
    assert ended.returncode == 1
    assert re.match(r"tritium: no server answers at http://127\.0\.0\.1:\d+: Connection refused", ended.stderr)


def test_a_wrong_address_is_said_so():
    ended = tritium("chat", MODEL, "--url", "ftp://x", stdin="hello")
    assert ended.returncode == 1
    assert "'ftp://x' is no address" in ended.stderr


def test_a_conversation_keeps_its_history_until_ctrl_d(chat, server):
    terminal = chat()
    terminal.read_until("> ")
    terminal.type("first\n")
    assert "1 messages" in terminal.read_until(r"tokens/s.*\n")
    terminal.type("second\n")
    assert "3 messages" in terminal.read_until(r"tokens/s.*\n")
    assert [m["content"] for m in server.requests[1]["messages"]] == ["first", "1 messages", "second"]
    terminal.read_until("> ")
    terminal.type("\x04")
    assert terminal.process.wait(WAIT_SECONDS) == 0


def test_ctrl_c_stops_the_answer_closes_its_connection_and_goes_on(chat, server):
    terminal = chat()
    terminal.read_until("> ")
    terminal.type("hang\n")
    terminal.read_until("1 messages")
    terminal.process.send_signal(signal.SIGINT)
    assert server.client_left.wait(WAIT_SECONDS)
    terminal.read_until("stopped")
    terminal.type("again\n")
    assert "3 messages" in terminal.read_until(r"tokens/s")


def test_a_failed_answer_does_not_end_the_conversation_nor_stay_in_its_history(chat):
    terminal = chat()
    terminal.read_until("> ")
    terminal.type("refuse\n")
    terminal.read_until("the model is not ready")
    terminal.type("again\n")
    assert "1 messages" in terminal.read_until(r"tokens/s")


def test_an_unknown_model_ends_the_conversation_before_it_starts(server):
    terminal = Terminal("unknown", "--url", server.url)
    try:
        terminal.read_until("no model at /v1/models/unknown")
        assert terminal.process.wait(WAIT_SECONDS) == 1
    finally:
        terminal.close()


@pytest.fixture
def repository(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text(
            'backend: "echo"\nparameters { key: "a" value { string_value: "b" } }'
        )
    (tmp_path / "one" / "1" / "model.json").write_text('{"words": 3}')
    manifest = {"files": [{"path": "1/w", "sha256": "0" * 64, "bytes": 1, "sources": ["gopher://nowhere"]}]}
    (tmp_path / "two" / "weights.json").write_text(json.dumps(manifest))
    (tmp_path / "broken").mkdir()
    return tmp_path


@pytest.fixture
def nobody():
    return f"http://127.0.0.1:{free_ports(1)[0]}"


def test_models_are_listed_from_a_running_server(server):
    ended = tritium("models", "list", "--url", server.url)
    assert (ended.returncode, ended.stdout) == (0, f"{MODEL}\tREADY\techo\t512\t2/3\tchat score\n")


def test_models_are_listed_from_the_repository_where_no_server_answers(repository, nobody):
    ended = tritium("models", "list", "--url", nobody, "--model-repository", str(repository))
    rows = [line.split("\t")[:3] for line in ended.stdout.splitlines()]
    assert rows[0][0] == "broken"
    assert "configuration is not provided" in rows[0][1]
    assert rows[1:] == [["one", "not served", "echo"], ["two", "weights not fetched", "echo"]]


def test_a_served_model_is_shown_with_state_capabilities_and_context_length(server):
    shown = tritium("models", "show", MODEL, "--url", server.url).stdout.splitlines()
    assert {"state: READY", "capabilities: chat score", "context_length: 512"} <= set(shown)


def test_a_stored_model_is_shown_with_its_configuration(repository, nobody):
    environment = {"TRITIUM_MODEL_REPOSITORY": str(repository)}
    shown = tritium("models", "show", "one", "--url", nobody, environment=environment).stdout.splitlines()
    assert {"state: not served", "backend: echo", 'arguments: {"words": 3}', 'parameters: {"a": "b"}'} <= set(shown)
    assert f"version 1: {repository / 'one' / '1'}" in shown


@pytest.mark.parametrize("command", ["show", "pull"])
def test_an_unknown_model_is_refused(repository, nobody, command):
    where = {"TRITIUM_MODEL_REPOSITORY": str(repository), "TRITIUM_URL": nobody}
    ended = tritium("models", command, "three", environment=where)
    assert ended.returncode == 1
    assert "no model 'three'" in ended.stderr


def test_pull_says_why_each_source_failed(repository):
    ended = tritium("models", "pull", "two", "--model-repository", str(repository))
    assert ended.returncode == 1
    assert "gopher://nowhere: unknown kind of source" in ended.stderr
    assert not (repository / "two" / "1" / "w").exists()


def test_pull_is_content_where_nothing_is_wanted(repository):
    ended = tritium("models", "pull", "one", "--model-repository", str(repository))
    assert (ended.returncode, ended.stdout) == (0, "")
    assert ended.stderr == "one: all weights are here\n"


def test_the_commands_need_no_server_side_modules():
    """A command that only asks a server must not pay for what serves."""
    heavy = ("fastapi", "uvicorn", "grpc", "gateway.supervisor")
    code = f"import sys, gateway.cli; sys.exit(' '.join(m for m in {heavy} if m in sys.modules) or 0)"
    ended = subprocess.run([Path(TRITIUM).with_name("python"), "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
