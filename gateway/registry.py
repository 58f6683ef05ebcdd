"""Models by name, built from the supervisor's last snapshot."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

import msgspec

from backends.config import ModelConfig
from backends.engine import naming
from backends.engine.naming import Naming
from backends.engine.replicas import EngineModel
from backends.errors import (
    Code,
    InferenceError,
    ModelNotFound,
    ModelNotReady,
    ServingError,
    Unavailable,
    UnsupportedOperation,
)
from backends.model import (
    Capability,
    Counted,
    Endpoint,
    Endpoints,
    Load,
    Model,
    ModelControl,
    Models,
    OpenAIModel,
    State,
    TensorModel,
)
from backends.statistics import ModelStatistics
from ensembles.library import Library
from gateway.admission import Gate
from gateway.snapshot import ModelStatus, Snapshot

_log = logging.getLogger(__name__)

Connect = Callable[[ModelConfig, Endpoints, Models], Model]
"""A kind's `connect`."""

_NEAREST = 3
_NAME_CHARACTERS = 128
_RESTART_SECONDS = 2.0


@dataclass(slots=True)
class Entry:
    """One version of a model in this server process. `model` is None where it cannot be used: `status.reason` says why.

    `share` is how many requests one of its endpoints runs at once, None where nobody knows.
    """

    status: ModelStatus
    model: Model | None
    gate: Gate
    endpoints: Endpoints
    naming: Naming = field(default_factory=Naming)
    share: float | None = None


