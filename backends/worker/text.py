"""Text in front of a tensor model, as its configuration declares it.

A model with the parameter `task` takes texts. What else it needs is said by parameters, or by the files that
sentence-transformers and transformers lay beside a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import msgspec

from backends.config import ModelConfig
from backends.errors import InvalidRequest

Task = Literal["embed", "rerank", "maxsim", "classify"]
Pooling = Literal["mean", "cls", "last", "max", "none"]
Activation = Literal["sigmoid", "softmax", "none"]

TOKENIZED = "tokenized"
"""Request parameter: the elements are token ids (int32) already, special tokens included."""
PROMPT_NAME = "prompt_name"
"""Request parameter: which of the model's prompts goes before each text."""
USAGE = "prompt_tokens"
"""Response parameter: how many tokens were processed for the request."""

PARAMETERS = frozenset(
    {
        "task",
        "tokenizer",
        "max_length",
        "truncate",
        "pooling",
        "normalize",
        "activation",
        "prompt",
        "output",
        "max_batch_tokens",
        "passage_cache_bytes",
    }
)
"""Parameters of `config.pbtxt` that are read here; `prompt` also with a name behind a dot."""

_MOST_BATCH_TOKENS = 16384
_LONGEST = 512
_PASSAGE_CACHE_BYTES = 256 << 20
# `model_max_length` of a tokenizer without a limit is a number of 31 digits.
_NO_LENGTH = 1 << 20
_POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
}
_POOLING_NAMES = {"mean": "mean", "cls": "cls", "lasttoken": "last", "max": "max"}


class Text(msgspec.Struct, frozen=True):
    """What is done with texts before and after the model.

    `inputs` are the names of the tensors with texts: one, or query and document. `prompts` maps a name to what is put
    before a text; "" is the default one. `output` is the model's own output that is read, "" where that is to be found.
    """

    task: Task
    inputs: tuple[str, ...]
    tokenizer: str
    max_length: int = _LONGEST
    truncate: bool = True
    pooling: Pooling | None = None
    normalize: bool = True
    activation: Activation = "none"
    prompts: dict[str, str] = {}
    output: str = ""
    pad_id: int = 0
    max_batch_tokens: int = _MOST_BATCH_TOKENS
    passage_cache_bytes: int = _PASSAGE_CACHE_BYTES


def read(config: ModelConfig) -> Text | None:
    """What the configuration declares, None for a model without texts. Raises `InvalidRequest` naming what is wrong."""
    given = config.parameters
    if not given.get("task"):
        return None
    task = cast("Task", _choice(config, "task", given["task"], get_args(Task)))
    folder = Path(config.path)
    tokenizer = folder / (given.get("tokenizer") or "tokenizer.json")
    if not tokenizer.is_file():
        raise InvalidRequest(f"Model {config.name!r}: the tokenizer {str(tokenizer)!r} is no file.", param="tokenizer")
    names = ("query", "document") if task in {"rerank", "maxsim"} else ("text",)
    if config.input and len(config.input) != len(names):
        raise InvalidRequest(
            f"Model {config.name!r}: the task {task} takes {' and '.join(names)}, and {len(config.input)} inputs are"
            " configured.",
            param="input",
        )
    pooling, normalize = _modules(config, folder)
    if value := given.get("pooling"):
        pooling = cast("Pooling", _choice(config, "pooling", value, get_args(Pooling)))
    activation = given.get("activation") or _activation(folder, task)
    return Text(
        task=task,
        inputs=tuple(entry.name for entry in config.input) or names,
        tokenizer=str(tokenizer),
        max_length=_number(config, "max_length", _max_length(folder)),
        truncate=_flag(config, "truncate", default=True),
        pooling=pooling,
        normalize=_flag(config, "normalize", default=normalize),
        activation=cast("Activation", _choice(config, "activation", activation, get_args(Activation))),
        prompts=_prompts(config, folder),
        output=given.get("output", ""),
        pad_id=int(_object(folder / "config.json").get("pad_token_id") or 0),
        max_batch_tokens=_number(config, "max_batch_tokens", _MOST_BATCH_TOKENS),
        passage_cache_bytes=_number(config, "passage_cache_bytes", _PASSAGE_CACHE_BYTES, least=0),
    )


