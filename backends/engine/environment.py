"""Where an engine process finds its interpreter and its socket."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from backends.config import ModelConfig
from backends.errors import Unavailable

# sun_path holds 108 bytes, the last of them a zero (unix(7)).
_SOCKET_PATH_BYTES = 107


def interpreter(kind: str) -> str:
    """The Python of the kind's own environment, under `.engines` or `TRITIUM_ENGINES_DIR`.

    Raises `Unavailable` that names the script which makes it.
    """
    engines = Path(os.environ.get("TRITIUM_ENGINES_DIR") or ".engines").absolute()
    python = engines / kind / "bin" / "python"
    if not python.exists():
        raise Unavailable(
            f"The environment of the {kind} engine is not there ({python}): make it with deploy/engines/{kind}.sh.",
            code="engine_not_installed",
        )
    return str(python)


def socket_path(config: ModelConfig, runtime_dir: str, number: int = 0) -> str:
    """A socket of its own for each instance of a version of a model.

    Readable where the name is short, a digest where it is not.
    """
    name = f"{config.name}-{config.version}" + (f".{number}" if number else "")
    path = str(Path(runtime_dir).absolute() / f"{name}.sock")
    if len(path.encode()) > _SOCKET_PATH_BYTES:
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        path = str(Path(runtime_dir).absolute() / f"{digest}.sock")
    return path
