"""A response's object and events are of the types that OpenAI's SDK gives them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from backends.errors import InvalidRequest, Overloaded, RateLimited, ServingError, Unavailable
from backends.model import OpenAIResponse
from tests.ensembles.house import GENERATOR, SSE, FakeBody, answered, streamed, whole
from tests.ensembles.searching import TOOL, WEIGH, request, searching


async def test_events_are_of_the_types_that_openais_sdk_gives_them() -> None:
    model, _ = searching("green", " [1", "]", " pears")
    form = {"type": "json_schema", "name": "fruit", "schema": {"type": "object"}}
    asking = request(
        stream=True,
        include=["file_search_call.results"],
        tool_choice={"type": "file_search"},
        text={"verbosity": "low"} | {"format": form},
        metadata={"a": "b"},
        temperature=0,
        max_output_tokens=20,
    )
    typed = TypeAdapter[Any](ResponseStreamEvent)
    for event in await streamed(model, asking):
        typed.validate_json(json.dumps(event), strict=True)


async def test_a_response_says_its_format_though_the_request_said_another_thing_of_its_text() -> None:
    model, _ = searching("green")
    told = await whole(model, request(text={"verbosity": "low"}))
    assert told["text"] == {"verbosity": "low", "format": {"type": "text"}}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Overloaded("full"), "rate_limit_exceeded"),
        (RateLimited("enough"), "rate_limit_exceeded"),
        (InvalidRequest("wrong"), "invalid_prompt"),
        (Unavailable("down"), "server_error"),
    ],
)
async def test_a_failed_response_has_openais_code_for_why(error: ServingError, code: str) -> None:
    model, house = searching()
    house.models[GENERATOR].says["chat"] = lambda _: error
    last = (await streamed(model, request(stream=True)))[-1]
    assert last["response"]["error"] == {"code": code, "message": error.message}


@pytest.mark.parametrize("text", ["", "A pear [1]"])
async def test_calls_of_functions_are_items_behind_the_message(text: str) -> None:
    model, house = searching()
    deltas: list[dict[str, Any]] = [
        {"content": text},
        {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "weigh"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"what":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"a pear"}'}}]},
        {"tool_calls": [{"index": 1, "id": "call_2", "function": {"name": "weigh", "arguments": "{}"}}]},
    ]
    calls = [
        {"id": "call_1", "type": "function", "function": {"name": "weigh", "arguments": '{"what":"a pear"}'}},
        {"id": "call_2", "type": "function", "function": {"name": "weigh", "arguments": "{}"}},
    ]

    def answer(fields: dict[str, Any]) -> OpenAIResponse:
        if fields["stream"]:
            choices = [{"index": 0, "delta": delta} for delta in deltas] + [
                {"delta": {}, "finish_reason": "tool_calls"}
            ]
            data = [b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n" for choice in choices]
            return OpenAIResponse(200, SSE, FakeBody(*data))
        message = {"role": "assistant", "content": text or None, "tool_calls": calls}
        return answered({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]})

    house.models[GENERATOR].says["chat"] = answer
    events = await streamed(model, request(tools=[TOOL, WEIGH], stream=True))
    typed = TypeAdapter[Any](ResponseStreamEvent)
    for event in events:
        typed.validate_json(json.dumps(event), strict=True)
    response = events[-1]["response"]
    assert response["status"] == "completed"
    assert [item["type"] for item in response["output"]] == [
        "file_search_call",
        *["message"] * bool(text),
        *["function_call"] * 2,
    ]
    for place, item in enumerate(response["output"]):
        told = [event for event in events if event.get("item", {}).get("id") == item["id"]]
        assert [(event["type"], event["output_index"]) for event in told] == [
            ("response.output_item.added", place),
            ("response.output_item.done", place),
        ]
    first, _ = made = response["output"][-2:]
    assert [(item["call_id"], item["name"], item["arguments"]) for item in made] == [
        (call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls
    ]
    pieces = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert pieces == ['{"what":', '"a pear"}', "{}"]
    (done,) = [
        event for event in events if event["type"].endswith("arguments.done") and event["item_id"] == first["id"]
    ]
    assert done["arguments"] == first["arguments"]
    at_once = await whole(model, request(tools=[TOOL, WEIGH]))
    assert [item["type"] for item in at_once["output"]] == [item["type"] for item in response["output"]]
    assert [item["arguments"] for item in at_once["output"][-2:]] == [item["arguments"] for item in made]
