"""Whether an engine goes on with an answer that was begun elsewhere: greedy, alone, at every piece of a stream."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from backends.engine.continuation import Way, continued
from tests.backends.running import Engine

CHAT = "/v1/chat/completions"
POEM = [{"role": "user", "content": "Write a short poem about the sea."}]
GREEDY: dict[str, Any] = {"max_tokens": 24, "temperature": 0}
SEAMS = (1, 5, 12, 20)


async def goes_on_exactly(engine: Engine, way: Way) -> None:
    """The text before a seam and the answer to its continuation are the undisturbed answer."""
    pieces = [
        chunk["choices"][0]["delta"].get("content") or ""
        for chunk in await engine.chunks(CHAT, messages=POEM, **GREEDY)
        if chunk["choices"]
    ]
    whole = "".join(pieces)
    for seam in SEAMS:
        begun = "".join(pieces[:seam])
        fields = {key: msgspec.Raw(json.dumps(value).encode()) for key, value in (("messages", POEM), *GREEDY.items())}
        rest_of = continued(fields, CHAT, begun, chat=way)
        assert rest_of is not None
        changed = {key: json.loads(bytes(raw)) for key, raw in rest_of.items()}
        answer = await engine.answer(CHAT, **changed)
        rest = answer["choices"][0]["message"]["content"]
        assert (begun + rest).startswith(whole), (begun, rest)
