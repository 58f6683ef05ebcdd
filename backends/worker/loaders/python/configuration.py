"""A model's configuration as a `model.py` completes it, and as it looks things up in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Document = dict[str, Any]


class ModelConfig:
    """What `auto_complete_config` is given and returns. What is set may complete the configuration, not contradict it.

    Every method raises `ValueError` for that.
    """

    def __init__(self, model_config: str) -> None:
        self._document: Document = json.loads(model_config)

    def as_dict(self) -> Document:
        """The configuration, to be read."""
        return self._document

    def set_max_batch_size(self, max_batch_size: int) -> None:
        """Set the largest batch; the configuration may say less."""
        configured = self._document["max_batch_size"]
        if configured > max_batch_size:
            raise ValueError(
                f"configuration specified max_batch_size {configured}, but in auto-complete-config function for model"
                f" '{self._document['name']}' specified max_batch_size {max_batch_size}"
            )
        self._document["max_batch_size"] = max_batch_size

    def set_dynamic_batching(self) -> None:
        """Have a dynamic batcher, with whatever the configuration says of it."""
        for other in ("sequence_batching", "ensemble_scheduling"):
            if other in self._document:
                raise ValueError(
                    f"Configuration specified scheduling_choice as '{other}', but auto-complete-config function for"
                    f" model '{self._document['name']}' tries to set scheduling_choice as 'dynamic_batching'"
                )
        self._document.setdefault("dynamic_batching", {})

    def add_input(self, input: Document) -> None:
        """Add an input: `name`, `data_type`, `dims` and perhaps `optional`."""
        self._add(
            "input", input, "'name', 'data_type', 'dims' and 'optional'", ("name", "data_type", "dims", "optional")
        )

    def add_output(self, output: Document) -> None:
        """Add an output: `name`, `data_type` and `dims`."""
        self._add("output", output, "'name', 'data_type' and 'dims'", ("name", "data_type", "dims"))

    def set_model_transaction_policy(self, transaction_policy_dict: Document) -> None:
        """Set `decoupled`."""
        model = self._document["name"]
        if set(transaction_policy_dict) - {"decoupled"}:
            raise ValueError(
                "model transaction property in auto-complete-config function for model"
                f" '{model}' contains property other than 'decoupled'."
            )
        policy = self._document.setdefault("model_transaction_policy", {})
        if "decoupled" not in transaction_policy_dict:
            return
        if policy.setdefault("decoupled", transaction_policy_dict["decoupled"]) != transaction_policy_dict["decoupled"]:
            raise ValueError(
                f"trying to change decoupled property in auto-complete-config for model '{model}',"
                f" which is already set to '{policy['decoupled']}'."
            )

    def _add(self, side: str, tensor: Document, properties: str, known: tuple[str, ...]) -> None:
        model = self._document["name"]
        place = f"in auto-complete-config function for model '{model}'"
        if "name" not in tensor:
            raise ValueError(f"{side} {place} is missing 'name' property.")
        name = tensor["name"]
        if set(tensor) - set(known):
            raise ValueError(f"{side} '{name}' {place} contains property other than {properties}.")
        for needed in ("data_type", "dims"):
            if needed not in tensor:
                raise ValueError(f"{side} '{name}' {place} is missing '{needed}' property.")
        for current in self._document[side]:
            if current["name"] == name:
                _agree(model, side, current, tensor)
                current.update(tensor)
                return
        self._document[side].append(tensor)


def _agree(model: str, side: str, current: Document, tensor: Document) -> None:
    """Hold what the model says of a tensor to what its configuration says. Raises `ValueError`."""
    name = tensor["name"]
    if current["data_type"] not in {"TYPE_INVALID", tensor["data_type"]}:
        raise ValueError(
            f"unable to load model '{model}', configuration expects datatype {current['data_type']} for {side}"
            f" '{name}', model provides {tensor['data_type']}"
        )
    for key in ("dims", "optional"):
        said, wanted = current.get(key), tensor.get(key)
        if key in current and key in tensor and said != wanted and (key == "optional" or said):
            raise ValueError(
                f"model '{model}', tensor '{name}': the model expects {key} {wanted} but the model configuration"
                f" specifies {key} {said}"
            )


def input_named(model_config: Mapping[str, Any], name: str) -> Document | None:
    """The input of that name in a configuration, None where it has none."""
    return _named(model_config.get("input", ()), name)


def output_named(model_config: Mapping[str, Any], name: str) -> Document | None:
    """The output of that name in a configuration, None where it has none."""
    return _named(model_config.get("output", ()), name)


def is_decoupled(model_config: Mapping[str, Any]) -> bool:
    """Whether a model may answer a request any number of times."""
    return bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))


def _named(tensors: Any, name: str) -> Document | None:
    return next((tensor for tensor in tensors if tensor["name"] == name), None)
