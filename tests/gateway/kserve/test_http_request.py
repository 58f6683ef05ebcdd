"""Bodies of inferences: the quick way reads what the careful one would, and whatever comes is read or refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backends.errors import InferenceError
from gateway.kserve import http_request
from gateway.kserve.http_request import Inference, read_inference
from gateway.kserve.json import decode
from tests.gateway.kserve.tensor_models import plane_of

_PLANE, DATAPLANE, _MODELS = plane_of()
SERVED = DATAPLANE.find("simple")
NAMES = st.sampled_from(["INPUT0", "INPUT1", "OUTPUT0", "x", "é"])
SCALARS = st.none() | st.booleans() | st.integers(-(2**66), 2**66) | st.floats(allow_nan=False) | st.text(max_size=4)
ANYTHING = st.recursive(
    SCALARS,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(NAMES, children, max_size=3),
    max_leaves=6,
)
INPUTS = st.fixed_dictionaries(
    {
        "name": NAMES,
        "datatype": st.sampled_from(["INT32", "FP32", "BYTES", "BOOL", "UINT8", "FP16", "X"]),
        "shape": st.lists(st.integers(0, 3), max_size=2),
    },
    optional={
        "data": st.lists(SCALARS, max_size=4) | ANYTHING,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 9), "x": SCALARS}),
    },
)
BODIES = st.fixed_dictionaries(
    {"inputs": st.lists(INPUTS, max_size=2)},
    optional={
        "id": st.text(max_size=3) | SCALARS,
        "parameters": st.dictionaries(
            st.sampled_from(
                ["sequence_id", "sequence_start", "priority", "timeout", "binary_data_output", "triton_x", "y"]
            ),
            SCALARS,
            max_size=3,
        ),
        "outputs": st.lists(
            st.fixed_dictionaries(
                {"name": NAMES},
                optional={
                    "parameters": st.fixed_dictionaries(
                        {},
                        optional={
                            "binary_data": st.booleans(),
                            "classification": st.integers(-1, 3),
                            "shared_memory_region": st.text(max_size=2),
                        },
                    )
                },
            ),
            max_size=2,
        ),
    },
)


def read(body: bytes, header_bytes: int | None = None) -> Inference:
    return read_inference(body, header_bytes, SERVED, DATAPLANE.regions)


def outcome(reading: Callable[[], Inference]) -> Any:
    """What was read, or why not."""
    try:
        inference = reading()
    except InferenceError as error:
        return error.message, error.status
    for tensor in inference.request.inputs:
        tensor.data = bytes(tensor.data)
    return inference


@example(body={"inputs": [{"name": "INPUT0", "datatype": "BYTES", "shape": [0], "data": []}] * 2}, data=b"")
@given(body=BODIES, data=st.binary(max_size=9))
def test_the_quick_way_reads_what_the_careful_one_reads(body: Any, data: bytes) -> None:
    head = json.dumps(body).encode()
    quick = outcome(lambda: read(head + data, len(head)))
    careful = outcome(lambda: http_request._Reader(SERVED, DATAPLANE.regions, memoryview(data)).read(decode(head)))
    assert quick == careful


@given(body=ANYTHING)
def test_any_json_is_read_or_refused(body: Any) -> None:
    with suppress(InferenceError):
        read(json.dumps(body).encode())


@given(body=st.binary(max_size=60), header_bytes=st.none() | st.integers(0, 60))
def test_any_bytes_are_read_or_refused(body: bytes, header_bytes: int | None) -> None:
    with suppress(InferenceError):
        read(body, None if header_bytes is None else min(header_bytes, len(body)))


def test_data_nested_beyond_all_reason_is_refused() -> None:
    nested = b"[" * 150 + b"1" + b"]" * 150
    body = b'{"inputs":[{"name":"INPUT0","datatype":"INT32","shape":[1],"data":%b}]}' % nested
    assert read(body).request.inputs[0].data == struct.pack("<i", 1)
    deep = b"[" * 50_000 + b"1" + b"]" * 50_000
    with pytest.raises(InferenceError, match="Nested too deeply"):
        read(body.replace(nested, deep))


def test_binary_data_is_not_copied() -> None:
    tensor = {"name": "INPUT0", "datatype": "INT32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}
    head = json.dumps({"inputs": [tensor]}).encode()
    body = bytearray(head + bytes(16))
    data = read_inference(body, len(head), SERVED, DATAPLANE.regions).request.inputs[0].data
    body[-1] = 7
    assert isinstance(data, memoryview)
    assert data[-1] == 7


def test_parameters_that_are_no_unicode_can_be_sent_on_and_an_id_comes_back_as_it_was() -> None:
    said = b'"id":"\xff","parameters":{"\xc3":"a\\ude00","sequence_id":"\xe9"}'
    request = read(b'{%b,"inputs":[]}' % said).request
    assert request.parameters == {"\ufffd": "a\ufffd"}
    assert request.sequence_id == "\ufffd"
    assert request.id.encode("utf-8", "surrogateescape") == b"\xff"
