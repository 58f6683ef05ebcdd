"""What becomes of a Responses request, and what is refused of it."""

from __future__ import annotations

from typing import Any

import pytest

from backends.errors import InvalidRequest
from tests.ensembles.house import GENERATOR, asked, built, whole
from tests.ensembles.searching import TOOL, WEIGH, request, searching


async def test_items_and_options_become_those_of_a_chat() -> None:
    model, house = searching("green")
    items = [
        {"type": None, "role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "hello"}, {"type": "input_text", "text": "you"}]},
        {"type": "file_search_call", "id": "fs_1"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hi"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "green?"}, {"type": "input_image", "image_url": "x"}],
        },
    ]
    form = {"type": "json_schema", "name": "fruit", "schema": {"type": "object"}, "strict": True}
    await whole(
        model,
        request(
            input=items,
            instructions="Be brief.",
            temperature=0.5,
            max_output_tokens=9,
            text={"format": form},
            store=True,
        ),
    )
    (_, fields) = house.models[GENERATOR].asked[-1]
    messages = fields["messages"]
    assert messages[0]["content"].startswith("Be brief.\n\nAnswer the question")
    assert messages[1:5] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hello\nyou"},
        {"role": "assistant", "content": "hi"},
        {"role": "assistant", "content": "no"},
    ]
    assert messages[5]["content"][1:] == [
        {"type": "text", "text": "green?"},
        {"type": "image_url", "image_url": {"url": "x", "detail": "auto"}},
    ]
    assert (fields["temperature"], fields["max_tokens"], fields["stream"]) == (0.5, 9, False)
    assert fields["response_format"]["json_schema"] == {"name": "fruit", "schema": {"type": "object"}, "strict": True}
    assert "store" not in fields


async def test_a_plain_json_object_is_asked_for_as_chat_has_it() -> None:
    model, house = searching("{}")
    await whole(model, request(text={"format": {"type": "json_object"}}))
    assert house.models[GENERATOR].asked[-1][1]["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("auto", None),
        ("required", None),
        ({"type": "file_search"}, None),
        ({"type": "function", "name": "weigh"}, {"type": "function", "function": {"name": "weigh"}}),
    ],
)
async def test_functions_may_stand_beside_the_search(choice: Any, told: Any) -> None:
    model, house = searching("green")
    items = [
        {"role": "user", "content": "how heavy?"},
        {"type": "function_call", "call_id": "call_1", "name": "weigh", "arguments": '{"what":"a pear"}'},
        {"type": "function_call", "call_id": "call_2", "name": "weigh", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "200 g"},
        {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "none"}]},
    ]
    asking = request(input=items, tools=[TOOL, WEIGH], tool_choice=choice, parallel_tool_calls=False)
    await whole(model, asking)
    (_, fields) = house.models[GENERATOR].asked[-1]
    assert fields["tools"] == [{"type": "function", "function": {"name": "weigh", "parameters": WEIGH["parameters"]}}]
    assert (fields.get("tool_choice"), fields["parallel_tool_calls"]) == (told, False)
    called, *answers = fields["messages"][2:]
    calls = [(call["id"], call["function"]["arguments"]) for call in called["tool_calls"]]
    assert calls == [("call_1", '{"what":"a pear"}'), ("call_2", "{}")]
    assert answers == [
        {"role": "tool", "tool_call_id": "call_1", "content": "200 g"},
        {"role": "tool", "tool_call_id": "call_2", "content": "none"},
    ]
    assert house.library.what("words")[0][1] == "how heavy?"


@pytest.mark.parametrize("choice", ["none", "required"])
async def test_a_choice_among_the_functions_of_a_pipeline_is_its_generators(choice: str) -> None:
    model, house = built("green")
    await whole(model, asked("/v1/responses", input="how heavy?", tools=[WEIGH], tool_choice=choice))
    assert house.models[GENERATOR].asked[-1][1]["tool_choice"] == choice


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": 5}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": "x"}, {"type": "function_call_output", "output": "x"}]}, "input"),
        ({"input": [{"role": "user", "content": "x"}, {"type": "function_call", "call_id": "call_1"}]}, "input"),
        ({"input": [{"role": "user", "content": "x"}, {"type": "computer_call_output"}]}, "input"),
        ({"tools": [TOOL, {"type": "function"}]}, "tools[1].name"),
        ({"input": [{"role": "user", "content": 5}]}, "input"),
        ({"input": [{"content": "hello"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input"),
        ({"tools": [TOOL, {"type": "web_search"}]}, "tools[1]"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [{**TOOL, "max_num_results": 51}]}, "tools[0].max_num_results"),
        ({"tool_choice": "none"}, "tool_choice"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"input": None}, "input"),
        ({"tools": [{"type": "file_search"}]}, "tools[0].vector_store_ids"),
        ({"tools": [{**TOOL, "vector_store_ids": ["\0"]}]}, "tools[0].vector_store_ids[0]"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"text": {"format": 5}}, "text.format"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"truncation": "some"}, "truncation"),
        ({"user": 5}, "user"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_its_name(fields: dict[str, Any], param: str) -> None:
    model, _ = searching("green")
    with pytest.raises(InvalidRequest) as raised:
        await model.respond(request(stream=True, **fields))
    assert raised.value.param is not None
    assert raised.value.param.replace("[...]", "[0]") == param


async def test_a_request_without_its_input_is_told_which_field_is_missing() -> None:
    model, _ = searching("green")
    with pytest.raises(InvalidRequest) as raised:
        await model.respond(asked("/v1/responses", tools=[TOOL]))
    assert (raised.value.param, raised.value.code) == ("input", "missing_required_parameter")
