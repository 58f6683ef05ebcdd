from __future__ import annotations

import numpy as np
import pytest

from backends.worker.loaders.python.errors import TritonError, TritonModelException
from backends.worker.loaders.python.response import InferenceResponse
from backends.worker.loaders.python.tensor import Tensor
from backends.worker.messages import Respond

Y = Tensor("Y", np.zeros(1, np.int32))


def test_a_response_has_outputs_or_an_error():
    assert InferenceResponse([Y]).output_tensors() == [Y]
    assert not InferenceResponse().has_error()
    failed = InferenceResponse(error=TritonError("why", TritonError.CANCELLED))
    assert failed.has_error()
    assert (failed.error().message(), failed.error().code()) == ("why", TritonError.CANCELLED)


def test_only_outputs_that_were_asked_for_are_sent():
    respond, outputs = InferenceResponse([Y, Tensor("Z", np.zeros(2, np.int8))]).answer(3, frozenset("Z"), final=True)
    assert [output.name for output in outputs] == ["Z"]
    assert (respond.id, [head.name for head in respond.outputs]) == (3, ["Z"])


def test_an_error_stands_for_the_outputs():
    respond, outputs = InferenceResponse([Y], TritonError("why", TritonError.UNAVAILABLE)).answer(
        3, frozenset("Y"), final=False
    )
    assert respond == Respond(3, final=False, error="UNAVAILABLE", message="why")
    assert not outputs


def test_parameters_are_sent_and_come_back_as_json():
    sent = InferenceResponse([Y], parameters={"a": 1})
    respond, _ = sent.answer(3, frozenset("Y"), final=True)
    assert respond.parameters == {"a": 1}
    assert sent.parameters() == InferenceResponse.received(respond, [Y]).parameters() == '{"a": 1}'


def test_another_models_error_is_internal_here_as_triton_has_it():
    error = InferenceResponse.received(Respond(1, error="NOT_FOUND", message="why"), []).error()
    assert (error.message(), error.code()) == ("why", TritonError.INTERNAL)


def test_responses_are_checked_when_they_are_made():
    with pytest.raises(TritonModelException, match=r"^Output tensor for inference response should not be empty\.$"):
        InferenceResponse([None])
    with pytest.raises(TypeError):
        InferenceResponse([np.zeros(1)])
    with pytest.raises(TypeError):
        InferenceResponse(error="text")
    with pytest.raises(ValueError, match="99"):
        TritonError("text", 99)
    with pytest.raises(TypeError):
        TritonError(ValueError("text"))


def test_a_response_keeps_the_tensors_that_it_was_made_of():
    tensors = [Y]
    response = InferenceResponse(tensors)
    tensors.clear()
    assert response.output_tensors() == [Y]
    assert InferenceResponse(tensor for tensor in (Y,)).output_tensors() == [Y]


def test_codes_are_shown_by_name():
    assert f"{TritonError.NOT_FOUND} {TritonError.NOT_FOUND!s}" == "ErrorCode.NOT_FOUND ErrorCode.NOT_FOUND"


@pytest.mark.parametrize("value", [2**63, "\udcff"])
def test_parameters_that_cannot_be_sent_are_refused(value):
    with pytest.raises((TypeError, ValueError)):
        InferenceResponse([Y], parameters={"a": value})