class Registry:
    """What this server process knows of the models. `connect_kind` finds a backend's `connect` by the backend's name.

    `share` is how many server processes divide each model's permits among them. `has_quantiles`: models that are
    counted here have what quantiles of their latencies are made of.
    """

    def __init__(
        self,
        connect_kind: Callable[[str], Connect],
        *,
        share: int,
        max_queue_size: int,
        has_quantiles: bool = False,
    ) -> None:
        self._connect_kind = connect_kind
        self._has_quantiles = has_quantiles
        self._share = share
        self._max_queue_size = max_queue_size
        self._entries: dict[str, Entry] = {}
        self._versions: dict[str, dict[int, Entry]] = {}
        self._past: Mapping[str, tuple[int, ...]] = {}
        self._aliases: dict[str, str] = {}
        self._retired: list[Model] = []
        self._loads: Mapping[str, Load] = {}
        self.settled = False
        self.control: ModelControl | None = None
        self._library: Library | None = None
        self.snapshot_number = 0

    @property
    def library(self) -> Library:
        """The files and vector stores. Raises `Unavailable` where the packages that they need are not installed."""
        if self._library is None:
            raise Unavailable(
                "Files and vector stores need packages that are not installed here: pip install 'tritium[rag]'."
            )
        return self._library

    @library.setter
    def library(self, library: Library) -> None:
        self._library = library

    def context_length(self, name: str) -> int | None:
        """Of a model and each of its answers together, as far as it says."""
        entry = self._entries.get(self._aliases.get(name, name))
        return None if entry is None else entry.status.context_length

    def apply(self, snapshot: Snapshot) -> None:
        """Take over a snapshot. An unchanged configuration keeps its connections.

        A changed one keeps its queue, and requests under way keep the model that they have. A model whose kind cannot
        connect to it becomes `FAILED` with the reason; the others are served. A name stands for its last version.
        """
        self.settled = snapshot.settled
        self._past = snapshot.past
        before, last = self._versions, self._entries
        versions: dict[str, dict[int, Entry]] = {}
        for status in snapshot.models:
            name, version = status.config.name, status.config.version
            entry = before.get(name, {}).get(version)
            if entry is not None and entry.model is not None and entry.status.config == status.config:
                entry.status = status
                entry.endpoints.current = status.endpoints
            else:
                entry = self._load(status, entry or last.get(name))
            entry.gate.resize(self._permits(entry))
            versions.setdefault(name, {})[version] = entry
        self._versions = versions
        self._entries = {name: _latest(entries) for name, entries in versions.items()}
        self._aliases = {alias: name for name, entry in self._entries.items() for alias in entry.naming.aliases}
        self.snapshot_number = snapshot.number
        self._retired = [model for model in self._retired if any(model.work().values())]
        for name, entries in before.items():
            for version, entry in entries.items():
                if entry.model is not None and versions.get(name, {}).get(version) is not entry:
                    self._retired.append(entry.model)
                    entry.model.close()
                    if name not in versions:  # not forgotten: streams are under way there
                        entry.endpoints.current = tuple(map(_draining, entry.endpoints.current))

    def hear(self, loads: Mapping[str, Load]) -> None:
        """What engines say of their own work, by endpoint id."""
        self._loads = loads
        for entry in self._all():
            entry.endpoints.loads = loads

    def work(self) -> Counter[str]:
        """Requests under way, by the address of their endpoint; those of models that were replaced included."""
        counts: Counter[str] = Counter()
        models = [entry.model for entry in self._all() if entry.model is not None]
        for model in (*models, *self._retired):
            counts.update(model.work())
        return counts

    def served_name(self, name: str) -> str:
        """The model's own name where `name` is an alias."""
        return self._aliases.get(name, name)

    def entries(self) -> Mapping[str, Entry]:
        return self._entries

    def find(self, name: str) -> Entry:
        """Raises `ModelNotFound` listing the nearest names."""
        entry = self._entries.get(self._aliases.get(name, name))
        if entry is None:
            # A name may be as long as a body may: neither compared nor repeated at that length.
            name = name if len(name) <= _NAME_CHARACTERS else f"{name[:_NAME_CHARACTERS]}…"
            known = [*self._entries, *self._aliases]
            near = get_close_matches(name, known, _NEAREST, 0.4) or sorted(self._entries)[:_NEAREST]
            hint = f" Nearest: {', '.join(near)}." if near else " No model is loaded."
            raise ModelNotFound(f"The model '{name}' does not exist.{hint}", param="model")
        return entry

    def openai(self, name: str) -> OpenAIModel:
        """Raises `ModelNotFound`, `ModelNotReady`, `UnsupportedOperation`."""
        entry = self.find(name)
        model = self._usable(entry)
        if not isinstance(model, OpenAIModel):
            raise UnsupportedOperation(f"The model '{name}' has no OpenAI operation.", param="model")
        return model

    def tensor(self, name: str, version: int = 0) -> TensorModel:
        """A version of a model, 0 for the latest; ready or not. Raises `InferenceError` in Triton's words."""
        entry = self.version(name, version)
        model = entry.model
        if model is None:
            raise InferenceError(f"Request for unknown model: '{name}' has no available versions", Code.NOT_FOUND)
        if not isinstance(model, TensorModel):
            raise InferenceError(f"Model '{name}' takes no tensors", Code.UNSUPPORTED)
        return model

    def version(self, name: str, version: int = 0) -> Entry:
        """The entry of a version, 0 for the latest. Raises `InferenceError` in Triton's words."""
        name = self._aliases.get(name, name)
        entries = self._versions.get(name, {})
        is_known = any(entry.status.is_known for entry in entries.values())
        what = f"Request for unknown model: '{name}'"
        if not is_known and name not in self._past:
            raise InferenceError(f"{what} is not found", Code.NOT_FOUND)
        entry = None
        if is_known:
            entry = entries.get(version) if version else self._entries[name]
        if entry is not None:
            return entry
        if not version:
            raise InferenceError(f"{what} has no available versions", Code.NOT_FOUND)
        if version in self._past.get(name, ()):
            raise InferenceError(f"{what} version {version} is not at ready state", Code.UNAVAILABLE)
        raise InferenceError(f"{what} version {version} is not found", Code.NOT_FOUND)

    def versions(self) -> Mapping[str, Mapping[int, Entry]]:
        """Every version of every model, by name."""
        return self._versions

    def offering(self, name: str, capability: Capability) -> tuple[Entry, OpenAIModel]:
        """The entry and its model. Raises `ModelNotFound`, `UnsupportedOperation`, `ModelNotReady`."""
        entry = self.find(name)
        return entry, self.usable(entry, capability)

    def usable(self, entry: Entry, capability: Capability) -> OpenAIModel:
        """The model of an entry. Raises `UnsupportedOperation`, `ModelNotReady`."""
        model = self._usable(entry)
        name = entry.status.config.name
        if capability not in model.capabilities or not isinstance(model, OpenAIModel):
            offered = ", ".join(sorted(item.value for item in model.capabilities))
            raise UnsupportedOperation(
                f"The model '{name}' does not support {capability.value}; it supports: {offered or 'none'}.",
                param="model",
            )
        if not model.ready():
            status = entry.status
            reason = f": {status.reason}" if status.reason else ""
            raise ModelNotReady(
                f"The model '{name}' is not ready ({status.state.value}){reason}.", retry_after_seconds=_RESTART_SECONDS
            )
        return model

    def offers(self, name: str, capability: Capability) -> bool:
        """Whether there is a model of this name that can do it, ready or not."""
        entry = self._entries.get(self._aliases.get(name, name))
        return entry is not None and entry.model is not None and capability in entry.model.capabilities

    def connections(self) -> dict[str, tuple[int, int]]:
        """Upstream connections by model: (in use, idle)."""
        return {name: entry.model.connections() for name, entry in self._entries.items() if entry.model is not None}

    def statistics(self) -> dict[tuple[str, int], ModelStatistics]:
        """What models have done that are counted in this process, by name and version."""
        counted = {}
        for entry in self._all():
            model = entry.model
            if isinstance(model, Counted):
                counted[model.config.name, model.config.version] = model.counted
        return counted

    def close(self) -> None:
        for entry in self._all():
            if entry.model is not None:
                entry.model.close()

    def _all(self) -> Iterator[Entry]:
        return (entry for entries in self._versions.values() for entry in entries.values())

    def _usable(self, entry: Entry) -> Model:
        if entry.model is None:
            name, reason = entry.status.config.name, entry.status.reason
            raise ModelNotReady(f"The model '{name}' could not be loaded: {reason}")
        return entry.model

    def _load(self, status: ModelStatus, before: Entry | None) -> Entry:
        config = status.config
        if before is not None and before.status.config.backend == config.backend:
            endpoints = before.endpoints  # requests that wait for their permit find the endpoints of now
            endpoints.current = status.endpoints
        else:
            endpoints = Endpoints(status.endpoints, self._loads)
        model = None
        names = Naming()
        if config.backend and (status.endpoints or status.state is State.READY):
            try:
                names = naming.read(config)
                model = self._connect_kind(config.backend)(config, endpoints, self)
            except ServingError as error:
                status = msgspec.structs.replace(status, state=State.FAILED, reason=error.message)
                if before is None or before.status.reason != error.message:
                    _log.warning("%s: %s", config.name, error.message)
        parallelism = None if model is None else model.parallelism
        share = None if parallelism is None else parallelism / max(1, len(status.endpoints))
        gate = Gate(config.name, None, self._max_queue_size) if before is None else before.gate
        if isinstance(model, EngineModel):
            model.gate = gate
        if self._has_quantiles and isinstance(model, Counted):
            model.counted.recent = {}
        return Entry(status, model, gate, endpoints, names, share)

    def _permits(self, entry: Entry) -> int | None:
        """This process's part of what the endpoints run at once, rounded up: an engine queues the odd one itself."""
        if entry.share is None:
            return None
        live = sum(endpoint.state is not State.DRAINING for endpoint in entry.status.endpoints)
        return max(1, math.ceil(entry.share * max(1, live) / self._share))


def _latest(entries: Mapping[int, Entry]) -> Entry:
    """The last version that is ready, else the last one that can be used, else the last one."""
    usable = [version for version, entry in entries.items() if entry.model is not None]
    ready = [version for version in usable if entries[version].status.state is State.READY]
    return entries[max(ready or usable or entries)]


def _draining(endpoint: Endpoint) -> Endpoint:
    return msgspec.structs.replace(endpoint, state=State.DRAINING)
