from __future__ import annotations

import msgspec
import pytest

from backends.config import DynamicBatching
from backends.errors import Code, InferenceError
from backends.worker.scheduling.queue import Queue
from tests.backends.worker.scheduled import MS, entry


def queue(**batching) -> Queue:
    return Queue(msgspec.convert(batching, DynamicBatching))


def put(queue: Queue, name: str, now_ns: int = 0, **asked):
    added = entry(name, now_ns, **asked)
    queue.add(added, now_ns)
    return added


def order(queue: Queue) -> str:
    return "".join(waiting.infer.request_id for waiting in queue)


def test_levels_are_served_in_their_order_and_each_in_order_of_arrival():
    found = queue(priority_levels=3, default_priority_level=2)
    for name, priority in (("a", 3), ("b", 0), ("c", 1), ("d", 2), ("e", 9), ("f", 1)):
        put(found, name, priority=priority)
    assert order(found) == "cfbdea"


def test_levels_that_nobody_uses_cost_nothing():
    found = queue(priority_levels=10**9, default_priority_level=10**9)
    for name, priority in (("a", 0), ("b", 10**8), ("c", 1), ("d", 10**9)):
        put(found, name, priority=priority)
    assert order(found) == "cbad"


def test_without_levels_priorities_mean_nothing():
    found = queue()
    put(found, "a", priority=5)
    put(found, "b", priority=1)
    assert order(found) == "ab"


def test_each_level_has_room_for_as_many_as_its_policy_says():
    found = queue(
        priority_levels=2,
        default_priority_level=1,
        default_queue_policy={"max_queue_size": 1},
        priority_queue_policy={2: {"max_queue_size": 2}},
    )
    first = put(found, "a")
    put(found, "b", priority=2)
    put(found, "c", priority=2)
    for refused in (entry(), entry(priority=2)):
        with pytest.raises(InferenceError, match=r"^\[request id: <id_unknown>\] Exceeds maximum queue size$") as error:
            found.add(refused, 0)
        assert error.value.status is Code.UNAVAILABLE
    assert found.waiting == 3
    found.take([first])
    put(found, "d")
    assert order(found) == "dbc"


def test_who_waits_longer_than_the_timeout_is_refused():
    found = queue(default_queue_policy={"default_timeout_microseconds": 1000})
    first = put(found, "a")
    put(found, "b", MS // 2)
    assert found.wake_at() == MS
    assert found.expired(MS - 1) == []
    ((late, error),) = found.expired(MS)
    assert late is first
    assert (error.message, error.status) == ("Request timeout expired", Code.UNAVAILABLE)
    assert order(found) == "b"
    assert found.waiting == found.rows == 1


def test_a_request_may_shorten_the_timeout_where_the_policy_lets_it():
    found = queue(default_queue_policy={"default_timeout_microseconds": 1000, "allow_timeout_override": True})
    put(found, "a", timeout_us=2000)
    put(found, "b", timeout_us=500)
    assert [late.infer.request_id for late, _ in found.expired(MS // 2)] == ["b"]
    assert [late.infer.request_id for late, _ in found.expired(MS)] == ["a"]


@pytest.mark.parametrize(
    "policy", [{"allow_timeout_override": True}, {"allow_timeout_override": False, "max_queue_size": 9}]
)
def test_a_request_has_no_timeout_where_the_policy_has_none(policy):
    found = queue(default_queue_policy=policy)
    put(found, "a", timeout_us=1)
    assert found.wake_at() is None
    assert found.expired(MS) == []


def test_late_requests_may_wait_behind_their_level_but_before_the_next():
    policy = {"timeout_action": "DELAY", "default_timeout_microseconds": 1000}
    found = queue(priority_levels=2, default_priority_level=1, default_queue_policy=policy)
    late = put(found, "a")
    assert found.expired(MS) == []
    put(found, "b", MS)
    put(found, "c", MS, priority=2)
    assert order(found) == "bac"
    found.take([late])
    found.retry(late)
    assert order(found) == "bac"
    assert found.cancel(late)
    assert order(found) == "bc"


def test_nobody_is_refused_who_was_taken_in_time():
    found = queue(default_queue_policy={"default_timeout_microseconds": 1000})
    found.take([put(found, "a")])
    assert found.wake_at() is None
    assert found.expired(MS) == []


def test_many_who_leave_do_not_stay_in_memory():
    found = queue(
        priority_levels=2,
        default_priority_level=1,
        default_queue_policy={"default_timeout_microseconds": 1000, "timeout_action": "DELAY"},
    )
    put(found, "a")
    kept = put(found, "z", priority=2)
    leaving = [put(found, str(number), number, priority=2) for number in range(300)]
    found.expired(MS + 100)
    for left in leaving:
        assert found.cancel(left)
    assert sum(len(level.tickets) + len(level.delayed) for level in found._levels) < 110
    assert len(found._deadlines) < 110
    assert list(found)[-1] is kept
    assert found.waiting == 2


def test_an_entry_that_comes_back_stands_in_the_queue_once():
    found = queue()
    first, second = put(found, "a"), put(found, "b")
    found.take([second])
    found.add(second, 0)
    found.take([first])
    found.retry(first)
    assert order(found) == "ab"
