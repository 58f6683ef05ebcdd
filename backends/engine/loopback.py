"""A loopback port for each process of an engine that cannot listen on a Unix socket."""

from __future__ import annotations

import hashlib
from pathlib import Path

from backends.config import ModelConfig
from backends.errors import InvalidRequest

# Below the range that Linux gives to outgoing connections (32768), above the ports of common servers.
_FIRST = 20000
_COUNT = 12000


def loopback_ports(config: ModelConfig, runtime_dir: str, count: int) -> list[int]:
    """The ports of a model's processes: from its argument `port` on, otherwise chosen by name.

    The same each time: a restart finds its address again, and an engine that still runs does not move. Two models
    may fall together, of which the second says so when it starts, and then wants a `port`. Raises `InvalidRequest`.
    """
    first = config.arguments.get("port")
    if first is None:
        name = f"{Path(runtime_dir).absolute()}/{config.name}-{config.version}"
        spread = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
        first = _FIRST + spread % (_COUNT - count)
    if not isinstance(first, int) or isinstance(first, bool) or not 0 < first <= 65536 - count:
        raise InvalidRequest(f"Model {config.name!r}: 'port' is no TCP port: {first!r}.", param="port")
    return list(range(first, first + count))
