"""What server processes, a worker's host and its instances say to each other; tensors' bytes follow each message.

Either end of a link may ask (`Infer`, answered by `Respond`s up to the final one): a model that calls another one asks
its host, which asks a server process. Ids are those of the end that asks.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from backends.statistics import ModelStatistics

Scalar = bool | int | float | str


class TensorHead(msgspec.Struct, array_like=True, frozen=True):
    """A tensor without its bytes, which follow the message in the order of its heads."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    size_bytes: int


class Infer(msgspec.Struct, array_like=True, tag="infer"):
    """Ask a model. `version` 0: the latest. `outputs` empty: all. `timeout_us` 0: none. `sequence_id` 0 or "": none.

    `parent` is the id of the request (as the other end knows it) in whose course a model asks, 0 outside of any.
    `single`: a model asks that takes one response, so that a decoupled model has to be refused. `traced`: the last
    answer shall say when what happened.
    """

    id: int
    model: str
    version: int
    request_id: str
    inputs: list[TensorHead]
    outputs: list[str]
    parameters: dict[str, Scalar] = {}
    priority: int = 0
    timeout_us: int = 0
    sequence_id: int | str = 0
    sequence_start: bool = False
    sequence_end: bool = False
    parent: int = 0
    traceparent: str = ""
    single: bool = False
    traced: bool = False


class Cancel(msgspec.Struct, array_like=True, tag="cancel"):
    """Whoever asked `id` wants no more of it. What comes of it still may come; the final response must."""

    id: int


class Pace(msgspec.Struct, array_like=True, tag="pace"):
    """Whoever asked `id` reads its answers slower than they come: send none while `paused`, until told otherwise.

    A few that were on their way still may come. What cannot wait (its answers are all there) may ignore it.
    """

    id: int
    paused: bool


class Respond(msgspec.Struct, array_like=True, tag="respond"):
    """An answer to `Infer`. `error` is empty or one of `backends.errors.Code`, `message` its text.

    The last answer is `final`; it may be empty (no outputs, no error) and stands for nothing but the end then. `times`
    of what was traced: when it began to wait, was executed (0: never) and was answered, in monotonic nanoseconds.
    `refused`: the request was not even let wait.
    """

    id: int
    outputs: list[TensorHead] = []
    parameters: dict[str, Scalar] = {}
    final: bool = True
    error: str = ""
    message: str = ""
    times: tuple[int, ...] = ()
    refused: bool = False


class Control(msgspec.Struct, array_like=True, tag="control"):
    """Instance → host → server process: model control from within a model; answered by one empty `Respond`.

    `config` is Triton's JSON to load with, `files` name what follows as the model's files (`file:1/model.py`), both as
    in the model repository extension. `is_ready` is answered with the parameter `ready`.
    """

    id: int
    what: Literal["load", "unload", "is_ready"]
    model: str
    version: int = 0
    config: str = ""
    files: list[TensorHead] = []
    unload_dependents: bool = False


class Status(msgspec.Struct, array_like=True, tag="status"):
    """Host → server process, at once and at every change: whether an instance can work, and how many do."""

    ready: bool
    alive: int
    reason: str = ""


class Ask(msgspec.Struct, array_like=True, tag="ask"):
    """Server process or supervisor → host: tell something."""

    id: int
    what: Literal["statistics"]


class Told(msgspec.Struct, array_like=True, tag="told"):
    """Host → whoever asked."""

    id: int
    statistics: ModelStatistics


class Load(msgspec.Struct, array_like=True, tag="load"):
    """Host → instance, first: load the model. `config` is the JSON of its `ModelConfig`.

    With `completes`, an instance first completes the configuration from the model itself, as Triton does without
    `--disable-auto-complete-config`, and answers with `Completed`; then it goes on to load. `kind` is `CPU`, `GPU` or
    `MODEL`, `device` a GPU's number, -1 for the CPU.
    """

    config: bytes
    instance: str
    kind: str
    device: int
    completes: bool


class Completed(msgspec.Struct, array_like=True, tag="completed"):
    """Instance → host: Triton's JSON of the configuration, completed from the model."""

    document: str


class Loaded(msgspec.Struct, array_like=True, tag="loaded"):
    """Instance → host: it waits for work."""


class Failed(msgspec.Struct, array_like=True, tag="failed"):
    """Instance → host: the model cannot be loaded; `message` is worded as Triton words it. It exits."""

    message: str


class Execute(msgspec.Struct, array_like=True, tag="execute"):
    """Host → instance: one batch. Each member is answered by `Respond`; the whole by `Executed`, in either order."""

    requests: list[Infer]


class Executed(msgspec.Struct, array_like=True, tag="executed"):
    """Instance → host: it can take the next batch. Nanoseconds that it spent; answers may still come (decoupled).

    `failed`: the model's `execute` raised, or gave no usable answers, so that every member of the batch failed; one
    that the model itself answered with an error did not. `again`: members that the model wants in another batch before
    it answers them to the end.
    """

    compute_input_ns: int = 0
    compute_infer_ns: int = 0
    compute_output_ns: int = 0
    failed: bool = False
    again: list[int] = []


class Metric(msgspec.Struct, array_like=True, frozen=True):
    """One value of a model's own metrics; a histogram has `buckets` (upper bounds) and `counts`, `value` is its sum."""

    family: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    labels: dict[str, str]
    value: float
    buckets: list[float] = []
    counts: list[int] = []


class Metrics(msgspec.Struct, array_like=True, tag="metrics"):
    """Instance → host, after a batch that changed them: the model's own metrics, all of them."""

    metrics: list[Metric]


Message = (
    Infer
    | Cancel
    | Pace
    | Respond
    | Control
    | Status
    | Ask
    | Told
    | Load
    | Completed
    | Loaded
    | Failed
    | Execute
    | Executed
    | Metrics
)
