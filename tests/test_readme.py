"""The README keeps its word: every example runs, every table says what the code says."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from dataclasses import dataclass, fields

import msgspec
import pytest

from backends.config import ModelConfig
from backends.engine import addresses, naming, routing
from backends.kinds import find_kind
from backends.repository import load
from backends.worker import text
from ensembles.answering.recipe import Recipe
from gateway.settings import Settings, flag, read, shown
from tests.conftest import DEMO_MODEL
from tests.servers import ROOT, serving
from tests.waiting import eventually

README = (ROOT / "README.md").read_text()
EXAMPLE_SECONDS = 120
PARAMETERS = routing.PARAMETERS | naming.PARAMETERS | addresses.PARAMETERS
TEXT_PARAMETERS = text.PARAMETERS
STARTS_A_SERVER = re.compile(r"^(make serve|\.venv/bin/tritium serve)\b", re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """A fenced block: its language, its text, and where it stands."""

    language: str
    text: str
    line: int

    def __str__(self) -> str:
        return f"line-{self.line}-{self.language}"

    def at(self, http_port: int, metrics_port: int) -> str:
        """The text, for a server on other ports than the default ones."""
        return self.text.replace("127.0.0.1:8000", f"127.0.0.1:{http_port}").replace(
            "127.0.0.1:8002", f"127.0.0.1:{metrics_port}"
        )


def examples() -> list[Example]:
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [Example(block[1], block[2], README.count("\n", 0, block.start()) + 1) for block in found]


def of(*languages: str, starts: bool | None = None) -> list[Example]:
    chosen = [example for example in examples() if example.language in languages]
    return [e for e in chosen if starts is None or bool(STARTS_A_SERVER.search(e.text)) is starts]


def test_every_example_has_a_language_that_is_run_here():
    assert {example.language for example in examples()} <= {"sh", "python", "toml", "protobuf", "json"}


@pytest.mark.engine
@pytest.mark.parametrize("example", of("sh", starts=True), ids=str)
def test_the_command_that_starts_a_server_starts_it(example):
    """`make` stands between: the signal goes to it and ends the server as well; a second start finds all set up."""
    lines = [line for line in example.text.splitlines() if line]
    assert len(lines) == 1
    argv = ("bash", "-c", f"unset MAKEFLAGS; exec {lines[0]}")  # those of a `make test` that runs this
    with serving(ROOT / "model_repository", argv=argv) as server:
        with urllib.request.urlopen(f"{server.url}/v1/models/{DEMO_MODEL}", timeout=5) as answer:
            assert json.load(answer)["state"] == "READY"
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(60)
        eventually(lambda: not _listens(server.http_port), what="the end of the server")


@pytest.mark.engine
@pytest.mark.parametrize("example", of("sh", starts=False), ids=str)
def test_a_shell_example_runs(example, tritium_server):
    script = example.at(tritium_server.http_port, tritium_server.metrics_port)
    # `curl -f` makes an error status fail the example.
    prelude = 'set -euo pipefail; curl() { command curl -fsS "$@"; }\n'
    ended = subprocess.run(
        ["bash", "-c", prelude + script],
        cwd=ROOT,
        env={**os.environ, "TRITIUM_HTTP_PORT": str(tritium_server.http_port)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=EXAMPLE_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.strip()


@pytest.mark.engine
@pytest.mark.parametrize("example", of("python"), ids=str)
def test_a_python_example_runs(example, tritium_server, tmp_path):
    shutil.copy(ROOT / "README.md", tmp_path)
    (tmp_path / "manual.pdf").write_bytes(pdf("To clean the pump, open the lid and rinse it with warm water."))
    script = example.at(tritium_server.http_port, tritium_server.metrics_port)
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=EXAMPLE_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()


@pytest.mark.parametrize("example", [e for e in of("toml") if not e.text.startswith("[tenants.")], ids=str)
def test_a_settings_example_is_accepted(example, tmp_path):
    (tmp_path / "settings.toml").write_text(example.text)
    read(config=tmp_path / "settings.toml")


@pytest.mark.slow
def test_the_example_of_tenants_lets_in_whom_it_says(tmp_path, echo_server):
    (example,) = [e for e in of("toml") if e.text.startswith("[tenants.")]
    (tmp_path / "tenants.toml").write_text(example.text)
    server = echo_server("--api-key-file", str(tmp_path / "tenants.toml"), models={"chat-echo": {}, "other": {}})
    for key, models in (
        ("sk-search-1", ["chat-echo"]),
        ("hello", ["chat-echo"]),
        ("sk-nightly", ["chat-echo", "other"]),
    ):
        request = urllib.request.Request(f"{server.url}/v1/models", headers={"authorization": f"Bearer {key}"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert [model["id"] for model in json.load(answer)["data"]] == models


def test_the_example_of_a_model_is_accepted(tmp_path):
    configuration, *_ = of("protobuf")
    (arguments,) = of("json")
    (tmp_path / "parrot" / "1").mkdir(parents=True)
    (tmp_path / "parrot" / "config.pbtxt").write_text(configuration.text)
    (tmp_path / "parrot" / "1" / "model.json").write_text(arguments.text)
    (model,) = load([tmp_path])
    assert isinstance(model, ModelConfig), model.reason
    assert len(find_kind(model.backend).launch(model, runtime_dir=str(tmp_path))) == 2


@pytest.mark.parametrize("example", of("protobuf"), ids=str)
def test_the_parameters_of_a_model_are_known(example, tmp_path):
    (name,) = re.findall(r'^name: "(.*)"$', example.text, re.MULTILINE)
    (tmp_path / name / "1").mkdir(parents=True)
    (tmp_path / name / "config.pbtxt").write_text(example.text)
    (tmp_path / name / "endpoints.txt").write_text("http://c:8000")
    (model,) = load([tmp_path])
    assert isinstance(model, ModelConfig), model.reason
    known = PARAMETERS | TEXT_PARAMETERS
    assert {key.partition(".")[0] for key in model.parameters} <= known
    for part in (routing.read, naming.read, addresses.addresses):
        part(model)


def test_the_table_of_parameters_is_that_of_the_code():
    table = README.split("\n## Replicas and routing\n")[1].split("\n## ")[0]
    written = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert written == PARAMETERS | set(routing.POLICIES)
    for field in fields(routing.Routing):
        default = str(field.default).lower() if isinstance(field.default, bool) else field.default
        assert f"| `{field.name}` | `{default}` |" in table
    assert ",".join(naming.DEFAULT_CAUSES) in table


def test_the_table_of_texts_is_that_of_the_code():
    table = README.split("\n## Embeddings and rerank\n")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S*) ?\|", table, re.MULTILINE))
    assert rows.keys() == TEXT_PARAMETERS
    defaults = text.Text("embed", (), "")
    for name in ("max_batch_tokens", "passage_cache_bytes"):
        assert rows[name] == f"`{getattr(defaults, name)}`"


def test_the_tables_of_pipelines_are_those_of_the_code():
    section = README.split("\n## Answers from documents\n")[1].split("\n## ")[0]
    recipe, steps = section.split("| step | options |")
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)`)? *\|", recipe, re.MULTILINE)
    assert [name for name, _ in rows] == [field.name for field in msgspec.structs.fields(Recipe)]
    assert dict(rows)["top_k"] == str(Recipe("x").top_k)
    for name, options in re.findall(r"^\| `(\w+)` \| (.*?) \|", steps, re.MULTILINE):
        known = msgspec.structs.fields(importlib.import_module(f"ensembles.steps.{name}").Options)
        assert re.findall(r"`(\w+)`", options) == [field.name for field in known]


def test_the_table_of_settings_is_that_of_the_code():
    rows = [
        f"| `{flag(name)}` | {f'`{shown(field.default)}`' if shown(field.default) else ''} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    written = [line for line in README.splitlines() if line.startswith("| `--")]
    assert written == rows


@pytest.mark.engine
def test_the_table_of_the_api_is_that_of_the_server(tritium_server):
    with urllib.request.urlopen(f"{tritium_server.url}/openapi.json", timeout=5) as answer:
        document = json.load(answer)
    served = {path for path in document["paths"] if not path.startswith("/docs")}
    table = README.split("\n## API\n")[1].split("\n## ")[0]
    written = set(re.findall(r"`(?:(?:GET|POST|DELETE) )?(/[\w/{}.]*)`", table))
    # Path parameters by any name.
    unnamed = {re.sub(r"{\w+(:path)?}", "{}", path) for path in written}
    assert {re.sub(r"{\w+(:path)?}", "{}", path) for path in served} <= unnamed


def test_every_file_that_the_readme_names_exists():
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def pdf(text):
    """One page with this text, written by hand (ISO 32000-1)."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    fonts = b"<< /Font << /F1 5 0 R >> >>"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources %b >>" % fonts,
        b"<< /Length %d >>\nstream\n%b\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    data, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 %d\n0000000000 65535 f \n%btrailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
    return data + head % (len(objects) + 1, table, len(objects) + 1, len(data))


def _listens(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=2):
            return True
    except OSError:
        return False
