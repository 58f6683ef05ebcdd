"""File search for any chat model: OpenAI's events in their order, and what becomes of a request."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from backends.errors import (
    InvalidRequest,
    NotFound,
    Overloaded,
    RateLimited,
    ServingError,
    Unavailable,
    UpstreamError,
)
from backends.model import OpenAIRequest, OpenAIResponse
from ensembles.answering.search_options import asks_for_file_search
from ensembles.file_search import FileSearch, before
from tests.ensembles.house import (
    GENERATOR,
    RERANKER,
    SSE,
    FakeBody,
    FakeLibrary,
    House,
    answered,
    asked,
    body_of,
    built,
    chunks,
    reranker,
    store,
    streamed,
    talker,
    whole,
)
from tests.waiting import eventually_async

TOOL = {"type": "file_search", "vector_store_ids": ["vs_fruit_"]}


def searching(*texts: str, library: FakeLibrary | None = None, finish_reason: str = "stop") -> tuple[FileSearch, House]:
    house = House(talker(*texts, finish_reason=finish_reason), library=library)
    model = before(house.models[GENERATOR], house)  # type: ignore[arg-type]
    assert isinstance(model, FileSearch)
    return model, house


def request(*, tenant: str = "", **fields: Any) -> OpenAIRequest:
    return asked("/v1/responses", tenant=tenant, **{"input": "which is green?", "tools": [TOOL], **fields})


async def test_what_is_searched_is_reranked_by_the_librarys_reranker_unless_none_is_wanted() -> None:
    house = House(talker("pears [1]"), reranker(0.2, 0.9, 0.1), library=FakeLibrary(reranker=RERANKER))
    model = before(house.models[GENERATOR], house)  # type: ignore[arg-type]
    for ranker, first in (("auto", "file-2"), ("none", "file-1")):
        tool = {**TOOL, "ranking_options": {"ranker": ranker}}
        told = await whole(model, request(tools=[tool], include=["file_search_call.results"]))
        assert told["output"][0]["results"][0]["file_id"] == first
    assert len(house.models[RERANKER].asked) == 1


ORDER = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.file_search_call.in_progress",
    "response.file_search_call.searching",
    "response.file_search_call.completed",
    "response.output_item.done",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.annotation.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


async def test_events_come_in_openais_order_and_are_numbered() -> None:
    model, _ = searching("green", " [1", "]", " pears")
    events = await streamed(model, request(stream=True))
    assert [event["type"] for event in events] == ORDER
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    search, message = events[-1]["response"]["output"]
    assert (search["type"], search["status"], search["queries"]) == (
        "file_search_call",
        "completed",
        ["which is green?"],
    )
    assert search["results"] is None
    (part,) = message["content"]
    assert (part["text"], message["status"]) == ("green [1] pears", "completed")
    added = events[11]
    assert part["annotations"] == [added["annotation"]]
    assert added["annotation"].items() >= {
        ("type", "file_citation"),
        ("file_id", "file-1"),
        ("filename", "1.txt"),
        ("index", 6),
    }
    assert events[-1]["response"]["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 11,
    }


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


async def test_a_whole_response_is_the_same_object() -> None:
    model, house = searching("green", " [1", "]", " pears")
    told = await whole(model, request())
    events = await streamed(model, request(stream=True))
    last = events[-1]["response"]

    def bare(response: dict[str, Any]) -> dict[str, Any]:
        output = [{key: value for key, value in item.items() if key != "id"} for item in response["output"]]
        left_out = {"id", "created_at", "usage", "output"}
        return {**{key: value for key, value in response.items() if key not in left_out}, "output": output}

    assert bare(told) == bare(last)
    assert all(body.closed for body in house.models[GENERATOR].bodies)


async def test_results_are_told_where_they_are_wanted() -> None:
    model, house = searching("green")
    told = await whole(model, request(include=["file_search_call.results"]))
    results = told["output"][0]["results"]
    assert [result["file_id"] for result in results] == ["file-1", "file-2", "file-3"]
    assert results[0].keys() == {"file_id", "filename", "score", "text", "attributes"}
    assert results[0]["text"] == house.library.chunks[0].text


async def test_the_tool_says_where_and_how_to_search() -> None:
    library = FakeLibrary(stores=[store(), store("other", owner="eve")])
    model, _ = searching("green", library=library)
    tool = {
        **TOOL,
        "vector_store_ids": ["vs_other_eve"],
        "max_num_results": 2,
        "filters": {"type": "eq", "key": "colour", "value": "green"},
        "ranking_options": {"ranker": "auto", "hybrid_search": {"embedding_weight": 0}},
    }
    told = await whole(model, request(tools=[tool], include=["file_search_call.results"], tenant="eve"))
    ((where, query, _, condition),) = library.what("words")
    assert (where, query, condition.key) == ("vs_other_eve", "which is green?", "colour")
    assert library.what("dense") == []
    assert len(told["output"][0]["results"]) == 2
    with pytest.raises(NotFound, match="vs_other_eve"):
        await model.respond(request(tools=[tool], tenant="adam", stream=True))


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


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
async def test_an_answer_that_was_cut_is_incomplete(finish: str, reason: str, stream: bool) -> None:
    model, _ = searching("green", finish_reason=finish)
    if stream:
        last = (await streamed(model, request(stream=True)))[-1]
        assert last["type"] == "response.incomplete"
        told = last["response"]
    else:
        told = await whole(model, request())
    assert (told["status"], told["incomplete_details"]) == ("incomplete", {"reason": reason})
    assert told["output"][1]["status"] == "incomplete"


async def test_a_search_that_fails_ends_the_stream_as_failed() -> None:
    library = FakeLibrary(faults={"words": Unavailable("down"), "embed": Unavailable("down")})
    model, _ = searching("green", library=library)
    last = (await streamed(model, request(stream=True)))[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"] == {"code": "server_error", "message": "down"}
    with pytest.raises(Unavailable, match="down"):
        await model.respond(request())


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (chunks("gre", finish_reason=None), "before the answer was complete"),
        ([b'data: {"error": {"message": "broke"}}\n\n'], "broke"),
        ([b'data: {"error": "broke"}\n\n'], "broke"),
        ([b"data: [1]\n\n"], "no JSON object"),
        ([*chunks("gre", finish_reason=None), UpstreamError("cut")], "cut"),
    ],
)
async def test_a_generator_that_fails_ends_the_stream_as_failed(body: list[Any], why: str) -> None:
    model, house = searching()
    house.models[GENERATOR].says["chat"] = lambda _: OpenAIResponse(200, SSE, FakeBody(*body))
    last = (await streamed(model, request(stream=True)))[-1]
    assert last["type"] == "response.failed"
    assert why in last["response"]["error"]["message"]
    assert house.models[GENERATOR].bodies[-1].closed


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


@pytest.mark.parametrize("answer", [{"error": {"message": "too long"}}, "too long"])
async def test_what_the_generator_refuses_is_told(answer: Any) -> None:
    model, house = searching()
    house.models[GENERATOR].says["chat"] = lambda _: answered(answer, 400)
    last = (await streamed(model, request(stream=True)))[-1]
    assert "answered 400" in last["response"]["error"]["message"]
    assert last["response"]["error"]["code"] == "invalid_prompt"
    response = await model.respond(request())
    assert (response.status, json.loads(await body_of(response))) == (400, answer)


async def test_an_answer_that_is_no_completion_is_the_generators_fault() -> None:
    model, house = searching()
    house.models[GENERATOR].says["chat"] = lambda _: answered({"choices": []})
    with pytest.raises(UpstreamError, match="no chat completion"):
        await model.respond(request())


async def test_events_cut_anywhere_are_read_whole() -> None:
    model, house = searching()
    data = b"".join(chunks("green", " [1]")).replace(b"\n\n", b"\r\n\r\n")
    house.models[GENERATOR].says["chat"] = lambda _: OpenAIResponse(
        200, SSE, FakeBody(*(data[i : i + 1] for i in range(len(data))))
    )
    events = await streamed(model, request(stream=True))
    assert events[-1]["response"]["output"][1]["content"][0]["text"] == "green [1]"


@pytest.mark.parametrize("at", ["words", "chat"])
async def test_leaving_a_stream_cancels_whatever_runs(at: str) -> None:
    model, house = searching("green")
    if at == "words":
        house.library.faults["words"] = asyncio.Event()
    else:
        house.models[GENERATOR].hangs = asyncio.Event()
    response = await model.respond(request(stream=True))

    async def read() -> None:
        async for _ in response.body:
            pass

    task = asyncio.ensure_future(read())

    async def is_there() -> bool:
        return bool(house.library.what("words") if at == "words" else house.models[GENERATOR].asked)

    await eventually_async(is_there)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await response.body.aclose()
    assert [*house.library.cancelled, *["chat"] * house.models[GENERATOR].cancelled] == [at]


async def test_leaving_between_two_events_closes_the_generators_answer() -> None:
    model, house = searching("green", " pears")
    response = await model.respond(request(stream=True))
    async for data in response.body:
        if b"output_text.delta" in data:
            break
    await response.body.aclose()
    assert house.models[GENERATOR].bodies[-1].closed


@pytest.mark.parametrize("stream", [True, False])
async def test_a_pipeline_answers_responses_from_its_own_stores(stream: bool) -> None:
    model, house = built("pears [1]")
    assert before(model, house) is model  # type: ignore[arg-type]
    for tools in (None, [TOOL]):
        asking = asked("/v1/responses", input="which is green?", stream=stream, tools=tools)
        told = (await streamed(model, asking))[-1]["response"] if stream else await whole(model, asking)
        (annotation,) = told["output"][1]["content"][0]["annotations"]
        assert annotation["file_id"] == "file-2"  # the reranker's choice
        assert told["model"] == "handbook"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_pipeline_that_abstains_says_so_in_a_response(stream: bool) -> None:
    model, house = built("pears", abstain_below=0.99)
    asking = asked("/v1/responses", input="which is green?", stream=stream)
    told = (await streamed(model, asking))[-1]["response"] if stream else await whole(model, asking)
    assert told["status"] == "completed"
    assert "could not find" in told["output"][1]["content"][0]["text"]
    assert house.models[GENERATOR].asked == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": 5}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input"),
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


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"tools": [{"type": "file_search"}]}', True),
        (b'{"input": "\\"file_search\\""}', False),
        (b'{"tools": [{"type": "function", "name": "file_search"}], "x": "file_search"}', False),
        (b'{"tools": "file_search"}', False),
        (b'["file_search"]', False),
        (b'{"file_search"', False),
    ],
)
def test_only_a_tool_of_that_type_asks_for_it(body: bytes, expected: bool) -> None:
    assert asks_for_file_search(body) is expected
