from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import pytest

from backends.config import RateLimiter
from backends.errors import InvalidRequest
from backends.worker.hosting.process import Place
from backends.worker.scheduling.batcher import scheduler_for
from backends.worker.scheduling.resources import POLL_NS, Ledger, Limited, limited
from tests.backends.worker.scheduled import MS, add, config, names

R, S = {"name": "R"}, {"name": "S"}
EVERYWHERE = {"name": "R", "global": True}
# Processes that live as long as this test: a host is one.
ONE, OTHER = os.getpid(), os.getppid()


@pytest.fixture
def host(tmp_path):
    def make(*resources, pid=ONE, limits=(), instances=1, priority=0, device=-1, **fields) -> Limited:
        limiter = msgspec.convert({"resources": resources, "priority": priority}, RateLimiter)
        scheduler = scheduler_for(config(**fields), instances)
        ledger = Ledger(str(tmp_path / "resources"), limits, pid)
        return Limited(scheduler, [Place("m", "CPU", device, limiter)] * instances, ledger)

    return make


def test_instances_that_need_the_same_run_one_after_the_other(host):
    one = host(R, instances=2)
    add(one, 0, "a", "b")
    batch = one.take(0, 0)
    assert names(batch) == "a"
    assert one.take(1, 0) is None
    assert one.wake_at() == POLL_NS
    one.done(0, batch, MS)
    assert names(one.take(1, MS)) == "b"


def test_there_may_be_enough_for_several(host):
    one = host(R, instances=3, limits=["R:2"])
    add(one, 0, "a", "b", "c")
    assert [names(one.take(instance, 0)) for instance in range(3)] == ["a", "b", None]


def test_there_is_as_much_as_the_largest_need(host):
    one, other = host(R), host({"name": "R", "count": 2}, pid=OTHER)
    add(one, 0, "a")
    add(other, 0, "b")
    batch = one.take(0, 0)
    assert other.take(0, 0) is None
    one.done(0, batch, 0)
    assert names(other.take(0, 0)) == "b"


def test_hosts_take_turns_by_their_executions_and_priorities(host):
    one, other = host(R, priority=1), host(R, pid=OTHER, priority=2)
    add(one, 0, *"aaaaaa")
    add(other, 0, *"bbbbbb")
    ran = ""
    for now_ns in range(0, 9 * MS, MS):
        for turn in (one, other, one, other):
            batch = turn.take(0, now_ns)
            if batch is not None:
                assert (one if turn is other else other).take(0, now_ns) is None
                turn.done(0, batch, now_ns)
                ran += names(batch)
                break
    assert ran.count("a") == 6
    assert ran.count("b") == 3


def test_who_has_waited_longer_goes_first_where_all_else_is_equal(host):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        one, other, third = hosts = host(R), host(R, pid=OTHER), host(R, pid=process.pid)
        for waiting in hosts:
            add(waiting, 0, "a")
        batch = one.take(0, 0)
        assert [other.take(0, 1), third.take(0, 2)] == [None, None]
        one.done(0, batch, 3)
        assert third.take(0, 4) is None
        assert names(other.take(0, 5)) == "a"


def test_who_stopped_waiting_holds_nobody_up(host):
    one, other = host(R), host(R, pid=OTHER)
    add(one, 0, "a", "b", "c")
    (left,) = add(other, 0, "d")
    batch = one.take(0, 0)
    assert other.take(0, 0) is None
    one.done(0, batch, 0)
    assert other.cancel(left)
    assert one.take(0, 0) is None
    assert names(one.take(0, 4 * POLL_NS)) == "b"


def test_devices_have_resources_of_their_own_unless_they_are_global(host):
    first, second = host(R, device=0), host(R, pid=OTHER, device=1)
    for one in (first, second):
        add(one, 0, "a")
        assert names(one.take(0, 0)) == "a"


def test_global_resources_are_the_same_on_all_devices(host):
    first, second = host(EVERYWHERE, device=0), host(EVERYWHERE, pid=OTHER, device=1)
    add(first, 0, "a")
    add(second, 0, "b")
    assert names(first.take(0, 0)) == "a"
    assert second.take(0, 0) is None


def test_a_device_may_have_more_of_a_resource_than_others(host):
    limits = ["R:1", "R:2:1"]
    first, second = (
        host(R, limits=limits, instances=2, device=0),
        host(R, limits=limits, instances=2, device=1, pid=OTHER),
    )
    add(first, 0, "a", "b")
    add(second, 0, "c", "d")
    assert [names(first.take(instance, 0)) for instance in (0, 1)] == ["a", None]
    assert [names(second.take(instance, 0)) for instance in (0, 1)] == ["c", "d"]


def test_what_a_dead_instance_held_is_free(host):
    one = host(R, instances=2)
    a, *_ = add(one, 0, "a", "b")
    one.take(0, 0)
    one.lost(0, 0)
    one.retry(a, 0)
    assert names(one.take(1, 0)) == "a"
    one.lost(0, 0)
    assert one.take(0, 0) is None


def test_what_a_dead_host_held_is_free(host):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        dying = host(R, pid=process.pid)
        add(dying, 0, "a")
        dying.take(0, 0)
        one = host(R)
        add(one, 0, "b")
        assert one.take(0, 0) is None
    assert names(one.take(0, 0)) == "b"


def test_nothing_is_held_while_a_batch_waits_to_grow(host):
    one = host(R, dynamic_batching={"max_queue_delay_microseconds": 1000})
    other = host(R, pid=OTHER)
    add(one, 0, "a")
    assert one.take(0, 0) is None
    assert one.wake_at() == MS
    add(other, 0, "b")
    assert names(other.take(0, 0)) == "b"


def test_a_host_with_nothing_to_run_asks_for_nothing(host):
    one = host(R)
    assert one.take(0, 0) is None
    assert one.wake_at() is None
    add(one, 0, "a")
    assert one.waiting == 1
    assert one.expired(0) == []


@pytest.mark.parametrize(("limits", "limit", "count"), [(["R:1"], 1, 2), (["S:4"], 0, 2)])
def test_a_model_that_needs_more_than_there_will_be_does_not_load(host, limits, limit, count):
    text = (
        f'Resource count for "R" is limited to {limit} which will prevent scheduling of one or more model instances,'
        f" the minimum required count is {count}"
    )
    with pytest.raises(InvalidRequest, match=f"^{text}$"):
        host({"name": "R", "count": count}, limits=limits)


@pytest.mark.parametrize("text", ["R", "R:x", "R:1:x", "R:1:2:3"])
def test_what_is_no_count_of_a_resource_is_refused(host, text):
    with pytest.raises(InvalidRequest, match=f"rate_limit_resource is '{text}', not NAME:COUNT or NAME:COUNT:DEVICE"):
        host(limits=[text])


def test_instances_that_share_nothing_are_not_limited(tmp_path):
    scheduler = scheduler_for(config(), 1)
    path = tmp_path / "resources"
    assert limited(scheduler, [Place("m", "CPU", -1)], str(path), ()) is scheduler
    assert not path.exists()
    shared = limited(
        scheduler, [Place("m", "CPU", -1, msgspec.convert({"resources": [R]}, RateLimiter))], str(path), ()
    )
    assert shared is not scheduler
    assert path.exists()


def test_what_a_model_wants_again_waits_for_its_resources(host):
    one = host(R)
    (a,) = add(one, 0, "a")
    batch = one.take(0, 0)
    one.again(a, 0)
    assert one.take(0, 0) is None
    one.done(0, batch, 0)
    assert names(one.take(0, 0)) == "a"
