"""Tokens for a stand-in: what an answer will be is known from its request, and the same each time.

A word follows from the two before it, as in a very small model: a prompt that ends with the begin of its answer goes
on as that did.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import Any

from backends.simulator.schema import instance
from tests.stand_ins.tensorrtllm_protocol import Generation

NATURAL_TOKENS = 40
WORDS = (
    *("sea", "moon", "wind", "stone", "light", "river", "bird", "fire", "snow", "leaf"),
    *("road", "star", "tree", "rain", "song", "glass", "hill", "sand", "bell", "wolf"),
)
_TOKEN = re.compile(r" ?\w+| ?[^\w\s]|\s")
_REPEAT = "Repeat after me: "


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice of an answer. `hidden` counts its last tokens that are not told: those of a stop string."""

    tokens: list[str]
    finish_reason: str
    max_tokens: int
    hidden: int = 0

    @property
    def text(self) -> str:
        return "".join(self.visible(step) for step in range(len(self.tokens)))

    def visible(self, step: int) -> str:
        return self.tokens[step] if step < len(self.tokens) - self.hidden else ""

    def logprob(self, token: str, top: int) -> dict[str, Any]:
        def told(text: str, probability: float) -> dict[str, Any]:
            return {"token": text, "logprob": math.log(probability), "bytes": list(text.encode())}

        others = [told(f" {word}", 0.1 / (number + 1)) for number, word in enumerate(WORDS[: max(0, top - 1)])]
        return told(token, 0.7) | {"top_logprobs": [told(token, 0.7), *others] if top else None}


def choose(asked: Generation, prompt: str, index: int, max_tokens: int) -> Choice:
    """The answer to a prompt: a format, words to repeat, or words by the prompt, and by the seed unless greedy."""
    tokens = _formatted(asked)
    if tokens is None:
        at = prompt.find(_REPEAT)
        tokens = split(prompt[at + len(_REPEAT) :]) if at >= 0 else _words(asked, prompt, index, max_tokens)
    for stop in [asked.stop] if isinstance(asked.stop, str) else asked.stop or ():
        text = "".join(tokens)
        if (cut := text.find(stop)) >= 0:
            kept = split(text[:cut])
            hidden = split(stop)
            if len(kept) + len(hidden) <= max_tokens:
                return Choice([*kept, *hidden], "stop", max_tokens, len(hidden))
    if len(tokens) >= max_tokens:
        return Choice(tokens[:max_tokens], "length", max_tokens)
    return Choice(tokens, "stop", max_tokens)


def split(text: str) -> list[str]:
    return _TOKEN.findall(text)


def count(value: Any) -> int:
    """Tokens of a prompt: of ids, of a text, or of the texts in messages and tools."""
    if isinstance(value, str):
        return len(split(value))
    if isinstance(value, dict):
        return 2 + sum(map(count, value.values()))
    if isinstance(value, list):
        return len(value) if value and isinstance(value[0], int) else sum(map(count, value))
    return 0


def written(content: Any) -> str:
    """A prompt, or a message's content, as text."""
    return content if isinstance(content, str) else json.dumps(content)


def _words(asked: Generation, prompt: str, index: int, max_tokens: int) -> list[str]:
    salt = "" if asked.temperature == 0 else f"{asked.seed}|{index}"
    before = ["", "", *map(str.strip, split(prompt))][-2:]
    said: list[str] = []
    for _ in range(max_tokens if asked.ignore_eos else NATURAL_TOKENS):
        digest = hashlib.sha256("|".join([salt, *before]).encode()).digest()
        before = [before[1], WORDS[digest[0] % len(WORDS)]]
        said.append(f" {before[1]}")
    return said


def _formatted(asked: Generation) -> list[str] | None:
    format_ = asked.response_format
    if format_ is None or format_.type in {"text", "ebnf", "structural_tag"}:
        return None
    if format_.type == "regex":
        text = re.sub(r"\\(.)", r"\1", (format_.regex or "").strip("()").split("|")[0])
    else:
        text = json.dumps(instance(format_.schema_) if format_.schema_ is not None else {})
    return [text[at : at + 3] for at in range(0, len(text), 3)]
