"""`/v1/responses`: OpenAI's events in their order, and the responses kept for later."""

from __future__ import annotations

import time
from itertools import count
from typing import Any
from uuid import uuid4

import msgspec

from backends.simulator import prompt, text
from backends.simulator.engine import Call, ModelRequest, Run
from backends.simulator.faults import Broken, RequestError
from backends.simulator.plan import Limits, Plan, Token, plan
from backends.simulator.prompt import Format, Function, Message
from backends.simulator.store import Response


class Tool(msgspec.Struct):
    """A tool; only functions are called."""

    type: str = "function"
    name: str = ""
    parameters: dict[str, Any] | None = None


class TextConfig(msgspec.Struct):
    """The form of the text."""

    format: Format | None = None


class ResponsesRequest(ModelRequest, kw_only=True):
    """A Responses request."""

    input: str | list[Message]
    instructions: str | None = None
    max_output_tokens: int | None = None
    stream: bool | None = False
    store: bool | None = True
    background: bool | None = False
    previous_response_id: str | None = None
    tools: list[Tool] | None = None
    tool_choice: object = "auto"
    text: TextConfig | None = None
    temperature: float | None = None
    top_p: float | None = None
    metadata: dict[str, str] | None = None
    parallel_tool_calls: bool | None = True
    user: str | None = None


async def create(call: Call) -> None:
    """Answer a Responses request: whole, as events, or at once with the work going on in the background."""
    asked, model = call.decode(ResponsesRequest)
    messages = [Message(content=asked.input)] if isinstance(asked.input, str) else asked.input
    if not messages:
        raise RequestError(400, "input must not be empty.", param="input")
    before = call.engine.store.get(asked.previous_response_id) if asked.previous_response_id else {}
    usage = before.get("usage")
    earlier = usage["total_tokens"] if isinstance(usage, dict) else 0
    rendered = prompt.render(messages, asked.instructions or "")
    prompt_tokens = call.prompt_tokens(earlier + text.count(rendered))
    max_tokens = call.engine.check_length(prompt_tokens, asked.max_output_tokens, "max_output_tokens")
    functions = [Function(tool.name, tool.parameters) for tool in asked.tools or () if tool.type == "function"]
    made = plan(
        prompt.last(messages),
        Limits(max_tokens, natural=call.behaviour.tokens),
        prompt.tools(functions, asked.tool_choice),
        prompt.form(asked.text.format if asked.text is not None else None),
    )
    # The words of earlier turns are not kept.
    run = call.run(prompt_tokens, [made], () if before else [rendered])
    response = _response(call, asked, model)
    if asked.background:
        if asked.stream:
            raise RequestError(400, "background responses are not streamed.", param="stream")
        response["status"] = "queued"
        call.engine.store.put(response)
        call.engine.store.work(str(response["id"]), _work(response, run, made))
        call.reply(response)
    elif asked.stream:
        await _stream(call, response, run, made, keep=asked.store is not False)
    else:
        await _fill(response, run, made)
        if asked.store is not False:
            call.engine.store.put(response)
        call.reply(response)


async def get(call: Call, response_id: str) -> None:
    """Answer with a response that is kept."""
    call.reply(call.engine.store.get(response_id))


async def cancel(call: Call, response_id: str) -> None:
    """Cancel a response that runs in the background."""
    call.reply(call.engine.store.cancel(response_id))


async def delete(call: Call, response_id: str) -> None:
    """Forget a response."""
    call.engine.store.delete(response_id)
    call.reply({"id": response_id, "object": "response", "deleted": True})


async def _work(response: Response, run: Run, made: Plan) -> None:
    try:
        await _fill(response, run, made)
    except Broken as broken:
        response["status"] = "failed"
        response["error"] = {"code": "server_error", "message": f"The fault {broken.fault.value!r} was asked for."}


async def _fill(response: Response, run: Run, made: Plan) -> None:
    async with run:
        response["status"] = "in_progress"
        await run.complete()
    _complete(response, run, made, [_item(made, first) for first in _firsts(made)])


