"""Which replica takes a request: one class a policy."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol
from zlib import crc32

import msgspec

from backends.engine.prefix import Memory, Visit, blocks
from backends.engine.replica import Replica
from backends.engine.ring import Ring, stable_name
from backends.engine.routing import Routing
from backends.model import Load, OpenAIRequest

# More than these are remembered only of what is gone.
# A shorter prompt is computed sooner than it is looked for: it goes to its place, and leaves no trace.
_LEAST_REMEMBERED_BYTES = 512
_UNANSWERED = 4096
_ENDPOINTS = 1024
# How far one look at an engine's load moves what is thought of it. Requests come and go faster than loads are looked
# at, so a single look is mostly chance, which would send many conversations away at once.
_NEWEST_WEIGHT = 0.3
# How many requests of its size above the bound a request with a cached prompt puts up with. Measured with `python -m
# tests.bench.cache`: at 1 a quarter more is computed, since answers under way drive conversations apart.
_CACHED_WEIGHT = 4


class Policy(Protocol):
    """Chooses among replicas, and learns from answers."""

    name: str

    def pick(self, replicas: Sequence[Replica], request: OpenAIRequest) -> tuple[Replica, str]:
        """One of `replicas` (two at least; ready, and not tried yet for this request), and why in a word or two."""
        ...

    def learn(self, replica: Replica, request: OpenAIRequest, prompt_tokens: int, cached_tokens: int) -> None:
        """The answer is whole: `cached_tokens` of its prompt were in the replica's prefix cache.

        `request` is the object that was given to `pick`.
        """
        ...


def policy(routing: Routing) -> Policy:
    """The policy that a model's configuration chooses."""
    return _POLICIES[routing.routing_policy](routing)


class RoundRobin:
    """One after the other."""

    name = "round_robin"

    def __init__(self, routing: Routing) -> None:  # noqa: ARG002  # every policy's
        self._turn = 0

    def pick(self, replicas: Sequence[Replica], request: OpenAIRequest) -> tuple[Replica, str]:  # noqa: ARG002
        self._turn += 1
        return replicas[self._turn % len(replicas)], "its turn"

    def learn(self, replica: Replica, request: OpenAIRequest, prompt_tokens: int, cached_tokens: int) -> None:
        pass


class LeastLoad:
    """The one with the fewest tokens to work on; among equals, one after the other."""

    name = "least_load"

    def __init__(self, routing: Routing) -> None:  # noqa: ARG002  # every policy's
        self._work = _Work()
        self._turn = 0

    def pick(self, replicas: Sequence[Replica], request: OpenAIRequest) -> tuple[Replica, str]:
        work = self._work.of(replicas, _cost(request))
        self._turn += 1
        first = self._turn % len(replicas)
        place = min([*range(first, len(replicas)), *range(first)], key=work.__getitem__)
        return replicas[place], "least work"

    def learn(self, replica: Replica, request: OpenAIRequest, prompt_tokens: int, cached_tokens: int) -> None:
        pass


class PowerOfTwo:
    """The one of two, drawn at random, with fewer tokens to work on: near the best, without all following one signal.

    Mitzenmacher, "The power of two choices in randomized load balancing", IEEE Transactions on Parallel and
    Distributed Systems 12(10), 2001.
    """

    name = "power_of_two"

    def __init__(self, routing: Routing) -> None:  # noqa: ARG002  # every policy's
        self._work = _Work()

    def pick(self, replicas: Sequence[Replica], request: OpenAIRequest) -> tuple[Replica, str]:
        pair = random.sample(replicas, 2) if len(replicas) > 1 else list(replicas)
        work = self._work.of(pair, _cost(request))
        return pair[work.index(min(work))], "less work of two"

    def learn(self, replica: Replica, request: OpenAIRequest, prompt_tokens: int, cached_tokens: int) -> None:
        pass


