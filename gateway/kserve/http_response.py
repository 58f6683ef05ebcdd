"""An `InferResponse` as a body over HTTP: JSON, followed by the bytes of the outputs that are wanted so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backends.model import InferResponse
from backends.tensors import Buffer, Tensor
from gateway.kserve import elements
from gateway.kserve.dataplane import Served
from gateway.kserve.http_request import Inference
from gateway.kserve.json import encode, encode_loosely, is_finite

_REALS = frozenset({"FP32", "FP64"})


_JSON = b"content-type: application/json\r\n"


def head_lines(text: bytes, binary: Sequence[Buffer]) -> bytes:
    """What the head of an answer says of these parts; its length apart."""
    if any(map(len, binary)):
        return b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n" % len(text)
    return _JSON


def write_inference(inference: Inference, served: Served, response: InferResponse) -> tuple[bytes, list[Buffer]]:
    """The JSON and the binary data after it. Raises `InferenceError` for datatypes that JSON does not carry."""
    config = served.config
    document: dict[str, Any] = {"model_name": config.name, "model_version": str(config.version)}
    if inference.request.id:
        document = {"id": inference.request.id, **document}
    if response.parameters:
        document["parameters"] = response.parameters
    placed = {wanted.name for wanted in inference.wanted if wanted.region}
    outputs: list[dict[str, Any]] = []
    binary: list[Buffer] = []
    has_words = True
    for tensor in response.outputs:
        output: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        outputs.append(output)
        if tensor.name in placed:
            continue
        if inference.all_binary or tensor.name in inference.binary:
            output["parameters"] = {"binary_data_size": tensor.size_bytes}
            binary.append(tensor.data)
        else:
            output["data"] = values = elements.values(tensor)
            has_words = has_words and _has_words(tensor, values)
    document["outputs"] = outputs
    return encode(document) if has_words else encode_loosely(document), binary


def _has_words(tensor: Tensor, values: Any) -> bool:
    return tensor.datatype not in _REALS or is_finite(values)
