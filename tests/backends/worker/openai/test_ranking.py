from __future__ import annotations

import json
from array import array

import pytest

from backends.errors import Code, InferenceError, InvalidRequest
from backends.model import OpenAIRequest
from backends.worker.openai.face import Face
from tests.backends.worker.answering import RowModel
from tests.backends.worker.texts import config, folder

OUTPUT = [{"name": "score", "data_type": "TYPE_FP32", "dims": [1]}]


def common(query, document):
    """How many letters of the query the document has."""
    return array("f", [sum(letter in document for letter in query)]).tobytes()


@pytest.fixture
def make(tmp_path):
    told = config(folder(tmp_path), {"task": "maxsim"}, output=OUTPUT, max_batch_size=4)
    return lambda error=None: (RowModel(told, common, error), Face(told))


async def ask(pair, path, **fields):
    model, face = pair
    response = await face.respond(model, OpenAIRequest(path, json.dumps({"model": "m"} | fields).encode(), "m", False))
    return json.loads(await anext(response.body))


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
async def test_documents_come_by_falling_score(make, path):
    answer = await ask(make(), path, query="abc", documents=["xxa", "abc", "xxx", {"text": "xab"}])
    assert [(result["index"], result["relevance_score"]) for result in answer["results"]] == [
        (1, 3),
        (3, 2),
        (0, 1),
        (2, 0),
    ]
    assert all(result.keys() == {"index", "relevance_score"} for result in answer["results"])
    assert answer["model"] == "m"
    assert answer["usage"] == {"prompt_tokens": 24, "total_tokens": 24}
    assert answer["meta"]["api_version"]["version"] == ("2" if path.startswith("/v2") else "1")
    assert answer["id"]


async def test_the_best_alone_and_their_texts_come_where_that_is_asked(make):
    answer = await ask(
        make(), "/v1/rerank", query="abc", documents=["a", {"text": "ab"}], top_n=1, return_documents=True
    )
    assert answer["results"] == [{"index": 1, "relevance_score": 2, "document": {"text": "ab"}}]


async def test_many_documents_go_in_batches(make):
    pair = make()
    answer = await ask(pair, "/v1/rerank", query="a", documents=["a" if number == 7 else "x" for number in range(11)])
    assert answer["results"][0]["index"] == 7
    assert [request.inputs[0].shape[0] for request in pair[0].asked] == [4, 4, 3]
    assert [tensor.name for tensor in pair[0].asked[0].inputs] == ["query", "document"]


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
@pytest.mark.parametrize(
    ("first", "second", "scores"),
    [("ab", "a", [1]), ("ab", ["a", "ab"], [1, 2]), (["ab", "c"], ["a", "x"], [1, 0])],
)
async def test_pairs_are_scored_in_order(make, path, first, second, scores):
    answer = await ask(make(), path, text_1=first, text_2=second)
    assert answer["object"] == "list"
    assert answer["data"] == [{"index": i, "object": "score", "score": score} for i, score in enumerate(scores)]
    assert answer["usage"]["total_tokens"] > 0


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/rerank", {"query": "a", "documents": []}, "documents"),
        ("/v1/rerank", {"documents": ["a"]}, "query"),
        ("/v1/rerank", {"query": "a", "documents": [1]}, "documents[0]"),
        ("/v1/rerank", {"query": "a", "documents": ["a"], "top_n": 0}, "top_n"),
        ("/v1/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, "text_1"),
        ("/v1/score", {"text_1": [], "text_2": "a"}, "text_1"),
        ("/v1/score", {"text_1": "a", "text_2": ""}, "text_2"),
    ],
)
async def test_what_is_wrong_is_named(make, path, fields, param):
    with pytest.raises(InvalidRequest) as refused:
        await ask(make(), path, **fields)
    assert refused.value.param == param


async def test_what_the_model_refuses_is_the_documents_fault(make):
    with pytest.raises(InvalidRequest) as refused:
        await ask(make(InferenceError("too long", Code.INVALID_ARG)), "/v1/rerank", query="a", documents=["a"])
    assert refused.value.param == "documents"
