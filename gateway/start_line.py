"""A start line of `tritonserver`, read as one of `tritium serve`: its names, its booleans, what does nothing here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gateway.settings import Settings, SettingsError, flag

_TRUE, _FALSE = frozenset({"true", "1", "on", "yes"}), frozenset({"false", "0", "off", "no"})
_SWITCHES = {flag(name): name for name, found in Settings.model_fields.items() if found.annotation is bool}
_RENAMED = {
    "--model-store": "--model-repository",
    "--http-address": "--host",
    "--http-max-input-size": "--max-body-bytes",
}
_LOGS = {"--log-info": "warning", "--log-warning": "error", "--log-error": "error"}
"""Which level remains where a kind of lines is switched off."""
_TRACES = {
    "--trace-file": "triton,file",
    "--trace-log-frequency": "triton,log-frequency",
    "--trace-level": "level",
    "--trace-rate": "rate",
    "--trace-count": "count",
}
_BATCH_SIZE = "default-max-batch-size"

_NO_POOL = "no memory is pooled"
_NO_THREADS = "--workers is the number of server processes"
_NO_LIBRARIES = "there are no shared libraries to look for"
_NO_FRONT_END = "there is no such front end"
_TCP = "TCP finds out which connections are gone"
_INSTANCES = "instances have the GPUs that instance_group names"

IGNORED = {
    **dict.fromkeys(
        (
            "--pinned-memory-pool-byte-size",
            "--cuda-memory-pool-byte-size",
            "--cuda-virtual-address-size",
            "--grpc-infer-allocation-pool-size",
            "--grpc-max-response-pool-size",
        ),
        _NO_POOL,
    ),
    **dict.fromkeys(
        (
            "--http-thread-count",
            "--grpc-infer-thread-count",
            "--buffer-manager-thread-count",
            "--model-load-thread-count",
        ),
        _NO_THREADS,
    ),
    **dict.fromkeys(("--backend-directory", "--cache-directory", "--repoagent-directory"), _NO_LIBRARIES),
    **dict.fromkeys(
        (
            "--sagemaker-port",
            "--sagemaker-safe-port-range",
            "--sagemaker-thread-count",
            "--vertex-ai-port",
            "--vertex-ai-thread-count",
            "--vertex-ai-default-model",
        ),
        _NO_FRONT_END,
    ),
    **dict.fromkeys(
        (
            "--grpc-keepalive-time",
            "--grpc-keepalive-timeout",
            "--grpc-keepalive-permit-without-calls",
            "--grpc-http2-max-pings-without-data",
            "--grpc-http2-min-recv-ping-interval-without-data",
            "--grpc-http2-max-ping-strikes",
            "--grpc-max-connection-age",
            "--grpc-max-connection-age-grace",
        ),
        _TCP,
    ),
    **dict.fromkeys(
        ("--enable-peer-access", "--min-supported-compute-capability", "--model-load-gpu-limit"), _INSTANCES
    ),
    "--host-policy": "instances are not bound to cores or memory",
    "--log-format": "lines have one format",
    "--metrics-interval-ms": "all is measured at each scrape",
    "--model-load-retry-count": "--max-restarts is how often an engine is started again",
    "--model-namespacing": "a name that is in two repositories is unavailable",
    "--reuse-grpc-port": "the port is this server's own, whatever --workers",
    "--reuse-http-port": "the port is this server's own, whatever --workers",
}
"""Flags of `tritonserver` that do nothing here, all with a value, and why."""


@dataclass(slots=True)
class StartLine:
    """`arguments` as `tritium serve` takes them; `warnings` for people, a line each."""

    arguments: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read(arguments: Sequence[str]) -> StartLine:
    """Raises `SettingsError` for what cannot be had here, where to go without it would surprise."""
    line = StartLine()
    level = ""
    for name, value in _flags(arguments):
        match name:
            case "--log-verbose":
                level = "debug" if value not in ("", "0") else level
            case "--log-info" | "--log-warning" | "--log-error":
                level = level if _is_true(name, value) or level == "debug" else max(level, _LOGS[name], key=_silence)
            case "--allow-http" | "--allow-sagemaker" | "--allow-vertex-ai":
                _check_front_end(name, value)
            case "--strict-model-config":
                line.arguments.append(_switch("--disable-auto-complete-config", name, value))
            case "--response-cache-byte-size":
                line.arguments += ["--cache-config", f"local,size={value}"]
            case _ if name in _TRACES:
                line.arguments += ["--trace-config", f"{_TRACES[name]}={value}"]
            case _ if (reason := _nothing(name, value)) is not None:
                line.warnings.append(f"{name} {value} does nothing here: {reason}")
            case _ if name in _SWITCHES:
                line.arguments.append(_switch(name, name, value))
            case _:
                line.arguments += [_RENAMED.get(name, name), *([] if value is None else [value])]
    if level and "--log-level" not in line.arguments:
        line.arguments += ["--log-level", level]
    return line


def _flags(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Each flag with its value; None where there is none. A switch of ours takes one only where it is a boolean."""
    waiting = list(reversed(arguments))
    while waiting:
        token = waiting.pop()
        name, equals, value = token.partition("=")
        if not token.startswith("--"):
            yield token, None
        elif equals:
            yield name, value
        else:
            follows = waiting[-1] if waiting else "--"
            takes = follows.lower() in _TRUE | _FALSE if name in _SWITCHES else not follows.startswith("--")
            yield name, waiting.pop() if takes else None


def _nothing(name: str, value: str | None) -> str | None:
    """Why a flag does nothing here; None for one that does something."""
    text = value or ""
    if name == "--backend-config" and _BATCH_SIZE not in text:
        return "what a model says in its parameters holds"
    if name == "--cache-config" and not text.startswith("local,"):
        return "each model that asks for a cache has a local one"
    if name == "--trace-config" and "opentelemetry" in text:
        return "traces are written to files, X-Request-Id and traceparent are passed on"
    return IGNORED.get(name)


def _check_front_end(name: str, value: str | None) -> None:
    is_wanted = _is_true(name, value)
    if name == "--allow-http" and not is_wanted:
        raise SettingsError(f"{name} {value}: the HTTP port is always open; --host 127.0.0.1 keeps it to this machine")
    if name != "--allow-http" and is_wanted:
        raise SettingsError(f"{name} {value}: {_NO_FRONT_END}")


def _switch(ours: str, name: str, value: str | None) -> str:
    return ours if _is_true(name, value) else f"--no-{ours[2:]}"


def _is_true(name: str, value: str | None) -> bool:
    if value is None or value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise SettingsError(f"{name}: neither true nor false, but {value!r}")


def _silence(level: str) -> int:
    return ("", "warning", "error").index(level)
