"""One request among several replicas: where it goes, and where else when that came to nothing."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from backends.engine.answer import Collected, whole_of
from backends.engine.journal import Usage
from backends.engine.replica import Replica
from backends.engine.resume import Resumable, told
from backends.errors import ServingError, Unavailable, UpstreamError, UpstreamTimeout
from backends.model import OpenAIRequest, OpenAIResponse, is_stream

if TYPE_CHECKING:
    from backends.engine.replicas import EngineModel

# An engine that says so may serve the next one, or another engine this one.
_WORTH_ANOTHER = frozenset({429, 500, 502, 503, 504})
# How long to wait for a replica while there is none, and how often to look.
_PATIENCE_SECONDS = 30.0
_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.3
# How long after its connections broke an engine's death may become known: its supervisor has to see it and to tell.
_TOLD_SECONDS = 2.0
_CACHED_TOKENS = b'"cached_tokens"'
_PREVIOUS_RESPONSE = b'"previous_response_id"'


class Budget:
    """How many requests of a model may be sent once more: a share of all, so that a storm of retries ends itself."""

    _RESERVE = 10.0

    def __init__(self, share: float) -> None:
        self._share = share
        self._left = self._RESERVE if share else 0.0

    def earn(self) -> None:
        """A request came."""
        self._left = min(self._RESERVE, self._left + self._share)

    def spend(self) -> bool:
        """Whether one may be sent once more."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Leg:
    """One replica's part of the answer, from its head on."""

    __slots__ = ("_is_open", "_request", "first", "replica", "response")

    def __init__(self, replica: Replica, request: OpenAIRequest, response: OpenAIResponse) -> None:
        self.replica = replica
        self.response = response
        self.first = b""
        """What was read of the body already."""
        self._request = request
        self._is_open = True

    async def begin(self) -> None:
        """Wait for the first bytes of the body. Raises `UpstreamError`."""
        self.first = await anext(self.response.body, b"")

    async def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self.replica.release(self._request)
            await self.response.body.aclose()


async def whole_answer(model: EngineModel, request: OpenAIRequest, loop: asyncio.AbstractEventLoop) -> OpenAIResponse:
    """The answer to a request that does not stream, read to its end. Raises as `Attempts.answer` does.

    Nearly always the first replica gives it, and then nothing need be kept of the way there, which costs a third.
    """
    replicas, route = model.replicas, request.route
    chosen = replicas.choose(request, ())
    if chosen is None:
        return await Attempts(model, request, loop).answer()
    replica, reason = chosen
    route.policy, route.endpoint, route.reason = replicas.policy.name, replica.endpoint.id, reason
    outcome: OpenAIResponse | UpstreamError | Unavailable
    replica.take(request)
    try:
        response = await model.send(replica, request)
        try:
            whole = await whole_of(response.body)
        except BaseException:
            await response.body.aclose()
            raise
        outcome = OpenAIResponse(response.status, [*response.headers, replica.field], Collected(whole))
        if response.status < 400:
            model.budget.earn()
            replica.succeeded()
            if usage := _usage(whole):
                replicas.policy.learn(replica, request, *usage)
            return outcome
    except (UpstreamError, Unavailable) as error:
        outcome = error
    finally:
        replica.release(request)
    return await Attempts(model, request, loop).after(replica, outcome)


