"""What holds for every scheduler, whatever comes when."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from backends.errors import InferenceError
from backends.worker.scheduling.batcher import Batch, Entry, scheduler_for
from tests.backends.worker.scheduled import MS, config, entry
from tests.backends.worker.sequenced import CONTROLS

MOST_ROWS = 4
INSTANCES = 2


@dataclass
class Course:
    """A scheduler through a course of events, and what became of every entry."""

    fields: dict[str, Any]
    now_ns: int = 0
    added: list[Entry] = field(default_factory=list)
    left: Counter[Entry] = field(default_factory=Counter)
    taken: list[Entry] = field(default_factory=list)
    running: dict[int, Batch] = field(default_factory=dict)

    def __post_init__(self):
        self.config = config(**{"max_batch_size": MOST_ROWS} | self.fields)
        self.scheduler = scheduler_for(self.config, INSTANCES)

    def add(self, **asked):
        added = entry("", self.now_ns, **asked)
        try:
            self.scheduler.add(added, self.now_ns)
        except InferenceError:
            return
        self.added.append(added)

    def take(self, instance):
        if instance in self.running:
            return
        self.expire()
        batch = self.scheduler.take(instance, self.now_ns)
        if batch is None:
            return
        assert batch.rows <= max(1, MOST_ROWS)
        assert len([message for message in batch.messages if message.id]) == len(batch.entries)
        assert len(batch.tensors) == sum(len(message.inputs) for message in batch.messages)
        self.left.update(batch.entries)
        self.taken.extend(batch.entries)
        self.running[instance] = batch

    def done(self, instance):
        if instance in self.running:
            self.scheduler.done(instance, self.running.pop(instance), self.now_ns)

    def again(self, instance):
        """The model wants the first of its batch once more."""
        if instance in self.running:
            first = self.running[instance].entries[0]
            if first.is_cancelled:
                return
            self.left[first] -= 1
            self.taken.remove(first)
            self.scheduler.again(first, self.now_ns)
            self.done(instance)

    def lose(self, instance):
        self.scheduler.lost(instance, self.now_ns)
        self.running.pop(instance, None)

    def cancel(self, index):
        self.expire()
        if self.added:
            chosen = self.added[index % len(self.added)]
            has_left = self.left[chosen] > 0
            assert self.scheduler.cancel(chosen) or has_left
            if not has_left:
                self.left[chosen] += 1

    def expire(self):
        self.left.update(failed for failed, _ in self.scheduler.expired(self.now_ns))

    def finish(self):
        """Run until nothing waits; asking only when the scheduler says that it is worth it."""
        for _ in range(4 * len(self.added) + 10):
            for instance in range(INSTANCES):
                self.done(instance)
            for instance in range(INSTANCES):
                self.take(instance)
            if not self.running:
                self.expire()
                at_ns = self.scheduler.wake_at()
                if at_ns is None:
                    break
                self.now_ns = max(self.now_ns, at_ns)
        assert self.scheduler.waiting == 0
        assert self.left == Counter(self.added)


events = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.fixed_dictionaries(
                {
                    "rows": st.integers(1, MOST_ROWS),
                    "priority": st.integers(0, 3),
                    "timeout_us": st.sampled_from([0, 1, 500, 5000]),
                    "shapes": st.sampled_from([{"X": (1,)}, {"X": (2,)}, {"X": (9,)}]),
                }
            ),
        ),
        st.tuples(st.just("take"), st.integers(0, INSTANCES - 1)),
        st.tuples(st.sampled_from(["done", "again"]), st.integers(0, INSTANCES - 1)),
        st.tuples(st.just("cancel"), st.integers(0, 50)),
        st.tuples(st.just("wait"), st.sampled_from([1, MS // 2, 3 * MS])),
    ),
    max_size=60,
)
policies = st.sampled_from(
    [
        {},
        {"max_queue_size": 3},
        {"default_timeout_microseconds": 1000, "allow_timeout_override": True},
        {"default_timeout_microseconds": 1000, "timeout_action": "DELAY"},
    ]
)
batchings = st.fixed_dictionaries(
    {
        "preferred_batch_size": st.sampled_from([[], [2], [3, 4]]),
        "max_queue_delay_microseconds": st.sampled_from([0, 1000]),
        "priority_levels": st.sampled_from([0, 2]),
        "default_priority_level": st.just(2),
        "default_queue_policy": policies,
        "priority_queue_policy": st.dictionaries(st.integers(1, 2), policies),
    }
)
inputs = st.sampled_from(
    [
        [{"name": "X", "dims": [-1]}],
        [{"name": "X", "dims": [-1], "allow_ragged_batch": True}],
    ]
)
parameters = st.sampled_from([{}, {"max_batch_tokens": "8"}, {"max_batch_tokens": "20", "length_buckets": "1,4"}])


def happen(course, happenings):
    for what, how in happenings:
        match what:
            case "add":
                course.add(**how)
            case "take":
                course.take(how)
            case "done":
                course.done(how)
            case "again":
                course.again(how)
            case "lose":
                course.lose(how)
            case "cancel":
                course.cancel(how)
            case "wait":
                course.now_ns += how


@given(events, batchings, inputs, parameters)
def test_every_entry_leaves_exactly_once_and_no_batch_is_too_large(happenings, batching, declared, parameters):
    course = Course({"dynamic_batching": batching, "input": declared, "parameters": parameters})
    happen(course, happenings)
    course.finish()


@given(events, batchings)
def test_entries_of_a_priority_run_in_the_order_in_which_they_came(happenings, batching):
    course = Course({"dynamic_batching": batching})
    happen(course, [(what, how) for what, how in happenings if what != "again"])
    course.finish()
    levels = {1, 2} if batching["priority_levels"] else {0}
    for level in levels:
        arrived = [
            one for one in course.added if level in {0, one.infer.priority if one.infer.priority in {1, 2} else 2}
        ]
        in_time = [one for one in course.taken if one in arrived and not one.is_late]
        assert in_time == [one for one in arrived if one in in_time]


@given(events, batchings)
def test_no_entry_runs_after_its_timeout_and_none_is_refused_before(happenings, batching):
    rejecting = {"default_timeout_microseconds": 1000, "timeout_action": "REJECT"}
    course = Course(
        {"dynamic_batching": batching | {"default_queue_policy": rejecting, "priority_queue_policy": {}}},
    )
    taken_ns, refused_ns = {}, {}
    for happening in happenings:
        if happening[0] == "again":
            continue
        happen(course, [happening])
        for one in course.left:
            (taken_ns if one in course.taken else refused_ns).setdefault(one, course.now_ns)
    assert all(at_ns < one.queued_ns + MS for one, at_ns in taken_ns.items())
    assert all(at_ns >= one.queued_ns + MS or one.is_cancelled for one, at_ns in refused_ns.items())


sequence_events = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.fixed_dictionaries(
                {
                    "sequence_id": st.integers(1, 6),
                    "sequence_start": st.booleans(),
                    "sequence_end": st.booleans(),
                    "shapes": st.sampled_from([{"X": (1,)}, {"X": (2,)}]),
                }
            ),
        ),
        st.tuples(st.just("take"), st.integers(0, INSTANCES - 1)),
        st.tuples(st.just("done"), st.integers(0, INSTANCES - 1)),
        st.tuples(st.sampled_from(["cancel", "lose"]), st.integers(0, INSTANCES - 1)),
        st.tuples(st.just("wait"), st.sampled_from([1, MS // 2, 3 * MS])),
    ),
    max_size=80,
)
strategies = st.sampled_from(
    [
        {},
        {"direct": {"minimum_slot_utilization": 0.75, "max_queue_delay_microseconds": 1000}},
        {"oldest": {"max_candidate_sequences": 1}},
        {"oldest": {"max_candidate_sequences": 3, "preferred_batch_size": [2], "max_queue_delay_microseconds": 700}},
    ]
)


@given(sequence_events, strategies, st.booleans())
def test_every_request_of_a_sequence_leaves_once_and_after_those_before_it(happenings, strategy, has_rows):
    batching = {"control_input": CONTROLS, "max_sequence_idle_microseconds": 2000} | strategy
    fields = {"sequence_batching": batching, "input": [{"name": "X", "dims": [-1]}]}
    course = Course(fields if has_rows else fields | {"max_batch_size": 0})
    happen(course, happenings)
    course.finish()
    for sequence in {one.sequence for one in course.taken}:
        ran = [one for one in course.taken if one.sequence is sequence]
        assert ran == [one for one in course.added if one in ran]
        assert ran[0].infer.sequence_start


@given(sequence_events, strategies)
def test_a_sequence_runs_one_request_at_a_time_in_one_instance(happenings, strategy):
    batching = {"control_input": CONTROLS, "max_sequence_idle_microseconds": 2000} | strategy
    course = Course({"sequence_batching": batching})
    where = {}
    for happening in happenings:
        happen(course, [happening])
        under_way = [one.sequence for batch in course.running.values() for one in batch.entries]
        assert len(under_way) == len(set(under_way))
        for instance, batch in course.running.items():
            for one in batch.entries:
                assert where.setdefault(one.sequence, instance) == instance


@given(sequence_events, strategies)
def test_every_iterative_sequence_leaves_once_however_often_it_comes_back(happenings, strategy):
    batching = {"control_input": CONTROLS, "iterative_sequence": True} | strategy
    course = Course({"sequence_batching": batching})
    happen(course, [("again" if what == "done" and how else what, how) for what, how in happenings])
    course.finish()
