"""`/v1/messages` and its `count_tokens`: Anthropic's API."""

from __future__ import annotations

import json

import msgspec

from backends.simulator import prompt, text
from backends.simulator.engine import Call, ModelRequest, Run
from backends.simulator.faults import RequestError
from backends.simulator.plan import Limits, Plan, plan
from backends.simulator.prompt import Content, Function, Message
from backends.simulator.sse import EventStream

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class Tool(msgspec.Struct):
    """A tool of Anthropic's API."""

    name: str
    input_schema: dict[str, object] | None = None


class ToolChoice(msgspec.Struct):
    """`auto`, `any`, `none`, or `tool` with a name."""

    type: str = "auto"
    name: str | None = None


class CountRequest(ModelRequest, kw_only=True):
    """What a prompt is made of."""

    messages: list[Message]
    system: Content = None
    tools: list[Tool] | None = None

    def rendered(self) -> str:
        return prompt.render(self.messages, prompt.read(self.system))


class MessagesRequest(CountRequest, kw_only=True):
    """A message request."""

    max_tokens: int
    stream: bool | None = False
    stop_sequences: list[str] | None = None
    tool_choice: ToolChoice | None = None


async def count_tokens(call: Call) -> None:
    """Answer how many tokens a prompt has."""
    asked, _ = call.decode(CountRequest)
    call.reply({"input_tokens": call.prompt_tokens(text.count(asked.rendered()))})


async def answer(call: Call) -> None:
    """Answer a message request."""
    asked, model = call.decode(MessagesRequest)
    if not asked.messages:
        raise RequestError(400, "messages must not be empty.", param="messages")
    rendered = asked.rendered()
    prompt_tokens = call.prompt_tokens(text.count(rendered))
    max_tokens = call.engine.check_length(prompt_tokens, asked.max_tokens, "max_tokens")
    limits = Limits(max_tokens, natural=call.behaviour.tokens, stop=tuple(asked.stop_sequences or ()))
    functions = [Function(tool.name, tool.input_schema) for tool in asked.tools or ()]
    choice = asked.tool_choice or ToolChoice()
    named: object = {"name": choice.name} if choice.type == "tool" else choice.type
    made = plan(prompt.last(asked.messages), limits, prompt.tools(functions, named))
    run = call.run(prompt_tokens, [made], [rendered])
    if asked.stream:
        await _stream(call, model, run, made)
        return
    async with run:
        await run.complete()
    content: list[dict[str, object]] = [
        {"type": "tool_use", "id": each.id, "name": each.name, "input": _object(each.arguments)} for each in made.calls
    ]
    call.reply(
        {
            **_opening(call, model),
            "content": content or [{"type": "text", "text": made.text}],
            **_end(made),
            "usage": {"input_tokens": run.prompt_tokens, "output_tokens": len(made.tokens)},
        }
    )


async def _stream(call: Call, model: str, run: Run, made: Plan) -> None:
    stream = call.stream()
    started = {
        **_opening(call, model),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": run.prompt_tokens, "output_tokens": 0},
    }
    block = -1
    async with run:
        async for step in run.steps():
            token = made.tokens[step]
            if step == 0:
                await _event(stream, "message_start", message=started)
            if token.opens or block < 0:
                if block >= 0:
                    await _event(stream, "content_block_stop", index=block)
                block += 1
                opened: dict[str, object] = {"type": "text", "text": ""}
                if token.opens:
                    opened = {"type": "tool_use", "id": made.call_ids[token.call], "name": token.text, "input": {}}
                await _event(stream, "content_block_start", index=block, content_block=opened)
            if token.call < 0 and token.text:
                text = {"type": "text_delta", "text": token.text}
                await _event(stream, "content_block_delta", index=block, delta=text)
            elif token.call >= 0 and not token.opens:
                part = {"type": "input_json_delta", "partial_json": token.text}
                await _event(stream, "content_block_delta", index=block, delta=part)
    if block < 0:
        await _event(stream, "message_start", message=started)
    else:
        await _event(stream, "content_block_stop", index=block)
    counted = {"input_tokens": run.prompt_tokens, "output_tokens": len(made.tokens)}
    await _event(stream, "message_delta", delta=_end(made), usage=counted)
    await _event(stream, "message_stop")
    await stream.close()


async def _event(stream: EventStream, name: str, /, **fields: object) -> None:
    await stream.send(msgspec.json.encode({"type": name, **fields}), name.encode())


def _opening(call: Call, model: str) -> dict[str, object]:
    return {"id": f"chatcmpl-{call.id}", "type": "message", "role": "assistant", "model": model}


def _end(made: Plan) -> dict[str, object]:
    if made.stop_reason is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": made.stop_reason}
    return {"stop_reason": _STOP_REASONS[made.finish_reason], "stop_sequence": None}


def _object(text: str) -> object:
    """The arguments of a call; empty when the limit cut them off."""
    try:
        return json.loads(text)
    except ValueError:
        return {}