class Weighted:
    """Shares as the endpoints' weights say, exact over their common cycle and smoothly interleaved.

    Each request credits every replica its weight; the one with the most credit takes it and pays for all. A weight
    of 0 gets nothing while another has some: a canary is switched on and off by its weight alone.
    """

    name = "weighted"

    def __init__(self, routing: Routing) -> None:  # noqa: ARG002  # every policy's
        self._credit: dict[str, float] = {}

    def pick(self, replicas: Sequence[Replica], request: OpenAIRequest) -> tuple[Replica, str]:  # noqa: ARG002
        weights = [replica.endpoint.weight for replica in replicas]
        total = sum(weights)
        if total <= 0:
            weights = [1.0] * len(replicas)
            total = float(len(replicas))
        credit = self._credit
        best, most = -1, 0.0
        for place, replica in enumerate(replicas):
            name = replica.endpoint.id
            credit[name] = owned = credit.get(name, 0.0) + weights[place]
            if weights[place] > 0 and (best < 0 or owned > most):
                best, most = place, owned
        credit[replicas[best].endpoint.id] -= total
        if len(credit) > _ENDPOINTS:
            # Nearly all are gone; one that only pauses loses at most a turn.
            self._credit = {replica.endpoint.id: credit[replica.endpoint.id] for replica in replicas}
        return replicas[best], "its share"

    def learn(self, replica: Replica, request: OpenAIRequest, prompt_tokens: int, cached_tokens: int) -> None:
        pass


class Prefix:
    """The replica that has most of the prompt cached, unless it is over its bound.

    A conversation has a place of its own: the hash of its head (`backends.engine.prefix`) orders the replicas
    (`backends.engine.ring`), in every server process and every gateway alike. Where this process knows better, since
    it sent the deepest known block of the prompt elsewhere, that replica comes first.

    A replica is over its bound when it has more tokens to work on than `load_factor` times the mean, this request
    included. The next in the order that is within takes the request then; one always is. The first in the order may
    exceed the bound by the request itself, as in the paper, since the others look for the conversation there; the one
    that has the prompt cached by some times as much, since another had to compute it, while most of what is under way
    is computed already.

    What answers report corrects the memory: where a replica had less than half of what a finished request must have
    left in its cache, it has lost that, by eviction or by a restart, and all that it saw before is forgotten.

    Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads", 2016 (arXiv:1608.01350), with tokens
    in place of balls.
    """

    name = "prefix"

    def __init__(self, routing: Routing) -> None:
        self._ring = Ring()
        self._work = _Work()
        self._load_factor = routing.load_factor
        self._memory = Memory()
        self._unanswered: OrderedDict[int, Visit] = OrderedDict()

    def pick(self, replicas: Sequence[Replica], request: OpenAIRequest) -> tuple[Replica, str]:
        hashes, ends = blocks(request.path, request.body)
        cost = _cost(request)
        work = self._work.of(replicas, cost)
        if not hashes:
            return replicas[work.index(min(work))], "least work"
        order = self._ring.order(replicas, hashes[0])
        if len(request.body) < _LEAST_REMEMBERED_BYTES:
            bound = self._load_factor * (sum(work) + cost) / len(work)
            place, reason = _bounded(order, work, bound, order[0], cost, "prefix")
            return replicas[place], reason
        known, deepest = self._memory.find(hashes)
        first = None if known is None else self._ring.places.get(known.replica)
        share = 0.0 if known is None else ends[deepest] / len(request.body)
        bound = self._load_factor * (sum(work) + cost) / len(work)
        if first is None:
            place, reason = _bounded(order, work, bound, order[0], cost, "prefix")
        else:
            place, reason = _bounded(order, work, bound, first, _CACHED_WEIGHT * share * cost, "cached")
        name = self._ring.names[place]
        if known is not None and known.is_over and known.replica == name:
            visit = self._memory.record(hashes, name, share, known.stamp)
        else:
            visit = self._memory.record(hashes, name)
        # Requests have no room for a policy's own notes; an id that comes again has its note replaced.
        unanswered = self._unanswered
        unanswered[id(request)] = visit
        if len(unanswered) > _UNANSWERED:
            unanswered.popitem(last=False)
        return replicas[place], reason

    def learn(self, replica: Replica, request: OpenAIRequest, prompt_tokens: int, cached_tokens: int) -> None:
        visit = self._unanswered.pop(id(request), None)
        if visit is None or visit.replica != stable_name(replica.endpoint):
            return
        visit.is_over = True
        if cached_tokens < visit.expected * prompt_tokens / 2:
            self._memory.forget(visit.replica, visit.before)


