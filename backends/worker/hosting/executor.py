"""Requests of a model on their way through its instances: scheduled, executed, answered, counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from backends.config import ModelConfig
from backends.errors import Code, InferenceError
from backends.tensors import Buffer, Tensor
from backends.worker.frames import heads, tensors
from backends.worker.hosting.cache import Cache, key_of
from backends.worker.hosting.counters import Counters, Reason
from backends.worker.hosting.tokenization import Tokenization, tokenization_of
from backends.worker.link import Link
from backends.worker.messages import Cancel, Execute, Executed, Infer, Pace, Respond
from backends.worker.options import TIMEOUT_PARAMETER, execution_timeout_seconds
from backends.worker.scheduling.batcher import Batch, Entry, Scheduler

_NOTHING = memoryview(b"")


class Asker(Protocol):
    """Who asks: a connection from a server process. `requests` are its own, by its ids, until their final answer."""

    requests: dict[int, Request]

    def answer(self, respond: Respond, payload: Buffer) -> None: ...


class Worker(Protocol):
    """An instance that has loaded the model. `running` are the requests that it has, by the ids that it knows."""

    number: int
    name: str
    link: Link
    running: dict[int, Request]
    batch: Batch | None
    began_ns: int
    overtime: asyncio.TimerHandle | None

    def kill(self, reason: str) -> None:
        """End it at once; `reason` follows 'the instance' in what its requests are told."""
        ...


@dataclass(slots=True)
class Request:
    """A request in this process: whose, under which id of theirs, and how far it is."""

    asker: Asker
    id: int
    entry: Entry
    worker: Worker | None = None
    is_answered: bool = False
    is_retried: bool = False
    is_paused: bool = False
    """Whoever asked said that it reads its answers too slowly."""
    key: bytes | None = None
    lookup_ns: int = 0
    began_ns: int = 0


class Executor:
    """The requests of one model. Everything happens in the event loop's thread, and nothing here waits."""

    def __init__(
        self, config: ModelConfig, scheduler: Scheduler, counters: Counters, cache: Cache | None = None
    ) -> None:
        self.counters = counters
        self._refusal: InferenceError | None = None
        self._drained = asyncio.Event()
        self._config = config
        self._scheduler = scheduler
        self._has_batches = config.max_batch_size > 0
        self._is_decoupled = config.model_transaction_policy.decoupled
        self._is_idempotent = config.parameters.get("idempotent") == "true"
        self._cache = None if self._is_decoupled or config.sequence_batching is not None else cache
        self.tokenization = tokenization_of(config)
        self._tokenizing: set[asyncio.Task[None]] = set()
        self._limit_seconds = execution_timeout_seconds(config)
        self._idle: list[Worker] = []
        self._under_way = 0
        self._next_id = 1
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns: int | None = None

    @property
    def waiting(self) -> int:
        """Requests that wait for an instance."""
        return self._scheduler.waiting

    async def drain(self) -> None:
        """Take no new work, and wait until all that was taken is answered."""
        self._refusal = InferenceError(f"The model '{self._config.name}' is stopping.", Code.UNAVAILABLE)
        if self._under_way:
            await self._drained.wait()

    def abandon(self, requests: Iterable[Request], reason: str) -> None:
        """The model will not run again: answer these requests, all there are, and all that come, with that."""
        text = f"The model '{self._config.name}' has failed: {reason}"
        self._refusal = refusal = InferenceError(text, Code.UNAVAILABLE)
        for request in tuple(requests):
            self._scheduler.cancel(request.entry)
            self._refuse(request, refusal, Reason.BACKEND)

    # what server processes say

    def infer(self, asker: Asker, infer: Infer, payload: memoryview) -> None:
        """Take a request in: it is answered at once, executed, or waits."""
        now_ns = time.monotonic_ns()
        inputs = infer.inputs
        rows = inputs[0].shape[0] if self._has_batches and inputs and inputs[0].shape else 1
        request = Request(asker, infer.id, Entry(infer, tensors(inputs, payload), rows, now_ns))
        request.entry.owner = request
        asker.requests[infer.id] = request
        infer.id = self._next_id
        self._next_id += 1
        self._under_way += 1
        if self._refusal is not None:
            self._refuse(request, self._refusal)
            return
        if self._cache is not None and self._answer_from_cache(self._cache, request, now_ns):
            return
        if self.tokenization is not None:
            self._tokenize(self.tokenization, request, now_ns)
        else:
            self._schedule(request, now_ns)

    def _tokenize(self, tokenization: Tokenization, request: Request, now_ns: int) -> None:
        """Make tokens of texts: at once, or in a thread where they are long."""
        entry = request.entry
        if tokenization.is_long(entry.tensors):
            task = asyncio.get_running_loop().create_task(self._tokenize_long(tokenization, request))
            self._tokenizing.add(task)
            task.add_done_callback(self._tokenizing.discard)
            return
        try:
            tokenization.replace(entry)
        except InferenceError as error:
            self._refuse(request, error)
            return
        self._schedule(request, now_ns)

    async def _tokenize_long(self, tokenization: Tokenization, request: Request) -> None:
        try:
            await asyncio.to_thread(tokenization.replace, request.entry)
        except InferenceError as error:
            self._refuse(request, error)
            return
        if request.entry.is_cancelled:
            self._refuse(request, InferenceError("Request was cancelled", Code.CANCELLED), Reason.CANCELED)
            return
        self._schedule(request, time.monotonic_ns())

    def _schedule(self, request: Request, now_ns: int) -> None:
        try:
            self._scheduler.add(request.entry, now_ns)
        except InferenceError as error:
            self._refuse(request, error)
            return
        if self._idle:
            self._go_on(now_ns)
        else:
            self._set_timer()

    def cancel(self, request: Request) -> None:
        """Whoever asked wants no more of it."""
        if self._scheduler.cancel(request.entry):
            error = InferenceError("Request was cancelled", Code.CANCELLED)
            self._refuse(request, error, Reason.CANCELED)
            self._go_on(time.monotonic_ns())
        elif request.worker is not None:
            request.worker.link.send(Cancel(request.entry.infer.id))

    def pace(self, request: Request, is_paused: bool) -> None:
        """Whoever asked reads slower than answers come, or does no more."""
        if request.worker is not None:
            request.worker.link.send(Pace(request.entry.infer.id, is_paused))

    # what instances say

    def arrived(self, worker: Worker) -> None:
        """An instance can work."""
        self._idle.append(worker)
        self._go_on(time.monotonic_ns())

    def left(self, worker: Worker) -> None:
        """An instance is gone: it gets no more work. What it had is answered by `lost`."""
        if worker in self._idle:
            self._idle.remove(worker)

    def lost(self, worker: Worker, reason: str) -> None:
        """Why an instance is gone: what it had fails with that, or is tried again where that does no harm."""
        now_ns = time.monotonic_ns()
        self._scheduler.lost(worker.number, now_ns)
        worker.batch = None
        if worker.overtime is not None:
            worker.overtime.cancel()
        requests = list(worker.running.values())
        worker.running.clear()
        for request in requests:
            request.worker = None
            if self._is_idempotent and not (request.is_answered or request.is_retried or request.entry.is_cancelled):
                request.is_retried = True
                self._scheduler.retry(request.entry, now_ns)
                continue
            text = f"Failed to process the request(s) for model '{worker.name}', message: the instance {reason}"
            self._refuse(request, InferenceError(text, Code.UNAVAILABLE), Reason.BACKEND)
        self._go_on(now_ns)

    def respond(self, worker: Worker, respond: Respond, payload: memoryview) -> None:
        """An instance answers one of its requests."""
        running = worker.running
        request = running.pop(respond.id, None) if respond.final else running.get(respond.id)
        if request is None:
            return  # it fills an empty slot
        states = self._scheduler.states
        if states is not None and respond.outputs:
            kept = states.keep(request.entry, tensors(respond.outputs, payload))
            payload = _joined(kept)
            respond.outputs = heads(kept)
        if request.key is not None and not respond.error and self._cache is not None:
            began_ns = time.monotonic_ns()
            self._cache.insert(request.key, respond, payload)
            self.counters.inserted(time.monotonic_ns() - began_ns, request.lookup_ns)
        self._answer(request, respond, payload)

    def executed(self, worker: Worker, executed: Executed) -> None:
        """An instance has run its batch."""
        batch = worker.batch
        if batch is None:
            return
        worker.batch = None
        if worker.overtime is not None:
            worker.overtime.cancel()
        now_ns = time.monotonic_ns()
        self.counters.executed(batch, worker.began_ns, now_ns, executed)
        for key in executed.again:
            self._again(worker, key, now_ns)
        self._scheduler.done(worker.number, batch, now_ns)
        self._idle.append(worker)
        self._go_on(now_ns)

    # the course of things

    def _again(self, worker: Worker, key: int, now_ns: int) -> None:
        """The model wants a request in another batch before it answers it to the end."""
        request = worker.running.pop(key, None)
        if request is None:
            return
        request.worker = None
        if request.entry.is_cancelled:
            self._refuse(request, InferenceError("Request was cancelled", Code.CANCELLED), Reason.CANCELED)
        else:
            self._scheduler.again(request.entry, now_ns)

    def _begin(self, worker: Worker, batch: Batch, now_ns: int) -> None:
        worker.batch = batch
        worker.began_ns = now_ns
        running = worker.running
        for entry in batch.entries:
            request: Request = entry.owner
            request.worker = worker
            request.began_ns = now_ns
            running[entry.infer.id] = request
        worker.link.send(Execute(batch.messages), batch.tensors)
        if self._limit_seconds is not None:
            reason = f"was killed: it executed for longer than {TIMEOUT_PARAMETER} ({self._limit_seconds:g})"
            worker.overtime = asyncio.get_running_loop().call_later(self._limit_seconds, worker.kill, reason)

    def _go_on(self, now_ns: int) -> None:
        """Give each idle instance what it should run now."""
        idle = self._idle
        if idle:
            take = self._scheduler.take
            for worker in tuple(idle):
                batch = take(worker.number, now_ns)
                if batch is not None:
                    idle.remove(worker)
                    self._begin(worker, batch, now_ns)
        self._set_timer()

    def _set_timer(self) -> None:
        at_ns = self._scheduler.wake_at()
        if at_ns == self._timer_ns:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_ns = at_ns
        if at_ns is not None:
            delay_seconds = max(0, at_ns - time.monotonic_ns()) / 1e9
            self._timer = asyncio.get_running_loop().call_later(delay_seconds, self._wake)

    def _wake(self) -> None:
        self._timer = self._timer_ns = None
        now_ns = time.monotonic_ns()
        for entry, error in self._scheduler.expired(now_ns):
            self._refuse(entry.owner, error, Reason.REJECTED)
        self._go_on(now_ns)

    def _answer_from_cache(self, cache: Cache, request: Request, now_ns: int) -> bool:
        entry = request.entry
        if entry.infer.sequence_id:
            return False
        request.key = key_of(entry.infer, entry.tensors)
        found = cache.find(request.key)
        took_ns = time.monotonic_ns() - now_ns
        if found is None:
            request.lookup_ns = took_ns
            self.counters.missed(took_ns)
            return False
        request.key = None
        self.counters.hit(took_ns)
        self._answer(request, Respond(0, list(found.outputs), dict(found.parameters)), found.payload)
        return True

    def _refuse(self, request: Request, error: InferenceError, reason: Reason | None = None) -> None:
        """Answer a request that no instance has, or has any more. What never waited is not counted, as in Triton."""
        if reason is not None:
            self.counters.failed(request.entry, time.monotonic_ns(), reason)
        respond = Respond(0, error=error.status, message=error.message, refused=reason is None)
        self._answer(request, respond, _NOTHING)

    def _answer(self, request: Request, respond: Respond, payload: Buffer) -> None:
        ordering = self._scheduler.ordering
        if ordering is None:
            self._send(request, respond, payload)
            return
        for entry, (its_respond, its_payload) in ordering.release(request.entry, (respond, payload), respond.final):
            self._send(entry.owner, its_respond, its_payload)

    def _send(self, request: Request, respond: Respond, payload: Buffer) -> None:
        if not request.is_answered:
            request.is_answered = True
            if self._is_decoupled:
                self.counters.statistics.first_response(time.monotonic_ns() - request.entry.arrived_ns)
        if respond.final:
            if request.entry.infer.traced:
                respond.times = request.entry.arrived_ns, request.began_ns, time.monotonic_ns()
            if request.asker.requests.pop(request.id, None) is None:
                return  # it was answered when the model failed
            request.entry.owner = None  # the cycle would keep its tensors until the collector comes
            self._under_way -= 1
            if self._refusal is not None and not self._under_way:
                self._drained.set()
        respond.id = request.id
        request.asker.answer(respond, payload)


def _joined(kept: list[Tensor]) -> memoryview:
    return memoryview(b"".join(tensor.data for tensor in kept))
