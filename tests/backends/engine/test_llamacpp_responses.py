"""What llama.cpp leaves out of Responses is put in, event by event."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.engine.llamacpp_dialect import Adapter
from backends.errors import InvalidRequest, UnsupportedOperation, UpstreamProtocolError
from backends.model import OpenAIRequest, OpenAIResponse
from tests.backends.bodies import QUESTION, TOOLS, pumped, read, stream

RESPONSES = "/v1/responses"
FLAT_TOOLS = [{"type": "function", **TOOLS[0]["function"]}]  # type: ignore[dict-item]  # a tool of chat
CALL = '{"name": "get_weather", "arguments": {"city": "Paris"}}'


def adapter() -> Adapter:
    return Adapter(max_tokens=100, context_length=2048)


def asked(*, is_stream: bool = True, **fields: Any) -> OpenAIRequest:
    body = json.dumps({"model": "m", "input": "Hi", "stream": is_stream, **fields}).encode()
    return OpenAIRequest(RESPONSES, body, "m", stream=is_stream)


def said(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", **fields}


def message(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
    return {"type": "message", "status": "completed", "id": "msg_1", "content": [part], "role": "assistant"}


def text_events(*pieces: str, tokens: int = 3, prompt_tokens: int = 5) -> list[dict[str, Any]]:
    """As llama.cpp says it: no numbers, no places, "completed" in any case."""
    text = "".join(pieces)
    head = {"id": "resp_1", "object": "response", "status": "in_progress"}
    whole = {**head, "created_at": 1, "status": "completed", "model": "m", "output": [message(text)]}
    usage = {"input_tokens": prompt_tokens, "output_tokens": tokens, "total_tokens": prompt_tokens + tokens}
    item = {"content": [], "id": "msg_1", "role": "assistant", "status": "in_progress", "type": "message"}
    return [
        said("created", response=head),
        said("in_progress", response=head),
        said("output_item.added", item=item),
        said("content_part.added", item_id="msg_1", part={"type": "output_text", "text": ""}),
        *(said("output_text.delta", item_id="msg_1", delta=piece) for piece in pieces),
        said("output_text.done", item_id="msg_1", text=text),
        said("content_part.done", item_id="msg_1", part=message(text)["content"][0]),
        said("output_item.done", item=message(text)),
        {**said("completed", response={**whole, "usage": usage}), "timings": {"predicted_n": tokens}},
    ]


def encoded(events: list[dict[str, Any]]) -> bytes:
    lines = (f"event: {event['type']}\ndata: {json.dumps(event, separators=(',', ':'))}\n\n" for event in events)
    return "".join(lines).encode()


def decoded(data: bytes) -> list[dict[str, Any]]:
    found = []
    for event in data.decode().split("\n\n")[:-1]:
        name, _, line = event.partition("\n")
        fields = json.loads(line.removeprefix("data: "))
        assert name == f"event: {fields['type']}"
        found.append(fields)
    return found


async def bridged(request: OpenAIRequest, events: list[dict[str, Any]], size: int = 10_000) -> list[dict[str, Any]]:
    """What the client gets, read and pumped alike."""
    bridge, data = adapter(), encoded(events)
    sent = bridge.request(request)

    def response() -> OpenAIResponse:
        return bridge.response(sent, stream(*(data[start : start + size] for start in range(0, len(data), size))))

    if events[-1]["response"]["output"][0]["content"][0]["text"] != CALL:  # its id is made anew each time
        assert len(await pumped(response().body)) == len(await read(response().body))
    return decoded(await read(response().body))


@pytest.mark.parametrize("size", [1, 33, 10_000])
async def test_events_are_numbered_and_placed(size: int) -> None:
    events = await bridged(asked(), text_events("Hel", "lo"), size)
    assert [event["sequence_number"] for event in events] == list(range(10))
    placed = [event for event in events if "item" in event or "item_id" in event]
    assert [event["output_index"] for event in placed] == [0] * 7
    assert [event["content_index"] for event in placed if "item_id" in event] == [0] * 5
    assert [event["logprobs"] for event in events if "output_text" in event["type"]] == [[], [], []]
    assert [event["delta"] for event in events if "delta" in event] == ["Hel", "lo"]
    assert events[3]["part"] == {"type": "output_text", "text": "", "annotations": [], "logprobs": []}


async def test_a_response_says_again_what_was_asked_for() -> None:
    request = asked(instructions="Be brief.", temperature=0, metadata={"a": "b"}, store=True, max_output_tokens=7)
    events = await bridged(request, text_events("Hi"))
    for event in (events[0], events[1], events[-1]):
        response = event["response"]
        assert response["instructions"] == "Be brief."
        assert (response["temperature"], response["metadata"], response["max_output_tokens"]) == (0, {"a": "b"}, 7)
        assert (response["store"], response["tools"], response["tool_choice"]) == (False, [], "auto")
    first, last = events[0]["response"], events[-1]["response"]
    assert (first["status"], first["output"], first["usage"]) == ("in_progress", [], None)
    assert first["created_at"] == last["created_at"] > 1
    assert last["usage"]["output_tokens_details"] == {"reasoning_tokens": 0}
    assert last["usage"]["input_tokens_details"] == {"cached_tokens": 0, "cache_write_tokens": 0}
    assert "timings" not in events[-1]


@pytest.mark.parametrize(
    ("limit", "tokens", "prompt_tokens", "status"),
    [
        ({"max_output_tokens": 3}, 3, 5, "incomplete"),
        ({"max_output_tokens": 4}, 3, 5, "completed"),
        ({}, 100, 5, "incomplete"),
        ({"max_output_tokens": 5000}, 100, 5, "incomplete"),
        ({}, 48, 2000, "incomplete"),
        ({}, 47, 2000, "completed"),
    ],
)
async def test_an_answer_that_a_limit_cut_is_incomplete(
    limit: dict[str, Any], tokens: int, prompt_tokens: int, status: str
) -> None:
    last = (await bridged(asked(**limit), text_events("Hi", tokens=tokens, prompt_tokens=prompt_tokens)))[-1]
    assert last["type"] == f"response.{status}"
    assert last["response"]["status"] == status
    reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
    assert last["response"]["incomplete_details"] == reason


async def test_a_whole_answer_is_the_response_of_the_last_event() -> None:
    bridge = adapter()
    request = bridge.request(asked(is_stream=False, max_output_tokens=3))
    response = bridge.response(request, stream(encoded(text_events("Hi"))))
    whole = json.loads(await read(response.body))
    assert (whole["id"], whole["status"], whole["parallel_tool_calls"]) == ("resp_1", "incomplete", True)


async def test_a_call_that_the_model_chose_has_its_end_and_its_place() -> None:
    head = {"id": "resp_1", "status": "in_progress"}
    begun = {
        "type": "function_call",
        "call_id": "fc_1",
        "name": "get_weather",
        "arguments": "",
        "status": "in_progress",
    }
    call = {**begun, "arguments": "{}", "status": "completed"}
    final = {"id": "resp_1", "status": "completed", "output": [message("Well."), call]}
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    events = await bridged(
        asked(tools=FLAT_TOOLS),
        [
            said("created", response=head),
            *text_events("Well.")[2:5],
            said("output_item.added", item=begun),
            said("function_call_arguments.delta", item_id="fc_1", delta="{}"),
            said("output_item.done", item=message("Well.")),
            said("output_item.done", item=call),
            said("completed", response={**final, "usage": usage}),
        ],
    )
    places = [(event["type"], event["output_index"]) for event in events if "output_index" in event]
    assert places[-5:] == [
        ("response.output_item.added", 1),
        ("response.function_call_arguments.delta", 1),
        ("response.output_item.done", 0),
        ("response.function_call_arguments.done", 1),
        ("response.output_item.done", 1),
    ]
    (done,) = [event for event in events if event["type"] == "response.function_call_arguments.done"]
    assert (done["item_id"], done["name"], done["arguments"]) == ("fc_1", "get_weather", "{}")
    assert events[-1]["response"]["output"][1]["id"] == "fc_1"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


@pytest.mark.parametrize("tool_choice", ["required", {"type": "function", "name": "get_weather"}])
async def test_a_demanded_call_is_constrained_and_comes_back_as_one(tool_choice: Any) -> None:
    request = asked(tools=FLAT_TOOLS, tool_choice=tool_choice)
    fields = json.loads(adapter().request(request).body)
    assert fields["tool_choice"] == "none"
    constraint = fields["response_format"]["json_schema"]["schema"]["properties"]
    assert constraint["name"] == {"const": "get_weather"}
    assert constraint["arguments"]["required"] == ["city"]
    events = await bridged(request, text_events(CALL))
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "function_call_arguments.delta", "function_call_arguments.done",
        "output_item.done", "completed",
    ]  # fmt: skip
    (item,) = events[-1]["response"]["output"]
    assert item == events[-2]["item"]
    assert (item["name"], item["arguments"], item["status"]) == ("get_weather", '{"city": "Paris"}', "completed")
    assert events[2]["item"]["arguments"] == ""
    assert events[-1]["response"]["tool_choice"] == tool_choice


async def test_a_demanded_call_that_was_cut_stays_text() -> None:
    request = asked(tools=FLAT_TOOLS, tool_choice="required", max_output_tokens=3)
    events = await bridged(request, text_events('{"name": '))
    assert [event["sequence_number"] for event in events] == list(range(9))
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == '{"name": '


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ({"format": {"type": "json_object"}}, {"type": "json_object"}),
        (
            {"format": {"type": "json_schema", "name": "p", "schema": {"type": "integer"}, "strict": True}},
            {"type": "json_schema", "json_schema": {"name": "p", "strict": True, "schema": {"type": "integer"}}},
        ),
        ({"format": {"type": "text"}}, None),
        ({"verbosity": "low"}, None),
        (None, None),
    ],
)
def test_a_format_is_asked_for_in_the_form_of_chat(text: Any, expected: Any) -> None:
    assert json.loads(adapter().request(asked(text=text)).body).get("response_format") == expected


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"background": True}, UnsupportedOperation, "background"),
        ({"text": {"format": "json"}}, InvalidRequest, "'text'"),
        ({"tool_choice": "required"}, InvalidRequest, "no 'tools'"),
        ({"tool_choice": {"type": "hosted"}, "tools": FLAT_TOOLS}, InvalidRequest, "cannot be read"),
        ({"tool_choice": {"type": "function", "name": "x"}, "tools": FLAT_TOOLS}, InvalidRequest, "'x'"),
    ],
)
def test_what_cannot_be_done_is_refused(fields: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        adapter().request(asked(**fields))


def test_a_stream_that_needs_no_change_is_asked_for_as_it_came_with_one_field() -> None:
    request = asked(instructions="Be brief.", tools=FLAT_TOOLS, tool_choice="auto", text={"format": {"type": "text"}})
    assert adapter().request(request).body == b'{"return_progress":true,' + request.body[1:]


async def test_progress_in_the_prompt_is_one_event_of_progress() -> None:
    created, in_progress, *rest = text_events("Hi")
    told = [{**in_progress, "prompt_progress": {"processed": each}} for each in (0, 64, 70)]
    plain = await bridged(asked(), [created, in_progress, *rest])
    with_progress = await bridged(asked(), [created, *told, *rest])
    assert [event["type"] for event in with_progress] == [event["type"] for event in plain]
    assert [event["sequence_number"] for event in with_progress] == list(range(len(plain)))
    assert "prompt_progress" not in with_progress[1]


async def test_what_is_no_event_of_a_response_passes() -> None:
    error = b'event: error\ndata: {"type":"error","error":{"message":"x"}}\n\n'
    assert await read(adapter().response(asked(), stream(error)).body) == error


async def test_events_that_cannot_be_read_are_a_protocol_error() -> None:
    for data in (b"event: response.created\ndata: {\n\n", b'event: response.x\ndata: {"no":"type"}\n\n'):
        with pytest.raises(UpstreamProtocolError):
            await read(adapter().response(asked(), stream(data)).body)


def test_a_demanded_tool_of_messages_is_refused() -> None:
    for tool_choice in ({"type": "any"}, {"type": "tool", "name": "get_weather"}):
        body = json.dumps({"messages": QUESTION, "tool_choice": tool_choice}).encode()
        with pytest.raises(UnsupportedOperation, match="held to a tool"):
            adapter().request(OpenAIRequest("/v1/messages", body, "m", stream=True))
