"""Plausible log-probabilities: the same for the same token, falling over its alternatives."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from backends.simulator.plan import Token

_ALTERNATIVE_GAP = 1.5


def logprob(word: str) -> float:
    """Between -1.01 and -0.01."""
    return -0.01 - zlib.crc32(word.encode()) % 1000 / 1000


def alternatives(word: str, number: int) -> list[tuple[str, float]]:
    """The word and those that it beat, `number` in all."""
    first = logprob(word)
    return [(word if rank == 0 else f" alternative{rank}", first - rank * _ALTERNATIVE_GAP) for rank in range(number)]


def chat_logprobs(tokens: Sequence[Token], top: int) -> dict[str, object]:
    """`logprobs` of a chat choice."""
    return {
        "content": [
            {
                **_entry(token.text, logprob(token.text)),
                "top_logprobs": [_entry(*other) for other in alternatives(token.text, top)],
            }
            for token in tokens
        ]
    }


def text_logprobs(tokens: Sequence[Token], top: int, offset: int) -> dict[str, object]:
    """`logprobs` of a text choice whose first token stands at `offset` characters."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "text_offset": offsets,
        "token_logprobs": [logprob(token.text) for token in tokens],
        "tokens": [token.text for token in tokens],
        "top_logprobs": [dict(alternatives(token.text, max(1, top))) for token in tokens],
    }


def _entry(word: str, score: float) -> dict[str, object]:
    return {"token": word, "logprob": score, "bytes": list(word.encode())}
