"""The demo's weights for llama.cpp: as many numbers, the same numbers as near as 8 bits are, nothing else changed."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from backends import weights
from backends.weights import WeightsError
from tests.servers import ROOT

DEMO = ROOT / "model_repository" / "smollm2-135m-instruct"
SOURCE, TARGET = "1/SmolLM2-135M-Instruct.Q4_1.gguf", "1/SmolLM2-135M-Instruct.Q8_0.gguf"
F32, Q4_1, Q8_0, Q6_K = 0, 3, 8, 14

NORM = (b"norm", (3,), F32, struct.pack("<3f", 1, 2, 3))
EMBEDDING = (b"embedding", (32, 1), Q8_0, bytes(range(34)))


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def gguf(file_type: int, tensors: Sequence[tuple[bytes, tuple[int, ...], int, bytes]], version: int = 3) -> bytes:
    """A small file with a key of each form: a string, a number, arrays of both, an array of arrays."""
    keys = [
        text(b"general.license") + struct.pack("<I", 8) + text(b"apache-2.0"),
        text(b"tokens") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"bcd"),
        text(b"scores") + struct.pack("<IIQ3f", 9, 6, 3, 0.5, 1, 2),
        text(b"nested") + struct.pack("<IIQIQ2B", 9, 9, 1, 0, 2, 7, 8),
        text(b"general.file_type") + struct.pack("<II", 4, file_type),
        text(b"add_bos") + struct.pack("<I?", 7, True),
    ]
    table, data = b"", b""
    for name, shape, kind, content in tensors:
        table += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(data))
        data += content.ljust(-(-len(content) // 32) * 32, b"\0")
    head = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(keys)) + b"".join(keys) + table
    return head.ljust(-(-len(head) // 32) * 32, b"\0") + data


def q4_1(scale: float, minimum: float, quants: Sequence[int]) -> bytes:
    packed = bytes(low | high << 4 for low, high in zip(quants[:16], quants[16:], strict=True))
    return struct.pack("<2e", scale, minimum) + packed


def q8_0(scale: float, quants: Sequence[int]) -> bytes:
    return struct.pack("<e32b", scale, *quants)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The demo's folder, as its weights were fetched; `pulled` says what they are."""
    (tmp_path / "1").mkdir()
    shutil.copy(DEMO / "requantize.py", tmp_path)
    return tmp_path


def pulled(folder: Path, data: bytes) -> list[str]:
    (folder / SOURCE).write_bytes(data)
    export = json.loads((DEMO / "weights.json").read_bytes())["export"]
    files = [{"path": SOURCE, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "sources": []}]
    (folder / "weights.json").write_text(json.dumps({"files": files, "export": export}))
    return weights.pull(folder, lambda *_: None)


def test_weights_of_4_bits_become_weights_of_8_and_all_else_stays(folder: Path) -> None:
    levels = [*range(16), *range(15, -1, -1)]
    blocks = {
        q4_1(10, -127, levels): q8_0(1, [10 * level - 127 for level in levels]),
        q4_1(0.5, 0, levels): q8_0(7.5 / 127, [round(level * 127 / 15) for level in levels]),
        q4_1(0, 0, levels): q8_0(0, [0] * 32),
    }
    source = [NORM, (b"gate", (32, 3), Q4_1, b"".join(blocks)), EMBEDDING]
    expected = [NORM, (b"gate", (32, 3), Q8_0, b"".join(blocks.values())), EMBEDDING]
    assert pulled(folder, gguf(3, source)) == [TARGET]
    assert (folder / TARGET).read_bytes() == gguf(7, expected)


def test_the_demo_serves_what_the_script_makes() -> None:
    export = weights.manifest(DEMO).export
    assert export is not None
    assert export.makes == (TARGET,)
    assert json.loads((DEMO / "1" / "model.json").read_bytes())["model"] == Path(TARGET).name


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (gguf(14, [(b"gate", (256, 1), Q6_K, bytes(210))]), r"gate is of type 14; F32, Q4_1 and Q8_0 are known"),
        (gguf(3, [NORM], version=2), r"Q4_1\.gguf is no GGUF file of version 3"),
        (b"no weights", r"Q4_1\.gguf is no GGUF file of version 3"),
    ],
)
def test_other_files_are_refused_with_the_reason_and_leave_nothing(folder: Path, data: bytes, reason: str) -> None:
    with pytest.raises(WeightsError, match=rf"requantize\.py failed: .*{reason}"):
        pulled(folder, data)
    assert [path.name for path in (folder / "1").iterdir()] == [Path(SOURCE).name]
