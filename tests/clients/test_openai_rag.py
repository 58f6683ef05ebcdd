"""Questions about documents through OpenAI's client: a pipeline as a chat model, file search with any chat model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.clients.rag_served import RagServed, serving_rag
from tests.faults.looking import count, engine_of
from tests.waiting import eventually

pytestmark = pytest.mark.slow

QUESTION = "pears are green [1], aren't they [9]?"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RagServed]:
    with serving_rag(tmp_path_factory.mktemp("rag")) as served:
        yield served


def tool(served: RagServed, **fields: Any) -> Any:
    return {"type": "file_search", "vector_store_ids": [served.store_id], **fields}


def ask(served: RagServed, text: str = QUESTION, **fields: Any) -> Any:
    return served.alice.chat.completions.create(model="fruit", messages=[{"role": "user", "content": text}], **fields)


def test_a_chat_is_answered_with_its_sources(served: RagServed) -> None:
    completion = ask(served, extra_body={"include_timings": True})
    (choice,) = completion.choices
    assert choice.message.content == "pears are green [1], aren't they?"
    (annotation,) = choice.message.annotations
    citation = annotation.url_citation
    assert choice.message.content[citation.start_index : citation.end_index] == "[1]"
    assert citation.title == "pears.md, Pears"
    assert served.alice.get(citation.url.removeprefix("/v1"), cast_to=httpx.Response).content.startswith(b"# Pears")
    assert completion.rag["unknown_markers"] == 1
    assert completion.rag["passages"][0]["filename"] == "pears.md"
    assert completion.usage.prompt_tokens > 20  # the passages are in the prompt


def test_a_stream_has_the_same_text_and_citations(served: RagServed) -> None:
    chunks = list(
        ask(served, stream=True, stream_options={"include_usage": True}, extra_body={"include_timings": True})
    )
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    text = "".join(delta.content or "" for delta in deltas)
    annotations = [annotation for delta in deltas for annotation in getattr(delta, "annotations", [])]
    assert text == "pears are green [1], aren't they?"
    assert [annotation["url_citation"]["title"] for annotation in annotations] == ["pears.md, Pears"]
    assert chunks[-1].rag["timings"].keys() == {"stores", "embed", "retrieve", "rerank", "prompt", "generate"}
    with served.alice.chat.completions.stream(
        model="fruit", messages=[{"role": "user", "content": QUESTION}]
    ) as stream:
        assert stream.get_final_completion().choices[0].message.content == text


@pytest.mark.parametrize("model", ["echo", "fruit"])
def test_the_sdk_streams_a_response_with_file_search(served: RagServed, model: str) -> None:
    request: Any = {"model": model, "input": QUESTION, "tools": [tool(served)]}
    with served.alice.responses.stream(**request, include=["file_search_call.results"]) as stream:
        events = [event.type for event in stream]
        response = stream.get_final_response()
    assert events[0] == "response.created"
    assert events[-1] == "response.completed"
    for earlier, later in [
        ("response.file_search_call.completed", "response.output_text.delta"),
        ("response.output_text.annotation.added", "response.output_text.done"),
    ]:
        assert events.index(earlier) < events.index(later)
    search, message = response.output
    assert (search.type, search.status, search.queries) == ("file_search_call", "completed", [QUESTION])
    assert {result.filename for result in search.results} == {"pears.md", "apples.md", "boats.md"}
    (part,) = message.content
    assert response.output_text.endswith("pears are green [1], aren't they?")
    assert part.annotations[-1].filename == "pears.md"
    assert part.text[part.annotations[-1].index :].startswith("[1]")
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens > 20


def test_a_whole_response_with_filters(served: RagServed) -> None:
    (boats,) = [file for file in served.alice.files.list() if file.filename == "boats.md"]
    files = served.alice.vector_stores.files
    files.update(boats.id, vector_store_id=served.store_id, attributes={"kind": "ship"})
    wanted = tool(served, filters={"type": "eq", "key": "kind", "value": "ship"}, max_num_results=3)
    request: Any = {"model": "echo", "input": "what is made of wood?", "tools": [wanted]}
    response = served.alice.responses.create(**request, include=["file_search_call.results"])
    (result,) = response.output[0].results
    assert (result.filename, result.attributes) == ("boats.md", {"kind": "ship"})
    assert response.output[1].content[0].annotations[0].file_id == boats.id


def test_others_stores_do_not_exist(served: RagServed) -> None:
    request: Any = {"model": "echo", "input": "pears?", "tools": [tool(served)]}
    for stream in (True, False):
        with pytest.raises(openai.NotFoundError, match=served.store_id):
            served.bob.responses.create(**request, stream=stream)
    with pytest.raises(openai.NotFoundError, match="fruit"):
        served.bob.chat.completions.create(model="fruit", messages=[{"role": "user", "content": "pears?"}])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "file_search"}, {"type": "web_search"}]}, "tools[1]"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ],
)
def test_what_cannot_be_done_with_file_search_is_refused(served: RagServed, fields: Any, param: str) -> None:
    request: Any = {"model": "echo", "input": "pears?", "tools": [tool(served)], **fields}
    with pytest.raises(openai.BadRequestError) as raised:
        served.alice.responses.create(**request)
    assert raised.value.param == param


def test_a_response_without_file_search_is_the_engines_own(served: RagServed) -> None:
    response = served.alice.responses.create(model="echo", input="file_search is a word")
    assert [item.type for item in response.output] == ["message"]
    assert served.alice.responses.retrieve(response.id).id == response.id


def test_passages_are_had_without_an_answer(served: RagServed) -> None:
    body = {"model": "fruit", "query": "which fruit is green?", "max_num_results": 2}
    told: Any = served.alice.post("/rag/query", body=body, cast_to=object)
    assert len(told["passages"]) == 2
    assert told["timings"].keys() == {"stores", "embed", "retrieve", "rerank", "total"}
    with pytest.raises(openai.BadRequestError, match="does not support retrieve"):
        served.alice.post("/rag/query", body={**body, "model": "echo"}, cast_to=object)


def test_kserves_clients_ask_it_for_text(served: RagServed) -> None:
    headers = {"authorization": "Bearer alice-key"}
    url = f"{served.server.url}/v2/models/fruit"
    answer = httpx.post(
        f"{url}/generate", json={"text_input": QUESTION, "exclude_input_in_output": True}, headers=headers
    )
    assert answer.json()["text_output"] == "pears are green [1], aren't they?"
    with httpx.stream(
        "POST", f"{url}/generate_stream", json={"text_input": "pears?", "stream": True}, headers=headers
    ) as stream:
        texts = [json.loads(line.removeprefix("data: "))["text_output"] for line in stream.iter_lines() if line]
    assert "".join(texts) == "pears?"


def test_steps_are_counted(served: RagServed) -> None:
    before = count(served.server, "step_seconds_count", model="fruit", step="retrieve")
    unknown = count(served.server, "unknown_citations_total", model="fruit")
    ask(served)
    assert count(served.server, "step_seconds_count", model="fruit", step="retrieve") == before + 1
    assert count(served.server, "unknown_citations_total", model="fruit") == unknown + 1


@pytest.mark.parametrize("path", ["/chat/completions", "/responses"])
@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_aborts_the_generation(served: RagServed, path: str, stream: bool) -> None:
    body = {
        "/chat/completions": {"model": "fruit", "messages": [{"role": "user", "content": "pears?"}]},
        "/responses": {"model": "echo", "input": "pears?", "tools": [tool(served)]},
    }[path]
    slow = {**body, "stream": stream, "echo": {"ttft_ms": 60_000}}
    headers = {"authorization": "Bearer alice-key"}
    left = count(served.server, "client_disconnects_total")
    with engine_of(served.server) as engine:
        async with httpx.AsyncClient(headers=headers, timeout=60) as client:
            asking = asyncio.create_task(client.post(f"{served.server.url}/v1{path}", json=slow))
            await engine.holds(1)
            asking.cancel()
            await asyncio.wait([asking])
        await engine.idle()
    eventually(lambda: count(served.server, "client_disconnects_total") == left + 1, what="it is counted")
