"""Converts a GGUF file into a folder of safetensors with its tokenizer, for the engines that read no GGUF.

    .engines/transformers/bin/python deploy/engines/convert_gguf.py MODEL.gguf FOLDER

A folder that was converted from the same file (by name and size) is left as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

STAMP = "converted_from.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    gguf: Path = arguments.gguf.resolve()
    folder: Path = arguments.folder.resolve()
    if not gguf.is_file():
        sys.exit(f"{gguf} does not exist: fetch the weights first")
    source = {"file": gguf.name, "bytes": gguf.stat().st_size}
    if _stamp(folder) == source:
        return
    print(f"Converting {gguf.name} to {folder} ...", file=sys.stderr)
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    try:
        _convert(gguf, partial)
        (partial / STAMP).write_text(json.dumps(source) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _stamp(folder: Path) -> object:
    try:
        return json.loads((folder / STAMP).read_bytes())
    except (OSError, ValueError):
        return None


def _convert(gguf: Path, folder: Path) -> None:
    # Only packed weights that were unpacked on reading can be saved: hence `dequantize`.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    directory, name = str(gguf.parent), gguf.name
    model = AutoModelForCausalLM.from_pretrained(
        directory, gguf_file=name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(directory, gguf_file=name).save_pretrained(folder)


if __name__ == "__main__":
    main()
