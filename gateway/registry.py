"""Models by name, built from the supervisor's last snapshot."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import msgspec

from backends.config import ModelConfig
from backends.engine.replicas import EngineModel
from backends.errors import ModelNotFound, ModelNotReady, ServingError, UnsupportedOperation
from backends.model import Capability, Endpoints, Models, State
from gateway.admission import Gate
from gateway.snapshot import ModelStatus, Snapshot

_log = logging.getLogger(__name__)

Connect = Callable[[ModelConfig, Endpoints, Models], EngineModel]
"""A kind's `connect`."""

_NEAREST = 3
_NAME_CHARACTERS = 128
_RESTART_SECONDS = 2.0


@dataclass(slots=True)
class Entry:
    """One model in this server process. `model` is None where it cannot be used at all; `status.reason` says why."""

    status: ModelStatus
    model: EngineModel | None
    gate: Gate
    endpoints: Endpoints


class Registry:
    """What this server process knows of the models. `connect_kind` finds a backend's `connect` by the backend's name.

    `share` is how many server processes divide each model's permits among them.
    """

    def __init__(self, connect_kind: Callable[[str], Connect], *, share: int, max_queue_size: int) -> None:
        self._connect_kind = connect_kind
        self._share = share
        self._max_queue_size = max_queue_size
        self._entries: dict[str, Entry] = {}
        self.settled = False

    def apply(self, snapshot: Snapshot) -> None:
        """Take over a snapshot. An entry whose configuration is the same keeps its connections and its queue.

        A model whose kind cannot connect to it becomes `FAILED` with the reason; the others are served.
        """
        self.settled = snapshot.settled
        before = self._entries
        entries = {}
        for status in snapshot.models:
            name = status.config.name
            entry = before.get(name)
            if entry is not None and entry.model is not None and entry.status.config == status.config:
                entry.status = status
                entry.endpoints.current = status.endpoints
            else:
                entry = self._load(status, entry)
            entries[name] = entry
        self._entries = entries
        for name, entry in before.items():
            if entry.model is not None and entries.get(name) is not entry:
                entry.model.close()

    def entries(self) -> Mapping[str, Entry]:
        return self._entries

    def find(self, name: str) -> Entry:
        """Raises `ModelNotFound` listing the nearest names."""
        entry = self._entries.get(name)
        if entry is None:
            # A name may be as long as a body may: neither compared nor repeated at that length.
            name = name if len(name) <= _NAME_CHARACTERS else f"{name[:_NAME_CHARACTERS]}…"
            near = get_close_matches(name, self._entries, _NEAREST, 0.4) or sorted(self._entries)[:_NEAREST]
            hint = f" Nearest: {', '.join(near)}." if near else " No model is loaded."
            raise ModelNotFound(f"The model '{name}' does not exist.{hint}", param="model")
        return entry

    def openai(self, name: str) -> EngineModel:
        """Raises `ModelNotFound`, `ModelNotReady`."""
        return self._usable(self.find(name))

    def offering(self, name: str, capability: Capability) -> tuple[Entry, EngineModel]:
        """The entry and its model. Raises `ModelNotFound`, `UnsupportedOperation`, `ModelNotReady`."""
        entry = self.find(name)
        model = self._usable(entry)
        if capability not in model.capabilities:
            offered = ", ".join(sorted(item.value for item in model.capabilities))
            raise UnsupportedOperation(
                f"The model '{name}' does not support {capability.value}; it supports: {offered}.", param="model"
            )
        if not model.ready():
            status = entry.status
            reason = f": {status.reason}" if status.reason else ""
            raise ModelNotReady(
                f"The model '{name}' is not ready ({status.state.value}){reason}.", retry_after_seconds=_RESTART_SECONDS
            )
        return entry, model

    def connections(self) -> dict[str, tuple[int, int]]:
        """Upstream connections by model: (in use, idle)."""
        return {name: entry.model.connections() for name, entry in self._entries.items() if entry.model is not None}

    def close(self) -> None:
        for entry in self._entries.values():
            if entry.model is not None:
                entry.model.close()

    def _usable(self, entry: Entry) -> EngineModel:
        if entry.model is None:
            name, reason = entry.status.config.name, entry.status.reason
            raise ModelNotReady(f"The model '{name}' could not be loaded: {reason}")
        return entry.model

    def _load(self, status: ModelStatus, before: Entry | None) -> Entry:
        endpoints = Endpoints(status.endpoints)
        config = status.config
        model = None
        if config.backend and status.endpoints:
            try:
                model = self._connect_kind(config.backend)(config, endpoints, self)
            except ServingError as error:
                status = msgspec.structs.replace(status, state=State.FAILED, reason=error.message)
                if before is None or before.status.reason != error.message:
                    _log.warning("%s: %s", config.name, error.message)
        permits = None if model is None else model.parallelism
        if permits is not None:
            permits = max(1, -(-permits // self._share))  # rounded up: an engine queues the odd one itself
        return Entry(status, model, Gate(config.name, permits, self._max_queue_size), endpoints)
