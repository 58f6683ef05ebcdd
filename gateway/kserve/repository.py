"""The model repository extension: what HTTP and gRPC ask of the supervisor, and when it may be asked."""

from __future__ import annotations

import asyncio
import base64
import binascii
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from backends.errors import Code, InferenceError
from gateway.admin_keys import AdminKeys
from gateway.plane import Plane
from gateway.snapshot import LoadOrder

_FILE = "file:"
_CONFIG_CHARACTERS = 8 * 1024 * 1024


class IndexEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version of a model; without `version` a model of which none was ever loaded."""

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""


CONTROL = frozenset({"load", "unload"})
"""Operations that change what runs, and may bring code of a client's: not for whoever may ask the models."""

_decode_index = msgspec.json.Decoder(list[IndexEntry]).decode


def authorise(plane: Plane, headers: Mapping[bytes, bytes]) -> None:
    """Let in whom `/admin` lets in. Raises `NotAuthenticated`, `NotPermitted`."""
    AdminKeys(plane.settings).check(headers)


def check_unnamed(repository: str) -> None:
    """Triton's protocol has a name for the repository, which no server takes: looked at before anything else.

    Raises `InferenceError`.
    """
    if repository:
        raise InferenceError("'repository_name' specification is not supported", Code.UNSUPPORTED)


async def index(plane: Plane, *, ready: bool = False) -> list[IndexEntry]:
    """Every model of the repositories with its state; with `ready`, what can be used now. Raises `Unavailable`."""
    entries = _decode_index(await plane.questions.ask("index"))
    # As Triton: a model that is there twice is told of all the same.
    return [entry for entry in entries if not ready or entry.state == "READY" or (entry.state and not entry.version)]


async def load(plane: Plane, name: str, parameters: Mapping[str, str | bytes] | None = None) -> None:
    """Load a model and return when it serves; what it ran under before serves until then, and where this fails.

    `parameters`: `config` is a configuration in JSON, `file:PATH` a file of the model's folder, its bytes or base64 of
    them. Raises `InferenceError` in Triton's words.
    """
    config: str | None = None
    files: dict[str, bytes] = {}
    for key, value in (parameters or {}).items():
        if key == "config":
            config = value if isinstance(value, str) else value.decode(errors="replace")
        elif key.startswith(_FILE):
            files[key.removeprefix(_FILE)] = value if isinstance(value, bytes) else _decoded(value)
        else:
            raise InferenceError("unexpected error on creating Triton parameter")
    _check_allowed(plane)
    if config is not None and len(config) > _CONFIG_CHARACTERS:
        raise InferenceError(f"failed to load '{name}', its configuration is over {_CONFIG_CHARACTERS} characters")
    # The channel to the supervisor is for messages: files may be as large as models are.
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="sent-", dir=plane.settings.runtime_dir))
    try:
        places = {path: folder / str(number) for number, path in enumerate(files)}
        for path, place in places.items():
            await asyncio.to_thread(place.write_bytes, files[path])
        order = LoadOrder(config, {path: str(place) for path, place in places.items()})
        await plane.questions.ask("kserve_load", name, order)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def unload(plane: Plane, name: str, *, dependents: bool = False) -> None:
    """Unload a model, with `dependents` those too that were loaded for it alone. Raises `InferenceError`."""
    _check_allowed(plane)
    await plane.questions.ask("kserve_unload", name, LoadOrder(with_parts=dependents))


def _check_allowed(plane: Plane) -> None:
    if plane.settings.model_control_mode != "explicit":
        raise InferenceError("explicit model load / unload is not allowed if polling is enabled", Code.UNAVAILABLE)


def _decoded(text: str) -> bytes:
    """As Triton: what is no base64 is nothing."""
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        return b""
