"""Options that `tritonserver` writes as pairs, parsed: restricted APIs, traces, metrics, backends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

GROUPS = frozenset(
    {
        "health",
        "metadata",
        "inference",
        "shared-memory",
        "model-config",
        "model-repository",
        "statistics",
        "trace",
        "logging",
    }
)
"""Groups of operations that can be restricted."""

_LATENCIES = {"counter_latencies": True, "summary_latencies": False, "histogram_latencies": True}
_QUANTILES = "summary_quantiles"
_TRITON_QUANTILES: tuple[float, ...] = (0.5, 0.9, 0.95, 0.99, 0.999)
_TRACES = {
    "level": "trace_level",
    "rate": "trace_rate",
    "count": "trace_count",
    "mode": "trace_mode",
    "triton,file": "trace_file",
    "triton,log-frequency": "log_frequency",
}
_LEVELS = ("OFF", "TIMESTAMPS", "TENSORS")
_BATCH_SIZE = "default-max-batch-size"


def restrictions(options: Iterable[str]) -> dict[str, tuple[str, str]]:
    """By group, the header and its value that are wanted: `GROUP,…:HEADER=VALUE`. Raises `ValueError`."""
    found: dict[str, tuple[str, str]] = {}
    for option in options:
        groups, _, pair = option.partition(":")
        header, equals, value = pair.partition("=")
        if not (header and equals):
            raise ValueError("the form is GROUP,…:HEADER=VALUE")
        for group in groups.split(","):
            if group not in GROUPS:
                raise ValueError(f"no group {group!r}, but {', '.join(sorted(GROUPS))}")
            if group in found:
                raise ValueError(f"{group!r} is restricted twice")
            found[group] = header.lower(), value
    return found


@dataclass(frozen=True, slots=True)
class Latencies:
    """In which forms durations are told; `quantiles` are those of summaries."""

    counters: bool
    summaries: bool
    histograms: bool
    quantiles: tuple[float, ...]


def metrics(options: Iterable[str]) -> Latencies:
    """`NAME=true|false`, and `summary_quantiles=QUANTILE:ERROR,…`, whose errors are not looked at: ours is always 1 %.

    Raises `ValueError`.
    """
    told, quantiles = dict(_LATENCIES), _TRITON_QUANTILES
    for option in options:
        name, _, value = option.partition("=")
        if name == _QUANTILES:
            quantiles = tuple([_quantile(pair) for pair in value.split(",")])
        elif name in told and value.lower() in {"true", "false"}:
            told[name] = value.lower() == "true"
        else:
            raise ValueError(f"the form is NAME=true or NAME=false of {', '.join(told)}, or {_QUANTILES}=…")
    return Latencies(told["counter_latencies"], told["summary_latencies"], told["histogram_latencies"], quantiles)


def batch_sizes(options: Iterable[str]) -> dict[str, int]:
    """The batch size of models that can take batches and do not say how large, by backend; "" is any other."""
    found: dict[str, int] = {}
    for option in options:
        pair, _, value = option.rpartition("=")
        backend, _, name = pair.rpartition(",")
        if name != _BATCH_SIZE or not value.isascii() or not value.isdigit():
            raise ValueError(f"the form is BACKEND,{_BATCH_SIZE}=N")
        found[backend] = int(value)
    return found


def traces(options: Iterable[str]) -> Mapping[str, str | list[str]]:
    """The settings of the trace extension that are given, by its names. Raises `ValueError`."""
    found: dict[str, str | list[str]] = {}
    levels: list[str] = []
    for option in options:
        name, _, value = option.partition("=")
        if name not in _TRACES or not value:
            raise ValueError(f"the form is NAME=VALUE of {', '.join(_TRACES)}")
        if name == "level" and value in _LEVELS:
            levels = [level for level in _LEVELS if level in (*levels, value)]
            found[_TRACES[name]] = levels
        elif name == "triton,file" or (name == "mode" and value == "triton") or _is_number(name, value):
            found[_TRACES[name]] = value
        else:
            raise ValueError(f"{value!r} is no {name}")
    if "OFF" in levels and len(levels) > 1:
        raise ValueError("the level OFF stands alone")
    return found


def _quantile(pair: str) -> float:
    numbers: list[float] = []
    with suppress(ValueError):
        numbers = [float(part) for part in pair.split(":")]
    if len(numbers) != 2 or not all(0 <= number <= 1 for number in numbers):
        raise ValueError(f"{pair!r} is no QUANTILE:ERROR, two numbers from 0 to 1")
    return numbers[0]


def _is_number(name: str, value: str) -> bool:
    return name in {"rate", "count", "triton,log-frequency"} and value.removeprefix("-").isdecimal()
