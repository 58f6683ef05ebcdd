"""The response cache of one model: answers by what was asked, the least recently used ones given up for new ones."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from backends.tensors import Buffer, Tensor
from backends.worker.messages import Infer, Respond, Scalar, TensorHead

# What Python keeps for an answer beside its bytes, about.
_OVERHEAD_BYTES = 512


@dataclass(frozen=True, slots=True)
class Cached:
    """An answer: its outputs' heads with the bytes of all of them."""

    outputs: tuple[TensorHead, ...]
    parameters: dict[str, Scalar]
    payload: bytes


class Cache:
    """Holds up to `size_bytes` of answers."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.used_bytes = 0
        self.evictions = 0
        self._entries: OrderedDict[bytes, Cached] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: bytes) -> Cached | None:
        """What was answered to this; it is the most recently used one now."""
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def insert(self, key: bytes, respond: Respond, payload: Buffer) -> None:
        """Keep an answer, of which a copy is made. One that is larger than the cache is not kept."""
        size_bytes = len(payload) + _OVERHEAD_BYTES
        if size_bytes > self.size_bytes or key in self._entries:
            return
        while self.used_bytes + size_bytes > self.size_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.used_bytes -= len(oldest.payload) + _OVERHEAD_BYTES
            self.evictions += 1
        self._entries[key] = Cached(tuple(respond.outputs), respond.parameters, bytes(payload))
        self.used_bytes += size_bytes


def key_of(infer: Infer, tensors: Sequence[Tensor]) -> bytes:
    """Equal for requests that ask the same: inputs in any order, outputs wanted, parameters; not ids and priorities."""
    digest = hashlib.blake2b(digest_size=16)
    order = sorted(range(len(tensors)), key=lambda number: infer.inputs[number].name)
    heads = [infer.inputs[number] for number in order]
    digest.update(msgspec.msgpack.encode((heads, sorted(infer.outputs), sorted(infer.parameters.items()))))
    for number in order:
        digest.update(tensors[number].data)
    return digest.digest()
