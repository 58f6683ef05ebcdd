from __future__ import annotations

import asyncio
import base64
import json
from array import array

import numpy as np
import pytest

from backends.errors import Code, InferenceError, InvalidRequest, ServingError
from backends.model import Capability, OpenAIRequest
from backends.worker.openai.face import Face
from tests.backends.worker.answering import RowModel
from tests.backends.worker.texts import config, folder

WIDTH = 4
OUTPUT = [{"name": "embedding", "data_type": "TYPE_FP32", "dims": [WIDTH]}]


def vector(element):
    """The length of a text and its first byte, then ones."""
    return array("f", [len(element), element[0], 1, 1]).tobytes()


@pytest.fixture
def make(tmp_path):
    version = folder(tmp_path)

    def made(error=None, max_batch_size=4, **parameters):
        told = config(version, parameters, output=OUTPUT, max_batch_size=max_batch_size)
        return RowModel(told, vector, error), Face(told)

    return made


async def ask(pair, path="/v1/embeddings", **fields):
    model, face = pair
    body = json.dumps({"model": "m"} | fields).encode()
    headers = [(b"traceparent", b"00-1-2-01")]
    response = await face.respond(model, OpenAIRequest(path, body, "m", False, headers, 99.0, tenant="t", priority=2))
    assert response.status == 200
    whole = b"".join([part async for part in response.body])
    assert dict(response.headers)[b"content-length"] == str(len(whole)).encode()
    return json.loads(whole)


async def test_a_text_is_answered_as_openai_answers(make):
    assert await ask(make(), input="abc") == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [3, 97, 1, 1]}],
        "model": "m",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }


async def test_base64_is_little_endian_float32(make):
    answer = await ask(make(), input=["abc"], encoding_format="base64")
    data = base64.b64decode(answer["data"][0]["embedding"])
    assert np.frombuffer(data, "<f4").tolist() == [3, 97, 1, 1]


async def test_any_number_of_texts_is_taken_in_batches_and_answered_in_order(make):
    pair = make()
    texts = ["a" * (1 + number * 7 % 10) for number in range(10)]
    answer = await ask(pair, input=texts)
    assert [item["embedding"][0] for item in answer["data"]] == [len(text) for text in texts]
    assert [item["index"] for item in answer["data"]] == list(range(10))
    assert answer["usage"]["prompt_tokens"] == sum(map(len, texts))
    assert [request.inputs[0].shape for request in pair[0].asked] == [(4, 1), (4, 1), (2, 1)]
    assert pair[0].closed == 3


async def test_texts_of_like_length_go_together(make):
    pair = make(max_batch_size=2)
    await ask(pair, input=["a" * 9, "a", "a" * 8, "aa"])
    assert sorted(request.inputs[0].size_bytes - 8 for request in pair[0].asked) == [3, 17]


async def test_a_long_list_leaves_room_for_others(make):
    pair = make(max_batch_size=1)
    pair[0].gate.clear()
    asking = asyncio.create_task(ask(pair, input=["a"] * 50))
    while pair[0].running < 3:
        await asyncio.sleep(0)
    assert len(pair[0].asked) == 3
    pair[0].gate.set()
    await asking
    assert (len(pair[0].asked), pair[0].most_running) == (50, 3)


async def test_leaving_cancels_what_is_under_way(make):
    pair = make(max_batch_size=1)
    pair[0].gate.clear()
    asking = asyncio.create_task(ask(pair, input=["a"] * 5))
    while not pair[0].running:
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert pair[0].closed == len(pair[0].asked) == 3


async def test_token_ids_go_as_such(make):
    pair = make()
    for given, count in (([1, 2], 1), ([[1, 2], [3]], 2)):
        answer = await ask(pair, input=given)
        assert len(answer["data"]) == count
        request = pair[0].asked[-1]
        assert request.parameters == {"tokenized": True}
        assert bytes(request.inputs[0].data)[4:12] == array("i", [1, 2]).tobytes()


async def test_what_a_request_says_goes_with_it(make):
    pair = make()
    await ask(pair, input="a", prompt_name="query")
    (request,) = pair[0].asked
    assert request.parameters == {"prompt_name": "query"}
    assert (request.model, request.version) == ("m", 1)
    assert (request.deadline, request.tenant, request.traceparent) == (99.0, "t", "00-1-2-01")
    assert request.priority == 2


async def test_fewer_dimensions_are_the_first_ones_of_length_one_again(make):
    answer = await ask(make(), input="abc", dimensions=2)
    norm = (3 * 3 + 97 * 97) ** 0.5
    assert answer["data"][0]["embedding"] == pytest.approx([3 / norm, 97 / norm])
    answer = await ask(make(normalize="false"), input="abc", dimensions=2)
    assert answer["data"][0]["embedding"] == [3, 97]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({}, "input", "You must provide 'input'."),
        ({"input": ""}, "input", "has an empty text"),
        ({"input": []}, "input", "is an empty list"),
        ({"input": ["a", ""]}, "input", "has an empty text"),
        ({"input": ["a", 1]}, "input", "mixes texts with tokens"),
        ({"input": [1, "a"]}, "input", "what is no token"),
        ({"input": [[1], "a"]}, "input", "mixes texts with tokens"),
        ({"input": [[]]}, "input", "an empty list of tokens"),
        ({"input": [[2**40]]}, "input", "what is no token"),
        ({"input": 1.5}, "input", "Invalid type for 'input'"),
        ({"input": "a", "dimensions": 0}, "dimensions", "embeddings of 4"),
        ({"input": "a", "dimensions": 5}, "dimensions", "'dimensions' is 5"),
        ({"input": "a", "dimensions": "4"}, "dimensions", "Invalid type for 'dimensions'"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "Invalid type for 'encoding_format'"),
    ],
)
async def test_what_is_wrong_is_named_as_openai_names_it(make, fields, param, words):
    with pytest.raises(InvalidRequest) as refused:
        await ask(make(), **fields)
    assert (refused.value.param, words in refused.value.message) == (param, True)


@pytest.mark.parametrize("body", [b"{", b'{"input": "\xff"}', b'{"x":' + b"[" * 100_000])
async def test_a_body_that_is_no_json_is_refused(make, body):
    model, face = make()
    with pytest.raises(InvalidRequest, match="not valid JSON"):
        await face.respond(model, OpenAIRequest("/v1/embeddings", body, "m", False))


async def test_what_the_model_refuses_is_the_inputs_fault_and_its_failures_are_its_own(make):
    with pytest.raises(InvalidRequest, match="too long") as refused:
        await ask(make(InferenceError("too long", Code.INVALID_ARG)), input="a")
    assert refused.value.param == "input"
    with pytest.raises(InferenceError, match="broken"):
        await ask(make(InferenceError("broken", Code.INTERNAL)), input="a")
    with pytest.raises(ServingError, match="broken"):
        await ask(make(InferenceError("broken", Code.INTERNAL)), input=["a"] * 9)


async def test_a_model_that_gives_no_answer_is_said_to(make):
    model, face = make()
    model.infer = lambda _: _Silent()
    with pytest.raises(InferenceError, match="the model 'm' gave no answer"):
        await ask((model, face), input="a")


class _Silent:
    async def __anext__(self):
        raise StopAsyncIteration

    async def aclose(self):
        pass


def test_operations_are_those_of_the_task(make):
    assert make()[1].capabilities == {Capability.EMBEDDINGS}
    assert make(task="maxsim")[1].capabilities == {Capability.RERANK, Capability.SCORE}
    assert make(task="classify")[1].capabilities == frozenset()
    assert make(task="")[1].capabilities == frozenset()
