"""The words everybody uses: models, what they are asked, what they answer, where they are reached."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import msgspec

from backends.config import ModelConfig
from backends.errors import InferenceError, ModelNotReady, ServingError, UpstreamTimeout
from backends.statistics import ModelStatistics
from backends.tensors import Buffer, Tensor
from backends.trace import Trace

Headers = Sequence[tuple[bytes, bytes]]
"""HTTP header fields in order, names in lower case."""

_NO_CHARACTER = re.compile("[\ud800-\udfff]")


def legible(text: str) -> str:
    """A client's text as it can be sent on: U+FFFD for each byte that was no UTF-8, and for half a surrogate pair."""
    return text if text.isascii() else _NO_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", text)


class Capability(StrEnum):
    """An operation of the OpenAI surface that a model may offer."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RESPONSES = "responses"
    MESSAGES = "messages"
    COUNT_TOKENS = "count_tokens"
    RERANK = "rerank"
    SCORE = "score"
    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"
    RETRIEVE = "retrieve"


ENGINE_CAPABILITIES = frozenset(Capability) - {Capability.RETRIEVE}
"""What an engine may offer: passages without an answer are a pipeline's."""


class State(StrEnum):
    """The life of an endpoint, and of the model it serves: what the supervisor last saw."""

    STARTING = "STARTING"
    READY = "READY"
    UNHEALTHY = "UNHEALTHY"
    RESTARTING = "RESTARTING"
    FAILED = "FAILED"
    DRAINING = "DRAINING"
    STOPPED = "STOPPED"


class Endpoint(msgspec.Struct, frozen=True):
    """An address that serves one model: `unix:/path.sock`, `http://host:port[/base]` or `https://…`."""

    id: str
    address: str
    state: State = State.STARTING
    restarts: int = 0
    weight: float = 1.0
    """Its share of the work under the policy `weighted`, against the others' weights."""


class Load(msgspec.Struct, frozen=True):
    """What an engine says of its own work: requests that wait and that run, the share of its KV cache in use (0-1)."""

    waiting: float = 0.0
    running: float = 0.0
    kv_usage: float = 0.0


class Endpoints:
    """The endpoints of one model as of the last snapshot, and their loads, by id, as of the last look at them.

    The registry replaces both; models read them.
    """

    __slots__ = ("current", "loads")

    def __init__(self, current: tuple[Endpoint, ...] = (), loads: Mapping[str, Load] | None = None) -> None:
        self.current = current
        self.loads: Mapping[str, Load] = {} if loads is None else loads


