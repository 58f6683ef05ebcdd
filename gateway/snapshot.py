"""Messages between the supervisor and its server processes: msgpack over a socket pair."""

from __future__ import annotations

from typing import Literal

import msgspec

from backends.config import ModelConfig
from backends.model import Endpoint, Load, State


class ModelStatus(msgspec.Struct, frozen=True):
    """One model as the supervisor sees it. `reason` says why it is not ready, for people."""

    config: ModelConfig
    state: State
    reason: str = ""
    endpoints: tuple[Endpoint, ...] = ()
    context_length: int | None = None
    created: int = 0
    is_known: bool = True
    """False: its configuration cannot be used, and to KServe's clients it is as if it was not there."""


class Snapshot(msgspec.Struct, frozen=True, tag="snapshot"):
    """Supervisor → server process: every model with its endpoints; replaces the snapshot before."""

    models: tuple[ModelStatus, ...]
    settled: bool
    """Whether every model has been loaded or has failed once since the start."""
    past: dict[str, tuple[int, ...]] = {}
    """Versions that are not served any more, by name."""
    number: int = 0
    """Counts the snapshots, so that an account can say which one it was made under."""


class Loads(msgspec.Struct, frozen=True, tag="loads"):
    """Supervisor → server process: what engines say of their own work, by endpoint id; replaces those before."""

    loads: dict[str, Load]


class Reload(msgspec.Struct, frozen=True, tag="reload"):
    """Supervisor → server process: read the files that you read yourself (API keys) once more."""


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Supervisor → server process: take no new work, finish what is under way within `seconds`, exit 0."""

    seconds: float


class Scrape(msgspec.Struct, frozen=True, tag="scrape"):
    """Supervisor → server process: send your counters."""

    id: int


class Counters(msgspec.Struct, frozen=True, tag="counters"):
    """Server process → supervisor: the answer to a scrape; `payload` is telemetry's own encoding."""

    id: int
    payload: bytes


class Serving(msgspec.Struct, frozen=True, tag="serving"):
    """Server process → supervisor: the socket is being accepted from and the first snapshot is in."""

    pid: int


class Inspect(msgspec.Struct, frozen=True, tag="inspect"):
    """Supervisor → server process: give an account of what is under way, and of so many decisions."""

    id: int
    decisions: int = 0


class Account(msgspec.Struct, frozen=True, tag="account"):
    """Server process → supervisor: the answer to `Inspect`.

    `in_flight` counts requests by their endpoint's address, `queues` those of a model that have a permit, and those
    that wait for one by tenant. `decisions` are JSON objects, the newest last.
    """

    id: int
    snapshot: int
    in_flight: dict[str, int] = {}
    queues: dict[str, Queue] = {}
    decisions: list[bytes] = []


class Queue(msgspec.Struct, frozen=True):
    """One model's requests in one server process."""

    running: int
    waiting: dict[str, int]


class LoadOrder(msgspec.Struct, frozen=True):
    """How a model is to be loaded or unloaded: a configuration in JSON and files in the place of the repository's.

    `files` are, by their path in the model's folder, where they lie until this is answered. `with_parts`: unload those
    too that were loaded for it alone.
    """

    config: str | None = None
    files: dict[str, str] = {}
    with_parts: bool = False


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """Server process → supervisor: do or tell something; `subject` is a model's name, or how much of an answer."""

    id: int
    action: Action
    subject: str = ""
    order: LoadOrder = LoadOrder()


class Told(msgspec.Struct, frozen=True, tag="told"):
    """Supervisor → server process: the answer to `Ask`, as JSON; or the class of the error and its message.

    `status` is Triton's code of an `InferenceError`.
    """

    id: int
    answer: bytes = b""
    error: str = ""
    message: str = ""
    status: str = ""


Action = Literal[
    "load",
    "unload",
    "drain",
    "reload",
    "endpoints",
    "queue",
    "decisions",
    "models",
    "statistics",
    "index",
    "kserve_load",
    "kserve_unload",
]
ToServer = Snapshot | Loads | Reload | Drain | Scrape | Inspect | Told
ToSupervisor = Counters | Serving | Account | Ask
