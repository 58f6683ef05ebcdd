"""A request in tensors as the fields of a text completion, in the ways of Triton's vLLM and TensorRT-LLM backends."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from backends.errors import Code, InferenceError
from backends.interface import INPUTS
from backends.model import InferRequest
from backends.tensors import Tensor, elements

_INTEGERS = frozenset(
    {
        "n",
        "best_of",
        "top_k",
        "min_tokens",
        "max_tokens",
        "logprobs",
        "prompt_logprobs",
        "seed",
        "truncate_prompt_tokens",
    }
)
_NUMBERS = frozenset(
    {"temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "length_penalty"}
)
_FLAGS = frozenset({"ignore_eos", "skip_special_tokens", "spaces_between_special_tokens", "include_stop_str_in_output"})
# Of the protocol, not of sampling: the generate extension hands on every member as a parameter.
_NOT_SAMPLING = frozenset({"id", "binary_data_output", "triton_enable_empty_final_response", "stream", "lora_name"})
# TensorRT-LLM's inputs, by the names of a completion's fields.
_TENSORRTLLM = {
    **{name: name for name in ("max_tokens", "min_tokens", "top_k", "top_p", "temperature", "seed", "bad_words")},
    **{f"{name}_penalty": f"{name}_penalty" for name in ("length", "repetition", "presence", "frequency")},
    "stop_words": "stop",
    "num_return_sequences": "n",
}
_FORMATS = {"BOOL": "?", "INT32": "i", "INT64": "q", "UINT32": "I", "UINT64": "Q", "FP32": "f", "FP64": "d"}
_IMAGE_TYPES = ((b"\x89PNG", "png"), (b"GIF8", "gif"), (b"RIFF", "webp"))


@dataclass(slots=True)
class Asked:
    """What a request asks for. `returns` are the optional outputs, `sampling` the fields of a completion."""

    prompt: str
    stream: bool = False
    echoes_prompt: bool = False
    returns: frozenset[str] = frozenset()
    sampling: dict[str, Any] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    model: str = ""
    """Another name under which the engine shall be asked: that of an adapter (LoRA)."""


def asked(request: InferRequest, *, is_streaming: bool, echoes_prompt: bool) -> Asked:
    """Read a request. `is_streaming`: the model is decoupled. `echoes_prompt`: a whole answer begins with its prompt.

    Raises `InferenceError`.
    """
    values = {tensor.name: _values(tensor) for tensor in request.inputs}
    prompts = values.get("text_input", [])
    if len(prompts) != 1:
        raise InferenceError(
            f"model '{request.model}' takes one text_input a request, got {len(prompts)}", Code.INVALID_ARG
        )
    stream = _flag(values, "stream")
    if stream and not is_streaming:
        raise InferenceError("Streaming is only supported in decoupled mode.", Code.INVALID_ARG)
    excludes = _flag(values, "exclude_input_in_output", default=stream or not echoes_prompt)
    if stream and not excludes:
        raise InferenceError("When streaming, `exclude_input_in_output` = False is not allowed.", Code.INVALID_ARG)
    returns = frozenset(
        name.removeprefix("return_") for name in values if name.startswith("return_") and _flag(values, name)
    )
    if "log_probs" in returns:
        returns |= {"logprobs", "cumulative_logprob"}
    sampling = _sampling(request, values)
    model = str(sampling.pop("lora_name", request.parameters.get("lora_name", "")))
    images = [_image(data) for data in values.get("image", [])]
    return Asked(prompts[0].decode("utf-8", "replace"), stream, not excludes, returns, sampling, images, model)


def _sampling(request: InferRequest, values: Mapping[str, list[Any]]) -> dict[str, Any]:
    given = values.get("sampling_parameters")
    if given:
        try:
            decoded = json.loads(given[0])
        except ValueError as error:
            raise InferenceError(f"sampling_parameters are no JSON: {error}", Code.INVALID_ARG) from error
        if not isinstance(decoded, dict):
            raise InferenceError("sampling_parameters are no JSON object", Code.INVALID_ARG)
        sampling = {name: _typed(name, value) for name, value in decoded.items()}
    else:
        sampling = {
            name: _typed(name, value) for name, value in request.parameters.items() if name not in _NOT_SAMPLING
        }
    for name, called in _TENSORRTLLM.items():
        found = values.get(name)
        if found:
            is_list = INPUTS[name][1] == (-1,)
            sampling[called] = [item.decode("utf-8", "replace") for item in found] if is_list else found[0]
    if values.get("end_id"):
        sampling["stop_token_ids"] = list(values["end_id"])
    return sampling


def _typed(name: str, value: Any) -> Any:
    """A sampling parameter as a number or a flag, which clients of Triton may write as a text."""
    convert: Callable[[Any], Any] | None = None
    if name in _INTEGERS:
        convert = int
    elif name in _NUMBERS:
        convert = float
    elif name in _FLAGS and isinstance(value, str):
        return value.lower() in {"true", "1"}
    if convert is None or value is None:
        return value
    try:
        return convert(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InferenceError(f"the sampling parameter '{name}' is no number: {value!r}", Code.INVALID_ARG) from error


def _values(tensor: Tensor) -> list[Any]:
    if tensor.datatype == "BYTES":
        return list(elements(tensor.data))
    form = _FORMATS[tensor.datatype]
    return list(struct.unpack(f"<{tensor.size_bytes // struct.calcsize(form)}{form}", tensor.data))


def _flag(values: Mapping[str, list[Any]], name: str, *, default: bool = False) -> bool:
    found = values.get(name)
    return bool(found[0]) if found else default


def _image(data: bytes) -> str:
    """A base64 text as a URL that says what it is."""
    try:
        head = base64.b64decode(data[:16], validate=True)
    except ValueError as error:
        raise InferenceError("image: base64 is wanted", Code.INVALID_ARG) from error
    kind = next((kind for magic, kind in _IMAGE_TYPES if head.startswith(magic)), "jpeg")
    return f"data:image/{kind};base64,{data.decode('ascii', 'replace')}"
