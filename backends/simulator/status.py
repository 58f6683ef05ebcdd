"""What the server says of itself: health, models, metrics; and the routes that tests steer it by."""

from __future__ import annotations

import asyncio
import os
import time

import msgspec

from backends.simulator.engine import Call, Counters
from backends.simulator.faults import RequestError
from backends.simulator.options import read

_STARTED = int(time.time())


async def health(call: Call) -> None:
    """200, the status that was configured, or no answer at all."""
    status = call.engine.options.health
    if not status:
        await asyncio.get_running_loop().create_future()
    call.exchange.reply(status, b"")


async def version(call: Call) -> None:
    """The version, in vLLM's form."""
    call.reply({"version": "echo"})


async def models(call: Call) -> None:
    """The served names."""
    data: list[dict[str, object]] = [
        {
            "id": name,
            "object": "model",
            "created": _STARTED,
            "owned_by": "echo",
            "root": name,
            "parent": None,
            "max_model_len": call.engine.options.max_model_len,
            "permission": [],
        }
        for name in call.engine.models
    ]
    call.reply({"object": "list", "data": data})


async def metrics(call: Call) -> None:
    """Load and totals under vLLM's names."""
    engine = call.engine
    counters, slots = engine.counters, engine.slots
    held = sum(run.prompt_tokens + run.generated for run in engine.runs)
    capacity = engine.options.prefix_cache_tokens or engine.options.slots * engine.options.max_model_len
    usage = min(1.0, held / capacity)
    ended = {reason: counters.ended[reason] for reason in ("stop", "length", "abort", "error", "tool_calls")}
    ended["stop"] += ended.pop("tool_calls")
    lines: list[str] = []

    def metric(name: str, kind: str, text: str, values: dict[str, float]) -> None:
        lines.append(f"# HELP vllm:{name} {text}")
        lines.append(f"# TYPE vllm:{name} {kind}")
        lines.extend(
            f'vllm:{name}{{engine="0",{label}model_name="{engine.models[0]}"}} {value}'
            for label, value in values.items()
        )

    metric("num_requests_running", "gauge", "Requests that hold a slot.", {"": float(slots.running)})
    metric("num_requests_waiting", "gauge", "Requests that wait for a slot.", {"": float(slots.waiting)})
    metric("kv_cache_usage_perc", "gauge", "Part of the KV cache in use, from 0 to 1.", {"": usage})
    metric("prompt_tokens_total", "counter", "Prompt tokens processed.", {"": float(counters.prompt_tokens)})
    metric("generation_tokens_total", "counter", "Tokens generated.", {"": float(counters.generation_tokens)})
    queries, hits = float(counters.cache_queries), float(counters.cache_hits)
    metric("prefix_cache_queries_total", "counter", "Prompt tokens looked for in the prefix cache.", {"": queries})
    metric("prefix_cache_hits_total", "counter", "Prompt tokens found in the prefix cache.", {"": hits})
    reasons = {f'finished_reason="{reason}",': float(number) for reason, number in ended.items()}
    metric("request_success_total", "counter", "Requests by how they ended.", reasons)
    body = "\n".join([*lines, ""]).encode()
    call.exchange.reply(200, body, "text/plain; version=0.0.4; charset=utf-8")


async def stats(call: Call) -> None:
    """Counts for tests, and the last request to the model; `reset=1` sets the counts to zero afterwards."""
    engine = call.engine
    last = engine.last
    counters = engine.counters
    call.reply(
        {
            **{name: getattr(counters, name) for name in Counters.__dataclass_fields__},
            "active": engine.slots.running,
            "waiting": engine.slots.waiting,
            "connections": call.exchange.connections,
            "pid": os.getpid(),
            "last": last
            and {
                "method": last.method,
                "path": last.target,
                "headers": last.headers,
                "body": last.body.decode("utf-8", "replace"),
            },
        }
    )
    if call.exchange.request.query.get("reset") == "1":
        engine.counters = Counters()


async def configure(call: Call) -> None:
    """Change options by the query, and answer with them all."""
    try:
        call.engine.configure(read(call.exchange.request.query, texts=True, over=call.engine.options))
    except ValueError as error:
        raise RequestError(400, str(error)) from error
    call.reply(msgspec.structs.asdict(call.engine.options))
