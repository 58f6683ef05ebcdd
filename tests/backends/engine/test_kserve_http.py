from __future__ import annotations

import pytest

from backends.engine.kserve_http import read, refusal, write
from backends.errors import Code, UpstreamProtocolError
from backends.model import InferRequest
from backends.tensors import Tensor

OUTPUT = b'{"outputs":[{"name":"Y","datatype":"INT8","shape":[2],"parameters":{"binary_data_size":2}}]'


def test_sequences_priorities_and_timeouts_are_parameters() -> None:
    request = InferRequest(
        "m",
        [Tensor("X", "INT8", (1,), b"\x01")],
        id="i",
        parameters={"a": 1},
        priority=2,
        timeout_us=3,
        sequence_id="s",
        sequence_end=True,
    )
    ((name, length),), body = write(request)
    assert name == b"inference-header-content-length"
    head, data = body[: int(length)], body[int(length) :]
    assert data == b"\x01"
    assert head == (
        b'{"inputs":[{"name":"X","datatype":"INT8","shape":[1],"parameters":{"binary_data_size":1}}],"id":"i",'
        b'"parameters":{"a":1,"sequence_id":"s","sequence_start":false,"sequence_end":true,"priority":2,"timeout":3,'
        b'"binary_data_output":true}}'
    )


def test_outputs_are_views_of_the_body() -> None:
    head = OUTPUT + b',"parameters":{"p":1,"list":[1]}}'
    response = read(200, [(b"inference-header-content-length", b"%d" % len(head))], head + b"\x01\x02")
    assert [(one.name, one.shape, bytes(one.data)) for one in response.outputs] == [("Y", (2,), b"\x01\x02")]
    assert response.parameters == {"p": 1}


@pytest.mark.parametrize(
    "body", [b"{", b'{"outputs":[{"name":"Y","datatype":"INT8","shape":[1],"data":[1]}]}', OUTPUT + b"}"]
)
def test_an_answer_that_is_not_whole_is_refused(body: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        read(200, [], body)


@pytest.mark.parametrize(
    ("status", "body", "message", "code"),
    [
        (404, b'{"error":"gone"}', "gone", Code.NOT_FOUND),
        (503, b"<html>", "<html>", Code.UNAVAILABLE),
        (500, b"", "the remote server answered 500", Code.INTERNAL),
    ],
)
def test_a_refusal_keeps_its_words_and_has_the_code_of_its_status(
    status: int, body: bytes, message: str, code: Code
) -> None:
    error = refusal(status, body)
    assert (error.message, error.status) == (message, code)
    assert read(status, [], body).error is not None
