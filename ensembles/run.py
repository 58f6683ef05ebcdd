"""One request on its way through an ensemble: steps run as soon as what they wait for is there.

Each tensor of an ensemble is a sequence of values: one, or one for each response of the decoupled step that it comes
from. A step runs once for each number that all of its tensors have a value of; what it answers is put in the order of
those numbers, however its executions overtake each other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

from backends.errors import Code, InferenceError, ServingError
from backends.model import InferRequest, InferResponse, Scalar
from backends.tensors import Tensor
from ensembles.execution import Bound, Execution, Sequence, Value, fitted, following, in_ensemble, overridden
from ensembles.plan import Plan, Sink, Step
from ensembles.slots import Slots


class Run:
    """The responses of an ensemble to one request: a `Responses`.

    It is driven by whoever reads it: what nobody reads is not asked for, so that a slow client slows down the steps
    that would answer for ever. `settle` is told the outcome once: None, or the error.
    """

    __slots__ = (
        "_active",
        "_backlog",
        "_batch",
        "_bound",
        "_counts",
        "_failure",
        "_gathered",
        "_has_ended",
        "_is_decoupled",
        "_name",
        "_order",
        "_plan",
        "_ready",
        "_request",
        "_settle",
        "_slots",
        "_waiters",
    )

    def __init__(
        self,
        name: str,
        plan: Plan,
        bound: Mapping[int, Bound],
        slots: Mapping[int, Slots],
        request: InferRequest,
        *,
        batch: int,
        is_decoupled: bool,
        settle: Callable[[ServingError | None], None],
    ) -> None:
        self._name = name
        self._plan = plan
        self._bound = bound
        self._slots = slots
        self._request = request
        self._batch = batch
        self._is_decoupled = is_decoupled
        self._settle: Callable[[ServingError | None], None] | None = settle
        self._active: list[Execution] = []
        self._order: dict[int, deque[Execution]] = {}
        self._counts: dict[int, int] = {}
        self._gathered: dict[tuple[int, int], dict[str, Value]] = {}
        self._backlog: dict[int, deque[dict[str, Value]]] = {}
        self._waiters: dict[int, asyncio.Future[None]] = {}
        self._ready: deque[InferResponse] = deque()
        self._failure: ServingError | None = None
        self._has_ended = False

    def begin(self, optional: tuple[str, ...]) -> None:
        """Start the steps that wait for nothing but the request.

        Raises `ServingError` where the first is refused; where another one is, whoever reads hears of it.
        """
        given = {tensor.name: tensor for tensor in self._request.inputs}
        self._hold(1)
        try:
            for name in (*given, *(name for name in optional if name not in given)):
                self._put(name, 0, Value(given.get(name), self._batch))
        except ServingError as error:
            self._failure = in_ensemble(error, self._name)
            if not self._active:
                self._end(self._failure)
                raise self._failure from error
        else:
            self._end_if_done()

    def __aiter__(self) -> Run:
        return self

    async def __anext__(self) -> InferResponse:
        while not self._ready:
            if self._failure is not None:
                failure, self._failure = self._failure, None
                await self._finish(failure)
                raise failure
            if self._has_ended:
                raise StopAsyncIteration
            try:
                await self._advance()
            except ServingError as error:
                self._failure = in_ensemble(error, self._name)
        response = self._ready.popleft()
        if response.final:
            await self._finish(response.error)
        return response

    async def aclose(self) -> None:
        if not self._has_ended:
            await self._finish(InferenceError("Request was cancelled", Code.CANCELLED))

    async def _advance(self) -> None:
        """Wait for what comes next, and do what follows from it."""
        active = self._active
        if len(active) == 1 and active[0].task is None and active[0].slots is None and not self._backlog:
            execution = active[0]  # the usual case costs no task
            self._take(execution, await following(execution.responses))
            return
        self._start_waiting()
        waiting: list[asyncio.Future[None] | asyncio.Task[InferResponse]] = list(self._waiters.values())
        waiting += [execution.pull() for execution in active if not self._is_held_back(execution.step)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for execution in tuple(active):
            task = execution.task
            if task is not None and task.done():
                execution.task = None
                self._take(execution, task.result())
                if self._ready and self._ready[-1].final:
                    return

    def _take(self, execution: Execution, response: InferResponse) -> None:
        """An answer of a step."""
        trace = execution.trace
        if trace is not None:
            trace.answered(response.outputs)
            if response.final:
                trace.finish()
        if response.error is not None:
            self._ready.append(InferResponse(error=in_ensemble(response.error, self._name)))
            return
        order = self._order[execution.step.index]
        if response.final:
            execution.has_ended = True
            execution.leave()
            self._active.remove(execution)
        if order[0] is not execution:
            execution.held.append(response)
            return
        self._pass_on(execution, response)
        while order and order[0].has_ended:
            order.popleft()
            if order:
                held, order[0].held = order[0].held, []
                for earlier in held:
                    self._pass_on(order[0], earlier)
        self._end_if_done()

    def _pass_on(self, execution: Execution, response: InferResponse) -> None:
        """Give the outputs of an answer to those that wait for them; what it lacks is an absent optional tensor."""
        bound = execution.bound
        if response.is_empty and response.final and bound.is_decoupled:
            return
        step = execution.step
        if bound.signature.reshapes_outputs:
            bound.signature.reshape_outputs(response.outputs)
        sequence = overridden(response.parameters, execution.sequence) if response.parameters else execution.sequence
        number = self._counts.get(step.index, 0)
        self._counts[step.index] = number + 1
        given = {tensor.name: tensor for tensor in response.outputs}
        for output, name in step.outputs.items():
            self._put(name, number, Value(given.get(output), execution.batch, sequence))

    def _put(self, name: str, number: int, value: Value) -> None:
        """A tensor has a value of this number: what waits for nothing else now goes on."""
        for consumer in self._plan.consumers.get(name, ()):
            index = consumer.index if isinstance(consumer, Step) else -1
            gathered = self._gathered.setdefault((index, number), {})
            gathered[name] = value
            if len(gathered) == len(consumer.tensors):
                del self._gathered[index, number]
                if isinstance(consumer, Step):
                    self._start(consumer, gathered)
                else:
                    self._answer(consumer, gathered)

    def _start(self, step: Step, gathered: dict[str, Value]) -> None:
        slots = self._slots.get(step.index)
        if slots is None:
            self._execute(step, gathered, None)
        elif step.index not in self._backlog and slots.take():
            self._execute(step, gathered, slots)
        else:
            self._backlog.setdefault(step.index, deque()).append(gathered)

    def _start_waiting(self) -> None:
        """Start executions for which there is a place now; wait for one where there is none."""
        for index, backlog in tuple(self._backlog.items()):
            slots = self._slots[index]
            waiter = self._waiters.pop(index, None)
            if waiter is not None and not waiter.done():
                self._waiters[index] = waiter
                continue
            step = next(step for step in self._plan.steps if step.index == index)
            while backlog and slots.take():
                self._execute(step, backlog.popleft(), slots)
            if backlog:
                self._waiters[index] = slots.wait()
            else:
                del self._backlog[index]

    def _is_held_back(self, step: Step) -> bool:
        """Whether more of this step would only wait."""
        return any(consumer.index in self._backlog for consumer in self._plan.feeds[step.index])

    def _execute(self, step: Step, gathered: Mapping[str, Value], slots: Slots | None) -> None:
        try:
            execution = self._begun(step, gathered, slots)
        except BaseException:
            if slots is not None:
                slots.give_back()
            raise
        self._active.append(execution)
        self._order.setdefault(step.index, deque()).append(execution)
        if slots is not None:
            execution.pull()

    def _begun(self, step: Step, gathered: Mapping[str, Value], slots: Slots | None) -> Execution:
        request, bound = self._request, self._bound[step.index]
        trace = None if request.trace is None else request.trace.child(bound.model.config)
        sequence: Sequence | None = None
        inputs = []
        for name, own in step.inputs:
            value = gathered[own]
            sequence = sequence or value.sequence
            tensor = value.tensor
            if tensor is not None:
                shape = fitted(tensor.shape, value.batch, bound.dims[name], is_batched=bound.signature.is_batched)
                inputs.append(Tensor(name, tensor.datatype, shape, tensor.data))
        if sequence is None:
            sequence = request.sequence_id, request.sequence_start, request.sequence_end
        inner = InferRequest(
            model=step.model,
            inputs=inputs,
            version=bound.model.config.version,
            id=request.id,
            outputs=list(step.outputs),
            parameters=dict(request.parameters),
            priority=request.priority,
            timeout_us=request.timeout_us,
            sequence_id=sequence[0],
            sequence_start=sequence[1],
            sequence_end=sequence[2],
            deadline=request.deadline,
            traceparent=request.traceparent,
            tenant=request.tenant,
            trace=trace,
        )
        batch = inputs[0].shape[0] if bound.signature.is_batched and inputs and inputs[0].shape else 0
        bound.signature.admit(inner)
        if trace is not None:
            trace.queued(inputs)
        return Execution(step, bound, bound.model.infer(inner), batch, sequence, slots, trace)

    def _answer(self, sink: Sink, gathered: Mapping[str, Value]) -> None:
        outputs = []
        parameters: dict[str, Scalar] = {}
        for name, dims in sink.outputs:
            value = gathered[name]
            if value.sequence is not None:
                parameters["sequence_id"], parameters["sequence_start"], parameters["sequence_end"] = value.sequence
            tensor = value.tensor
            if tensor is not None:
                shape = fitted(tensor.shape, value.batch, dims, is_batched=self._batch != 0)
                outputs.append(Tensor(name, tensor.datatype, shape, tensor.data))
        self._ready.append(InferResponse(outputs, parameters, final=not self._is_decoupled))

    def _end_if_done(self) -> None:
        """Say so when nothing more can come."""
        if self._active or self._backlog or (self._ready and self._ready[-1].final):
            return
        if self._is_decoupled and self._ready:
            self._ready[-1].final = True
        elif self._is_decoupled:
            self._ready.append(InferResponse())
        else:
            request_id = self._request.id or "<id_unknown>"
            error = InferenceError(
                f"[request id: {request_id}] unexpected deadlock, at least one output is not set while no more "
                "ensemble steps can be made",
                Code.INVALID_ARG,
            )
            self._ready.append(InferResponse(error=in_ensemble(error, self._name)))

    async def _finish(self, outcome: ServingError | None) -> None:
        """Let go of everything; nothing comes after what is ready."""
        self._end(outcome)
        active, self._active = self._active, []
        for index, waiter in self._waiters.items():
            self._slots[index].leave(waiter)
        self._waiters.clear()
        self._backlog.clear()
        self._gathered.clear()
        for execution in active:
            await execution.aclose()

    def _end(self, outcome: ServingError | None) -> None:
        self._has_ended = True
        settle, self._settle = self._settle, None
        if settle is not None:
            settle(outcome)
            self._hold(-1)

    def _hold(self, change: int) -> None:
        """Until its end a request may have steps to go in any of its models."""
        for bound in self._bound.values():
            if bound.held is not None:
                bound.held.held += change
