"""`tritium classify`: images through a classifier of a running server, labels printed as Triton's example does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from backends.errors import InvalidRequest
from gateway.client import Server, ServerError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Scaling = Literal["NONE", "INCEPTION", "VGG"]

# The means of the colours that VGG's networks were trained with, red first (Simonyan and Zisserman, 2014).
_VGG_MEANS = (123, 117, 104)


@dataclass(frozen=True, slots=True)
class Classifier:
    """What a model takes and gives: one image and one row of scores. `is_planar`: channels come before rows."""

    name: str
    input: str
    output: str
    datatype: str
    height: int
    width: int
    channels: int
    is_planar: bool
    is_batched: bool


def classify(
    server: Server, grpc_address: str, name: str, images: Sequence[Path], *, classes: int, scaling: Scaling
) -> None:
    """Print the labels of each image; an address for gRPC is asked that way. Raises `ServerError`, `OSError`."""
    ask = _ask_http(server, name) if not grpc_address else _ask_grpc(grpc_address, name)
    model = read_model(name, ask.config)
    for number, image in enumerate(images, 1):
        pixels = preprocess(image, model, scaling)
        print(f"Request {number}, batch size 1")
        for found in ask.infer(model, pixels, classes):
            score, index, *label = found.split(":", 2)
            print(f"    {score} ({index})" + (f" = {label[0]}" if label else ""))
    print("PASS")


def read_model(name: str, config: Mapping[str, Any]) -> Classifier:
    """The classifier that a configuration describes. Raises `InvalidRequest` for a model that is none."""
    inputs, outputs = config.get("input", []), config.get("output", [])
    if len(inputs) != 1 or len(outputs) != 1:
        raise InvalidRequest(
            f"The model {name!r} has {len(inputs)} inputs and {len(outputs)} outputs: one of each are wanted."
        )
    dims = [int(size) for size in inputs[0]["dims"]]
    if len(dims) != 3:
        raise InvalidRequest(f"The input of the model {name!r} has {len(dims)} dimensions, and an image has 3.")
    is_planar = inputs[0].get("format", "FORMAT_NONE") != "FORMAT_NHWC" and dims[0] in {1, 3}
    channels, height, width = dims if is_planar else (dims[2], dims[0], dims[1])
    datatype = inputs[0]["data_type"].removeprefix("TYPE_")
    if channels not in {1, 3} or datatype not in {"FP32", "FP16", "UINT8"}:
        raise InvalidRequest(f"The input of the model {name!r} is no image: {dims} of {datatype}.")
    return Classifier(
        name,
        inputs[0]["name"],
        outputs[0]["name"],
        datatype,
        height,
        width,
        channels,
        is_planar,
        int(config.get("max_batch_size", 0)) > 0,
    )


def preprocess(image: Path, model: Classifier, scaling: Scaling) -> NDArray[np.generic]:
    """The image in the size and the order that the model takes. Raises `OSError` for a file that is no image."""
    try:
        from PIL import Image
    except ImportError as error:
        raise InvalidRequest("Reading images needs Pillow: pip install 'tritium[images]'") from error
    import numpy as np

    with Image.open(image) as opened:
        converted = opened.convert("L" if model.channels == 1 else "RGB")
        resized = converted.resize((model.width, model.height), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized).reshape(model.height, model.width, model.channels)
    dtype = {"FP32": np.float32, "FP16": np.float16, "UINT8": np.uint8}[model.datatype]
    scaled: NDArray[Any] = pixels.astype(dtype)
    if scaling == "INCEPTION":
        scaled = (pixels.astype(np.float32) / 127.5 - 1).astype(dtype)
    elif scaling == "VGG":
        means = np.asarray(_VGG_MEANS[: model.channels] if model.channels == 3 else (128,), np.float32)
        scaled = (pixels.astype(np.float32) - means).astype(dtype)
    if model.is_planar:
        scaled = scaled.transpose(2, 0, 1)
    return np.ascontiguousarray(scaled[None] if model.is_batched else scaled)


class _Http:
    """Asks over HTTP: the image in binary, the answer as JSON."""

    def __init__(self, server: Server, path: str, config: Mapping[str, Any]) -> None:
        self.config = config
        self._server = server
        self._path = path

    def infer(self, model: Classifier, pixels: NDArray[np.generic], classes: int) -> list[str]:
        image = {
            "name": model.input,
            "datatype": model.datatype,
            "shape": pixels.shape,
            "parameters": {"binary_data_size": pixels.nbytes},
        }
        output = {"name": model.output, "parameters": {"classification": classes, "binary_data": False}}
        head = json.dumps({"inputs": [image], "outputs": [output]}).encode()
        answer = self._server.post(f"{self._path}/infer", head + pixels.tobytes(), head_bytes=len(head))
        return [str(found) for found in answer["outputs"][0]["data"]]


class _Grpc:
    """Asks over gRPC, by Triton's own client."""

    def __init__(self, client: Any, config: Mapping[str, Any]) -> None:
        self.config = config
        self._client = client

    def infer(self, model: Classifier, pixels: NDArray[np.generic], classes: int) -> list[str]:
        from tritonclient import grpc

        image = grpc.InferInput(model.input, list(pixels.shape), model.datatype)
        image.set_data_from_numpy(pixels)
        output = grpc.InferRequestedOutput(model.output, class_count=classes)
        with _translated():
            found = self._client.infer(model.name, [image], outputs=[output]).as_numpy(model.output)
        return [element.decode() for element in found.ravel()]


def _ask_http(server: Server, name: str) -> _Http:
    path = f"/v2/models/{quote(name, safe='')}"
    return _Http(server, path, server.get(f"{path}/config"))


def _ask_grpc(address: str, name: str) -> _Grpc:
    from tritonclient import grpc

    client = grpc.InferenceServerClient(address)
    with _translated():
        return _Grpc(client, client.get_model_config(name, as_json=True)["config"])


@contextmanager
def _translated() -> Iterator[None]:
    """What Triton's client raises becomes a `ServerError`."""
    from tritonclient.utils import InferenceServerException

    try:
        yield
    except InferenceServerException as error:
        raise ServerError(error.message()) from error
