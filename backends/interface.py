"""The tensors by which engines are asked: those of Triton's vLLM backend, and of TensorRT-LLM's ensemble."""

from __future__ import annotations

from typing import Any

Fields = dict[str, Any]

_OF_A_REMOTE = ("max_batch_size", "input", "output", "model_transaction_policy")

ENGINES = frozenset({"echo", "llamacpp", "openai", "rag", "sglang", "tensorrtllm", "transformers", "vllm"})
"""The kinds of backend that generate text."""

_FLAGS = (
    "stream",
    "exclude_input_in_output",
    "return_finish_reason",
    "return_cumulative_logprob",
    "return_logprobs",
    "return_num_input_tokens",
    "return_num_output_tokens",
)
INPUTS: dict[str, tuple[str, tuple[int, ...]]] = {
    "text_input": ("TYPE_STRING", (1,)),
    "image": ("TYPE_STRING", (-1,)),
    **dict.fromkeys(_FLAGS, ("TYPE_BOOL", (1,))),
    "sampling_parameters": ("TYPE_STRING", (1,)),
    "max_tokens": ("TYPE_INT32", (1,)),
    "min_tokens": ("TYPE_INT32", (1,)),
    "bad_words": ("TYPE_STRING", (-1,)),
    "stop_words": ("TYPE_STRING", (-1,)),
    "end_id": ("TYPE_INT32", (1,)),
    "pad_id": ("TYPE_INT32", (1,)),
    "top_k": ("TYPE_INT32", (1,)),
    "top_p": ("TYPE_FP32", (1,)),
    "temperature": ("TYPE_FP32", (1,)),
    "length_penalty": ("TYPE_FP32", (1,)),
    "repetition_penalty": ("TYPE_FP32", (1,)),
    "presence_penalty": ("TYPE_FP32", (1,)),
    "frequency_penalty": ("TYPE_FP32", (1,)),
    "seed": ("TYPE_UINT64", (1,)),
    "num_return_sequences": ("TYPE_INT32", (1,)),
    "return_log_probs": ("TYPE_BOOL", (1,)),
}
"""What an engine takes, all but `text_input` optional: Triton's type and dimensions, without a batch."""

OUTPUTS: dict[str, tuple[str, tuple[int, ...]]] = {
    "text_output": ("TYPE_STRING", (-1,)),
    "finish_reason": ("TYPE_STRING", (-1,)),
    "cumulative_logprob": ("TYPE_FP32", (-1,)),
    "logprobs": ("TYPE_STRING", (-1,)),
    "num_input_tokens": ("TYPE_UINT32", (1,)),
    "num_output_tokens": ("TYPE_UINT32", (-1,)),
}


def complete(fields: Fields) -> None:
    """Fill in the tensors of an engine, where the configuration declares none of its own."""
    if fields["backend"] not in ENGINES or fields.get("input") or fields.get("output"):
        return
    fields["input"] = [
        {
            "name": name,
            "data_type": data_type,
            "format": "FORMAT_NONE",
            "dims": list(dims),
            "is_shape_tensor": False,
            "allow_ragged_batch": False,
            "optional": name != "text_input",
            "is_non_linear_format_io": False,
        }
        for name, (data_type, dims) in INPUTS.items()
    ]
    fields["output"] = [
        {
            "name": name,
            "data_type": data_type,
            "dims": list(dims),
            "label_filename": "",
            "is_shape_tensor": False,
            "is_non_linear_format_io": False,
        }
        for name, (data_type, dims) in OUTPUTS.items()
    ]
    fields["model_transaction_policy"] = {"decoupled": True}


def adopt(fields: Fields, remote: Fields) -> None:
    """Take over the tensors of a remote model, where the configuration declares none of its own."""
    if not fields.get("input") and not fields.get("output"):
        fields |= {name: value for name, value in remote.items() if name in _OF_A_REMOTE}
