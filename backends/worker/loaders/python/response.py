"""A response of a model: tensors or an error, and parameters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from backends.worker.exchange import Answer
from backends.worker.frames import heads
from backends.worker.loaders.python.arguments import text, whole
from backends.worker.loaders.python.errors import TritonError, TritonModelException, status_of
from backends.worker.loaders.python.tensor import Tensor
from backends.worker.messages import Respond, Scalar


class InferenceResponse:
    """`InferenceResponse(output_tensors=[…], error=None, parameters=None)`."""

    __slots__ = ("_error", "_outputs", "_parameters")

    def __init__(
        self,
        output_tensors: Sequence[Any] = (),
        error: TritonError | None = None,
        parameters: dict[str, Scalar] | None = None,
    ) -> None:
        if error is not None and not isinstance(error, TritonError):
            raise TypeError(f"InferenceResponse: error must be a TritonError, not {type(error)}")
        # A copy: the model may fill its list anew for the next response.
        self._outputs = tuple(output_tensors)
        for tensor in self._outputs:
            if tensor is None:
                raise TritonModelException("Output tensor for inference response should not be empty.")
            if not isinstance(tensor, Tensor):
                raise TypeError(f"InferenceResponse: output_tensors must be Tensors, not {type(tensor)}")
        self._error = error
        self._parameters = checked_parameters(parameters) if parameters else {}

    @classmethod
    def received(cls, respond: Respond, outputs: Sequence[Tensor]) -> InferenceResponse:
        """The answer of another model. Whatever the code of its error was, it is INTERNAL to who asked in between."""
        error = TritonError(respond.message) if respond.error else None
        response = cls(outputs, error)
        response._parameters = respond.parameters
        return response

    def answer(self, id: int, wanted: frozenset[str], *, final: bool) -> Answer:
        """The response as it is sent: of its outputs, those that were asked for."""
        error = self._error
        if error is not None:
            return Respond(id, final=final, error=status_of(error.code()), message=error.message()), ()
        outputs = [output.wire() for output in self._outputs if output.name() in wanted]
        return Respond(id, heads(outputs), self._parameters, final), outputs

    def output_tensors(self) -> list[Tensor]:
        return list(self._outputs)

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error

    def parameters(self) -> str:
        """The parameters as the text of a JSON object."""
        return json.dumps(self._parameters)


def checked_parameters(parameters: dict[str, Scalar]) -> dict[str, Scalar]:
    """Parameters as they are sent. Raises `TritonModelException` for anything but scalars by name."""
    if not isinstance(parameters, dict):
        raise TritonModelException(f"Expect parameters to be a dict, got {type(parameters)}")
    checked: dict[str, Scalar] = {}
    for key, value in parameters.items():
        if not isinstance(key, str):
            raise TritonModelException(f"Expect parameters keys to have type str, found type {type(key)}")
        if not isinstance(value, (bool, int, str)):
            raise TritonModelException(f"Expect parameters values to have type bool/int/str, found type {type(value)}")
        if isinstance(value, bool):
            checked[text(key, "parameter")] = value
        else:
            checked[text(key, "parameter")] = text(value, key) if isinstance(value, str) else whole(value, key)
    return checked
