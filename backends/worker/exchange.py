"""An instance's link to its host, shared by the threads of a model: whoever waits for something reads for all.

No thread exists for reading, so a batch costs no change of threads. A thread that waits (the loop for its next batch,
a call for its answer) reads unless another one does, hands to the others what is theirs, and passes the reading on when
it leaves. Who cannot wait (`Request.is_cancelled`) takes in what has come by then.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Sequence
from itertools import count
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from backends.errors import Code
from backends.tensors import Buffer, Tensor
from backends.worker.frames import BlockingLink, FrameError, pack, tensors
from backends.worker.messages import Cancel, Control, Execute, Executed, Infer, Load, Message, Pace, Respond


class Request:
    """A member of a batch: `head` as the host sent it, `inputs` as views of what was received.

    Whoever executes it sets `again` to have it in another batch: it has no final answer yet.
    """

    __slots__ = ("_exchange", "_gates", "again", "cancelled", "head", "inputs", "paused")

    def __init__(self, exchange: Exchange, head: Infer, inputs: list[Tensor]) -> None:
        self._exchange = exchange
        self.head = head
        self.inputs = inputs
        self.again = False
        self.cancelled = False
        self.paused = False
        self._gates: list[SimpleQueue[bool | None]] = []

    def is_cancelled(self) -> bool:
        """Whether whoever asked has left, as of now."""
        if not self.cancelled:
            self._exchange.poll()
        return self.cancelled

    def wait_for_reader(self) -> None:
        """Return once whoever asked can take another answer: at once unless it reads slower than answers come."""
        self._exchange.poll()
        while self._is_held():
            gate: SimpleQueue[bool | None] = SimpleQueue()
            self._gates.append(gate)
            # It may have been told between the question and the gate.
            if self._is_held():
                self._exchange.wait(gate)

    def pace(self, *, paused: bool) -> None:
        """Whoever asked can take no more answers for now, or can again."""
        self.paused = paused
        if not paused:
            self._open()

    def cancel(self) -> None:
        """Whoever asked has left."""
        self.cancelled = True
        self._open()

    def _is_held(self) -> bool:
        return self.paused and not self.cancelled

    def _open(self) -> None:
        while self._gates:
            self._gates.pop().put(True)


Thing = TypeVar("Thing")
Answer = tuple[Respond, Sequence[Tensor]]
Work = Load | list[Request]


class Box(Protocol):
    """Where the answers to a question are put, by any thread: a queue, or something that tells an event loop."""

    def put(self, answer: Answer | None, /) -> None: ...


class Exchange:
    """What a model's threads send and await. Every method may be called by any thread, `work` by one alone."""

    def __init__(self, link: BlockingLink) -> None:
        self._link = link
        self._sending = threading.Lock()
        self._deferred: deque[Message] = deque()
        self._reading = threading.Lock()
        self._waiting: dict[int, SimpleQueue[Any]] = {}
        self._work: SimpleQueue[Any] = SimpleQueue()
        self._ids = count(1)
        self._asked: dict[int, Box] = {}
        self._running: dict[int, Request] = {}
        self._attendant: threading.Thread | None = None

    def work(self) -> Work:
        """Wait for what is to be done next. Raises `EOFError` when the host is gone."""
        # As `wait`, but that a batch that this thread reads goes through no queue.
        if self._work.empty() and self._reading.acquire(blocking=False):
            try:
                message, payload = self._link.receive()
                if type(message) is Execute:
                    return self._batch(message, payload)
                self._deliver(message, payload)
            except EOFError:
                self._end()
                raise
            finally:
                self._reading.release()
                if self._waiting:
                    self._pass_on()
        work: Work = self.wait(self._work)
        return work

    def is_running(self, request: Request) -> bool:
        """Whether a request has no final answer yet."""
        return request.head.id in self._running

    def send(self, message: Message, tensors: Sequence[Tensor] = ()) -> None:
        """Send at once. Raises `OSError` when the host is gone."""
        if type(message) is Respond and message.final:
            self._running.pop(message.id, None)
        self._write(pack(message, tensors))

    def send_soon(self, message: Message) -> None:
        """As `send`, for finalizers: they may run in a thread that is just sending, and must not wait for it."""
        if type(message) is Respond and message.final:
            self._running.pop(message.id, None)
        self._deferred.append(message)
        self._send_deferred()

    def finish(self, answers: Sequence[Answer], last: Executed) -> None:
        """Send answers and the end of the batch in one go. Raises `OSError` when the host is gone."""
        buffers: list[Buffer] = []
        for key in last.again:
            self._running.pop(key, None)
        for respond, outputs in answers:
            if respond.final:
                self._running.pop(respond.id, None)
            buffers += pack(respond, outputs)
        buffers += pack(last)
        if len(buffers) == 2:
            # One small answer, which is the most there is to say: one piece goes out faster than two.
            buffers = [b"".join(buffers)]
        self._write(buffers)

    def ask(self, question: Infer | Control, inputs: Sequence[Tensor], box: Box) -> int:
        """Send a question under an id of its own, which is returned; its answers are put into the box.

        Somebody has to read for them to come: `wait` does, and an attendant from `attend` on.
        """
        question.id = next(self._ids)
        self._asked[question.id] = box
        self.send(question, inputs)
        return question.id

    def attend(self) -> None:
        """From now on a thread reads: for boxes that nobody waits at, those of event loops."""
        if self._attendant is None:
            self._attendant = threading.Thread(target=self._read, name="attendant", daemon=True)
            self._attendant.start()

    def leave(self, id: int) -> None:
        """Want no more answers to a question. A finalizer may say so."""
        if id in self._asked:
            self.send_soon(Cancel(id))

    def poll(self) -> None:
        """Take in what has come. Costs a system call, unless somebody is reading anyway."""
        if self._reading.acquire(blocking=False):
            try:
                while (frame := self._link.poll()) is not None:
                    self._deliver(*frame)
            except EOFError:
                self._end()
            finally:
                self._reading.release()
                self._pass_on()

    def wait(self, box: SimpleQueue[Thing | None]) -> Thing:
        """Take from a box that only the caller takes from; None in it means: see whether you should read.

        Raises `EOFError` when the host is gone.
        """
        self._waiting[id(box)] = box
        try:
            while True:
                if not box.empty() or not self._reading.acquire(blocking=False):
                    found = box.get()
                else:
                    try:
                        while box.empty():
                            self._deliver(*self._link.receive())
                    except EOFError:
                        self._end()
                        if box.empty():
                            raise
                    finally:
                        self._reading.release()
                    found = box.get()
                if found is not None:
                    return found
        finally:
            del self._waiting[id(box)]
            self._pass_on()

    def _write(self, buffers: Sequence[Buffer]) -> None:
        with self._sending:
            self._link.write(buffers)
        if self._deferred:
            self._send_deferred()

    def _send_deferred(self) -> None:
        """Whoever sends meanwhile looks at what is deferred when it has done."""
        while self._deferred and self._sending.acquire(blocking=False):
            try:
                while self._deferred:
                    self._link.write(pack(self._deferred.popleft()))
            finally:
                self._sending.release()

    def _pass_on(self) -> None:
        """Wake one who waits, to read; nobody may be reading. Waking one too many does no harm."""
        if self._waiting and not self._reading.locked():
            for box in tuple(self._waiting.values()):
                box.put(None)
                break

    def _deliver(self, message: Message, payload: memoryview) -> None:
        if type(message) is Execute:
            self._work.put(self._batch(message, payload))
        elif type(message) is Respond:
            box = self._asked.pop(message.id, None) if message.final else self._asked.get(message.id)
            if box is not None:
                box.put((message, tensors(message.outputs, payload)))
        elif type(message) is Cancel:
            if (request := self._running.get(message.id)) is not None:
                request.cancel()
        elif type(message) is Pace:
            if (request := self._running.get(message.id)) is not None:
                request.pace(paused=message.paused)
        elif type(message) is Load:
            self._work.put(message)

    def _batch(self, message: Execute, payload: memoryview) -> list[Request]:
        batch = []
        begin = 0
        running = self._running
        for head in message.requests:
            inputs = []
            for each in head.inputs:
                end = begin + each.size_bytes
                inputs.append(Tensor(each.name, each.datatype, each.shape, payload[begin:end]))
                begin = end
            request = running[head.id] = Request(self, head, inputs)
            batch.append(request)
        if begin > payload.nbytes:
            raise FrameError(f"tensors of {begin} bytes in a payload of {payload.nbytes}")
        return batch

    def _end(self) -> None:
        """The host is gone: answer every question with that, so that nobody waits for ever."""
        while self._asked:
            key, box = self._asked.popitem()
            box.put((Respond(key, error=Code.UNAVAILABLE, message="the model's host is gone"), []))

    def _read(self) -> None:
        with contextlib.suppress(EOFError):
            self.wait(SimpleQueue())
