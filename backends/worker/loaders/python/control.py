"""Model control from within a model: load, unload, and ask whether another model is ready."""

from __future__ import annotations

from collections.abc import Mapping
from queue import SimpleQueue

from backends.tensors import Tensor
from backends.worker.exchange import Answer
from backends.worker.frames import heads
from backends.worker.loaders.python.arguments import text
from backends.worker.loaders.python.errors import TritonModelException
from backends.worker.loaders.python.session import current
from backends.worker.messages import Control, Respond


def load_model(model_name: str, config: str = "", files: Mapping[str, bytes] | None = None) -> None:
    """Load a model, or load it anew. Raises `TritonModelException`, also where model control is not explicit."""
    name, config = text(model_name, "load_model: model_name"), text(config, "load_model: config")
    files = {} if files is None else files
    if not isinstance(files, dict):
        raise TritonModelException(
            f"failed to load model '{name}', files should be a dictionary of file paths and file contents"
        )
    if not all(isinstance(content, bytes) for content in files.values()):
        raise TypeError("load_model: the contents of files must be bytes")
    tensors = [Tensor(text(path, "load_model: path"), "BYTES", (1,), content) for path, content in files.items()]
    _ask("Failed to load model", Control(0, "load", name, config=config, files=heads(tensors)), tensors)


def unload_model(model_name: str, unload_dependents: bool = False) -> None:
    """Unload a model. Raises `TritonModelException`, also where model control is not explicit."""
    name = text(model_name, "unload_model: model_name")
    _ask("Failed to unload model", Control(0, "unload", name, unload_dependents=bool(unload_dependents)))


def is_model_ready(model_name: str, model_version: str = "") -> bool:
    """Whether a model (its latest version, where none is named) can be asked. Raises `TritonModelException`."""
    name = text(model_name, "is_model_ready: model_name")
    failure = "Failed to check model readiness"
    try:
        version = int(model_version or 0)
    except ValueError:
        raise _failed(
            failure,
            f"failed to get model version from specified version string '{model_version}' (details: stol), version"
            " should be an integral value > 0",
        ) from None
    return bool(_ask(failure, Control(0, "is_ready", name, version)).parameters.get("ready", False))


def _ask(failure: str, question: Control, tensors: list[Tensor] | None = None) -> Respond:
    exchange = current().exchange
    box: SimpleQueue[Answer | None] = SimpleQueue()
    exchange.ask(question, tensors or [], box)
    respond, _ = exchange.wait(box)
    if respond.error:
        raise _failed(failure, respond.message)
    return respond


def _failed(failure: str, why: str) -> TritonModelException:
    model = current().model
    return TritonModelException(f"{failure}: Failed to process the request for model '{model}', message: {why}")
