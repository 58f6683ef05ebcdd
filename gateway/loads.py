"""What engines say of their own load, asked for off the request path and told to the server processes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence

from backends.engine.load import METRICS_PATHS, read_load, told_by
from backends.engine.probe import Probe
from backends.errors import ServingError
from backends.model import Endpoint, Load, State
from gateway.snapshot import Loads, ModelStatus

_logger = logging.getLogger(__name__)

_LIMIT_BYTES = 8 * 1024 * 1024
_TIMEOUT_SECONDS = 2.0


class LoadWatch:
    """Asks the ready endpoints of each model that has several, and tells their loads."""

    def __init__(
        self, statuses: Callable[[], Sequence[ModelStatus]], tell: Callable[[Loads], None], interval_seconds: float
    ) -> None:
        self.last = Loads({})
        self._statuses = statuses
        self._tell = tell
        self._interval_seconds = interval_seconds
        self._probes: dict[str, Probe] = {}

    async def run(self) -> None:
        """Look again and again until cancelled."""
        try:
            while True:
                await asyncio.sleep(self._interval_seconds)
                asked = list(self._asked())
                self._forget({endpoint.address for _, endpoint in asked})
                found = await asyncio.gather(*(self._look(backend, endpoint) for backend, endpoint in asked))
                loads = {
                    endpoint.id: load for (_, endpoint), load in zip(asked, found, strict=True) if load is not None
                }
                if loads or self.last.loads:  # told each time: a server process may be a new one
                    self.last = Loads(loads)
                    self._tell(self.last)
        finally:
            self._forget(set())

    def _asked(self) -> Iterator[tuple[str, Endpoint]]:
        """The choice among endpoints needs their loads; where there is none, they are left alone."""
        for status in self._statuses():
            ready = [endpoint for endpoint in status.endpoints if endpoint.state is State.READY]
            kind = told_by(status.config)
            if len(ready) > 1 and kind in METRICS_PATHS:
                yield from ((kind, endpoint) for endpoint in ready)

    async def _look(self, backend: str, endpoint: Endpoint) -> Load | None:
        probe = self._probes.get(endpoint.address)
        if probe is None:
            probe = self._probes[endpoint.address] = Probe(endpoint.address)
        try:
            status, text = await probe.get(METRICS_PATHS[backend], _TIMEOUT_SECONDS, _LIMIT_BYTES)
            return read_load(backend, text) if status == 200 else None
        except ServingError:
            return None
        except Exception:
            _logger.exception("%s: its load could not be read", endpoint.id)
            return None

    def _forget(self, live: set[str]) -> None:
        for address in self._probes.keys() - live:
            self._probes.pop(address).close()
