"""A server with the manners of `trtllm-serve` 1.2, and words for a model: `python -m tests.stand_ins.tensorrtllm`.

Its routes, its strictness, the shapes of its answers, streams and errors are those of the real one (`serve/` of its
sources), its tokens are words of a list, chosen by the prompt. A client's departure is looked for each second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from tests.stand_ins.tensorrtllm_protocol import ChatRequest, CompletionRequest, Generation, NamedTool
from tests.stand_ins.words import Choice, choose, count, written

POLL_SECONDS = 1.0
TOKEN_SECONDS = 0.004
DEFAULT_MAX_TOKENS = 32


class Engine:
    """Runs requests, `slots` at once; each goes on until it is done or aborted, whoever listens."""

    def __init__(self, slots: int, max_seq_len: int) -> None:
        self.max_seq_len = max_seq_len
        self.waiting = self.running = self.generated = self.read = 0
        self.iterations: list[dict[str, Any]] = []
        self._slots = asyncio.Semaphore(slots)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, request: Request, prompt_tokens: int, choices: list[Choice]) -> Promise:
        longest = max(choice.max_tokens for choice in choices)
        if prompt_tokens + longest > self.max_seq_len:
            raise ValueError(
                f"The sum of prompt length ({prompt_tokens}) and max_tokens ({longest}) should not exceed "
                f"max_seq_len ({self.max_seq_len})"
            )
        promise = Promise(prompt_tokens, choices)
        for work in (self._run(promise), self._watch(request, promise)):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return promise

    async def _run(self, promise: Promise) -> None:
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        self.read += promise.prompt_tokens
        try:
            for step in range(max(len(choice.tokens) for choice in promise.choices)):
                if promise.aborted:
                    break
                await asyncio.sleep(TOKEN_SECONDS)
                self.generated += sum(step < len(choice.tokens) for choice in promise.choices)
                self.iterations = [*self.iterations[-99:], self._statistics()]
                promise.steps.put_nowait(step)
        finally:
            self.running -= 1
            self._slots.release()
            promise.finished = True
            promise.steps.put_nowait(None)

    async def _watch(self, request: Request, promise: Promise) -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(POLL_SECONDS)
        if not promise.finished:
            promise.aborted = True

    def _statistics(self) -> dict[str, Any]:
        return {
            "numActiveRequests": self.running,
            "numQueuedRequests": self.waiting,
            "kvCacheStats": {"maxNumBlocks": 100, "usedNumBlocks": min(100, self.running), "tokensPerBlock": 32},
            "inflightBatchingStats": {"numPausedRequests": 0, "numScheduledRequests": self.running},
        }


class Promise:
    """One request under way."""

    def __init__(self, prompt_tokens: int, choices: list[Choice]) -> None:
        self.prompt_tokens = prompt_tokens
        self.choices = choices
        self.steps: asyncio.Queue[int | None] = asyncio.Queue()
        self.aborted = self.finished = False

    async def __aiter__(self) -> AsyncIterator[int]:
        while (step := await self.steps.get()) is not None:
            yield step

    async def result(self) -> None:
        async for _ in self:
            pass

    def usage(self, step: int | None = None) -> dict[str, Any]:
        """At a step, or of the whole."""
        lengths = [len(choice.tokens) if step is None else min(step + 1, len(choice.tokens)) for choice in self.choices]
        return usage(self.prompt_tokens, sum(lengths))


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def error(message: str, kind: str = "BadRequestError", status: int = 400) -> JSONResponse:
    content = {"object": "error", "message": message, "type": kind, "param": None, "code": status}
    return JSONResponse(content, status_code=status)


def event(fields: dict[str, Any], space: str = "") -> str:
    return f"data: {json.dumps(fields, separators=(',', ':'), ensure_ascii=False)}{space}\n\n"


def application(name: str, engine: Engine, *, tells_load: bool) -> FastAPI:
    app = FastAPI()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, raised: RequestValidationError) -> JSONResponse:
        return JSONResponse({"error": str(raised)}, status_code=400)

    @app.get("/health")
    async def health() -> Response:
        return Response(status_code=200)

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": "1.2.0"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        card = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "tensorrt_llm"}
        return {"object": "list", "data": [card]}

    @app.get("/metrics")
    async def iterations() -> list[dict[str, Any]]:
        told, engine.iterations = engine.iterations, []
        return told

    if tells_load:

        @app.get("/prometheus/metrics")
        async def metrics() -> PlainTextResponse:
            gauges = {
                "num_requests_running": engine.running,
                "num_requests_waiting": engine.waiting,
                "kv_cache_utilization": min(1.0, engine.running / 100),
                "generation_tokens_total": engine.generated,
                "prompt_tokens_total": engine.read,
            }
            labels = '{engine_type="undefined",model_name="undefined"}'
            lines = [
                f"# HELP trtllm_{key} {key}\n# TYPE trtllm_{key} gauge\ntrtllm_{key}{labels} {float(value)}"
                for key, value in gauges.items()
            ]
            return PlainTextResponse("\n".join([*lines, ""]))

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatRequest, request: Request) -> Response:
        prompt_tokens = count(asked.messages) + count([tool.model_dump() for tool in asked.tools or ()])
        try:
            choices = plans(asked, written(asked.messages[-1].get("content")), asked.max_completion_tokens)
            promise = engine.start(request, prompt_tokens, choices)
        except (ValueError, LookupError) as raised:
            return error(str(raised))
        if asked.stream:
            return StreamingResponse(chat_stream(asked, promise), media_type="text/event-stream")
        await promise.result()
        return JSONResponse(chat_answer(asked, promise))

    @app.post("/v1/completions")
    async def completion(asked: CompletionRequest, request: Request) -> Response:
        many = isinstance(asked.prompt, list) and not isinstance(asked.prompt[0], int)
        prompts = asked.prompt if many else [asked.prompt]
        try:
            promises = [
                engine.start(request, count(prompt), plans(asked, written(prompt), asked.max_tokens))
                for prompt in prompts
            ]
        except ValueError as raised:
            return error(str(raised))
        if asked.stream:
            return StreamingResponse(completion_stream(asked, promises), media_type="text/event-stream")
        await asyncio.gather(*(promise.result() for promise in promises))
        return JSONResponse(completion_answer(asked, promises))

    return app


def plans(asked: Generation, prompt: str, max_tokens: int | None) -> list[Choice]:
    limit = DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens
    return [choose(asked, prompt, index, limit) for index in range(asked.n)]


def wants_usage(asked: Generation) -> bool:
    return asked.stream_options is not None and bool(asked.stream_options.include_usage)


async def chat_stream(asked: ChatRequest, promise: Promise) -> AsyncIterator[str]:
    """A role chunk for each choice, with a blank before its end; then a chunk a token, usage in all where it is on."""
    opening = {"id": f"chatcmpl-{uuid4().hex}", "object": "chat.completion.chunk", "created": int(time.time())}
    head = {**opening, "model": asked.model}
    with_usage = wants_usage(asked)

    def chunk(index: int, delta: dict[str, Any], running: dict[str, Any], **more: Any) -> dict[str, Any]:
        fields = {**head, "choices": [{"index": index, "delta": delta, **more}]}
        return {**fields, "usage": running} if with_usage else fields

    is_first = True
    async for step in promise:
        if is_first:
            for index in range(asked.n):
                yield event(chunk(index, {"role": "assistant"}, usage(promise.prompt_tokens, 0)), " ")
            is_first = False
        for index, choice in enumerate(promise.choices):
            if step >= len(choice.tokens):
                continue
            text = choice.tokens[step]
            delta: dict[str, Any] = {"content": choice.visible(step)}
            if isinstance(asked.tool_choice, NamedTool):
                call = {"name": asked.tool_choice.function.name, "arguments": text}
                delta = {"tool_calls": [{"type": "function", "index": index, "function": call}]}
            more: dict[str, Any] = {}
            if asked.logprobs:
                more["logprobs"] = {"content": [choice.logprob(text, asked.top_logprobs or 0)]}
            if step == len(choice.tokens) - 1:
                more["finish_reason"] = choice.finish_reason
            running = usage(promise.prompt_tokens, step + 1)
            yield event(chunk(index, delta, running, **more))
    if promise.aborted:
        return
    if with_usage:
        yield event({**head, "choices": [], "usage": promise.usage()})
    yield "data: [DONE]\n\n"


def chat_answer(asked: ChatRequest, promise: Promise) -> dict[str, Any]:
    choices = []
    for index, choice in enumerate(promise.choices):
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "reasoning_content": None}
        message |= {"reasoning": None, "tool_calls": []}
        if isinstance(asked.tool_choice, NamedTool):
            call = {"name": asked.tool_choice.function.name, "arguments": choice.text}
            calls = [{"id": f"chatcmpl-tool-{uuid4().hex}", "type": "function", "function": call}]
            message |= {"content": "", "tool_calls": calls}
        content = [choice.logprob(token, asked.top_logprobs or 0) for token in choice.tokens]
        logprobs = {"content": content} if asked.logprobs else None
        ended = {"finish_reason": choice.finish_reason, "stop_reason": None, "disaggregated_params": None}
        choices.append({"index": index, "message": message, "logprobs": logprobs, **ended})
    return {
        "id": f"chatcmpl-{uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": asked.model,
        "choices": choices,
        "usage": promise.usage(),
        "prompt_token_ids": None,
    }


async def completion_stream(asked: CompletionRequest, promises: list[Promise]) -> AsyncIterator[str]:
    """Prompts side by side, each with a usage chunk of its own where usage is on."""
    head = {"id": f"cmpl-{uuid4().hex}", "object": "text_completion", "created": int(time.time()), "model": asked.model}
    with_usage = wants_usage(asked)
    queue: asyncio.Queue[str | None] = asyncio.Queue()

    async def follow(number: int, promise: Promise) -> None:
        async for step in promise:
            for index, choice in enumerate(promise.choices):
                if step < len(choice.tokens):
                    last = step == len(choice.tokens) - 1
                    fields: dict[str, Any] = {"index": number * asked.n + index, "text": choice.visible(step)}
                    fields |= {"token_ids": None, "logprobs": None, "stop_reason": None}
                    fields["finish_reason"] = choice.finish_reason if last else None
                    running = usage(promise.prompt_tokens, step + 1) if with_usage else None
                    queue.put_nowait(event({**head, "choices": [fields], "usage": running}))
        if with_usage and not promise.aborted:
            queue.put_nowait(event({**head, "choices": [], "usage": promise.usage()}))
        queue.put_nowait(None)

    tasks = [asyncio.create_task(follow(number, promise)) for number, promise in enumerate(promises)]
    left = len(tasks)
    while left:
        told = await queue.get()
        if told is None:
            left -= 1
        else:
            yield told
    yield "data: [DONE]\n\n"


def completion_answer(asked: CompletionRequest, promises: list[Promise]) -> dict[str, Any]:
    choices = [
        {
            "index": number * asked.n + index,
            "text": (written(asked.prompt) if asked.echo else "") + choice.text,
            "token_ids": None,
            "logprobs": None,
            "finish_reason": choice.finish_reason,
            "stop_reason": None,
        }
        for number, promise in enumerate(promises)
        for index, choice in enumerate(promise.choices)
    ]
    usages = [promise.usage() for promise in promises]
    whole = usage(sum(each["prompt_tokens"] for each in usages), sum(each["completion_tokens"] for each in usages))
    head = {"id": f"cmpl-{uuid4().hex}", "object": "text_completion", "created": int(time.time()), "model": asked.model}
    return {**head, "choices": choices, "usage": whole, "prompt_token_ids": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("model")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max_batch_size", type=int, default=2048)
    parser.add_argument("--max_seq_len", type=int, default=2048)
    parser.add_argument("--tp_size", type=int, default=1)
    parser.add_argument("--trust_remote_code", action="store_true")
    parser.add_argument("--chat_template")
    parser.add_argument("--config", type=Path)
    options = parser.parse_args()
    tells_load = options.config is not None and "return_perf_metrics: true" in options.config.read_text()

    async def serve() -> None:
        app = application(options.model, Engine(options.max_batch_size, options.max_seq_len), tells_load=tells_load)
        config = uvicorn.Config(app, options.host, options.port, log_level="warning", timeout_keep_alive=5)
        await uvicorn.Server(config).serve()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
