"""Steps that fail, that are late, and that run at the same time."""

from __future__ import annotations

import asyncio
import json

import pytest

from backends.errors import Overloaded, Unavailable, UpstreamError
from tests.ensembles.house import (
    GENERATOR,
    FakeLibrary,
    House,
    answered,
    asked,
    body_of,
    built,
    chunk,
    pipeline,
    question,
    reranker,
    talker,
    whole,
)
from tests.waiting import eventually_async


@pytest.mark.parametrize(
    ("fault", "degraded"),
    [
        ("embed", {"embed": "engine_error"}),
        ("dense", {"dense": "engine_error"}),
        ("words", {"words": "engine_error"}),
    ],
)
async def test_one_way_of_searching_stands_for_both(fault: str, degraded: dict[str, str]) -> None:
    library = FakeLibrary(faults={fault: UpstreamError("broken")})
    model, _ = built("red [1]", library=library)
    response = await model.respond(question(include_timings=True))
    told = json.loads(await body_of(response))
    assert told["rag"]["degraded"] == degraded
    ((step, why),) = degraded.items()
    assert dict(response.headers)[b"x-tritium-degraded"] == f"{step}={why}".encode()
    assert len(told["rag"]["passages"]) == 3


async def test_without_its_reranker_the_fused_order_stands() -> None:
    house = House(talker("red [1]"))
    told = await whole(pipeline(house), question(include_timings=True))
    assert told["rag"]["degraded"] == {"rerank": "model_not_found"}
    assert [passage["file_id"] for passage in told["rag"]["passages"]] == ["file-1", "file-2", "file-3"]


async def test_a_step_that_is_late_is_done_without() -> None:
    model, house = built("red [1]", steps={"rerank": {"deadline_seconds": 0.05}})
    house.models["reranker"].hangs = asyncio.Event()
    told = await whole(model, question(include_timings=True))
    assert told["rag"]["degraded"] == {"rerank": "deadline"}
    assert house.models["reranker"].cancelled == 1


async def test_what_one_way_found_before_the_deadline_is_answered_from() -> None:
    library = FakeLibrary(faults={"dense": asyncio.Event()})
    model, _ = built("red [1]", library=library, steps={"retrieve": {"deadline_seconds": 0.05}})
    told = await whole(model, question(include_timings=True))
    assert told["rag"]["degraded"] == {"retrieve": "deadline"}
    assert len(told["rag"]["passages"]) == 3
    assert library.cancelled == ["dense"]


@pytest.mark.parametrize("policy", ["fail", "degrade"])
async def test_where_nothing_can_be_searched_the_policy_decides(policy: str) -> None:
    library = FakeLibrary(faults={"words": Unavailable("down"), "dense": Unavailable("down")})
    model, house = built("nothing", library=library, steps={"retrieve": {"on_failure": policy}})
    if policy == "fail":
        with pytest.raises(Unavailable, match="down"):
            await model.respond(question())
        return
    told = await whole(model, question(include_timings=True))
    assert told["rag"]["degraded"]["retrieve"] == "service_unavailable"
    assert "No passage was found" in house.models[GENERATOR].asked[-1][1]["messages"][-1]["content"]


async def test_a_step_may_not_fail_where_its_policy_says_so() -> None:
    model, _ = built(
        "red", steps={"embed": {"on_failure": "fail"}}, library=FakeLibrary(faults={"embed": Overloaded("full")})
    )
    with pytest.raises(Overloaded, match="full"):
        await model.respond(question())


async def test_the_question_is_embedded_while_its_words_are_searched_for() -> None:
    both = asyncio.Barrier(2)

    async def meet(way: str) -> None:
        if way in {"embed", "words"}:
            await asyncio.wait_for(both.wait(), 5)

    model, house = built("red", library=FakeLibrary(during=meet))
    await whole(model, question())
    assert {"embed", "words", "dense"} == {way for way, _ in house.library.asked}


async def test_a_prompt_has_excerpts_where_they_are_listed_and_searches_tell_whole_passages() -> None:
    texts = ("Apples are red and round, and they grow on trees here.", "Pears are green, and they grow on walls there.")
    library = FakeLibrary(chunks=[chunk(1, " ".join(texts))])
    house = House(talker("red [1]"), reranker(0.9), library=library)
    house.models["reranker"].says["rerank"] = lambda fields: answered(
        {"results": [{"index": n, "relevance_score": -n} for n in range(len(fields["documents"]))]}
    )
    steps = {"excerpt": {"characters": 60}}
    for model, expected in ((pipeline(house), " ".join(texts)), (pipeline(house, steps=steps), texts[0])):
        told = await whole(model, question(include_timings=True))
        assert ("excerpt" in told["rag"]["timings"]) is (expected == texts[0])
        assert f"1.txt\n{expected}\n" in house.models[GENERATOR].asked[-1][1]["messages"][-1]["content"]
    found = json.loads(await body_of(await model.respond(asked("/v1/rag/query", query="red?"))))
    assert [passage["text"] for passage in found["passages"]] == [" ".join(texts)]


async def test_passages_are_whole_where_their_excerpts_fail() -> None:
    library = FakeLibrary(chunks=[chunk(1, "Apples are red and round. " * 20)])
    house = House(talker("red [1]"), reranker(0.9), library=library)
    told = await whole(pipeline(house, steps={"excerpt": {"model": "nobody"}}), question(include_timings=True))
    assert told["rag"]["degraded"] == {"excerpt": "model_not_found"}
    assert "Apples are red and round. " * 19 in house.models[GENERATOR].asked[-1][1]["messages"][-1]["content"]


async def test_a_question_that_cannot_be_rewritten_is_searched_for_as_it_is() -> None:
    model, house = built("", steps={"rewrite": {}})
    messages = [{"role": "user", "content": "apples?"}, {"role": "user", "content": "red?"}]
    told = await whole(model, asked(messages=messages, include_timings=True))
    assert told["rag"]["degraded"] == {"rewrite": "engine_protocol_error"}
    assert house.library.what("words")[0][1] == "red?"


@pytest.mark.parametrize("at", ["embed", "dense", "words", "rerank", "chat"])
async def test_leaving_cancels_whatever_runs(at: str) -> None:
    model, house = built("red")
    if at in {"rerank", "chat"}:
        house.models["reranker" if at == "rerank" else GENERATOR].hangs = asyncio.Event()
    else:
        house.library.faults[at] = asyncio.Event()
    task = asyncio.ensure_future(model.respond(question()))

    async def is_there() -> bool:
        asked = {way for way, _ in house.library.asked}
        models = {"rerank": house.models["reranker"].asked, "chat": house.models[GENERATOR].asked}
        return bool(models.get(at)) or (at in asked and at not in models)

    await eventually_async(is_there)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    cancelled = [*house.library.cancelled, *(["rerank"] * house.models["reranker"].cancelled)]
    assert (cancelled + ["chat"] * house.models[GENERATOR].cancelled) == [at]
