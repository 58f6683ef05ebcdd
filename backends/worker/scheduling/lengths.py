"""Batches bounded by tokens: requests of similar lengths run together, so that little is spent on padding.

The parameter `max_batch_tokens` bounds the longest row's tokens times the rows; `length_buckets` ("32,64,128") keeps
lengths of different buckets apart. The request whose turn it is always goes: nobody waits for others of its length.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import islice

from backends.config import DynamicBatching, ModelConfig
from backends.errors import InvalidRequest
from backends.worker.scheduling.kinship import Kinship, are_kin
from backends.worker.scheduling.queue import Queue
from backends.worker.scheduling.scheduler import Entry

MAX_BATCH_TOKENS = "max_batch_tokens"
LENGTH_BUCKETS = "length_buckets"

# How far the queue is searched for similar lengths: so many times the largest batch.
_BATCHES_SEARCHED = 4


def by_tokens(config: ModelConfig, batching: DynamicBatching, kinship: Kinship | None) -> ByTokens:
    """The choice that a model's parameters describe. Raises `InvalidRequest`."""
    parameters = config.parameters
    (most_tokens,) = _numbers(config, MAX_BATCH_TOKENS, parameters[MAX_BATCH_TOKENS])[:1]
    buckets = _numbers(config, LENGTH_BUCKETS, parameters[LENGTH_BUCKETS]) if LENGTH_BUCKETS in parameters else []
    delay_ns = 1000 * batching.max_queue_delay_microseconds
    return ByTokens(max(1, config.max_batch_size), most_tokens, sorted(buckets), delay_ns, kinship)


class ByTokens:
    """The entry whose turn it is, with those of its priority that are nearest to it in length."""

    def __init__(
        self, most_rows: int, most_tokens: int, buckets: list[int], delay_ns: int, kinship: Kinship | None
    ) -> None:
        self._most_rows = most_rows
        self._most_tokens = most_tokens
        self._buckets = buckets
        self._delay_ns = delay_ns
        self._kinship = kinship

    def choose(self, queue: Queue, now_ns: int) -> tuple[list[Entry], int, int]:
        """The batch goes at once where the next entry would be too much for it, or where the delay is over."""
        searched = list(islice(queue, _BATCHES_SEARCHED * self._most_rows))
        first = searched[0]
        length = tokens(first)
        others = [(abs(tokens(entry) - length), entry) for entry in searched[1:] if self._may_join(first, entry)]
        others.sort(key=lambda other: other[0])
        entries = [first]
        rows = first.rows
        longest = length
        is_full = rows >= self._most_rows or rows * longest >= self._most_tokens
        for _, entry in others:
            grown, reach = rows + entry.rows, max(longest, tokens(entry))
            if grown > self._most_rows or grown * reach > self._most_tokens:
                is_full = True
                continue
            entries.append(entry)
            rows, longest = grown, reach
            is_full = is_full or rows == self._most_rows
        due_ns = first.queued_ns + self._delay_ns
        if is_full or now_ns >= due_ns or len(searched) < queue.waiting:
            return entries, 0, 0
        return [], due_ns, queue.rows + 1

    def _may_join(self, first: Entry, entry: Entry) -> bool:
        if entry.place is not first.place:
            return False
        if self._buckets and self._bucket(entry) != self._bucket(first):
            return False
        return self._kinship is None or are_kin(self._kinship, first, entry)

    def _bucket(self, entry: Entry) -> int:
        return bisect_left(self._buckets, tokens(entry))


def tokens(entry: Entry) -> int:
    """How many tokens an entry's longest row has: what is known of it, else the length of its inputs."""
    if not entry.cost:
        lengths = [tensor.shape[1] for tensor in entry.tensors if len(tensor.shape) > 1]
        entry.cost = max(1, *lengths) if lengths else 1
    return entry.cost


def _numbers(config: ModelConfig, name: str, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise InvalidRequest(
            f"Model {config.name!r}: the parameter {name} is {text!r}, not positive numbers.", param=name
        )
    return numbers
