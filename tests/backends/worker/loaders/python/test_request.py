from __future__ import annotations

import json

import numpy as np
import pytest

from backends.worker.exchange import Request
from backends.worker.loaders.python.errors import TritonModelException
from backends.worker.loaders.python.request import InferenceRequest, InferenceTrace
from backends.worker.loaders.python.session import current
from backends.worker.loaders.python.tensor import Tensor
from backends.worker.messages import Infer

X = Tensor("X", np.zeros(1, np.int32))
NEEDED = {"model_name": "n", "inputs": [X], "requested_output_names": ["Y"]}


def received(host, **fields) -> InferenceRequest:
    head = Infer(5, "m", 1, "client's id", [], **({"outputs": []} | fields))
    return InferenceRequest.received(Request(host.exchange, head, [X.wire()]), current())


def test_what_a_client_sent_is_there_for_the_model(host):
    request = received(
        host,
        outputs=["Y"],
        parameters={"a": 1, "b": "ü", "c": True},
        priority=2,
        timeout_us=9,
        sequence_id="s",
        sequence_start=True,
        sequence_end=True,
        traceparent="00-1-2-01",
    )
    assert request.request_id() == "client's id"
    assert request.requested_output_names() == {"Y"}
    assert request.parameters() == '{"a":1,"b":"ü","c":true}'
    assert (request.priority(), request.timeout(), request.correlation_id(), request.flags()) == (2, 9, "s", 3)
    assert (request.model_name(), request.model_version()) == ("m", 1)
    assert json.loads(request.trace().get_context()) == {"traceparent": "00-1-2-01"}
    assert [tensor.name() for tensor in request.inputs()] == ["X"]
    assert not request.is_cancelled()


def test_a_client_that_names_no_outputs_wants_all(host):
    request = received(host)
    assert request.requested_output_names() == {"Y", "Z"}
    assert (request.parameters(), request.timeout(), request.correlation_id(), request.flags()) == ("{}", 0, 0, 0)
    assert request.trace().get_context() is None


def test_a_request_to_another_model_says_what_it_was_made_of():
    request = InferenceRequest("id", 3, [X], ["Y", "Z", "Y"], "n", 2, 1, 7, trace=InferenceTrace("00-1-2-01"))
    assert (request.request_id(), request.correlation_id(), request.model_name()) == ("id", 3, "n")
    assert (request.model_version(), request.flags(), request.timeout()) == (2, 1, 7)
    assert request.requested_output_names() == {"Y", "Z"}
    assert request.parameters() == "{}"
    request.set_flags(2)
    assert request.flags() == 2
    assert not request.is_cancelled()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"inputs": [None]},
            "Input tensor for request with id '' and model name 'n' should not be empty.",
        ),
        (
            {"requested_output_names": [""]},
            "Requested output name for request with id '' and model name 'n' should not be empty.",
        ),
        ({"correlation_id": 1.5}, "Correlation ID must be integer or string"),
        (
            {"parameters": {"a": 1.5}},
            "Expect parameters values to have type bool/int/str, found type <class 'float'>",
        ),
        ({"parameters": {1: "a"}}, "Expect parameters keys to have type str, found type <class 'int'>"),
        ({"parameters": "a"}, "Expect parameters to be a dict, got <class 'str'>"),
    ],
)
def test_requests_are_refused_in_tritons_words(fields, message):
    with pytest.raises(TritonModelException) as caught:
        InferenceRequest(**NEEDED | fields)
    assert str(caught.value) == message


def test_a_request_needs_a_model_inputs_and_outputs():
    for name in NEEDED:
        with pytest.raises(TypeError):
            InferenceRequest(**{key: value for key, value in NEEDED.items() if key != name})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("request_id", 3),
        ("model_name", 3),
        ("model_version", "1"),
        ("timeout", "x"),
        ("inputs", [3]),
        ("requested_output_names", [3]),
    ],
)
def test_what_the_host_could_not_read_is_refused_where_the_request_is_made(field, value):
    with pytest.raises(TypeError, match=field):
        InferenceRequest(**NEEDED | {field: value})


def test_a_request_to_another_model_has_no_sender():
    with pytest.raises(TritonModelException, match="Only a request that came to the model has a response sender"):
        InferenceRequest(**NEEDED).get_response_sender()


def test_a_request_has_one_sender(host):
    request = received(host)
    assert request.get_response_sender() is request.get_response_sender()
    request.get_response_sender().close()
