"""Endpoints that somebody else runs, by URL: listed in the configuration, or in a file that may change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from backends.config import ModelConfig
from backends.errors import InvalidRequest

PARAMETERS = frozenset({"endpoints", "endpoints_file"})
"""Every kind has them, beside the processes of its `instance_group` if there are any."""

_WEIGHT = "weight="


@dataclass(frozen=True, slots=True)
class Address:
    """A base URL without the `/v1` of clients, and its share of the work under the policy `weighted`."""

    url: str
    weight: float = 1.0


def check_remote(config: ModelConfig, known: Sequence[str]) -> None:
    """The parameters of a kind that starts nothing: known ones alone, endpoints among them. Raises `InvalidRequest`."""
    for key in config.parameters:
        if key not in known:
            raise _wrong(config, key, f"is unknown; there are {', '.join(known)}")
    if not PARAMETERS & config.parameters.keys():
        raise _wrong(config, "endpoints", "is missing: it lists URLs, separated by commas")


def addresses(config: ModelConfig) -> list[Address]:
    """Those of the parameter `endpoints` and those of the file. Raises `InvalidRequest` that says what is wrong."""
    found = list(_listed(config))
    path = endpoints_file(config)
    if path is not None:
        found += _stored(config, path)
    seen = set()
    for address in found:
        name = address.url.partition("://")[2]
        if name in seen:
            raise _wrong(config, "endpoints", f"name {address.url} twice")
        seen.add(name)
    return found


def endpoints_file(config: ModelConfig) -> Path | None:
    """The file of the parameter `endpoints_file`, relative to the model's folder; None without one."""
    name = config.parameters.get("endpoints_file", "").strip()
    return Path(config.path).parent / name if name else None


def _listed(config: ModelConfig) -> Iterator[Address]:
    text = config.parameters.get("endpoints")
    if text is not None:
        for part in text.split(","):
            yield _address(config, "endpoints", part)


def _stored(config: ModelConfig, path: Path) -> Iterable[Address]:
    """One endpoint a line; what stands behind a # does not count."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(config, "endpoints_file", f"cannot be read: {error}") from error
    found = [_address(config, "endpoints_file", text) for line in lines if (text := line.partition("#")[0].strip())]
    if not found:  # a file that is being written looks so: it must not take a model out of service
        raise _wrong(config, "endpoints_file", f"names no endpoint in {path}")
    return found


def _address(config: ModelConfig, parameter: str, text: str) -> Address:
    url, *options = text.split() or [""]
    url = url.rstrip("/").removesuffix("/v1")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    else:
        usable = usable and not (parts.query or parts.fragment or parts.username)
    if not usable:
        raise _wrong(config, parameter, f"wants http:// or https:// URLs, separated by commas, not {url!r}")
    weight = 1.0
    for option in options:
        try:
            weight = float(option.removeprefix(_WEIGHT)) if option.startswith(_WEIGHT) else -1.0
        except ValueError:
            weight = -1.0
        if not 0 <= weight < float("inf"):
            raise _wrong(config, parameter, f"wants 'weight=N' after a URL, N not negative, not {option!r}")
    return Address(url, weight)


def _wrong(config: ModelConfig, parameter: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"Model {config.name!r}: the parameter {parameter!r} {why}.", param=parameter)
