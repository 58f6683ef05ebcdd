"""What chat and text completions share: the fields that bound an answer, and the way it is counted."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from backends.simulator.engine import ModelRequest
from backends.simulator.faults import RequestError
from backends.simulator.plan import Limits, Plan

encode = msgspec.json.encode


class StreamOptions(msgspec.Struct):
    """vLLM's `stream_options`."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class Generation(ModelRequest, kw_only=True):
    """The fields that chat and text completions share."""

    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = 1
    stop: str | list[str] | None = None
    include_stop_str_in_output: bool = False
    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    cache_salt: str = ""

    def check(self) -> None:
        """Raise for what a server refuses."""
        if self.n is not None and self.n < 1:
            raise RequestError(400, f"n must be at least 1, got {self.n}.", param="n")
        if self.temperature is not None and self.temperature < 0:
            raise RequestError(400, f"temperature must not be negative, got {self.temperature}.", param="temperature")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise RequestError(400, f"top_p must be in (0, 1], got {self.top_p}.", param="top_p")
        if self.stream_options is not None and not self.stream:
            raise RequestError(400, "stream_options is only for streams.", param="stream_options")

    def limits(self, max_tokens: int, natural: int) -> Limits:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Limits(max_tokens, self.min_tokens, natural, self.ignore_eos, stop, self.include_stop_str_in_output)


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int | None = None) -> dict[str, object]:
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
        "prompt_tokens_details": None if cached_tokens is None else {"cached_tokens": cached_tokens},
    }


def completion_tokens(plans: Sequence[Plan]) -> int:
    return sum(len(each.tokens) for each in plans)


def finish(each: Plan) -> bytes:
    """The finish reason of a choice as fields of its last chunk."""
    return b'"finish_reason":' + encode(each.finish_reason) + b',"stop_reason":' + encode(each.stop_reason)
