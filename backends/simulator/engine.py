"""The engine behind the routes: its slots, its counters, and a request's way through them at its pace."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeVar
from uuid import uuid4

import msgspec

from backends.simulator.faults import (
    Behaviour,
    Broken,
    Fault,
    RequestError,
    Wish,
    arrive,
    leave,
    parse_header,
)
from backends.simulator.http import Exchange, Request
from backends.simulator.options import Options
from backends.simulator.plan import Plan
from backends.simulator.prefix_cache import PrefixCache, blocks
from backends.simulator.slots import Slots
from backends.simulator.sse import EventStream
from backends.simulator.store import Store
from backends.simulator.text import Vocabulary


@dataclass(slots=True)
class Counters:
    """Totals since the start. `ended` counts requests that had a slot by how they ended.

    `cache_queries` and `cache_hits` are prompt tokens looked for and found in the prefix cache.
    """

    requests: int = 0
    streams: int = 0
    finished: int = 0
    aborted: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    cache_queries: int = 0
    cache_hits: int = 0
    max_active: int = 0
    ended: Counter[str] = field(default_factory=Counter)


class ModelRequest(msgspec.Struct, kw_only=True):
    """What every request to a model may carry. `echo` is this engine's own; as a boolean it is OpenAI's."""

    model: str | None = None
    echo: Wish | bool | None = None


class Engine:
    """The state that all requests share."""

    def __init__(self, models: Sequence[str], options: Options) -> None:
        self.models = tuple(models)
        self.slots = Slots(options.slots)
        self.runs: set[Run] = set()
        self.counters = Counters()
        self.vocabulary = Vocabulary()
        self.store = Store()
        self.last: Request | None = None
        self.prefix_cache: PrefixCache | None = None
        # Prefill is bound by compute: prompts share it one after the other.
        self.prefill = asyncio.Lock()
        self.options = Options()
        self.configure(options)

    def configure(self, options: Options) -> None:
        """Take new options; requests under way keep the pace and the fault that they came with.

        A prefix cache of another size starts empty.
        """
        if options.prefix_cache_tokens != self.options.prefix_cache_tokens:
            size = options.prefix_cache_tokens
            self.prefix_cache = PrefixCache(size) if size else None
        self.options = options
        self.slots.resize(options.slots)
        self._faults_left = options.times or -1
        self._fault = Fault.parse(options.fault)

    def behaviour(self) -> Behaviour:
        """How the next request is treated, before its own wishes; uses up one of `times`."""
        options = self.options
        fault, status = self._fault
        if fault is not Fault.NONE and self._faults_left == 0:
            fault = Fault.NONE
        elif fault is not Fault.NONE:
            self._faults_left -= 1
        return Behaviour(
            fault=fault,
            status=status,
            after=options.after,
            ttft_ms=options.ttft_ms,
            itl_ms=options.itl_ms,
            tokens=options.tokens,
            retry_after=options.retry_after,
        )

    def check_length(self, prompt_tokens: int, max_tokens: int | None, param: str) -> int:
        """The limit of the answer in tokens. Raises `RequestError` when the context cannot hold it."""
        limit = self.options.max_model_len
        if max_tokens is not None and max_tokens < 1:
            raise RequestError(400, f"{param} must be at least 1, got {max_tokens}.", param=param)
        if prompt_tokens + (max_tokens or 1) > limit:
            raise RequestError(
                400,
                f"This model's maximum context length is {limit} tokens. The request has {prompt_tokens} in its "
                f"prompt and asks for {max_tokens or 1} more.",
                param=param if max_tokens is not None and prompt_tokens < limit else "input_tokens",
            )
        return limit - prompt_tokens if max_tokens is None else max_tokens


T = TypeVar("T", bound=ModelRequest)


class Call:
    """One request to the model, from its bytes to its answer."""

    def __init__(self, engine: Engine, exchange: Exchange) -> None:
        self.engine = engine
        self.exchange = exchange
        self.id = exchange.request.header("x-request-id") or uuid4().hex
        self.behaviour = Behaviour()

    def decode(self, kind: type[T]) -> tuple[T, str]:
        """The request and the name of the model. Raises as the server, or the fault asked for, answers it."""
        self.engine.counters.requests += 1
        self.engine.last = self.exchange.request
        self.behaviour = self.engine.behaviour()
        header = self.exchange.request.header("x-echo-fault")
        try:
            if header is not None:
                self.behaviour = parse_header(header).over(self.behaviour)
            arrive(self.behaviour)
            asked = msgspec.json.decode(self.exchange.request.body, type=kind)
            if isinstance(asked.echo, Wish):
                self.behaviour = asked.echo.over(self.behaviour)
                arrive(self.behaviour)
        except (ValueError, RecursionError) as error:
            raise RequestError(400, str(error)) from error
        model = asked.model if asked.model is not None else self.engine.models[0]
        if model not in self.engine.models:
            raise RequestError(404, f"The model `{model}` does not exist.", "NotFoundError", "model")
        return asked, model

    def prompt_tokens(self, counted: int) -> int:
        return self.engine.options.prompt_tokens or counted

    def run(
        self, prompt_tokens: int, plans: Sequence[Plan] = (), prompts: Sequence[str] = (), *, salt: str = ""
    ) -> Run:
        """A run of the choices; each of the `prompts` has as many of them. Other salts share no cached prefix."""
        return Run(self.engine, self.behaviour, prompt_tokens, plans, prompts, salt)

    def stream(self) -> EventStream:
        """The answer as events; its head is sent at once, as a server does that has yet to schedule the request."""
        self.engine.counters.streams += 1
        stream = EventStream(self.exchange, self.behaviour.fault)
        stream.open()
        return stream

    def reply(self, answer: object) -> None:
        self.exchange.reply(200, msgspec.json.encode(answer))


class Run:
    """One request in the engine: waits for a slot, holds it while its tokens come, and is counted by its end.

    `plans` are its choices, which advance together; without any it takes the time of one token. `cached_tokens`
    is None without a prefix cache.
    """

    def __init__(
        self,
        engine: Engine,
        behaviour: Behaviour,
        prompt_tokens: int,
        plans: Sequence[Plan],
        prompts: Sequence[str],
        salt: str,
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.cached_tokens: int | None = None
        self.generated = 0
        self._plans = plans
        self._prompts = prompts
        self._words: list[list[str]] = []
        self._salt = salt
        self._engine = engine
        self._behaviour = behaviour
        self._reason = plans[0].finish_reason if plans else "stop"
        self._lengths = [len(plan.tokens) for plan in plans]
        self._steps = max(self._lengths, default=0)
        # Without tokens there is no later moment than the start.
        self._strike_at = behaviour.strike_at() if plans else min(0, behaviour.strike_at())

    async def __aenter__(self) -> Self:
        counters, slots = self._engine.counters, self._engine.slots
        try:
            await slots.acquire()
        except asyncio.CancelledError:
            counters.aborted += 1
            raise
        self._engine.runs.add(self)
        counters.prompt_tokens += self.prompt_tokens
        counters.max_active = max(counters.max_active, slots.running)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        counters = self._engine.counters
        self._engine.runs.discard(self)
        self._engine.slots.release()
        self._keep()
        if kind is None:
            counters.finished += 1
            counters.ended[self._reason] += 1
        elif issubclass(kind, asyncio.CancelledError):
            counters.aborted += 1
            counters.ended["abort"] += 1
        else:
            counters.ended["error"] += 1

    async def steps(self) -> AsyncIterator[int]:
        """The number of each token, when it is due. A late one does not delay those after it."""
        clock = asyncio.get_running_loop().time
        await self._prefill()
        due = clock() + self._behaviour.ttft_ms / 1000
        itl_seconds = self._behaviour.itl_seconds()
        same = len(set(self._lengths)) == 1
        for step in range(self._steps):
            if step == self._strike_at:
                await self._strike()
            await asyncio.sleep(max(0.0, due - clock()))
            due += itl_seconds
            self._count(len(self._lengths) if same else sum(step < length for length in self._lengths))
            yield step
        if self._steps == self._strike_at:
            await self._strike()

    async def complete(self) -> None:
        """Wait until all the tokens are there."""
        if 0 <= self._strike_at <= self._steps:
            async for _ in self.steps():
                pass
            return
        await self._prefill()
        seconds = self._behaviour.ttft_ms / 1000 + self._behaviour.itl_seconds() * max(0, self._steps - 1)
        if seconds > 0:
            await asyncio.sleep(seconds)
        self._count(sum(self._lengths))

    async def _prefill(self) -> None:
        """Look the prompts up in the prefix cache, and take the time of what is not there."""
        engine, cache = self._engine, self._engine.prefix_cache
        pace_us = engine.options.prefill_us_per_token
        if cache is None and not pace_us:
            return
        async with engine.prefill:
            if cache is not None:
                found = 0
                self._words = [prompt.split() for prompt in self._prompts]
                for words in self._words:
                    names = blocks(words, self._salt)
                    found += cache.cached_tokens(names, len(words))
                    cache.keep(names)
                self.cached_tokens = min(found, self.prompt_tokens)
                engine.counters.cache_queries += self.prompt_tokens
                engine.counters.cache_hits += self.cached_tokens
            await asyncio.sleep(pace_us * (self.prompt_tokens - (self.cached_tokens or 0)) / 1e6)

    def _keep(self) -> None:
        """Cache what was generated behind its prompt: the next turn of the conversation begins with both."""
        cache = self._engine.prefix_cache
        if cache is None or not self._words:
            return
        done = self.generated // max(1, len(self._plans))
        choices = max(1, len(self._plans) // len(self._words))
        for index, plan in enumerate(self._plans):
            answer = "".join(token.text for token in plan.tokens[:done] if token.call < 0)
            cache.keep(blocks([*self._words[index // choices], *answer.split()], self._salt))

    def _count(self, tokens: int) -> None:
        self.generated += tokens
        self._engine.counters.generation_tokens += tokens

    async def _strike(self) -> None:
        match self._behaviour.fault:
            case Fault.EXIT:
                leave()
            case Fault.HANG | Fault.HANG_BEFORE_HEAD | Fault.HANG_BEFORE_FIRST_TOKEN:
                await asyncio.get_running_loop().create_future()
            case fault:
                raise Broken(fault)
