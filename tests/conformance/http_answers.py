"""Answers over HTTP beside those of real Triton: the same but for what may differ."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECORDED = {answer["name"]: answer for answer in json.loads(Path(__file__).with_name("http_cases.json").read_text())}
_FOLDER = re.compile(r"/\S*?(?=/[\w.-]+/\d+/model\.py)")


def difference(name: str, status: int, headers: Mapping[str, str], body: bytes) -> str:
    """In what an answer differs from the recorded one; empty where in nothing that counts.

    Orders of members and of named things do not count, nor does the folder of a model's traceback.
    """
    recorded = RECORDED[name]
    wanted_headers, wanted_body = recorded["headers"], base64.b64decode(recorded["body"])
    wanted = recorded["status"], wanted_headers.get("content-encoding"), _content(wanted_headers, wanted_body)
    found = status, headers.get("content-encoding"), _content(headers, body)
    return "" if repr(found) == repr(wanted) else f"{name}: wanted {wanted}, found {found}"


def _content(headers: Mapping[str, str], body: bytes) -> Any:
    """The decoded JSON and the bytes after it; the body itself where it is no JSON."""
    if headers.get("content-encoding"):
        body = zlib.decompress(body, zlib.MAX_WBITS | 32)
    length = int(headers.get("inference-header-content-length", len(body)))
    try:
        return _ordered(json.loads(body[:length])), body[length:]
    except ValueError:
        return body


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        items = [_ordered(item) for item in value]
        is_named = items and all(isinstance(item, dict) and "name" in item for item in items)
        return sorted(items, key=lambda item: item["name"]) if is_named else items
    return _FOLDER.sub("", value) if isinstance(value, str) else value
