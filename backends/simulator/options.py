"""What a simulator can be told, once: command line, `model.json` and the run-time route all read this list."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from backends.simulator.faults import Fault

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Milliseconds = Annotated[float, Meta(ge=0)]
Microseconds = Annotated[float, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]


class Options(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Pace, size and faults. Every field is a flag of the command line with dashes for underscores."""

    tokens: Annotated[Count, Meta(description="tokens an answer has; 0: as many as the last message has words")] = 0
    ttft_ms: Annotated[Milliseconds, Meta(description="time to the first token")] = 0.0
    itl_ms: Annotated[Milliseconds, Meta(description="time between tokens")] = 0.0
    slots: Annotated[Positive, Meta(description="requests that run at once; the others wait")] = 256
    prefill_us_per_token: Annotated[
        Microseconds, Meta(description="time each prompt token that is not cached adds; one prompt at a time")
    ] = 0.0
    prefix_cache_tokens: Annotated[Count, Meta(description="size of the prefix cache; 0: there is none")] = 0
    max_model_len: Annotated[Positive, Meta(description="context length in tokens")] = 32768
    prompt_tokens: Annotated[Count, Meta(description="prompt tokens to report; 0: counted")] = 0
    dimensions: Annotated[Positive, Meta(description="length of an embedding")] = 384
    fault: Annotated[str, Meta(description="fault of every request: " + ", ".join(f.value for f in Fault))] = "none"
    after: Annotated[int, Meta(ge=-1, description="tokens before the fault strikes; -1: the fault's own")] = -1
    times: Annotated[Count, Meta(description="how many requests the fault strikes; 0: all")] = 0
    retry_after: Annotated[Seconds, Meta(description="Retry-After of a 429, in seconds")] = 1.0
    health: Annotated[Count, Meta(description="status of /health; 0: it hangs")] = 200
    start_delay_ms: Annotated[Milliseconds, Meta(description="time to load before listening")] = 0.0
    start_error: Annotated[str, Meta(description="fail to start with this message")] = ""
    keep_alive_seconds: Annotated[Seconds, Meta(description="idle connections are closed after this")] = 5.0
    ignore_sigterm: Annotated[bool, Meta(description="go on after SIGTERM")] = False

    def __post_init__(self) -> None:
        Fault.parse(self.fault)


def read(values: Mapping[str, Any], *, texts: bool = False, over: Options | None = None) -> Options:
    """Options from a mapping, laid over `over`; with `texts`, the values are strings to convert.

    Raises `ValueError` that names the key at fault.
    """
    merged: dict[str, Any] = {} if over is None else msgspec.structs.asdict(over)
    return msgspec.convert({**merged, **values}, Options, strict=not texts)


def flags(options: Options) -> list[str]:
    """The command line of everything that is not at its default."""
    argv: list[str] = []
    for field in msgspec.structs.fields(Options):
        value = getattr(options, field.name)
        if value != field.default:
            flag = "--" + field.name.replace("_", "-")
            argv += [flag] if value is True else [flag, str(value)]
    return argv


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m backends.echo`."""
    line = argparse.ArgumentParser(prog="python -m backends.echo", description="A simulator of a vLLM server.")
    where = line.add_mutually_exclusive_group(required=True)
    where.add_argument("--uds", help="Unix socket to listen at")
    where.add_argument("--port", type=int, help="port to listen at; 0: any free one")
    line.add_argument("--host", default="127.0.0.1")
    line.add_argument("--model", required=True, nargs="+", help="names that the model answers to")
    line.add_argument("--api-key", default="", help="key that requests must bring")
    line.add_argument("--ssl-certfile", default="")
    line.add_argument("--ssl-keyfile", default="")
    hints = get_type_hints(Options, include_extras=True)
    for field in msgspec.structs.fields(Options):
        text = " ".join(part.description for part in _metas(hints[field.name]) if part.description)
        flag = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            line.add_argument(flag, action="store_true", help=text)
        else:
            line.add_argument(flag, type=type(field.default), default=field.default, help=f"{text} ({field.default})")
    return line


def _metas(hint: Any) -> list[Meta]:
    if get_origin(hint) is not Annotated:
        return []
    return [part for part in get_args(hint)[1:] if isinstance(part, Meta)]