@dataclass(slots=True)
class Pipelined:
    """What a pipeline did for a request, filled in as it goes: seconds by step, and by step why it was done without.

    `unknown_markers` counts citations of passages that there are not.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    degraded: dict[str, str] = field(default_factory=dict)
    unknown_markers: int = 0
    abstained: bool = False


@dataclass(slots=True)
class Route:
    """How a request found its engine, filled in by the model as it goes: for headers, counters and decision logs."""

    policy: str = ""
    reason: str = ""
    """Why this endpoint, in a word or two: `only`, `prefix`, `over its bound`, `retry`."""
    endpoint: str = ""
    """Id of the endpoint that answers; that of the last attempt where none does."""
    retries: int = 0
    hedges: int = 0
    resumes: int = 0
    ejections: int = 0
    failures: list[str] = field(default_factory=list)
    """What became of the attempts that came to nothing: `ENDPOINT: why`."""
    pipelined: Pipelined | None = None


@dataclass(slots=True)
class OpenAIRequest:
    """A request of the OpenAI surface on its way to a model: bytes, and the few fields that were read from them.

    `path` comes without its `query`. `body` goes upstream as it is. `deadline` is in `time.monotonic()` seconds.
    `headers` are those to send upstream (request id, trace context), not all of the client's. `session` is what the
    client names its conversation by in a header, `tenant` whose key it brought. `prompt_tokens` and `output_tokens`
    are estimates of what it will cost. `priority` is a tensor model's: 1 goes first, 0 where its default is.
    """

    path: str
    body: bytes
    model: str
    stream: bool
    headers: Headers = ()
    deadline: float | None = None
    method: str = "POST"
    query: str = ""
    session: str = ""
    tenant: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0
    priority: int = 0
    route: Route = field(default_factory=Route)
    stall: Callable[[UpstreamTimeout], bool] | None = None
    """Set by the model while a stream waits for an engine: breaks the attempt off with this error, so that the model
    may try elsewhere. False: there is nothing to break off yet."""


Write = Callable[[bytes], Coroutine[Any, Any, None] | None]
"""Takes bytes at once. Returns None, or what to await before it is called again: back-pressure."""

Frame = Callable[[bytes, int, int], bool]
"""Offered one whole chunk of a chunked body (RFC 9112 §7.1), framing included, that carries one token's event and
nothing else; `chunk[start:end]` is the token's text as JSON writes it, without a quote in it. True: it was taken.
False: it comes to `Write` without its framing, as everything else does."""


class Body(Protocol):
    """The bytes of a response as they come, to be read by iterating or forwarded by `pump`, not by both.

    Either raises `UpstreamError` when the connection breaks before the end. Closing early aborts the work
    upstream; closing twice is harmless.
    """

    def __aiter__(self) -> AsyncIterator[bytes]: ...
    async def __anext__(self) -> bytes: ...
    async def pump(self, write: Write, frame: Frame | None = None) -> None:
        """Call `write` with all bytes, in order, as soon as they come; return at the end.

        What `write` raises comes out here. A body may offer tokens to `frame` first: that costs less.
        """
        ...

    async def aclose(self) -> None: ...


@dataclass(slots=True)
class OpenAIResponse:
    """An answer at its head. The holder closes `body`; closing early aborts the generation upstream.

    `headers` are those of the moment when the body's first bytes come, `trailers` (RFC 9110 §6.5) of its end.
    """

    status: int
    headers: Headers
    body: Body
    trailers: Headers = ()


def is_stream(headers: Headers) -> bool:
    """Whether an answer with these header fields is an event stream."""
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)


class Model(Protocol):
    """One loaded version of one entry of the model repository, seen from a server process."""

    config: ModelConfig
    capabilities: frozenset[Capability]
    parallelism: int | None
    """How many requests its endpoints run at once; None where that is not known (a remote server)."""

    def ready(self) -> bool:
        """Whether an endpoint can take a request now, as far as this process knows. No I/O."""
        ...

    def work(self) -> Mapping[str, int]:
        """Requests under way, by the address of their endpoint."""
        ...

    def connections(self) -> tuple[int, int]:
        """Upstream connections now: (in use, idle)."""
        ...

    def close(self) -> None:
        """Take no new work; what is under way ends as it would, and its connections with it."""
        ...


@runtime_checkable
class OpenAIModel(Model, Protocol):
    """Bytes in, bytes out."""

    session_header: bytes
    """The header field by which clients name their conversation to this model."""

    def lacking(self) -> ModelNotReady | None:
        """Why a request could not be sent at this moment, though it may be worth its wait; None where it could."""
        ...

    async def respond(self, request: OpenAIRequest) -> OpenAIResponse:
        """Send the request to an endpoint and return at the response head.

        Raises `ModelNotReady` with no ready endpoint, `UpstreamError` when none answered. Cancelling it aborts
        the request upstream.
        """
        ...


Scalar = bool | int | float | str


@dataclass(slots=True)
class InferRequest:
    """An inference on its way to a model, checked against the model's configuration by whoever took it in.

    `version` 0 is the latest. `outputs` are the names that are wanted, all where it is empty. `id` is the client's.
    `priority` and `timeout_us` are of the schedule policy extension, 0 where not given. `sequence_id` 0 or "": none.
    `deadline` is in `time.monotonic()` seconds. `traceparent` is the trace context (W3C), empty without one. `trace` is
    told what becomes of it, where that is wanted.
    """

    model: str
    inputs: list[Tensor]
    version: int = 0
    id: str = ""
    outputs: list[str] = field(default_factory=list)
    parameters: dict[str, Scalar] = field(default_factory=dict)
    priority: int = 0
    timeout_us: int = 0
    sequence_id: int | str = 0
    sequence_start: bool = False
    sequence_end: bool = False
    deadline: float | None = None
    traceparent: str = ""
    tenant: str = ""
    trace: Trace | None = None


@dataclass(slots=True)
class InferResponse:
    """One answer. `error` stands for its outputs; a decoupled model may go on after it.

    The last one is `final`; without outputs and error it stands for nothing but the end. `is_refusal`: the error came
    before the request was let wait for its model.
    """

    outputs: list[Tensor] = field(default_factory=list)
    parameters: dict[str, Scalar] = field(default_factory=dict)
    error: InferenceError | None = None
    final: bool = True
    is_refusal: bool = False

    @property
    def is_empty(self) -> bool:
        return not self.outputs and self.error is None


class Responses(Protocol):
    """The answers to one request, in order, up to the final one. Closing early cancels the work; twice is harmless."""

    def __aiter__(self) -> AsyncIterator[InferResponse]: ...
    async def __anext__(self) -> InferResponse:
        """Raises `ServingError` where the model, or the way to it, failed: nothing comes after that."""
        ...

    async def aclose(self) -> None: ...


@runtime_checkable
class Listenable(Responses, Protocol):
    """Responses that can be listened to, where there is one."""

    def listen(self, listener: Callable[[InferResponse | ServingError], None]) -> None:
        """Tell the one answer in the turn that brings it, or why there is none, instead of iterating.

        The listener is called once, later than this returns, and must not raise.
        """
        ...

    def leave(self) -> None:
        """As `aclose`, at once."""
        ...


@dataclass(slots=True)
class Begun:
    """A request of the OpenAI surface that one inference answers. The holder listens to `responses`, or leaves.

    `word` makes of what was inferred the whole answer, as JSON, and how many tokens the prompt had. It raises
    `ServingError`, also for one that came in the place of an answer.
    """

    responses: Listenable
    word: Callable[[InferResponse | ServingError], tuple[bytes, int]]


class ListenableModel(OpenAIModel, Protocol):
    """An `OpenAIModel` whose answers can be listened to, where one inference makes them."""

    def begin(self, request: OpenAIRequest) -> Begun | None:
        """Begin to answer, as `respond` does; None, and nothing was done, where it takes more than one inference.

        Raises `ServingError`.
        """
        ...


@runtime_checkable
class TensorModel(Model, Protocol):
    """Tensors in, tensors out: one response, or none to many where `config.model_transaction_policy.decoupled`."""

    def infer(self, request: InferRequest) -> Responses:
        """Begin the work; it is sent at once, not at the first `__anext__`. The holder closes what is returned.

        Raises `ModelNotReady` where nothing can take it, `InferenceError` where it is refused at once.
        """
        ...

    async def statistics(self) -> ModelStatistics:
        """What this model has done, as far as its processes alive count it. Raises `Unavailable`."""
        ...


@runtime_checkable
class Counted(Model, Protocol):
    """A model that each server process counts for itself, since no process of its own does."""

    counted: ModelStatistics


@runtime_checkable
class Holdable(Model, Protocol):
    """A model that a request may hold though it will ask only later: while `held` is not 0 it has work under way."""

    held: int


class ModelControl(Protocol):
    """Loading and unloading, for models that ask for it. Both raise `ServingError`."""

    async def load(self, name: str, config: str, files: Mapping[str, Buffer]) -> None:
        """Return when the model is ready. `config` and `files` are as in the model repository extension, or empty."""
        ...

    async def unload(self, name: str, *, unload_dependents: bool) -> None: ...


class Models(Protocol):
    """What a model may call; the registry is one. Both raise `ServingError` where there is no such model to use."""

    control: ModelControl | None
    """None where models may load and unload none."""

    def openai(self, name: str) -> OpenAIModel: ...
    def tensor(self, name: str, version: int = 0) -> TensorModel:
        """The version of a model, 0 for the latest. Whoever holds it may go on using it after a change."""
        ...