async def _stream(call: Call, response: Response, run: Run, made: Plan, *, keep: bool) -> None:
    stream = call.stream()
    numbers = count()
    output: list[dict[str, object]] = []

    async def event(name: str, /, **fields: object) -> None:
        data = {"type": "response." + name, "sequence_number": next(numbers), **fields}
        await stream.send(msgspec.json.encode(data), b"response." + name.encode())

    async with run:
        async for step in run.steps():
            token = made.tokens[step]
            if step == 0:
                await event("created", response=response)
                await event("in_progress", response=response)
            if token.opens or not output:
                if output:
                    await _close(event, output)
                output.append(_item(made, token))
                await _open(event, output)
            place = {"item_id": output[-1]["id"], "output_index": len(output) - 1}
            if token.call < 0:
                await event("output_text.delta", **place, content_index=0, delta=token.text, logprobs=[])
            elif not token.opens:
                await event("function_call_arguments.delta", **place, delta=token.text)
    if output:
        await _close(event, output)
    else:
        await event("created", response=response)
        await event("in_progress", response=response)
    _complete(response, run, made, output)
    if keep:
        call.engine.store.put(response)
    await event(str(response["status"]), response=response)
    await stream.close()


async def _open(event: Any, output: list[dict[str, object]]) -> None:
    """The events that begin an item; its text or arguments come later."""
    index, item = len(output) - 1, output[-1]
    if item["type"] == "function_call":
        await event("output_item.added", output_index=index, item={**item, "arguments": "", "status": "in_progress"})
        return
    await event("output_item.added", output_index=index, item={**item, "content": [], "status": "in_progress"})
    await event("content_part.added", item_id=item["id"], output_index=index, content_index=0, part=_part(""))


async def _close(event: Any, output: list[dict[str, object]]) -> None:
    """The events that end an item."""
    index, item = len(output) - 1, output[-1]
    place = {"item_id": item["id"], "output_index": index}
    if item["type"] == "function_call":
        await event("function_call_arguments.done", **place, name=item["name"], arguments=item["arguments"])
    else:
        part = item["content"][0]  # type: ignore[index]  # a message item's content is a list of one part
        await event("output_text.done", **place, content_index=0, text=part["text"], logprobs=[])
        await event("content_part.done", **place, content_index=0, part=part)
    await event("output_item.done", output_index=index, item=item)


def _firsts(made: Plan) -> list[Token]:
    """The tokens that begin an item of the output."""
    return [token for step, token in enumerate(made.tokens) if token.opens or step == 0]


def _item(made: Plan, first: Token) -> dict[str, object]:
    """The finished item of the output that begins with the token `first`."""
    status = "incomplete" if made.finish_reason == "length" else "completed"
    if first.call < 0:
        content = [_part(made.text)]
        return {
            "id": f"msg_{uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }
    call = made.calls[first.call]
    return {
        "id": f"fc_{uuid4().hex}",
        "type": "function_call",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
        "status": status,
    }


def _part(text: str) -> dict[str, object]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _response(call: Call, asked: ResponsesRequest, model: str) -> Response:
    return {
        "id": f"resp_{call.id}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": bool(asked.background),
        "error": None,
        "incomplete_details": None,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "metadata": asked.metadata or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": asked.previous_response_id,
        "service_tier": "auto",
        "temperature": 1.0 if asked.temperature is None else asked.temperature,
        "text": {"format": {"type": "text"} if asked.text is None else asked.text.format},
        "tool_choice": asked.tool_choice,
        "tools": asked.tools or [],
        "top_p": 1.0 if asked.top_p is None else asked.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": asked.user,
    }


def _complete(response: Response, run: Run, made: Plan, output: list[dict[str, object]]) -> None:
    cut = made.finish_reason == "length"
    response["status"] = "incomplete" if cut else "completed"
    response["incomplete_details"] = {"reason": "max_output_tokens"} if cut else None
    response["output"] = output
    response["usage"] = {
        "input_tokens": run.prompt_tokens,
        "input_tokens_details": {"cached_tokens": run.cached_tokens or 0},
        "output_tokens": len(made.tokens),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": run.prompt_tokens + len(made.tokens),
    }
