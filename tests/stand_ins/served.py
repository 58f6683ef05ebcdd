"""The stand-in for `trtllm-serve` as a user would have the real one: an environment, and a model of its kind."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers import ROOT, Tritium, free_ports, serving

MODEL = "tensorrtllm-stand-in"
CONTEXT_LENGTH = 2048


def environment(folder: Path) -> Mapping[str, str]:
    """Makes an environment of TensorRT-LLM whose `trtllm-serve` is the stand-in; the variables that name it."""
    programs = folder / "tensorrtllm" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    program = programs / "trtllm-serve"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m tests.stand_ins.tensorrtllm "$@"\n')
    program.chmod(0o755)
    return {"TRITIUM_ENGINES_DIR": str(folder)}


def repository(folder: Path, port: int, **arguments: Any) -> Path:
    """One model of the kind `tensorrtllm`, on this port."""
    version = folder / MODEL / "1"
    version.mkdir(parents=True)
    (folder / MODEL / "config.pbtxt").write_text('backend: "tensorrtllm"\n')
    (version / "options.yaml").write_text("return_perf_metrics: true\nguided_decoding_backend: xgrammar\n")
    given = {"model": "org/model", "port": port, "max_seq_len": CONTEXT_LENGTH, "config": "options.yaml", **arguments}
    (version / "model.json").write_text(json.dumps(given))
    return folder


@contextmanager
def serving_stand_in(scratch: Path, *flags: str, **arguments: Any) -> Iterator[tuple[Tritium, str]]:
    """A gateway that started the stand-in by its kind, and the engine's own URL."""
    (port,) = free_ports(1)
    variables = environment(scratch / "engines")
    with serving(repository(scratch / "models", port, **arguments), *flags, environment=variables) as server:
        yield server, f"http://127.0.0.1:{port}"
