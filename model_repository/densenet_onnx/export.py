"""Writes `model.onnx` and the labels from the weights of EfficientNet-Lite0 that `tritium models pull` fetched.

The weights are PyTorch's and are read without it. The network is that of the weights' package, with each batch
normalization folded into the convolution before it. Each image is an RGB one of 224 x 224 in planes, from -1 to 1.
"""

from __future__ import annotations

import json
import pickle
import struct
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# How often each stage repeats its block, and the stride of its first one (Tan and Le, EfficientNet, table 1).
STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
EPSILON = 1e-3
CLASSES = 1000


def main() -> None:
    folder = Path(__file__).parent
    with (folder / "1" / "efficientnet-lite0.pth").open("rb") as file:
        weights = read_weights(file)
    partial = folder / "1" / ".model.onnx.part"
    partial.write_bytes(Network(weights).model())
    partial.replace(folder / "1" / "model.onnx")
    names = json.loads((folder / "1" / "imagenet_names.json").read_bytes())
    labels = [str(names[str(number)]).partition(",")[0].upper() for number in range(CLASSES)]
    (folder / "densenet_labels.txt").write_text("\n".join(labels) + "\n")


class _Reader(pickle.Unpickler):
    """Reads what a dictionary of tensors is made of, and nothing else."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.storages: dict[str, Array] = {}

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch", "FloatStorage"): np.dtype("<f4"),
            ("torch", "LongStorage"): np.dtype("<i8"),
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a dictionary of tensors")
        return known[module, name]

    def persistent_load(self, pid: Any) -> Array:
        _, dtype, key, _, count, _ = pid
        return self.storages.setdefault(key, np.empty(count, dtype))


def _tensor(storage: Array, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> Array:
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps)


def read_weights(file: IO[bytes]) -> Mapping[str, Array]:
    """A dictionary of tensors as PyTorch wrote it before 1.6: heads, itself, its storages' keys, and those."""
    for _ in range(3):
        pickle.load(file)  # noqa: S301  # the manifest has the file's checksum
    reader = _Reader(file)
    weights: Mapping[str, Array] = reader.load()
    for key in pickle.load(file):  # noqa: S301  # as above
        storage = reader.storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        storage[:] = np.frombuffer(file.read(count * storage.itemsize), storage.dtype)
    return weights


class Network:
    """The layers of the network, as nodes and constants of an ONNX graph (onnx.proto3)."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self.weights = weights
        self.nodes: list[bytes] = []
        self.constants: list[bytes] = []
        self.count = 0

    def model(self) -> bytes:
        self.constant("zero", np.float32(0))
        self.constant("six", np.float32(6))
        x = self.convolution("data_0", "_conv_stem", "_bn0", stride=2)
        index = 0
        for repeats, stride in STAGES:
            for repeat in range(repeats):
                x = self.block(x, f"_blocks.{index}", stride if repeat == 0 else 1)
                index += 1
        x = self.convolution(x, "_conv_head", "_bn1")
        x = self.node("GlobalAveragePool", [x])
        x = self.node("Flatten", [x])
        self.constant("fc_weight", self.weights["_fc.weight"])
        self.constant("fc_bias", self.weights["_fc.bias"])
        x = self.node("Gemm", [x, "fc_weight", "fc_bias"], transB=1)
        self.constant("shape", np.array([1, CLASSES, 1, 1]))
        self.node("Reshape", [x, "shape"], output="fc6_1")
        graph = b"".join(field(1, node) for node in self.nodes) + field(2, b"efficientnet-lite0")
        graph += b"".join(field(5, constant) for constant in self.constants)
        graph += field(11, value("data_0", (1, 3, 224, 224))) + field(12, value("fc6_1", (1, CLASSES, 1, 1)))
        return number(1, 8) + field(7, graph) + field(8, field(1, b"") + number(2, 17))

    def block(self, x: str, name: str, stride: int) -> str:
        """A mobile inverted bottleneck; its input is added where that has the shape of its output."""
        y = x
        if f"{name}._expand_conv.weight" in self.weights:
            y = self.convolution(y, f"{name}._expand_conv", f"{name}._bn0")
        y = self.convolution(y, f"{name}._depthwise_conv", f"{name}._bn1", stride, is_depthwise=True)
        y = self.convolution(y, f"{name}._project_conv", f"{name}._bn2", is_clipped=False)
        first = self.weights.get(f"{name}._expand_conv.weight", self.weights[f"{name}._depthwise_conv.weight"])
        channels = first.shape[1] if f"{name}._expand_conv.weight" in self.weights else first.shape[0]
        is_same = stride == 1 and channels == self.weights[f"{name}._project_conv.weight"].shape[0]
        return self.node("Add", [y, x]) if is_same else y

    def convolution(
        self, x: str, name: str, norm: str, stride: int = 1, *, is_depthwise: bool = False, is_clipped: bool = True
    ) -> str:
        scale = self.weights[f"{norm}.weight"] / np.sqrt(self.weights[f"{norm}.running_var"] + EPSILON)
        bias = self.weights[f"{norm}.bias"] - self.weights[f"{norm}.running_mean"] * scale
        weight = self.weights[f"{name}.weight"] * scale[:, None, None, None]
        self.constant(f"{name}.weight", weight.astype(np.float32))
        self.constant(f"{name}.bias", bias.astype(np.float32))
        groups = weight.shape[0] if is_depthwise else 1
        y = self.node(
            "Conv",
            [x, f"{name}.weight", f"{name}.bias"],
            auto_pad="SAME_UPPER",
            group=groups,
            kernel_shape=weight.shape[2:],
            strides=(stride, stride),
        )
        return self.node("Clip", [y, "zero", "six"]) if is_clipped else y

    def constant(self, name: str, array: Array | np.generic) -> None:
        array = np.asarray(array)
        kind = {"float32": 1, "int64": 7}[array.dtype.name]
        told = b"".join(number(1, size) for size in array.shape) + number(2, kind)
        self.constants.append(told + field(8, name.encode()) + field(9, np.ascontiguousarray(array).tobytes()))

    def node(self, op: str, inputs: Sequence[str], output: str = "", **attributes: int | str | Sequence[int]) -> str:
        self.count += 1
        output = output or f"x{self.count}"
        told = b"".join(field(1, name.encode()) for name in inputs) + field(2, output.encode()) + field(4, op.encode())
        self.nodes.append(told + b"".join(field(5, attribute(name, given)) for name, given in attributes.items()))
        return output


def attribute(name: str, given: int | str | Sequence[int]) -> bytes:
    told = field(1, name.encode())
    if isinstance(given, int):
        return told + number(3, given) + number(20, 2)
    if isinstance(given, str):
        return told + field(4, given.encode()) + number(20, 3)
    return told + b"".join(number(8, each) for each in given) + number(20, 7)


def value(name: str, shape: Sequence[int]) -> bytes:
    """A tensor of float32 at the border of the graph."""
    dims = b"".join(field(1, number(1, size)) for size in shape)
    return field(1, name.encode()) + field(2, field(1, number(1, 1) + field(2, dims)))


def field(key: int, data: bytes) -> bytes:
    """A field of protobuf's wire format that has a length."""
    return varint(key << 3 | 2) + varint(len(data)) + data


def number(key: int, given: int) -> bytes:
    return varint(key << 3) + varint(given)


def varint(given: int) -> bytes:
    made = bytearray()
    while given > 127:
        made.append(given & 127 | 128)
        given >>= 7
    return bytes([*made, given])


if __name__ == "__main__":
    sys.exit(main())
