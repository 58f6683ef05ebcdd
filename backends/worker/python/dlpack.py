"""Tensors that come and go by DLPack (dmlc.github.io/dlpack): torch's and others', BF16 among them."""

from __future__ import annotations

from typing import Any

from backends.worker.python.tensor import Tensor


def imported(name: str, tensor: Any) -> Tensor:
    raise NotImplementedError


def bfloat16_capsule(data: Any, shape: tuple[int, ...]) -> Any:
    raise NotImplementedError
