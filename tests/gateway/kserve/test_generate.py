"""Generate: members become tensors or parameters, and one answer is one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.errors import InferenceError
from backends.model import InferResponse
from gateway.kserve import generate
from tests.gateway.kserve.tensor_models import plane_of

_PLANE, DATAPLANE, MODELS = plane_of()
SERVED = DATAPLANE.find("repeat")


def read(**members: Any) -> Any:
    return generate.read(json.dumps(members).encode(), SERVED)


async def collect(*values: int) -> Any:
    request = read(IN=list(values))
    responses = DATAPLANE.infer(SERVED, request)
    try:
        return json.loads(await generate.collect(responses, request, SERVED))
    finally:
        await responses.aclose()


def test_members_named_as_inputs_are_tensors_and_others_parameters() -> None:
    request = read(id="7", IN=[1, 2], temperature=0.5, parameters={"stop": "x", "n": True})
    (tensor,) = request.inputs
    assert (tensor.name, tensor.shape, request.id) == ("IN", (2,), "7")
    assert request.parameters == {"id": "7", "temperature": 0.5, "stop": "x", "n": True}


async def test_one_answer_is_unwrapped_and_a_second_one_ends_the_work() -> None:
    assert await collect(5) == {"OUT": 5, "model_name": "repeat", "model_version": "1"}
    before = MODELS["repeat"].ended
    for values in ((5, 6, 0), ()):
        assert (await collect(*values))["error"].startswith("generate expects model to produce exactly 1 response")
    assert MODELS["repeat"].ended == before + 2


async def test_a_response_without_outputs_is_an_answer_where_more_may_follow() -> None:
    async def responses() -> Any:
        yield InferResponse(final=False)
        yield InferResponse()

    answer = await generate.collect(responses(), read(IN=[1]), SERVED)
    assert json.loads(answer) == {"model_name": "repeat", "model_version": "1"}


async def test_an_error_of_the_model_is_400_whatever_its_code() -> None:
    with pytest.raises(InferenceError, match="negative: -3"):
        await collect(-3)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"id": 5}, "Unable to parse 'id'"),
        ({"parameters": []}, "Expected JSON object for keyword: 'parameters'"),
        ({"parameters": {"a": []}}, "Converting keyword: 'parameters': parameter 'a' has invalid type"),
        ({"IN": [1], "parameters": {"IN": 2}}, "input 'IN' already exists in request"),
        ({"IN": [[1, 2]]}, "Shape does not match true shape of 'data' field"),
        ({"other": None}, "parameter 'other' has invalid type"),
    ],
)
def test_what_does_not_fit_is_refused(members: dict[str, Any], words: str) -> None:
    with pytest.raises(InferenceError) as raised:
        read(**members)
    assert words in raised.value.message


def test_elements_fill_the_last_open_dimension() -> None:
    assert generate._shape("A", (-1, -1, 2), 6) == (1, 3, 2)
    assert generate._shape("A", (-1,), 0) == (0,)
    for dims, count in (((3,), 2), ((2,), 4), ((0,), 1)):
        with pytest.raises(InferenceError, match="can not convert input 'A'"):
            generate._shape("A", dims, count)
