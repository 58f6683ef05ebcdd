"""Loads out of each engine's own metrics: excerpts as the engines write them."""

from __future__ import annotations

import json

import pytest

from backends.config import ModelConfig
from backends.engine.load import METRICS_PATHS, read_load, told_by
from backends.model import Load

VLLM = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 7.0
vllm:num_requests_waiting{engine="1",model_name="m"} 0.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 7.0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 5e-01
"""

SGLANG = b"""\
# HELP sglang:num_running_reqs The number of running requests
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="meta-llama/Llama-3.1-8B-Instruct"} 162.0
# HELP sglang:token_usage The token usage
# TYPE sglang:token_usage gauge
sglang:token_usage{model_name="meta-llama/Llama-3.1-8B-Instruct"} 0.28
# HELP sglang:num_queue_reqs The number of requests in the waiting queue
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{model_name="meta-llama/Llama-3.1-8B-Instruct",priority=""} 2826.0
sglang:num_queue_reqs{model_name="meta-llama/Llama-3.1-8B-Instruct",priority="1"} 2800.0
sglang:num_queue_reqs{model_name="meta-llama/Llama-3.1-8B-Instruct",priority="2"} 26.0
"""

LLAMACPP = b"""\
# HELP llamacpp:requests_processing Number of requests processing
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 4
# HELP llamacpp:requests_deferred Number of requests deferred
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 2
# HELP llamacpp:n_busy_slots_per_decode Average number of busy slots per llama_decode() call
# TYPE llamacpp:n_busy_slots_per_decode gauge
llamacpp:n_busy_slots_per_decode 3.5
"""

TENSORRT_LLM = b"""\
# HELP trtllm_num_requests_waiting Number of requests waiting
# TYPE trtllm_num_requests_waiting gauge
trtllm_num_requests_waiting{engine_type="undefined",model_name="undefined"} 3.0
# TYPE trtllm_num_requests_running gauge
trtllm_num_requests_running{engine_type="undefined",model_name="undefined"} 5.0
# HELP trtllm_kv_cache_utilization KV cache utilization
# TYPE trtllm_kv_cache_utilization gauge
trtllm_kv_cache_utilization{engine_type="undefined",model_name="undefined"} 0.6
"""

TRITON = b"""\
# HELP nv_trt_llm_request_metrics TRT LLM request metrics
# TYPE nv_trt_llm_request_metrics gauge
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 3
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="context",version="1"} 1
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="scheduled",version="1"} 4
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max",version="1"} 512
# HELP nv_trt_llm_kv_cache_block_metrics TRT LLM KV cache block metrics
# TYPE nv_trt_llm_kv_cache_block_metrics gauge
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="tensorrt_llm",version="1"} 0.4875
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="tensorrt_llm",version="1"} 64
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="tensorrt_llm",version="1"} 6239
"""

ITERATIONS = json.dumps(
    [
        {"iter": 1, "numActiveRequests": 9, "numQueuedRequests": 9},
        {
            "iter": 2,
            "iterLatencyMS": 15.5,
            "numActiveRequests": 5,
            "numQueuedRequests": 3,
            "kvCacheStats": {"maxNumBlocks": 1000, "freeNumBlocks": 400, "usedNumBlocks": 600, "tokensPerBlock": 64},
            "inflightBatchingStats": {"numContextRequests": 2, "numGenRequests": 3, "numPausedRequests": 1},
        },
    ]
).encode()


@pytest.mark.parametrize(
    ("kind", "text", "load"),
    [
        ("vllm", VLLM, Load(7, 5, 0.5)),
        ("echo", VLLM, Load(7, 5, 0.5)),
        ("sglang", SGLANG, Load(2826, 162, 0.28)),
        ("llamacpp", LLAMACPP, Load(2, 4, 0)),
        ("tensorrtllm", TENSORRT_LLM, Load(3, 5, 0.6)),
        ("tensorrtllm", ITERATIONS, Load(4, 5, 0.6)),
        ("tensorrtllm", b'[{"numActiveRequests":1,"numQueuedRequests":0,"kvCacheStats":null}]', Load(0, 1, 0)),
        ("triton", TRITON, Load(3, 4, 0.4875)),
    ],
)
def test_each_engines_own_words_become_one_load(kind: str, text: bytes, load: Load) -> None:
    assert read_load(kind, text) == load


@pytest.mark.parametrize(
    "text", [b"", b"vllm:num_requests_running", b"vllm:num_requests_running{} \n", b'{"detail":"Not Found"}']
)
def test_text_without_the_signals_is_no_load(text: bytes) -> None:
    assert read_load("vllm", text) is None


@pytest.mark.parametrize("text", [b"[]", b"[5]", b"[{", b'[{"numActiveRequests":"many"}]', b'{"detail":"Not Found"}'])
def test_iterations_that_say_nothing_are_no_load(text: bytes) -> None:
    assert read_load("tensorrtllm", text) is None


def test_a_kind_that_tells_nothing_has_no_load() -> None:
    assert read_load("transformers", VLLM) is None


def test_a_name_in_a_comment_or_within_another_is_not_the_gauge() -> None:
    lines = (
        b'# vllm:num_requests_running{engine="0"} 9',
        b"sub:vllm:num_requests_running 9",
        b"vllm:num_requests_running 1 17",
    )
    text = b"\n".join(lines)
    assert read_load("vllm", text) == Load(0, 1, 0)


def test_every_kind_with_signals_has_a_path() -> None:
    for kind, text in (("vllm", VLLM), ("sglang", SGLANG), ("triton", TRITON), ("tensorrtllm", TENSORRT_LLM)):
        assert METRICS_PATHS[kind].startswith("/")
        assert read_load(kind, text) is not None


@pytest.mark.parametrize(
    ("backend", "parameters", "kind"),
    [("vllm", {"engine": "sglang"}, "vllm"), ("openai", {"engine": " sglang "}, "sglang"), ("openai", {}, "")],
)
def test_a_remote_has_the_metrics_of_what_it_says_that_it_runs(
    backend: str, parameters: dict[str, str], kind: str
) -> None:
    assert told_by(ModelConfig("m", backend, parameters=parameters)) == kind
