"""What an engine's completion says, as the output tensors of Triton's vLLM backend."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from backends.tensors import Tensor, join

_encode = msgspec.json.encode


@dataclass(slots=True)
class Choice:
    """One text of an answer, or one piece of it. `scores` are (token, log probability, others by token)."""

    text: str = ""
    finish_reason: str | None = None
    scores: list[tuple[str, float, dict[str, float]]] = field(default_factory=list)
    tokens: int = 0


def read(choice: dict[str, Any]) -> Choice:
    """A choice of a text completion or a chat, whole or a chunk of a stream."""
    message = choice.get("message") or choice.get("delta") or {}
    text = choice.get("text") or message.get("content") or ""
    return Choice(text, choice.get("finish_reason"), _scores(choice.get("logprobs") or {}))


def outputs(choices: Sequence[Choice], names: Iterable[str], lead: tuple[int, ...], prompt_tokens: int) -> list[Tensor]:
    """The tensors of these names; `lead` is the batch's dimension where there is one.

    `prompt_tokens` 0: not known yet, and left out.
    """
    made = []
    shape = (*lead, len(choices))
    for name in names:
        match name:
            case "text_output":
                made.append(_texts(name, shape, [choice.text for choice in choices]))
            case "finish_reason":
                made.append(_texts(name, shape, [str(choice.finish_reason) for choice in choices]))
            case "logprobs":
                made.append(_texts(name, shape, [_listed(choice) for choice in choices]))
            case "cumulative_logprob":
                sums = [sum(score for _, score, _ in choice.scores) for choice in choices]
                made.append(Tensor(name, "FP32", shape, struct.pack(f"<{len(sums)}f", *sums)))
            case "num_output_tokens":
                counts = [choice.tokens for choice in choices]
                made.append(Tensor(name, "UINT32", shape, struct.pack(f"<{len(counts)}I", *counts)))
            case "num_input_tokens" if prompt_tokens:
                made.append(Tensor(name, "UINT32", (*lead, 1), struct.pack("<I", prompt_tokens)))
    return made


def _texts(name: str, shape: tuple[int, ...], texts: Iterable[str]) -> Tensor:
    return Tensor(name, "BYTES", shape, join(text.encode() for text in texts))


def _listed(choice: Choice) -> str:
    """As vLLM's backend writes them: a list of the candidates of each token."""
    tokens = []
    for token, score, others in choice.scores:
        ranked = sorted({**others, token: score}.items(), key=lambda item: -item[1])
        tokens.append(
            {one: {"logprob": value, "rank": rank, "decoded_token": one} for rank, (one, value) in enumerate(ranked, 1)}
        )
    return _encode(tokens).decode()


def _scores(logprobs: dict[str, Any]) -> list[tuple[str, float, dict[str, float]]]:
    """From the form of text completions, or that of chats."""
    if "tokens" in logprobs:
        tokens, values = logprobs["tokens"], logprobs.get("token_logprobs") or []
        top = logprobs.get("top_logprobs") or [None] * len(tokens)
        return [(token, value or 0.0, others or {}) for token, value, others in zip(tokens, values, top, strict=False)]
    return [
        (
            item["token"],
            item["logprob"],
            {other["token"]: other["logprob"] for other in item.get("top_logprobs") or ()},
        )
        for item in logprobs.get("content") or ()
    ]
