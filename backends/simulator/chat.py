"""`/v1/chat/completions`: the chunks and the whole answer as vLLM lays them out."""

from __future__ import annotations

import time

import msgspec

from backends.simulator import prompt, text
from backends.simulator.engine import Call, Run
from backends.simulator.faults import RequestError
from backends.simulator.generation import Generation, completion_tokens, encode, finish, usage
from backends.simulator.logprobs import chat_logprobs
from backends.simulator.plan import Plan, plan
from backends.simulator.prompt import Format, Function, Message


class Tool(msgspec.Struct):
    """A tool of the chat API."""

    function: Function


class ChatRequest(Generation, kw_only=True):
    """A chat completion request.

    As in vLLM the answer opens a message of its own, or continues the last one where that is asked for.
    """

    messages: list[Message]
    max_completion_tokens: int | None = None
    tools: list[Tool] | None = None
    tool_choice: object = None
    response_format: Format | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False

    def check(self) -> None:
        """Raise for what a server refuses."""
        super().check()
        if not self.messages:
            raise RequestError(400, "messages must not be empty.", param="messages")
        if self.top_logprobs and not self.logprobs:
            raise RequestError(400, "top_logprobs needs logprobs to be true.", param="top_logprobs")
        if self.continue_final_message and self.add_generation_prompt:
            raise RequestError(
                400,
                "continue_final_message needs add_generation_prompt to be false: an answer either continues "
                "the last message or opens one.",
                param="continue_final_message",
            )

    @property
    def role(self) -> str:
        """Whose message the answer is."""
        return "assistant" if self.add_generation_prompt else self.messages[-1].role

    @property
    def written(self) -> str:
        """What the answer continues; empty where it begins anew."""
        final = self.messages[-1]
        return prompt.read(final.content) if self.continue_final_message and final.role == "assistant" else ""


async def answer(call: Call) -> None:
    """Answer a chat completion request."""
    asked, model = call.decode(ChatRequest)
    asked.check()
    limit = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
    rendered = prompt.render(asked.messages, opened=asked.add_generation_prompt)
    prompt_tokens = call.prompt_tokens(text.count(rendered))
    max_tokens = call.engine.check_length(prompt_tokens, limit, "max_tokens")
    offered = prompt.tools([tool.function for tool in asked.tools or ()], asked.tool_choice)
    plans = [
        plan(
            prompt.last(asked.messages),
            asked.limits(max_tokens, call.behaviour.tokens),
            offered,
            prompt.form(asked.response_format),
            written=asked.written,
        )
        for _ in range(asked.n or 1)
    ]
    run = call.run(prompt_tokens, plans, [rendered], salt=asked.cache_salt)
    if asked.stream:
        await _stream(call, asked, model, run, plans)
    else:
        await _whole(call, asked, model, run, plans)


async def _whole(call: Call, asked: ChatRequest, model: str, run: Run, plans: list[Plan]) -> None:
    async with run:
        await run.complete()
    choices = []
    for index, each in enumerate(plans):
        calls = [_call(made.id, made.name, made.arguments) for made in each.calls]
        message = {
            "role": asked.role,
            "content": None if calls else each.text,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "tool_calls": calls,
            "reasoning": None,
        }
        choices.append(
            {
                "index": index,
                "message": message,
                "logprobs": chat_logprobs(each.tokens, asked.top_logprobs or 0) if asked.logprobs else None,
                "finish_reason": each.finish_reason,
                "stop_reason": each.stop_reason,
                "token_ids": None,
            }
        )
    call.reply(
        {
            "id": f"chatcmpl-{call.id}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": None,
            "usage": usage(run.prompt_tokens, completion_tokens(plans), run.cached_tokens),
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "kv_transfer_params": None,
        }
    )


async def _stream(call: Call, asked: ChatRequest, model: str, run: Run, plans: list[Plan]) -> None:
    chunks = _Chunks(call, asked, model, run)
    stream = call.stream()
    async with run:
        async for step in run.steps():
            if step == 0:
                for index in range(len(plans)):
                    await stream.send(chunks.role(index))
            for index, each in enumerate(plans):
                if step < len(each.tokens) and (delta := _delta(each, step, asked)) is not None:
                    await stream.send(chunks.choice(index, delta))
    if not run.generated:
        for index in range(len(plans)):
            await stream.send(chunks.role(index))
    for index, each in enumerate(plans):
        if each.finish_reason != "length":
            end = b'{"content":""},"logprobs":null,' + finish(each)
            await stream.send(chunks.choice(index, end))
    if asked.stream_options is not None and asked.stream_options.include_usage:
        await stream.send(chunks.usage())
    await stream.close(b"[DONE]")


class _Chunks:
    """The chunks of one stream, with usage so far in every one where that is asked."""

    def __init__(self, call: Call, asked: ChatRequest, model: str, run: Run) -> None:
        opening = {"id": f"chatcmpl-{call.id}", "object": "chat.completion.chunk", "created": int(time.time())}
        self._head = encode({**opening, "model": model})[:-1] + b',"choices":['
        self._continuous = asked.stream_options is not None and asked.stream_options.continuous_usage_stats
        self._run = run
        self._role = b'{"role":%b,"content":""}' % encode(asked.role)

    def role(self, index: int) -> bytes:
        choice = b'{"index":%d,"delta":%b,"logprobs":null,"finish_reason":null}]' % (index, self._role)
        return self._head + choice + b',"prompt_token_ids":null' + self._close()

    def choice(self, index: int, delta: bytes) -> bytes:
        return b'%b{"index":%d,"delta":%b,"token_ids":null}]%b' % (self._head, index, delta, self._close())

    def usage(self) -> bytes:
        return self._head + b"]" + self._usage()

    def _close(self) -> bytes:
        return self._usage() if self._continuous else b"}"

    def _usage(self) -> bytes:
        run = self._run
        return b',"usage":' + encode(usage(run.prompt_tokens, run.generated, run.cached_tokens)) + b"}"


def _delta(each: Plan, step: int, asked: ChatRequest) -> bytes | None:
    """The delta of a token to the end of its finish reason; None where the token has nothing to show.

    A token that reaches the limit carries the finish reason; every other end has a chunk of its own.
    """
    token = each.tokens[step]
    last = step + 1 == len(each.tokens) and each.finish_reason == "length"
    if not token.text and not last and not asked.logprobs:
        return None
    if token.call < 0:
        delta = b'{"content":' + encode(token.text) + b"}"
    elif token.opens:
        delta = encode({"tool_calls": [_call(each.call_ids[token.call], token.text, "", token.call)]})
    else:
        delta = encode({"tool_calls": [{"index": token.call, "function": {"arguments": token.text}}]})
    scores = encode(chat_logprobs([token], asked.top_logprobs or 0)) if asked.logprobs else b"null"
    return delta + b',"logprobs":' + scores + b"," + (finish(each) if last else b'"finish_reason":null')


def _call(call_id: str, name: str, arguments: str, index: int | None = None) -> dict[str, object]:
    place = {} if index is None else {"index": index}
    return {"id": call_id, "type": "function", **place, "function": {"name": name, "arguments": arguments}}