class Session:
    """Where the session's earlier requests went, unless that replica is over its bound.

    The session is what the client's header names, else `prompt_cache_key` or `user` of the body; its hash orders the
    replicas as in `Prefix`, and the first is taken to have the whole prompt cached. A request without any goes by its
    prefix.
    """

    name = "session"

    def __init__(self, routing: Routing) -> None:
        self._ring = Ring()
        self._work = _Work()
        self._load_factor = routing.load_factor
        self._prefix = Prefix(routing)

    def pick(self, replicas: Sequence[Replica], request: OpenAIRequest) -> tuple[Replica, str]:
        session = request.session or _named_in(request.body)
        if not session:
            return self._prefix.pick(replicas, request)
        cost = _cost(request)
        work = self._work.of(replicas, cost)
        order = self._ring.order(replicas, crc32(session.encode("utf-8", "replace")))
        bound = self._load_factor * (sum(work) + cost) / len(work)
        place, reason = _bounded(order, work, bound, order[0], _CACHED_WEIGHT * cost, "session")
        return replicas[place], reason

    def learn(self, replica: Replica, request: OpenAIRequest, prompt_tokens: int, cached_tokens: int) -> None:
        self._prefix.learn(replica, request, prompt_tokens, cached_tokens)


_POLICIES: dict[str, Callable[[Routing], Policy]] = {
    each.name: each for each in (Prefix, RoundRobin, LeastLoad, PowerOfTwo, Session, Weighted)
}


def _bounded(
    order: Sequence[int], work: Sequence[float], bound: float, first: int, allowance: float, reason: str
) -> tuple[int, str]:
    """`first` while it is not further over the bound than it may be; else the next in order that is within. And why."""
    if work[first] <= bound + allowance:
        return first, reason
    for place in order:
        if work[place] <= bound:
            return place, "over its bound"
    # Only where a sum of floats was rounded down.
    return min(order, key=work.__getitem__), "over its bound"


def _cost(request: OpenAIRequest) -> int:
    return request.prompt_tokens + request.output_tokens or 1


class _Work:
    """How many tokens replicas have to work on: this process's own under way, and what others sent.

    Of others' requests the engine's load has only their number, waiting or running: each is taken as large as the
    request in question. What is ours among them is taken off as of the first look at that load, since the load stays
    as it was while our requests come and go. A KV cache in use slows the replica down: a full one counts twice.
    """

    def __init__(self) -> None:
        self._others: dict[str, tuple[Load, float]] = {}

    def of(self, replicas: Sequence[Replica], cost: int) -> list[float]:
        work: list[float] = []
        for replica in replicas:
            tokens = replica.tokens_in_flight
            load = replica.load
            if load is None:
                work.append(tokens)
            else:
                work.append((tokens + self._elsewhere(replica, load) * cost) * (1.0 + load.kv_usage))
        return work

    def _elsewhere(self, replica: Replica, load: Load) -> float:
        seen = self._others.get(replica.endpoint.id)
        if seen is None or seen[0] is not load:
            if len(self._others) > _ENDPOINTS:
                self._others.clear()
            others = max(0.0, load.waiting + load.running - replica.in_flight)
            seen = load, others if seen is None else seen[1] + _NEWEST_WEIGHT * (others - seen[1])
            self._others[replica.endpoint.id] = seen
        return seen[1]


class _Named(msgspec.Struct):
    prompt_cache_key: object = None
    user: object = None


_decode_named = msgspec.json.Decoder(_Named).decode


def _named_in(body: bytes) -> str:
    """The session that a body names; empty where it names none, or is no JSON object."""
    try:
        named = _decode_named(body)
    except (ValueError, RecursionError):
        return ""
    for value in (named.prompt_cache_key, named.user):
        if isinstance(value, str) and value:
            return value
    return ""
