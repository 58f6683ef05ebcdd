"""The decision log: where the last requests went, why, and what became of them. A bounded ring in each server process.

A request costs two small objects and an append; what is told of it is put into words when somebody asks.
"""

from __future__ import annotations

import time
from collections import deque
from itertools import islice
from typing import Any

import msgspec

from backends.model import OpenAIRequest, Route
from gateway.telemetry import Exchange

_PROMPT_BYTES = 4096
_ANSWER_BYTES = 4 * 1024 * 1024


class Decision:
    """One request: its marks in time, and for each model that it was sent to, the way it took there."""

    __slots__ = ("asked", "prompt", "record", "routes")

    def __init__(self, record: Exchange, asked: str, prompt: bytes) -> None:
        self.record = record
        self.asked = asked
        self.prompt = prompt
        self.routes: list[tuple[str, Route]] = []

    def took(self, request: OpenAIRequest) -> None:
        """It goes to this model now; the route is filled in as it goes."""
        self.routes.append((request.model, request.route))


class DecisionLog:
    """The last `size` requests. `prompts`: the beginning of each body is kept as well."""

    def __init__(self, size: int, *, prompts: bool = False) -> None:
        self._ring: deque[Decision] = deque(maxlen=size)
        self._prompts = prompts

    def begin(self, record: Exchange, asked: str, body: bytes) -> Decision:
        """A request asks for the model `asked`, by its name or an alias."""
        decision = Decision(record, asked, body[:_PROMPT_BYTES] if self._prompts else b"")
        self._ring.append(decision)
        return decision

    def render(self, limit: int) -> list[bytes]:
        """The last `limit` as JSON objects, the newest last; fewer where prompts make them too long for one answer."""
        epoch = time.time() - time.monotonic()
        found: deque[bytes] = deque()
        size_bytes = 0
        for decision in islice(reversed(self._ring), limit):
            text = msgspec.json.encode(_described(decision, epoch))
            size_bytes += len(text)
            if size_bytes > _ANSWER_BYTES:
                break
            found.appendleft(text)
        return list(found)


def _described(decision: Decision, epoch: float) -> dict[str, Any]:
    """`status` is null while it is under way; of times, those that have not come yet are."""
    record = decision.record
    fields: dict[str, Any] = {
        "request_id": record.request_id.decode(),
        "at": round(epoch + record.started_at, 6),
        "operation": record.endpoint,
        "tenant": record.tenant,
        "asked": decision.asked,
        "routes": [{"model": model, **_route(route)} for model, route in decision.routes],
        "stream": record.stream,
        "status": record.status or None,
        "outcome": record.finish or None,
        "sent_ms": _since(record, record.sent_at),
        "first_token_ms": _since(record, record.first_chunk_at),
        "total_ms": _since(record, record.finished_at),
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
    }
    if decision.prompt:
        fields["prompt"] = decision.prompt.decode("utf-8", "replace")
    return fields


def _route(route: Route) -> dict[str, Any]:
    return {
        "endpoint": route.endpoint,
        "policy": route.policy,
        "reason": route.reason,
        "retries": route.retries,
        "hedges": route.hedges,
        "resumes": route.resumes,
        "failures": list(route.failures),
    }


def _since(record: Exchange, at: float) -> float | None:
    return round((at - record.started_at) * 1000, 3) if at else None
