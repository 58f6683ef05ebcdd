"""Virtual token counters: shares that match weights, classes above them, and no credit for having been idle."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.fairness import Lanes, Permit, Place
from gateway.tenants import Limits, Tenant

LOOP = asyncio.new_event_loop()
LOOP.close()  # nothing runs on it: places are only marked


def tenant(name: str, weight: float = 1.0, priority: str = "standard") -> Tenant:
    return Tenant(name, Limits(weight=weight, priority=priority))  # type: ignore[arg-type]


class Engine:
    """A model with so many slots in simulated time: tenants that always have requests waiting, or some."""

    def __init__(self, slots: int) -> None:
        self.lanes = Lanes()
        self.slots = slots
        self.now = 0.0
        self.served: Counter[str] = Counter()
        self.order: list[str] = []
        self._running: list[tuple[float, int, Permit, int]] = []
        self._costs: dict[Place, int] = {}
        self._number = 0

    def ask(self, who: Tenant, tokens: int, least: int = 5) -> Place:
        place: Place = LOOP.create_future()
        self._costs[place] = tokens
        self.lanes.push(self.lanes.lane(who), place, least)
        return place

    def step(self) -> str | None:
        """Fill the slots, and let the next request end: whose it was."""
        while len(self._running) < self.slots:
            waiting = dict.fromkeys(self._costs)
            permit = self.lanes.serve_next()
            if permit is None:
                break
            assert permit.lane is not None
            self.order.append(permit.lane.name)
            place = next(place for place in waiting if place.done())
            tokens = self._costs.pop(place)
            self._number += 1
            heapq.heappush(self._running, (self.now + tokens, self._number, permit, tokens))
        if not self._running:
            return None
        self.now, _, permit, tokens = heapq.heappop(self._running)
        assert permit.lane is not None
        self.lanes.settle(permit, tokens)
        self.served[permit.lane.name] += tokens
        return permit.lane.name


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=2, max_size=4),
    st.lists(st.integers(5, 200), min_size=4, max_size=4),
    st.integers(1, 16),
    st.integers(0, 1000),
)
def test_under_saturation_shares_of_tokens_match_weights(
    weights: list[float], means: list[int], slots: int, seed: int
) -> None:
    rng = random.Random(seed)
    engine = Engine(slots)
    tenants = [tenant(f"t{number}", weight) for number, weight in enumerate(weights)]
    sizes = dict(zip((each.name for each in tenants), means, strict=False))

    def ask(who: Tenant) -> None:
        engine.ask(who, rng.randint(1, 2 * sizes[who.name]))

    for who in tenants:
        for _ in range(slots + 2):
            ask(who)
    by_name = {each.name: each for each in tenants}
    while engine.now < 200 * 200:
        name = engine.step()
        assert name is not None
        ask(by_name[name])
    total = sum(engine.served.values())
    for who in tenants:
        assert abs(engine.served[who.name] / total / (who.weight / sum(weights)) - 1) < 0.1


def test_a_tenant_below_its_share_waits_for_one_slot_however_long_anothers_queue_is() -> None:
    engine = Engine(4)
    flood, modest = tenant("flood"), tenant("modest")
    for _ in range(200):
        engine.ask(flood, 100)
    for _ in range(20):
        engine.step()
    for _ in range(10):
        place = engine.ask(modest, 100)
        engine.step()  # one slot comes free …
        engine.step()
        assert place.done()  # … and the next is let in
        for _ in range(20):
            engine.step()


def test_a_newcomer_is_not_left_behind_by_what_is_not_settled_yet() -> None:
    engine = Engine(8)
    early, late = tenant("early"), tenant("late", 3.0)
    for _ in range(100):
        engine.ask(early, 40)
    engine.step()
    for _ in range(100):
        engine.ask(late, 40)
    engine.order.clear()
    for _ in range(60):
        engine.step()
    assert 0.6 < engine.order.count("late") / 60 < 0.9


def test_who_was_idle_has_saved_nothing_up() -> None:
    engine = Engine(1)
    busy, idle = tenant("busy"), tenant("idle")
    for _ in range(100):
        engine.ask(busy, 100)
        engine.step()
    for _ in range(20):
        engine.ask(busy, 100)
        engine.ask(idle, 100)
    engine.order.clear()
    for _ in range(20):
        engine.step()
    assert 9 <= engine.order.count("idle") <= 11


def test_requests_that_need_not_wait_count_too() -> None:
    lanes = Lanes()
    busy, other = tenant("busy"), tenant("other")
    for _ in range(50):
        lanes.settle(lanes.serve_at_once(busy, 100), 100)
    newcomer = lanes.serve_at_once(other, 100)
    assert newcomer.lane is not None
    assert newcomer.lane.counter == lanes.lane(busy).counter  # lifted to where the busy one's last began


def test_a_class_is_served_while_one_before_it_waits_never() -> None:
    engine = Engine(2)
    classes = {name: tenant(name, priority=name) for name in ("bulk", "standard", "interactive")}
    for who in classes.values():
        for _ in range(6):
            engine.ask(who, 50)
    while engine.step():
        pass
    assert engine.order == ["interactive"] * 6 + ["standard"] * 6 + ["bulk"] * 6


def test_the_cost_that_is_charged_ahead_is_what_requests_came_to() -> None:
    lanes = Lanes()
    one, other = tenant("a"), tenant("b")
    first = lanes.serve_at_once(one, 7)
    assert first.charged_tokens == 7
    lanes.settle(first, 20)
    assert first.lane is not None
    assert first.lane.counter == 20
    assert lanes.serve_at_once(one, 4096).charged_tokens == 20
    newcomer = lanes.serve_at_once(other, 4096)
    assert newcomer.charged_tokens == 20  # of the model's, as it has none of its own
    lanes.settle(newcomer, 500)
    assert lanes.serve_at_once(other, 1).charged_tokens == 500


def test_a_reloaded_tenant_has_its_new_weight_and_class_at_once() -> None:
    lanes = Lanes()
    before = lanes.lane(tenant("a", 1.0))
    after = lanes.lane(tenant("a", 3.0, "bulk"))
    assert after is before
    assert (after.weight, after.priority.name) == (3.0, "BULK")


def test_lanes_of_tenants_that_came_and_went_are_forgotten() -> None:
    lanes = Lanes()
    for number in range(5000):
        lanes.settle(lanes.serve_at_once(tenant(f"t{number}"), 10), 10)
    assert len(lanes._lanes) <= 1025
