"""Replicas and requests for the tests of routing: no engine behind them, no connection made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from backends.engine.replica import Replica
from backends.engine.upstream import Pool
from backends.model import Endpoint, Endpoints, Load, OpenAIRequest, State


def replicas(
    count: int = 4, *, tokens: Sequence[int] = (), loads: Sequence[Load] = (), weights: Sequence[float] = ()
) -> list[Replica]:
    """Replicas at URLs, with so many tokens under way in one request each, and what their engines say."""
    found = tuple(
        Endpoint(f"model/1/{number}", f"http://engine-{number}:8000", State.READY, weight=weights[number])
        if weights
        else Endpoint(f"model/1/{number}", f"http://engine-{number}:8000", State.READY)
        for number in range(count)
    )
    endpoints = Endpoints(found, {endpoint.id: load for endpoint, load in zip(found, loads, strict=False)})
    made = [Replica(endpoint, Pool(endpoint.address, "test"), endpoints) for endpoint in found]
    for replica, under_way in zip(made, tokens, strict=False):
        replica.tokens_in_flight = under_way
        replica.in_flight = int(under_way > 0)
    return made


def request(
    messages: Sequence[dict[str, Any]] = (), *, session: str = "", path: str = "/v1/chat/completions", **fields: Any
) -> OpenAIRequest:
    """A request whose prompt counts a token for each four bytes and whose answer counts none."""
    body = {"model": "model", **({"messages": list(messages)} if messages else {}), **fields}
    data = json.dumps(body).encode()
    return OpenAIRequest(path, data, "model", stream=True, session=session, prompt_tokens=len(data) // 4)


def turns(user: str, count: int, *, system: str = "You help. " * 60) -> list[list[dict[str, str]]]:
    """The messages of each turn of a conversation."""
    messages = [{"role": "system", "content": system}]
    found = []
    for number in range(count):
        asked = f"I am {user}." if number == 0 else f"And then, {number}?"
        messages = [*messages, {"role": "user", "content": asked}]
        found.append(messages)
        messages = [*messages, {"role": "assistant", "content": f"{user} hears answer {number}. " * 20}]
    return found