def _choice(config: ModelConfig, key: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise InvalidRequest(
            f"Model {config.name!r}: the parameter {key} is {value!r}, and one of {', '.join(choices)} is wanted.",
            param=key,
        )
    return value


def _number(config: ModelConfig, key: str, default: int, *, least: int = 1) -> int:
    value = config.parameters.get(key) or str(default)
    if not (value.isascii() and value.isdigit() and int(value) >= least):
        kind = "positive number" if least else "number"
        raise InvalidRequest(f"Model {config.name!r}: the parameter {key} is no {kind}: {value!r}.", param=key)
    return int(value)


def _flag(config: ModelConfig, key: str, *, default: bool) -> bool:
    value = config.parameters.get(key) or str(default)
    return _choice(config, key, value.lower(), ("true", "false")) == "true"


def _modules(config: ModelConfig, folder: Path) -> tuple[Pooling | None, bool]:
    """Pooling and normalization as `modules.json` of sentence-transformers has them; without it, not said and yes."""
    file = folder / "modules.json"
    if not file.is_file():
        return None, True
    pooling: Pooling | None = None
    normalize = False
    for module in _list(file):
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            pooling = _pooling(config, folder / str(module.get("path", "")) / "config.json")
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer" and not config.parameters.get("output"):
            raise InvalidRequest(
                f"Model {config.name!r}: {file} has a module {kind}, which is not done here: export it with the model,"
                " and name its output by the parameter output.",
                param="output",
            )
    return pooling, normalize


def _pooling(config: ModelConfig, file: Path) -> Pooling:
    """The one mode of a Pooling module, in the words of its older or its newer configuration."""
    found = _object(file)
    modes = [
        _POOLINGS.get(key, key) for key, value in found.items() if key.startswith("pooling_mode_") and value is True
    ]
    if isinstance(mode := found.get("pooling_mode"), str):
        modes = [_POOLING_NAMES.get(mode, mode)]
    if len(modes) != 1 or modes[0] not in get_args(Pooling):
        raise InvalidRequest(
            f"Model {config.name!r}: {file} pools by {' and '.join(modes) or 'nothing'}; here it is one of"
            f" {', '.join(_POOLINGS.values())}.",
            param="pooling",
        )
    return cast("Pooling", modes[0])


def _max_length(folder: Path) -> int:
    places = (
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
        ("config.json", "max_position_embeddings"),
    )
    for name, key in places:
        value = _object(folder / name).get(key)
        if isinstance(value, int | float) and 0 < value < _NO_LENGTH:
            return int(value)
    return _LONGEST


def _activation(folder: Path, task: Task) -> str:
    """What a cross-encoder's or classifier's logits go through, as its `config.json` says."""
    if task not in {"rerank", "classify"}:
        return "none"
    found = _object(folder / "config.json")
    named = found.get("sentence_transformers", {}).get("activation_fn") or found.get(
        "sbert_ce_default_activation_function"
    )
    if isinstance(named, str):
        return "sigmoid" if named.endswith("Sigmoid") else "none"
    return "sigmoid" if task == "rerank" else "softmax"


def _prompts(config: ModelConfig, folder: Path) -> dict[str, str]:
    """By name: those of `config_sentence_transformers.json`, then the parameters `prompt` and `prompt.NAME`."""
    found = _object(folder / "config_sentence_transformers.json")
    prompts = {name: text for name, text in (found.get("prompts") or {}).items() if isinstance(text, str)}
    if default := prompts.get(found.get("default_prompt_name") or ""):
        prompts[""] = default
    for key, value in config.parameters.items():
        if key == "prompt" or key.startswith("prompt."):
            prompts[key.removeprefix("prompt").removeprefix(".")] = value
    return prompts


def _object(file: Path) -> Mapping[str, Any]:
    """A JSON object beside the model, empty where there is none."""
    found = _decoded(file) if file.is_file() else {}
    return found if isinstance(found, dict) else {}


def _list(file: Path) -> Sequence[Mapping[str, Any]]:
    found = _decoded(file)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _decoded(file: Path) -> Any:
    try:
        return msgspec.json.decode(file.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidRequest(f"{file} cannot be read: {error}") from error
