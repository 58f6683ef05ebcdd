"""File search for any chat model: OpenAI's events in their order, and what becomes of a request."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from backends.errors import NotFound, Unavailable, UpstreamError
from backends.model import OpenAIResponse
from ensembles.file_search import before
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
from tests.ensembles.searching import TOOL, request, searching
from tests.waiting import eventually_async


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
