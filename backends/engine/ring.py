"""Which replicas a key prefers, in order: the same in every process and gateway, without talk between them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from backends.engine.replica import Replica
from backends.model import Endpoint

_SLOTS = 4096
_MASK = (1 << 64) - 1


def stable_name(endpoint: Endpoint) -> str:
    """What every gateway calls this endpoint: its URL; of a socket of ours, which only we reach, the id."""
    return endpoint.id if endpoint.address.startswith("unix:") else endpoint.address


class Ring:
    """Rendezvous hashing: each replica's weight for a key is a hash of both, and the highest comes first.

    Without one of the replicas only its own keys move, evenly to the others, and with it back only they return.
    Keys fall into 4,096 slots whose orders are kept, so that a decision does not cost a hash a replica.

    Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM Transactions on Networking
    6(1), 1998. The mixing is that of SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", OOPSLA 2014.
    """

    __slots__ = ("_members", "_orders", "_seeds", "names", "places")

    def __init__(self) -> None:
        self.names: list[str] = []
        self.places: dict[str, int] = {}
        """Where each name stands among the replicas last given."""
        self._members: tuple[Replica, ...] = ()
        self._seeds: list[int] = []
        self._orders: dict[int, list[int]] = {}

    def order(self, replicas: Sequence[Replica], key: int) -> list[int]:
        """Places in `replicas`, the one that `key` prefers first."""
        members = tuple(replicas)
        if members != self._members:
            self._members = members
            self.names = [stable_name(replica.endpoint) for replica in members]
            self.places = {name: place for place, name in enumerate(self.names)}
            self._seeds = [_seed(name) for name in self.names]
            self._orders = {}
        slot = key % _SLOTS
        order = self._orders.get(slot)
        if order is None:
            weights = [_mix(seed ^ slot) for seed in self._seeds]
            order = self._orders[slot] = sorted(range(len(members)), key=weights.__getitem__, reverse=True)
        return order


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def _mix(value: int) -> int:
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31
