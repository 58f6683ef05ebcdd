"""What prompts begin with: hashes of their leading blocks, and a bounded memory of which replica saw which."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from zlib import crc32

_MESSAGES = re.compile(rb'"(?:messages|input)"\s*:\s*\[')
_FIELDS = {
    "/v1/chat/completions": b'"messages"',
    "/v1/messages": b'"messages"',
    "/v1/completions": b'"prompt"',
    "/v1/responses": b'"input"',
}
_HEAD_BYTES = 1024
_SEARCHED_BYTES = 65536
_LEAST_BLOCK_BYTES = 256
_SAMPLES = 4096
_BLOCK_SAMPLES = 512
_REMEMBERED_BLOCKS = 32768


def blocks(path: str, body: bytes) -> tuple[list[int], list[int]]:
    """The hashes of a request's leading blocks, each covering all blocks before it, and where they end in the body.

    Empty where the operation has no prompt to cache. The JSON is not decoded: the bytes from the prompt's field on
    are taken as they are, so a client that writes its messages in the same way each time is recognised.

    The first block, the head, names the conversation: everything up to the end of the first user message (its first
    KiB), which each further turn repeats, and which tells users with the same system prompt apart. Of a prompt that
    is no list of messages it is the first KiB. The blocks behind it are each half as long as all before them, so 64
    KiB make some fourteen; of long ones, and of a long system prompt, every n-th byte is hashed, so that the cost does
    not follow the length.

    Hashes are the same in every process and on every machine. The upper bits hold the length, the lower a CRC-32:
    no secret, and none is needed, since a client that looks for collisions finds only its own requests together.
    """
    start = body.find(_FIELDS.get(path, b"\0"))
    if start < 0:
        return [], []
    length = len(body)
    message, end = _head(body, start, length)
    before = message - start
    covered = crc32(body[start:message] if before <= _SAMPLES else body[start : message : before // _SAMPLES + 1])
    covered = crc32(body[message:end], covered)
    size = end - start
    hashes, ends = [size << 32 | covered], [end]
    step = max(_LEAST_BLOCK_BYTES, size // 2)
    while end + step <= length:
        block = (
            body[end : end + step] if step <= _BLOCK_SAMPLES else body[end : end + step : step // _BLOCK_SAMPLES + 1]
        )
        covered = crc32(block, covered)
        end += step
        size += step
        hashes.append(size << 32 | covered)
        ends.append(end)
        step = max(_LEAST_BLOCK_BYTES, size // 2)
    return hashes, ends


def _head(body: bytes, start: int, length: int) -> tuple[int, int]:
    """Where the first user message begins, and where the head ends.

    Cases: no list of messages, or no user message in its first 64 KiB, so a fixed length; a user message that closes
    within its first KiB; a longer one.

    A brace inside the text only ends the head earlier, and at the same place in every turn.
    """
    user = -1
    if _MESSAGES.match(body, start):
        user = body.find(b'"user"', start, start + _SEARCHED_BYTES)
    if user < 0:
        return start, min(length, start + _HEAD_BYTES)
    limit = user + _HEAD_BYTES
    end = body.find(b'"}', user, limit)
    if end < 0:
        end = body.find(b"}", user, limit)
    return user, min(length, limit) if end < 0 else end


class Visit:
    """A prompt that went to a replica. `stamp` orders the visits; `is_over` once the answer was whole.

    `expected` is the share of the prompt that ought to have been cached, by a visit whose stamp was `before`.
    """

    __slots__ = ("before", "expected", "is_over", "replica", "stamp")

    def __init__(self, replica: str, stamp: int, expected: float, before: int) -> None:
        self.replica = replica
        self.stamp = stamp
        self.expected = expected
        self.before = before
        self.is_over = False


class Memory:
    """The last visit of each block; so many blocks, the least recently visited are forgotten first."""

    __slots__ = ("_capacity", "_forgotten", "_stamp", "_visits")

    def __init__(self, capacity: int = _REMEMBERED_BLOCKS) -> None:
        self._capacity = capacity
        self._visits: OrderedDict[int, Visit] = OrderedDict()
        self._forgotten: dict[str, int] = {}
        self._stamp = 0

    def __len__(self) -> int:
        return len(self._visits)

    def find(self, hashes: Sequence[int]) -> tuple[Visit | None, int]:
        """The last visit of the deepest block that is known, and that block's place."""
        visits, forgotten = self._visits, self._forgotten
        for place in range(len(hashes) - 1, -1, -1):
            visit = visits.get(hashes[place])
            if visit is not None and visit.stamp > forgotten.get(visit.replica, 0):
                return visit, place
        return None, -1

    def record(self, hashes: Sequence[int], replica: str, expected: float = 0.0, before: int = 0) -> Visit:
        """Remember that a prompt goes to `replica`."""
        self._stamp += 1
        visit = Visit(replica, self._stamp, expected, before)
        visits = self._visits
        for each in hashes:
            visits[each] = visit
            visits.move_to_end(each)
        while len(visits) > self._capacity:
            visits.popitem(last=False)
        return visit

    def forget(self, replica: str, stamp: int) -> None:
        """Forget what `replica` saw up to `stamp`: what it saw then has left its cache, and so has all before."""
        self._forgotten[replica] = max(stamp, self._forgotten.get(replica, 0))
