"""Who waits, and who is next: a virtual token counter a tenant, classes of priority above it.

After Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024), weighted: a tenant's counter grows by
the tokens that it was served over its weight, and of the tenants that wait the one with the least is next. Who was
idle is lifted to the others' level, so that having asked for nothing earns nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from operator import attrgetter
from time import monotonic

from gateway.tenants import Priority, Tenant


class Permit:
    """The right to run one request; whoever has it gives it back by `Gate.leave`, once."""

    __slots__ = ("charged_tokens", "entered_at", "lane")

    def __init__(self, lane: Lane | None, charged_tokens: float) -> None:
        self.lane = lane
        self.charged_tokens = charged_tokens
        self.entered_at = monotonic()


Place = asyncio.Future[Permit]
"""A waiter: done once it has its permit, is refused or gone."""

_LANES_KEPT = 1024
# How fast the expected cost of a tenant's requests follows the newest one.
_SMOOTHING = 0.2


class Lane:
    """One tenant's waiters at one model, first come, first served, and the counter of what it was served."""

    __slots__ = ("counter", "expected_tokens", "name", "priority", "waiting", "weight")

    def __init__(self, tenant: Tenant) -> None:
        self.name = tenant.name
        self.priority = tenant.priority
        self.weight = tenant.weight
        self.counter = 0.0
        self.expected_tokens = 0.0
        self.waiting: dict[Place, int] = {}
        """With what each costs at the least, in tokens."""

    @property
    def length(self) -> float:
        """How long it is for its weight."""
        return len(self.waiting) / self.weight


_before = attrgetter("priority", "counter")


class Lanes:
    """The waiters of one model by tenant. Choosing the next looks at each tenant that waits: 0.1 µs each."""

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}
        self._waiting: dict[Lane, None] = {}
        self._count = 0
        self._keep = _LANES_KEPT
        self._expected_tokens = 0.0
        # By class: where the counter stood of whom was served last.
        self._level = dict.fromkeys(Priority, 0.0)

    def __len__(self) -> int:
        return self._count

    def by_tenant(self) -> Mapping[str, int]:
        """How many wait, by tenant."""
        return {lane.name: len(lane.waiting) for lane in self._waiting}

    def lane(self, tenant: Tenant) -> Lane:
        """The lane of a tenant, which has the weight and the class that the tenant has now."""
        lane = self._lanes.get(tenant.name)
        if lane is None:
            if len(self._lanes) >= self._keep:
                self._forget()
            lane = self._lanes[tenant.name] = Lane(tenant)
        lane.weight = tenant.weight
        lane.priority = tenant.priority
        return lane

    def serve_at_once(self, tenant: Tenant, tokens: float) -> Permit:
        """A permit for a request that need not wait; `tokens` is what it costs at the least."""
        lane = self.lane(tenant)
        self._lift(lane)
        return self._serve(lane, tokens)

    def settle(self, permit: Permit, tokens: float) -> None:
        """A request has ended and cost `tokens` in truth."""
        lane = permit.lane
        if lane is not None:
            lane.counter += (tokens - permit.charged_tokens) / lane.weight
            if tokens:  # what failed tells nothing of what others will cost
                lane.expected_tokens = _smoothed(lane.expected_tokens, tokens)
                self._expected_tokens = _smoothed(self._expected_tokens, tokens)

    def revoke(self, permit: Permit) -> None:
        """A permit was not used."""
        if permit.lane is not None:
            permit.lane.counter -= permit.charged_tokens / permit.lane.weight

    def push(self, lane: Lane, place: Place, tokens: int) -> None:
        if not lane.waiting:
            self._lift(lane)
            self._waiting[lane] = None
        lane.waiting[place] = tokens
        self._count += 1

    def serve_next(self) -> Permit | None:
        """Give the next waiter a permit; None where nobody waits.

        Of the first class that has any, the tenant with the least counter is next, with its oldest waiter.
        """
        while self._waiting:
            lane = min(self._waiting, key=_before)
            place, tokens = next(iter(lane.waiting.items()))
            self.discard(lane, place)
            if not place.done():
                permit = self._serve(lane, tokens)
                place.set_result(permit)
                return permit
        return None

    def discard(self, lane: Lane, place: Place) -> None:
        """Let a waiter go, if it still waits."""
        if place in lane.waiting:
            del lane.waiting[place]
            self._count -= 1
            if not lane.waiting:
                del self._waiting[lane]

    def outcompeted(self, lane: Lane) -> tuple[Lane, Place] | None:
        """In a full queue: who gives its place to a newcomer of `lane`; None where that has the least right to one.

        It is the newest of the tenant with the most waiters for its weight, in the last class that has any.
        """
        longest = max(self._waiting, key=attrgetter("priority", "length"), default=None)
        if longest is None or longest is lane or longest.priority < lane.priority:
            return None
        if longest.priority == lane.priority and longest.length <= (len(lane.waiting) + 1) / lane.weight:
            return None
        return longest, next(reversed(longest.waiting))

    def turns_before(self, lane: Lane) -> float:
        """How many are let in until a newcomer of `lane` is, itself included, were nobody else to come."""
        own = (len(lane.waiting) + 1) / lane.weight
        turns = len(lane.waiting) + 1.0
        for other in self._waiting:
            if other.priority < lane.priority:
                turns += len(other.waiting)
            elif other.priority == lane.priority and other is not lane:
                turns += min(float(len(other.waiting)), own * other.weight)
        return turns

    def _serve(self, lane: Lane, tokens: float) -> Permit:
        # What requests cost before tells more than what one may cost. A charge that is too high would come back at the
        # end, and whoever was lifted to it meanwhile would be left behind: without a past, the least is charged.
        charged = lane.expected_tokens or self._expected_tokens or tokens
        self._level[lane.priority] = lane.counter
        lane.counter += charged / lane.weight
        return Permit(lane, charged)

    def _lift(self, lane: Lane) -> None:
        level = self._level[lane.priority]
        if self._waiting:
            level = min([level, *(other.counter for other in self._waiting if other.priority == lane.priority)])
        lane.counter = max(lane.counter, level)

    def _forget(self) -> None:
        """Drop the lanes where nobody waits, which forgives each tenant what it is ahead by: some requests."""
        self._lanes = {lane.name: lane for lane in self._waiting}
        self._keep = max(_LANES_KEPT, 2 * len(self._lanes))


def _smoothed(expected: float, tokens: float) -> float:
    return expected + _SMOOTHING * (tokens - expected) if expected else tokens
