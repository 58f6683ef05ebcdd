"""Small models that take texts: a folder with a tokenizer of a few words, and configurations over it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backends.config import ModelConfig, read
from tests.backends.worker.instances import document

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "query:")
IDS = {word: number for number, word in enumerate(WORDS)}


def folder(path: Path, files: Mapping[str, Any] | None = None) -> Path:
    """A version directory with `tokenizer.json` and other files, given as what their JSON says."""
    version = path / "1"
    for name, said in {"tokenizer.json": _tokenizer(), **(files or {})}.items():
        (version / name).parent.mkdir(parents=True, exist_ok=True)
        (version / name).write_text(json.dumps(said))
    return version


def config(version: Path, parameters: Mapping[str, str] | None = None, **fields: Any) -> ModelConfig:
    """The configuration of a model over that folder. Parameters are strings, as `config.pbtxt` has them."""
    given = {key: {"string_value": value} for key, value in {"task": "embed", **(parameters or {})}.items()}
    base: dict[str, Any] = {"backend": "onnxruntime", "input": [], "output": [], "parameters": given}
    return read(document(**base | fields), version=1, path=str(version), arguments={})


def _tokenizer() -> dict[str, Any]:
    """Words between blanks in `[CLS]` and `[SEP]`, pairs as BERT has them; cut and padded unless told not to."""
    special = {"[CLS]": 2, "[SEP]": 3}
    piece = {name: {"SpecialToken": {"id": name, "type_id": 0}} for name in special}
    second = {"SpecialToken": {"id": "[SEP]", "type_id": 1}}
    sequences = [{"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB")]
    return {
        "version": "1.0",
        "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {
            "strategy": {"Fixed": 8},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [piece["[CLS]"], sequences[0], piece["[SEP]"]],
            "pair": [piece["[CLS]"], sequences[0], piece["[SEP]"], sequences[1], second],
            "special_tokens": {
                name: {"id": name, "ids": [number], "tokens": [name]} for name, number in special.items()
            },
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": IDS, "unk_token": "[UNK]"},
    }