class Attempts:
    """A request's way through the replicas of its model. `stalled` may be told until its answer is closed."""

    def __init__(self, model: EngineModel, request: OpenAIRequest, loop: asyncio.AbstractEventLoop) -> None:
        self.model = model
        self.request = request
        self._replicas = model.replicas
        task = asyncio.current_task(loop)
        assert task is not None
        self._task = task
        self._under_way = self._is_waiting = False
        self._stalled: UpstreamTimeout | None = None
        self._avoided: set[Replica] = set()
        self._broke: dict[Replica, int] = {}
        self._broke_at = 0.0
        self._failure: ServingError | None = None
        self._fruitless = self._retries = self._departures = 0

    async def answer(self) -> OpenAIResponse:
        """The answer at its head where it streams, whole otherwise: what broke until then was sent elsewhere.

        Raises what the last attempt failed with.
        """
        self.model.budget.earn()
        return await self._answer()

    async def after(self, replica: Replica, outcome: OpenAIResponse | UpstreamError | Unavailable) -> OpenAIResponse:
        """The answer after a first attempt, which `replica` failed or answered with an error: that, or a better one."""
        self.model.budget.earn()
        self._departures = 1
        if not isinstance(outcome, OpenAIResponse):
            self.fell(replica, outcome)
        elif not self._goes_on(replica, outcome.status):
            return outcome
        return await self._answer()

    async def _answer(self) -> OpenAIResponse:
        request, model = self.request, self.model
        request.stall = self.stalled
        request.route.policy = model.replicas.policy.name
        while True:
            leg = await self.depart(request)
            response = leg.response
            if request.stream and response.status < 400 and is_stream(response.headers):
                best = await self._hedged(leg) if model.routing.hedge else leg
                if best is None:
                    continue
                body = Resumable(self, best)
                return OpenAIResponse(best.response.status, body.headers, body, body.trailers)
            try:
                whole = await whole_of(response.body)
            except UpstreamError as error:
                await leg.close()
                self.fell(leg.replica, error)
                continue
            except BaseException as error:
                await leg.close()
                stalled = self.broken_off(error)
                if stalled is None:
                    raise
                self.fell(leg.replica, stalled)
                continue
            await leg.close()
            request.stall = None
            if response.status < 400:
                self.succeeded(leg)
                if usage := _usage(whole):
                    self.learn(leg.replica, *usage)
            return OpenAIResponse(
                response.status, [*response.headers, *told(leg.replica, request.route)], Collected(whole)
            )

    async def depart(self, request: OpenAIRequest) -> Leg:
        """Send it to one replica after the other until one answers, be it with an error that nobody else would mend."""
        while True:
            replica, reason = await self._choose(request)
            if self._broke.get(replica) == replica.endpoint.restarts and not self.model.budget.spend():
                if monotonic() >= self._broke_at + _TOLD_SECONDS:
                    raise self._failure or self._replicas.not_ready()
                self._avoided.add(replica)
                continue
            route = self.request.route
            route.endpoint = replica.endpoint.id
            route.reason = f"after a failure: {reason}" if self._failure else reason
            if self._departures and request is self.request:
                route.retries += 1
            self._departures += 1
            replica.take(request)
            self._under_way = True
            try:
                response = await self.model.send(replica, request)
            except (UpstreamError, Unavailable) as error:
                replica.release(request)
                self.fell(replica, error)
            except BaseException as error:
                replica.release(request)
                stalled = self.broken_off(error)
                if stalled is None:
                    raise
                self.fell(replica, stalled)
            else:
                leg = Leg(replica, request, response)
                if not self._goes_on(replica, response.status):
                    return leg
                await leg.close()

    def fell(self, replica: Replica, error: UpstreamError | Unavailable) -> None:
        """An attempt came to nothing. Raises `error` when there shall be no other.

        Cases: it could not be reached, which is known at once and costs nobody anything; the connection broke, as
        by the engine's death; it was silent for too long, which counts as a retry. One that broke and has not died,
        as far as is known, is asked again as far as the budget goes, and later only once its death is known.
        """
        self._under_way = False
        if isinstance(error, UpstreamTimeout):
            if not self._may_retry(replica, error):
                raise error
            return
        self._note(replica, error, counts=True)
        if not isinstance(error, Unavailable):
            self._broke[replica] = replica.endpoint.restarts
            self._broke_at = monotonic()
            self._fruitless += 1
            if self._fruitless >= self.model.routing.lost_engines:
                raise error

    def succeeded(self, leg: Leg) -> None:
        """Its part of the answer is whole."""
        leg.replica.succeeded()

    def progressed(self) -> None:
        """Something has come of the attempt: what failed before is forgotten."""
        self._fruitless = 0
        self._failure = None
        self._avoided.clear()
        self._broke.clear()

    def stalled(self, error: UpstreamTimeout) -> bool:
        """Break the attempt under way off; a wait for an engine goes on, to its end. False where there is neither."""
        if self._is_waiting:
            return True
        if not self._under_way or self._stalled is not None:
            return False
        self._stalled = error
        self._task.cancel()
        return True

    def broken_off(self, error: BaseException) -> UpstreamTimeout | None:
        """The stall that `error`, a cancellation, comes of; None where somebody else cancels."""
        stalled, self._stalled = self._stalled, None
        if stalled is None or not isinstance(error, asyncio.CancelledError) or self._task.uncancel():
            return None
        return stalled

    def learn(self, replica: Replica, prompt_tokens: int, cached_tokens: int) -> None:
        if prompt_tokens:
            self._replicas.policy.learn(replica, self.request, prompt_tokens, cached_tokens)

    async def _hedged(self, leg: Leg) -> Leg | None:
        """The leg that speaks first, of this one and a second where this one is late; None when it was broken off."""
        request, replicas = self.request, self._replicas

        async def second() -> Leg | None:
            chosen = replicas.choose(request, (leg.replica,))
            if chosen is None or not self.model.budget.spend():
                return None
            replica, _ = chosen
            request.route.hedges += 1
            replica.take(request)
            try:
                response = await self.model.send(replica, request)
            except BaseException:
                replica.release(request)
                raise
            other = Leg(replica, request, response)
            if response.status >= 400:
                await other.close()
                return None
            return other

        try:
            best = await self.model.hedge.best(leg, second)
        except BaseException as error:
            stalled = self.broken_off(error)
            if stalled is None:
                raise
            self.fell(leg.replica, stalled)
            return None
        request.route.endpoint = best.replica.endpoint.id
        return best

    async def _choose(self, request: OpenAIRequest) -> tuple[Replica, str]:
        """A replica, waited for while there is none but one may come. Raises the last failure, `ModelNotReady`."""
        pause = _FIRST_PAUSE_SECONDS
        give_up_at = 0.0
        while (chosen := self._replicas.choose(request, self._avoided)) is None:
            self._under_way = False
            now = monotonic()
            give_up_at = give_up_at or now + _PATIENCE_SECONDS
            is_hopeless = not (self._replicas.ready() or self._replicas.is_coming())
            if is_hopeless or now >= give_up_at:
                raise self._failure or self._replicas.not_ready()
            self._is_waiting = True
            try:
                await asyncio.sleep(pause)
            finally:
                self._is_waiting = False
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            self._avoided.clear()  # all that are ready have failed: they may have been started anew
        return chosen

    def _goes_on(self, replica: Replica, status: int) -> bool:
        """Whether another replica is asked after an answer of this status.

        Cases: one that others might better, within the model's limits; a stored response, which one of them keeps, and
        all are asked for; any other.
        """
        if status in _WORTH_ANOTHER:
            return self._may_retry(replica, UpstreamError(f"It answered {status}."), counts=status != 429)
        if status == 404 and self.request.path == "/v1/responses" and _PREVIOUS_RESPONSE in self.request.body:
            self._note(replica, UpstreamError("It does not keep the response."), counts=False)
            return self._is_elsewhere()
        return False

    def _is_elsewhere(self) -> bool:
        """Whether there is a replica that was not asked yet."""
        return any(other not in self._avoided for other in self._replicas.ready())

    def _may_retry(self, replica: Replica, error: ServingError, *, counts: bool = True) -> bool:
        """Whether to go elsewhere after an answer that is an error, or none in time: within the model's limits."""
        self._note(replica, error, counts=counts)
        if not self._is_elsewhere() or self._retries >= self.model.routing.retries or not self.model.budget.spend():
            return False
        self._retries += 1
        return True

    def _note(self, replica: Replica, error: ServingError, *, counts: bool) -> None:
        self._failure = error
        self._avoided.add(replica)
        route = self.request.route
        route.failures.append(f"{replica.endpoint.id}: {error.message}")
        if counts and replica.failed(at_once=isinstance(error, Unavailable)):
            route.ejections += 1


class _Whole(msgspec.Struct):
    usage: Usage | None = None


_decode_usage = msgspec.json.Decoder(_Whole).decode


def _usage(body: bytes) -> tuple[int, int] | None:
    """(prompt, cached) tokens of a whole answer, if it tells."""
    if body.find(_CACHED_TOKENS) < 0:
        return None
    try:
        usage = _decode_usage(body).usage
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if usage is None or not usage.prompt_tokens or usage.prompt_tokens_details is None:
        return None
    return usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens or 0
