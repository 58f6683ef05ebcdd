"""A server process's account of itself for its supervisor: what is under way, who waits, what was decided."""

from __future__ import annotations

from gateway.plane import Plane
from gateway.snapshot import Account, Inspect, Queue


def account(plane: Plane, question: Inspect) -> Account:
    """The answer to the supervisor's question."""
    registry = plane.registry
    return Account(
        question.id,
        registry.snapshot_number,
        in_flight={address: count for address, count in registry.work().items() if count},
        queues={
            name: Queue(entry.gate.running, dict(entry.gate.queued_by_tenant()))
            for name, entry in registry.entries().items()
        },
        decisions=plane.decisions.render(question.decisions),
    )
