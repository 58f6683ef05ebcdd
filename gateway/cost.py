"""What a request may cost in tokens, and what it did: the measure of limits and of fairness."""

from __future__ import annotations

from backends.model import Capability
from gateway.dialect import GENERATING, Call
from gateway.telemetry import Exchange

DEFAULT_OUTPUT_TOKENS = 256
"""What an answer is thought to have where its request sets no limit."""

# They run no model.
_FREE = frozenset({Capability.TOKENIZE, Capability.DETOKENIZE, Capability.COUNT_TOKENS})


class Cost:
    """The cost of one request: estimated from its body, no part of it over the model's context length.

    `asked_tokens` is what the client itself asks for, without our guess at an answer of no stated limit. `spent` is
    None while nothing has run.
    """

    __slots__ = ("asked_tokens", "output_tokens", "prompt_tokens", "spent", "stream")

    def __init__(self, call: Call, capability: Capability, context_length: int | None) -> None:
        longest = context_length or 1 << 40
        output = call.output_tokens if capability in GENERATING else 0
        self.prompt_tokens = 0 if capability in _FREE else min(call.prompt_tokens, longest)
        self.output_tokens = min(DEFAULT_OUTPUT_TOKENS if output is None else output, longest)
        self.asked_tokens = self.prompt_tokens + (0 if output is None else self.output_tokens)
        self.stream = call.stream
        self.spent: int | None = None

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens

    def abandon(self) -> None:
        """The engine was at it when nobody wanted it any more, and no head of an answer had come."""
        self.spent = self.prompt_tokens if self.stream else self.tokens

    def count(self, record: Exchange, status: int) -> None:
        """An answer has ended, well or not.

        Cases: its usage is known; the engine refused; a stream broke off or never told: each read had a token at
        least; an answer in one piece did not tell, or nobody waited for it: the estimate stands.
        """
        known = (record.prompt_tokens or 0) + (record.completion_tokens or 0)
        if known or status >= 400:
            self.spent = known
        else:
            self.spent = self.prompt_tokens + (record.chunks if self.stream else self.output_tokens)
