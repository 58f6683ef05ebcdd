"""Execution environments: a `model.py` under the Python that its configuration names, with that Python's libraries.

`parameters: { key: "EXECUTION_ENV_PATH" … }` is a folder or an archive of one (by conda-pack, or a relocatable virtual
environment), as in Triton's Python backend; `$$TRITON_MODEL_DIRECTORY` in it stands for the model's directory. The
process of an instance becomes one of that Python before anything of the model is imported.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

import backends
from backends.config import ModelConfig

PARAMETER = "EXECUTION_ENV_PATH"
_MODEL_DIRECTORY = "$$TRITON_MODEL_DIRECTORY"
_INSIDE = "TRITIUM_EXECUTION_ENVIRONMENT"
_CHECK_SECONDS = 120
_CHECK = """\
import sys
if sys.version_info < (3, 11):
    sys.exit("its Python is %d.%d, at least 3.11 is needed" % sys.version_info[:2])
import msgspec, numpy
"""
# The package is found where it lies; the folder around it, which may hold libraries of another Python, is not.
_BOOT = """\
import sys
sys.path.insert(0, {root!r})
import backends
del sys.path[0]
from backends.worker.instance import main
sys.exit(main())
"""


class UnusableEnvironment(Exception):
    """A model cannot run in its execution environment; the message is worded as Triton words it, where it has words."""


def enter(config: ModelConfig, message: bytes, fd: int) -> None:
    """Become a process of the model's execution environment, where it has one and this is not it yet.

    That process gets the link by `--fd` and its first message in the file of `--load-fd`. Returns where there is
    nothing to do. Raises `UnusableEnvironment`.
    """
    wanted = config.parameters.get(PARAMETER, "")
    if not wanted or os.environ.get(_INSIDE) == wanted:
        return
    folder = _folder(Path(wanted.replace(_MODEL_DIRECTORY, str(Path(config.path).parent))))
    python = str(folder / "bin" / "python")
    environment = _environment(folder) | {_INSIDE: wanted}
    _check(python, folder, environment)
    handed = os.memfd_create("load", 0)
    with os.fdopen(os.dup(handed), "wb") as file:
        file.write(message)
    os.lseek(handed, 0, os.SEEK_SET)
    for kept in (handed, fd):
        os.set_inheritable(kept, True)
    boot = _BOOT.format(root=str(Path(backends.__path__[0]).parent))
    os.execve(python, [python, "-c", boot, "--fd", str(fd), "--load-fd", str(handed)], environment)  # noqa: S606


def _folder(path: Path) -> Path:
    """The environment's folder; an archive is unpacked once, for all instances and all later starts."""
    try:
        path = path.resolve(strict=True)
    except OSError as error:
        raise UnusableEnvironment(f"Failed to get the canonical path for {path}.") from error
    folder = path if path.is_dir() else _unpacked(path)
    if not (folder / "bin" / "activate").exists():
        raise UnusableEnvironment(
            f"Path {folder}/bin/activate does not exist. The Python environment should contain an 'activate' script."
        )
    return folder


def _unpacked(archive: Path) -> Path:
    stat = archive.stat()
    digest = hashlib.sha256(f"{archive} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:24]
    root = Path(tempfile.gettempdir()) / f"tritium-environments-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise UnusableEnvironment(f"{root} is not this user's")
    folder = root / digest
    with (root / f"{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _unpack(archive, folder)
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    partial = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="tar")
        # conda-pack's own script writes the new place into the files that name the old one.
        if (unpack := partial / "bin" / "conda-unpack").exists():
            subprocess.run([partial / "bin" / "python", unpack], check=True, capture_output=True)
        partial.rename(folder)
    except (OSError, tarfile.TarError, subprocess.SubprocessError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UnusableEnvironment(f"Failed to extract the Python environment {archive}: {error}") from error


def _environment(folder: Path) -> dict[str, str]:
    """What the environment's `activate` script would set."""
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONHOME"}}
    return environment | {
        "PATH": f"{folder}/bin:{environment.get('PATH', '')}",
        "LD_LIBRARY_PATH": f"{folder}/lib:{environment.get('LD_LIBRARY_PATH', '')}".rstrip(":"),
        "VIRTUAL_ENV": str(folder),
        "CONDA_PREFIX": str(folder),
    }


def _check(python: str, folder: Path, environment: Mapping[str, str]) -> None:
    """See that our side of the instance can run there."""
    argv = [python, "-c", _CHECK]
    try:
        done = subprocess.run(
            argv, env=environment, capture_output=True, text=True, check=False, timeout=_CHECK_SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UnusableEnvironment(f"The Python of the environment {folder} does not run: {error}") from error
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise UnusableEnvironment(
            f"The Python environment {folder} cannot run instances: {reason}. It needs Python 3.11 or later with"
            f" numpy and msgspec (`{python} -m pip install numpy msgspec`)."
        )
