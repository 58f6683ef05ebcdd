"""Inferences to and from protobuf: what is taken, and where nothing is copied."""

from __future__ import annotations

import pytest
from tritonclient.grpc import service_pb2 as pb

from backends.errors import InferenceError
from backends.model import InferResponse
from backends.tensors import Tensor
from gateway.kserve import contents, messages
from gateway.kserve.inference import parse
from gateway.kserve.shared_memory import Regions


def _request(size: int) -> bytes:
    request = pb.ModelInferRequest(model_name="m", id="i", model_version="3")
    request.inputs.add(name="A", datatype="UINT8", shape=(size,))
    request.inputs.add(name="B", datatype="UINT8", shape=(3,))
    request.parameters["x"].double_param = 0.5
    request.raw_input_contents.extend([b"a" * size, b"bcd"])
    return request.SerializeToString()


@pytest.mark.parametrize("size", [5, 1_000_000])
def test_raw_contents_come_as_they_were_sent_however_large(size):
    message, raw = contents.parse(_request(size))
    translated = messages.read(message, raw, Regions())
    first, second = translated.request.inputs
    assert bytes(first.data) == b"a" * size
    assert bytes(second.data) == b"bcd"
    assert (first.name, first.shape, second.shape) == ("A", (size,), (3,))
    assert translated.request.parameters == {"x": 0.5}
    assert translated.request.id == "i"


def test_large_raw_contents_are_views_of_the_message_they_came_in():
    body = _request(1_000_000)
    _, raw = contents.parse(body)
    assert isinstance(raw[0], memoryview)
    assert raw[0].obj is body


@pytest.mark.parametrize("place", [{"shared_memory_offset": -1}, {"shared_memory_byte_size": -1}])
def test_no_tensor_lies_below_the_start_of_its_region(key, place):
    regions = Regions()
    regions.register("r", key, 0, 512)
    for side in ("inputs", "outputs"):
        request = pb.ModelInferRequest(model_name="m")
        tensor = getattr(request, side).add(name="A")
        tensor.parameters["shared_memory_region"].string_param = "r"
        for name, number in {"shared_memory_byte_size": 4, **place}.items():
            tensor.parameters[name].int64_param = number
        with pytest.raises(InferenceError, match="Invalid offset"):
            messages.read(request, [], regions)
    regions.close()


def test_large_outputs_are_handed_on_as_they_are():
    data = memoryview(bytes(1_000_000))
    response = InferResponse([Tensor("A", "UINT8", (1_000_000,), data), Tensor("B", "UINT8", (1,), b"x")])
    message, raw = messages.write(response, "m", "1", "", streams=False)
    parts = contents.raw_outputs(raw)
    assert data in parts
    whole = pb.ModelInferResponse.FromString(message.SerializeToString() + b"".join(parts))
    assert [len(each) for each in whole.raw_output_contents] == [1_000_000, 1]
    assert [output.name for output in whole.outputs] == ["A", "B"]


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xff",
        b"\x3a\xff\xff\xff\xff\x7f" + bytes(100_000),
        b"\x0b" * 100_000,
        b"\x80" * 100_000,
        b"\x09" + bytes(99_990) + b"\x09",
    ],
)
def test_what_is_no_message_is_refused_as_such(body):
    with pytest.raises(InferenceError, match="Unable to parse request"):
        parse(body)
