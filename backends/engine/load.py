"""What an engine's metrics say of its work, under one set of names whatever the engine calls them."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from backends.config import ModelConfig
from backends.model import Load

METRICS_PATHS = {
    "echo": "/metrics",
    "llamacpp": "/metrics",
    "sglang": "/metrics",
    "tensorrtllm": "/prometheus/metrics",
    "triton": "/metrics",
    "vllm": "/metrics",
}
"""Where each kind tells its load. SGLang does with `--enable-metrics`; TensorRT-LLM with `return_perf_metrics` (its own
`/metrics` is a JSON list that is emptied by reading it, and waits two seconds where it is empty); Triton on the port of
its metrics."""


class _Signals(NamedTuple):
    """Names of gauges, `""` for what an engine does not tell; where a label chooses the series, the label with it."""

    waiting: str
    running: str
    kv_usage: str


_VLLM = _Signals("vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc")
_SIGNALS = {
    "echo": _VLLM,
    "llamacpp": _Signals("llamacpp:requests_deferred", "llamacpp:requests_processing", ""),
    "sglang": _Signals("sglang:num_queue_reqs", "sglang:num_running_reqs", "sglang:token_usage"),
    "tensorrtllm": _Signals(
        "trtllm_num_requests_waiting", "trtllm_num_requests_running", "trtllm_kv_cache_utilization"
    ),
    "triton": _Signals(
        'nv_trt_llm_request_metrics{request_type="waiting"}',
        'nv_trt_llm_request_metrics{request_type="scheduled"}',
        'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"}',
    ),
    "vllm": _VLLM,
}
# SGLang repeats its queue for each priority; the series of no priority is their sum.
_PART_OF_A_SUM = b'priority="'
_THE_SUM = b'priority=""'


class _Batching(msgspec.Struct):
    numPausedRequests: float = 0.0  # noqa: N815  # TensorRT-LLM's own names, here and below


class _Blocks(msgspec.Struct):
    maxNumBlocks: float = 0.0  # noqa: N815
    usedNumBlocks: float = 0.0  # noqa: N815


class _Iteration(msgspec.Struct):
    """One entry of the list at TensorRT-LLM's `/metrics`."""

    numQueuedRequests: float = 0.0  # noqa: N815
    numActiveRequests: float = 0.0  # noqa: N815
    inflightBatchingStats: _Batching | None = None  # noqa: N815
    kvCacheStats: _Blocks | None = None  # noqa: N815


_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_iteration = msgspec.json.Decoder(_Iteration).decode


def told_by(config: ModelConfig) -> str:
    """The kind whose metrics a model's endpoints have: what a remote says that it runs, otherwise its own."""
    return config.parameters.get("engine", "").strip() if config.backend == "openai" else config.backend


def read_load(kind: str, text: bytes) -> Load | None:
    """The load in the metrics of an engine of this kind, Prometheus' text or TensorRT-LLM's JSON; None where it is not.

    Series of several ranks of one engine are added up, their use of the KV cache is that of the fullest. Looks for
    three names instead of parsing it all.
    """
    signals = _SIGNALS.get(kind)
    if signals is None:
        return None
    if text[:1] == b"[":
        return _last_iteration(text)
    waiting, running, usage = (_values(text, name) for name in signals)
    if not (waiting or running or usage):
        return None
    return Load(waiting=sum(waiting), running=sum(running), kv_usage=max(usage, default=0.0))


def _values(text: bytes, signal: str) -> list[float]:
    """The values of a gauge's series, those with the label only where one is told."""
    name, _, label = signal.removesuffix("}").encode().partition(b"{")
    found: list[float] = []
    at = text.find(name) if name else -1
    while at >= 0:
        after = at + len(name)
        if (at == 0 or text[at - 1 : at] == b"\n") and text[after : after + 1] in {b"{", b" "}:
            end = text.find(b"\n", after)
            line = text[after : end if end >= 0 else len(text)]
            labels, _, rest = line.rpartition(b"}")
            if label in labels and (_PART_OF_A_SUM not in labels or _THE_SUM in labels):
                try:
                    found.append(float(rest.split()[0]))
                except (ValueError, IndexError):
                    pass
        at = text.find(name, after)
    return found


def _last_iteration(text: bytes) -> Load | None:
    try:
        iterations = _decode_list(text)
        if not iterations:
            return None
        last = _decode_iteration(iterations[-1])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    batching, blocks = last.inflightBatchingStats, last.kvCacheStats
    paused = batching.numPausedRequests if batching is not None else 0.0
    usage = blocks.usedNumBlocks / blocks.maxNumBlocks if blocks is not None and blocks.maxNumBlocks else 0.0
    return Load(waiting=last.numQueuedRequests + paused, running=last.numActiveRequests, kv_usage=usage)
