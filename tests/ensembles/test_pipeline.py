"""A pipeline as a chat model: what it asks its parts, and what it answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from backends.config import ModelConfig
from backends.errors import InvalidRequest, NotFound, Unavailable, UnsupportedOperation, UpstreamError
from backends.model import Capability, OpenAIModel, OpenAIResponse
from ensembles.kinds import find_kind
from tests.ensembles.house import (
    GENERATOR,
    RECIPE,
    SSE,
    FakeBody,
    FakeLibrary,
    House,
    answered,
    asked,
    body_of,
    built,
    chunk,
    chunks,
    pipeline,
    question,
    reranker,
    said,
    store,
    streamed,
    talker,
    whole,
)


async def test_the_generator_is_asked_with_numbered_passages_best_first() -> None:
    model, house = built("green [1]")
    await whole(model, question("which is green?"))
    (path, fields) = house.models[GENERATOR].asked[-1]
    assert path == "/v1/chat/completions"
    assert fields["model"] == GENERATOR
    system, user = fields["messages"]
    assert (system["role"], user["role"]) == ("system", "user")
    first, second = user["content"].index("[1] 2.txt\npears"), user["content"].index("[2] 1.txt\napples")
    assert first < second < user["content"].index("Question: which is green?")


async def test_other_fields_reach_the_generator_as_the_bytes_that_they_were() -> None:
    model, house = built("yes")
    request = question()
    request.body = b'{"temperature":0.10, "logit_bias": {"5" : 1e1},' + request.body[1:]
    await whole(model, request)
    body = house.models[GENERATOR].requests[-1].body
    assert b'"temperature":0.10' in body
    assert b'"logit_bias":{"5" : 1e1}' in body


async def test_earlier_messages_stay_and_a_system_message_is_added_to() -> None:
    model, house = built("yes")
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "red?"}, {"type": "image_url", "image_url": {"url": "x"}}],
        },
    ]
    await whole(model, asked(messages=messages))
    sent = house.models[GENERATOR].asked[-1][1]["messages"]
    assert sent[0]["content"].startswith("Be kind.\n\n")
    assert sent[1:3] == messages[1:3]
    assert sent[3]["content"][1:] == messages[3]["content"]
    assert house.library.what("words")[0][1] == "red?"


async def test_an_answer_is_cited_in_its_message() -> None:
    library = FakeLibrary([chunk(1, "red", page=3), chunk(2, "green", heading="A > B", attributes={"url": "http://b"})])
    model, _ = built("It is green [1]. And [2][7]", library=library, reranker="")
    message = (await whole(model, question()))["choices"][0]["message"]
    assert message["content"] == "It is green [1]. And [2]"
    first, second = message["annotations"]
    assert first == {
        "type": "url_citation",
        "url_citation": {
            "start_index": 12,
            "end_index": 15,
            "title": "1.txt, page 3",
            "url": "/v1/files/file-1/content",
        },
        "file_id": "file-1",
        "passage": 1,
        "cited_by": "marker",
    }
    assert (second["url_citation"]["title"], second["url_citation"]["url"]) == ("2.txt, B", "http://b")


async def test_a_stream_is_cited_while_it_comes() -> None:
    model, house = built("It ", "is", " green", " [", "1", "]", ".", " And [9", "]")
    events = await streamed(model, question(stream=True))
    text, annotations = said(events)
    assert text == "It is green [1]. And"
    (citation,) = annotations
    at = citation["url_citation"]
    assert text[at["start_index"] : at["end_index"]] == "[1]"
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert house.models[GENERATOR].bodies[-1].closed


async def test_openais_helper_puts_the_citations_of_several_deltas_together() -> None:
    model, _ = built("Red [1], ", "green [2]", " and [1][3]", ".")
    state = ChatCompletionStreamState()
    for event in await streamed(model, question(stream=True)):
        state.handle_chunk(ChatCompletionChunk.model_validate(event))
    message = state.get_final_completion().choices[0].message
    assert message.content is not None
    places = [citation.url_citation for citation in message.annotations or ()]
    cited = [message.content[place.start_index : place.end_index] for place in places]
    assert cited == ["[1]", "[2]", "[1]", "[3]"]


async def test_chunks_in_which_nothing_changes_pass_as_they_came() -> None:
    model, _ = built("It", " is", " green", steps={"cite": {"by_words": 0}})
    response = await model.respond(question(stream=True))
    assert await body_of(response) == b"".join(chunks("It", " is", " green"))


async def test_an_answer_without_markers_is_cited_by_its_words_and_says_so() -> None:
    model, _ = built("The apples are", " red and round. ", "Nothing else here is known.")
    text, (citation,) = said(await streamed(model, question(stream=True)))
    at = citation["url_citation"]
    assert text[at["start_index"] : at["end_index"]] == "The apples are red and round."
    assert (citation["cited_by"], citation["file_id"]) == ("words", "file-1")
    whole_one = await whole(model, question())
    (message_citation,) = whole_one["choices"][0]["message"]["annotations"]
    assert {"index": 0, **message_citation} == citation


@pytest.mark.parametrize("ask", [{"include_timings": True}, {"rag": {"report": True}}])
@pytest.mark.parametrize("stream", [True, False])
async def test_timings_and_passages_are_told_on_request(ask: dict[str, Any], stream: bool) -> None:
    model, house = built("red [1]")
    request = question(stream=stream, **ask)
    told = (await streamed(model, request))[-1] if stream else await whole(model, request)
    assert told["rag"]["timings"].keys() == {"stores", "embed", "retrieve", "rerank", "prompt", "generate"}
    assert [passage["number"] for passage in told["rag"]["passages"]] == [1, 2, 3]
    assert not {"rag", "include_timings"} & house.models[GENERATOR].asked[-1][1].keys()
    assert told["usage"]["prompt_tokens"] == 7


async def test_nothing_is_told_that_was_not_asked_for() -> None:
    model, _ = built("red [1]")
    assert all("rag" not in event for event in await streamed(model, question(stream=True)))


async def test_a_question_in_a_conversation_is_rewritten_where_that_is_asked_for() -> None:
    model, house = built("which apples are red?", steps={"rewrite": {}})
    messages = [
        {"role": role, "content": text} for role, text in [("user", "apples?"), ("assistant", "yes"), ("user", "red?")]
    ]
    await whole(model, asked(messages=messages))
    assert house.library.what("words")[0][1] == "which apples are red?"
    house.models[GENERATOR].asked.clear()
    await whole(model, question("red?"))
    assert len(house.models[GENERATOR].asked) == 1  # there is nothing to rewrite it by


@pytest.mark.parametrize("stream", [True, False])
async def test_a_question_unlike_all_passages_gets_a_fixed_answer_and_no_generation(stream: bool) -> None:
    model, house = built("invented", abstain_below=0.95, abstention="I do not know.")
    request = question(stream=stream, stream_options={"include_usage": True})
    if stream:
        events = await streamed(model, request)
        assert said(events)[0] == "I do not know."
        assert events[1]["choices"][0]["finish_reason"] == "stop"
        assert events[2]["usage"]["total_tokens"] == 0
    else:
        choice = (await whole(model, request))["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("I do not know.", "stop")
    assert house.models[GENERATOR].asked == []
    assert request.route.pipelined.abstained


async def test_a_likely_passage_is_answered_from() -> None:
    model, house = built("red", abstain_below=0.85)
    await whole(model, question())
    assert house.models[GENERATOR].asked


async def test_words_alone_never_make_it_abstain_but_nothing_found_does() -> None:
    model, _ = built("red", abstain_below=0.9, reranker="", library=FakeLibrary(faults={"embed": Unavailable("down")}))
    assert (await whole(model, question()))["choices"][0]["message"]["content"] == "red"
    model, _ = built("red", abstain_below=0.1, library=FakeLibrary([]))
    assert "could not find" in (await whole(model, question()))["choices"][0]["message"]["content"]


async def test_what_the_generator_refuses_is_passed_on() -> None:
    house = House(talker(), reranker())
    house.models[GENERATOR].says["chat"] = lambda _: answered({"error": {"message": "no"}}, 400)
    response = await pipeline(house).respond(question())
    assert (response.status, json.loads(await body_of(response))) == (400, {"error": {"message": "no"}})


async def test_an_error_in_the_generators_stream_is_passed_on() -> None:
    house = House(talker(), reranker())
    events = [*chunks("red", finish_reason=None), b'data: {"error": {"message": "broke"}}\n\n']
    house.models[GENERATOR].says["chat"] = lambda _: OpenAIResponse(200, SSE, FakeBody(*events))
    assert (await streamed(pipeline(house), question(stream=True)))[-1] == {"error": {"message": "broke"}}


async def test_an_answer_that_is_none_is_the_engines_fault() -> None:
    house = House(talker(), reranker())
    house.models[GENERATOR].says["chat"] = lambda _: answered({"id": "x"})
    with pytest.raises(UpstreamError):
        await whole(pipeline(house), question())


async def test_nobodys_store_goes_before_the_tenants_own_and_others_are_not_there() -> None:
    library = FakeLibrary(stores=[store(owner="eve"), store(owner="adam")])
    model, _ = built("red", library=library)
    await whole(model, question(tenant="adam"))
    assert {asked[0] for asked in library.what("words")} == {"vs_fruit_adam"}
    with pytest.raises(NotFound, match="fruit"):
        await model.respond(question(tenant="snake"))
    library.stores.append(store())
    model, _ = built("red", library=library)
    await whole(model, question(tenant="adam"))
    assert library.what("words")[-1][0] == "vs_fruit_"


async def test_a_request_may_name_stores_of_its_own_tenant_alone() -> None:
    library = FakeLibrary(stores=[store(), store("other", owner="eve")])
    model, _ = built("red", library=library)
    wish = {
        "vector_store_ids": ["vs_other_eve"],
        "max_num_results": 2,
        "filters": {"type": "eq", "key": "k", "value": 1},
    }
    told = await whole(model, question(tenant="eve", rag={**wish, "report": True}))
    ((where, _, _, condition),) = library.what("words")
    assert (where, condition.key, len(told["rag"]["passages"])) == ("vs_other_eve", "k", 2)
    with pytest.raises(NotFound, match="vs_other_eve"):
        await model.respond(question(tenant="adam", rag=wish))


async def test_stores_of_several_embedders_are_not_searched_together() -> None:
    library = FakeLibrary(stores=[store(), store("other", embedder="another")])
    model, _ = built("red", library=library, stores=["fruit", "other"])
    with pytest.raises(InvalidRequest, match="several embedders"):
        await model.respond(question())


@pytest.mark.parametrize(
    ("ranking", "ways", "ids"),
    [
        ({"ranker": "none"}, {"words", "dense", "embed"}, ["file-1", "file-2", "file-3"]),
        ({"hybrid_search": {"embedding_weight": 0, "text_weight": 1}}, {"words"}, ["file-2", "file-1", "file-3"]),
        (
            {"hybrid_search": {"embedding_weight": 1, "text_weight": 0}},
            {"dense", "embed"},
            ["file-2", "file-1", "file-3"],
        ),
        ({"score_threshold": 0.7}, {"words", "dense", "embed"}, ["file-2"]),
    ],
)
async def test_a_request_says_how_it_wants_its_passages_ranked(
    ranking: dict[str, Any], ways: set[str], ids: list[str]
) -> None:
    model, house = built("red")
    told = await whole(model, question(rag={"ranking_options": ranking, "report": True}))
    assert {way for way, _ in house.library.asked} == ways
    assert [passage["file_id"] for passage in told["rag"]["passages"]] == ids


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "assistant", "content": "hello"}]}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"rag": {"colour": 1}}, "rag"),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}, "tools"),
        ({"rag": {"filters": {"type": "like"}}}, "filters"),
        ({"rag": {"ranking_options": {"hybrid_search": {"embedding_weight": 0, "text_weight": 0}}}}, "ranking_options"),
    ],
)
async def test_what_is_wrong_with_a_request_is_named(fields: dict[str, Any], param: str) -> None:
    model, _ = built("red")
    with pytest.raises(InvalidRequest) as raised:
        await model.respond(asked(**{"messages": [{"role": "user", "content": "red?"}], **fields}))
    assert raised.value.param == param


async def test_a_body_that_is_no_object_is_refused() -> None:
    model, _ = built("red")
    request = question()
    request.body = b"[1]"
    with pytest.raises(InvalidRequest, match="no JSON object"):
        await model.respond(request)


def test_it_is_a_kind_that_starts_nothing() -> None:
    kind = find_kind("rag")
    config = ModelConfig("handbook", "rag", arguments=RECIPE)
    assert kind.launch(config, runtime_dir="") == []
    model = kind.connect(config, None, House(talker()))  # type: ignore[arg-type]
    assert isinstance(model, OpenAIModel)
    assert model.capabilities == {Capability.CHAT, Capability.RESPONSES, Capability.RETRIEVE}
    assert (model.work(), model.connections()) == ({}, (0, 0))
    model.close()


async def test_it_is_ready_while_its_generator_is() -> None:
    model, house = built("red")
    assert (model.ready(), model.lacking()) == (True, None)
    house.models[GENERATOR].is_ready = False
    assert not model.ready()
    assert model.lacking() is not None
    del house.models[GENERATOR]
    assert not model.ready()
    assert "does not exist" in str(model.lacking())
    assert (await model.statistics()) is model.counted


async def test_other_paths_are_not_offered() -> None:
    model, _ = built("red")
    with pytest.raises(UnsupportedOperation, match="/v1/completions"):
        await model.respond(asked("/v1/completions", prompt="red"))


async def test_a_generator_that_does_not_chat_is_refused() -> None:
    model, house = built("red")
    house.models[GENERATOR].capabilities = frozenset({Capability.COMPLETIONS})
    with pytest.raises(UnsupportedOperation, match="does not chat"):
        await model.respond(question())
