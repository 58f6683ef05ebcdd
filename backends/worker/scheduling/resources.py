"""What instances of all models share: resources that an execution needs, counted in a file that their hosts lock.

Triton's rate limiter (`rate_limiter` of an instance group, `--rate-limit=execution_count`): an instance runs when what
it needs is free. Where several could, the one with the fewest executions, each weighted by its priority, goes first.
There is as much of a resource as `--rate-limit-resource` says, else as the largest need of an instance is.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from backends.config import RateLimiter
from backends.errors import InferenceError, InvalidRequest
from backends.worker.scheduling.scheduler import Batch, Entry, Scheduler

POLL_NS = 5_000_000
"""How often a host that lacks something looks again: nobody tells it that something is free."""

_PATIENCE_NS = 3 * POLL_NS

T = TypeVar("T")


class Share(msgspec.Struct):
    """What one host needs at most, holds now and waits for. `waits_ns` is until when it waits, if it is alive.

    The first of those that wait has the lowest `turn`: its score, and since when it waits.
    """

    needs: dict[str, int] = {}
    held: dict[str, int] = {}
    wanted: dict[str, int] = {}
    turn: tuple[int, int] = (0, 0)
    waits_ns: int = 0


class Ledger:
    """The file of what is needed, held and waited for by each host; the part of a host that died counts no more."""

    def __init__(self, path: str, limits: Sequence[str], pid: int = 0) -> None:
        """`limits` are `NAME:COUNT` or `NAME:COUNT:DEVICE`; `pid` is the host's, 0: this process.

        Raises `InvalidRequest`.
        """
        self._path = path
        self._limits = dict(_limit(text) for text in limits)
        pid = pid or os.getpid()
        self._own = f"{pid}.{_began(pid)}"
        self._decode = msgspec.msgpack.Decoder(dict[str, Share]).decode

    def register(self, needs: Sequence[dict[str, int]]) -> None:
        """Say what instances of this host will need. Raises `InvalidRequest` for what there never will be."""
        most: dict[str, int] = {}
        for need in needs:
            for key, count in need.items():
                most[key] = max(count, most.get(key, 0))
        for key, count in most.items():
            limit = self._limited(key)
            if limit is not None and limit < count:
                raise InvalidRequest(
                    f'Resource count for "{key.partition("@")[0]}" is limited to {limit} which will prevent scheduling'
                    f" of one or more model instances, the minimum required count is {count}"
                )

        def tell(_: dict[str, Share], own: Share) -> None:
            own.needs = most

        self._change(tell)

    def acquire(self, need: dict[str, int], score: int, now_ns: int) -> bool:
        """Hold what an execution needs, if all of it is free and nobody waits for it whose turn is before."""

        def hold(shares: dict[str, Share], own: Share) -> bool:
            others = [share for share in shares.values() if share is not own]
            free = {key: self._count(key, shares) - _sum(key, shares) for key in _keys(shares)}
            turn = (score, own.turn[1] if own.waits_ns > now_ns else now_ns)
            is_free = all(count <= free[key] for key, count in need.items())
            if not is_free or any(_goes_first(other, need, turn, free, now_ns) for other in others):
                own.wanted, own.turn, own.waits_ns = need, turn, now_ns + _PATIENCE_NS
                return False
            own.waits_ns = 0
            own.held = {key: own.held.get(key, 0) + need.get(key, 0) for key in own.held | need}
            return True

        return self._change(hold)

    def release(self, need: dict[str, int]) -> None:
        """Give back what an execution needed."""

        def give(_: dict[str, Share], own: Share) -> None:
            own.held = {key: count - need.get(key, 0) for key, count in own.held.items()}

        self._change(give)

    def _change(self, change: Callable[[dict[str, Share], Share], T]) -> T:
        """Read the file, change it and write it, alone."""
        with Path(self._path).open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            shares = self._decode(text) if text else {}
            shares = {name: share for name, share in shares.items() if name == self._own or _is_alive(name)}
            answer = change(shares, shares.setdefault(self._own, Share()))
            file.truncate(0)
            file.write(msgspec.msgpack.encode(shares))
            return answer

    def _limited(self, key: str) -> int | None:
        """How much there is of a resource by the settings; once they name one, there is nothing of the others."""
        if not self._limits:
            return None
        return self._limits.get(key, self._limits.get(key.partition("@")[0], 0))

    def _count(self, key: str, shares: dict[str, Share]) -> int:
        limit = self._limited(key)
        return max(share.needs.get(key, 0) for share in shares.values()) if limit is None else limit


class Sharing(Protocol):
    """An instance: the resources that it needs, and the device that it runs on (-1: the CPU)."""

    @property
    def limiter(self) -> RateLimiter | None: ...
    @property
    def device(self) -> int: ...


def limited(scheduler: Scheduler, instances: Iterable[Sharing], path: str, limits: Sequence[str]) -> Scheduler:
    """The scheduler with what its instances share heeded, if they share anything. Raises `InvalidRequest`."""
    found = list(instances)
    if not any(instance.limiter is not None and instance.limiter.resources for instance in found):
        return scheduler
    return Limited(scheduler, found, Ledger(path, limits))


class Limited:
    """A scheduler whose batches run when their instance has the resources that it needs."""

    def __init__(self, scheduler: Scheduler, instances: Sequence[Sharing], ledger: Ledger) -> None:
        """Raises `InvalidRequest` for what there never will be enough of."""
        self._inner = scheduler
        self.ordering = scheduler.ordering
        self.states = scheduler.states
        self._needs = [_need(instance) for instance in instances]
        self._weights = [_weight(instance) for instance in instances]
        self._executions = [0] * len(instances)
        self._holds = [False] * len(instances)
        self._look_again_ns: int | None = None
        self._ledger = ledger
        ledger.register(self._needs)

    @property
    def waiting(self) -> int:
        return self._inner.waiting

    def add(self, entry: Entry, now_ns: int) -> None:
        self._inner.add(entry, now_ns)

    def take(self, instance: int, now_ns: int) -> Batch | None:
        need = self._needs[instance]
        if not need or not self._inner.waiting:
            self._look_again_ns = None if not self._inner.waiting else self._look_again_ns
            return self._inner.take(instance, now_ns)
        if not self._ledger.acquire(need, self._executions[instance] * self._weights[instance], now_ns):
            self._look_again_ns = now_ns + POLL_NS
            return None
        batch = self._inner.take(instance, now_ns)
        if batch is None:
            self._ledger.release(need)
            return None
        self._executions[instance] += 1
        self._holds[instance] = True
        return batch

    def done(self, instance: int, batch: Batch, now_ns: int) -> None:
        self._release(instance)
        self._inner.done(instance, batch, now_ns)

    def lost(self, instance: int, now_ns: int) -> None:
        self._release(instance)
        self._inner.lost(instance, now_ns)

    def retry(self, entry: Entry, now_ns: int) -> None:
        self._inner.retry(entry, now_ns)

    def again(self, entry: Entry, now_ns: int) -> None:
        self._inner.again(entry, now_ns)

    def cancel(self, entry: Entry) -> bool:
        return self._inner.cancel(entry)

    def expired(self, now_ns: int) -> list[tuple[Entry, InferenceError]]:
        if self._look_again_ns is not None and self._look_again_ns <= now_ns:
            self._look_again_ns = None
        return self._inner.expired(now_ns)

    def wake_at(self) -> int | None:
        times = (self._inner.wake_at(), self._look_again_ns)
        return min((time_ns for time_ns in times if time_ns is not None), default=None)

    def _release(self, instance: int) -> None:
        if self._holds[instance]:
            self._holds[instance] = False
            self._ledger.release(self._needs[instance])


def _need(instance: Sharing) -> dict[str, int]:
    # Triton counts what is not global by device, and the CPU as device 0.
    device = max(instance.device, 0)
    return {
        resource.name if resource.is_global else f"{resource.name}@{device}": resource.count
        for resource in (instance.limiter.resources if instance.limiter is not None else ())
    }


def _weight(instance: Sharing) -> int:
    return 1 if instance.limiter is None else max(1, instance.limiter.priority)


def _goes_first(other: Share, need: dict[str, int], turn: tuple[int, int], free: dict[str, int], now_ns: int) -> bool:
    """Whether another host waits for some of the same, could have it now, and is to have it before."""
    if other.waits_ns <= now_ns or other.turn >= turn or need.keys().isdisjoint(other.wanted):
        return False
    return all(count <= free[key] for key, count in other.wanted.items())


def _keys(shares: dict[str, Share]) -> set[str]:
    return {key for share in shares.values() for key in share.needs}


def _sum(key: str, shares: dict[str, Share]) -> int:
    return sum(share.held.get(key, 0) for share in shares.values())


def _limit(text: str) -> tuple[str, int]:
    name, *rest = text.split(":")
    if len(rest) not in {1, 2} or not all(part.isdecimal() for part in rest):
        raise InvalidRequest(f"rate_limit_resource is {text!r}, not NAME:COUNT or NAME:COUNT:DEVICE.")
    return (f"{name}@{rest[1]}" if len(rest) == 2 else name), int(rest[0])


def _began(pid: int) -> str:
    """When a process began (proc(5), stat, field 22), empty when it is gone: ids are used again."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _is_alive(name: str) -> bool:
    pid, _, began = name.partition(".")
    return _began(int(pid)) == began
