"""Inputs for Triton's official clients, from arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from tritonclient.utils import np_to_triton_dtype


def inputs_of(client: Any, **arrays: np.ndarray[Any, Any]) -> list[Any]:
    """Inputs by their names; `client` is the client's module."""
    inputs = []
    for name, array in arrays.items():
        tensor = client.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def repeat_inputs(client: Any, *values: int) -> list[Any]:
    """What `repeat_int32` answers by so many responses."""
    return inputs_of(
        client,
        IN=np.array(values, np.int32),
        DELAY=np.zeros(len(values), np.uint32),
        WAIT=np.zeros(1, np.uint32),
    )
