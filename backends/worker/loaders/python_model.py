"""A Triton `model.py` in an instance: loaded, completed, asked and ended as Triton's Python backend does it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import sys
import threading
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any

from backends.config import ModelConfig
from backends.errors import InferenceError
from backends.worker.exchange import Answer, Exchange, Request
from backends.worker.instance import Executable, LoadError
from backends.worker.loaders.completion import dynamic_batching, input_document, output_document
from backends.worker.loaders.python.configuration import ModelConfig as Completion
from backends.worker.loaders.python.logger import Logger
from backends.worker.loaders.python.metrics import Metrics
from backends.worker.loaders.python.request import InferenceRequest
from backends.worker.loaders.python.response import InferenceResponse
from backends.worker.loaders.python.session import Session, begin
from backends.worker.messages import Load

_FILE = "model.py"
_MODULES = Path(__file__).parent / "model_path"
_CLASS = "TritonPythonModel"
_OURS = str(Path(__file__).parents[1])


def complete(config: ModelConfig) -> str:
    """The configuration as `auto_complete_config` leaves it, where the model has one. Raises `LoadError`."""
    kind = _class_of(config)
    if not hasattr(kind, "auto_complete_config"):
        return config.document
    with _Failures():
        found = kind.auto_complete_config(Completion(config.document))
        if not isinstance(found, Completion):
            raise LoadError(
                f"auto_complete_config function in model '{config.name}' must return a valid pb.ModelConfig object."
            )
        return _completed(config, found.as_dict())


def load(config: ModelConfig, assignment: Load, exchange: Exchange) -> Executable:
    """Import the model and have it initialize itself. Raises `LoadError`."""
    session = Session(
        exchange,
        assignment.instance,
        config.path,
        Metrics(),
        frozenset(output.name for output in config.output),
        is_decoupled=config.model_transaction_policy.decoupled,
    )
    begin(session)
    kind = _class_of(config)
    with _Failures():
        model = kind()
        if hasattr(model, "initialize"):
            model.initialize(
                {
                    "model_config": config.document,
                    "model_instance_kind": assignment.kind.removeprefix("KIND_"),
                    "model_instance_name": assignment.instance,
                    "model_instance_device_id": str(max(assignment.device, 0)),
                    "model_repository": str(Path(config.path).parent),
                    "model_version": str(config.version),
                    "model_name": config.name,
                }
            )
    session.tell_metrics()
    return PythonModel(model, session, str(_file(config)))


class PythonModel:
    """A loaded `model.py`."""

    def __init__(self, model: Any, session: Session, file: str) -> None:
        self._model = model
        self._file = file
        self._execute = getattr(model, "execute", self._lack)
        self._session = session
        self._loop: asyncio.AbstractEventLoop | None = None

    def execute(self, requests: Sequence[Request]) -> Sequence[Answer]:
        """Run a batch. Raises `InferenceError`, worded as Triton words it, where the whole batch failed."""
        session = self._session
        session.parent = requests[0].head.id
        batch = [InferenceRequest.received(request, session) for request in requests]
        answers: list[Answer] = []
        try:
            returned = self._execute(batch)
            if type(returned) is not list and isinstance(returned, Coroutine):
                returned = self._run(returned, batch)
            self._take(batch, returned, answers)
        except BaseException as error:
            # `sys.exit` and its like end no instance: Triton's do not end by them either.
            raise InferenceError(self._fail(batch, error)) from error
        session.tell_metrics()
        return answers

    def finalize(self) -> None:
        """Let the model clean up."""
        if hasattr(self._model, "finalize"):
            self._model.finalize()

    def _lack(self, _batch: list[InferenceRequest]) -> Any:
        """Stands for a missing `execute`: such a model is loaded all the same, for what its `initialize` does."""
        raise _Unusable(f"Python model {self._file} does not implement `execute` method.")

    def _run(self, coroutine: Coroutine[Any, Any, Any], batch: list[InferenceRequest]) -> Any:
        """Run what an `async def execute` returned: to its end, or in the background where responses are decoupled."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=_run_for_ever, args=(self._loop,), name="execute", daemon=True).start()
        future = asyncio.run_coroutine_threadsafe(_outcome(coroutine), self._loop)
        if not self._session.is_decoupled:
            returned, error = future.result()
            if error is not None:
                raise error
            return returned
        future.add_done_callback(functools.partial(self._ended, batch))
        return None

    def _ended(self, batch: list[InferenceRequest], future: Future[_Outcome]) -> None:
        """An `async def execute` came to its end in the background: what it left unanswered failed if it did."""
        _, error = future.result()
        if error is not None:
            message = self._fail((), error)
            for request in batch:
                request.get_response_sender().fail(message)

    def _fail(self, batch: Iterable[InferenceRequest], error: BaseException) -> str:
        """Let nothing more be sent for a batch. Returns the text of the error, which is logged too."""
        for request in batch:
            if request.has_sender:
                request.get_response_sender().close()
        message = f"Failed to process the request(s) for model '{self._session.model}', message: {describe(error)}"
        Logger.log_error(message)
        return message

    def _take(self, batch: list[InferenceRequest], returned: Any, answers: list[Answer]) -> None:
        """Check what a model returned and make answers of it."""
        session = self._session
        if session.is_decoupled:
            self._take_nothing(batch, returned)
            return
        if returned is None:
            returned = [None] * len(batch)
        if not isinstance(returned, list):
            raise _Unusable(f"Expected a list in the execute return, found type '{type(returned)}'.")
        if len(returned) != len(batch):
            raise _Unusable(
                "Number of InferenceResponse objects do not match the number of InferenceRequest objects."
                f" InferenceRequest(s) size is:{len(batch)}, and InferenceResponse(s) size is:{len(returned)}\n"
            )
        for request, response in zip(batch, returned, strict=True):
            if request.is_rescheduled:
                if response is not None:
                    raise _Unusable(
                        "Expected a None object in the execute function return list for reschduled request, found type"
                        f" '{type(response)}'."
                    )
                request.reschedule()
            elif response is not None:
                if not isinstance(response, InferenceResponse):
                    raise _Unusable(
                        "Expected an 'InferenceResponse' object in the execute function return list, found type"
                        f" '{type(response)}'."
                    )
                answers.append(request.answer(response))
            elif not request.has_sender:
                raise _Unusable(f"no response was given or sent for request '{request.request_id()}'")

    def _take_nothing(self, batch: list[InferenceRequest], returned: Any) -> None:
        """The same where responses are decoupled: they are sent."""
        if returned is not None:
            name = self._session.model
            raise _Unusable(
                f"Python model '{name}' is using the decoupled mode and the execute function must return None."
            )
        for request in batch:
            if request.is_rescheduled:
                request.reschedule()


def describe(error: BaseException) -> str:
    """An exception in the words of Triton's Python backend: its type, its text, and the frames, innermost first.

    Frames of this package are left out: they stand where Triton's have no Python.
    """
    if isinstance(error, _Unusable):
        return str(error)
    text = f"{type(error).__name__}: {_said(error)}"
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    frame = trace.tb_frame if trace is not None else None
    lines = []
    while frame is not None and frame.f_code.co_filename != __file__:
        if not frame.f_code.co_filename.startswith(_OURS):
            lines.append(f"  {frame.f_code.co_filename}({frame.f_lineno}): {frame.f_code.co_name}\n")
        frame = frame.f_back
    return f"{text}\n\nAt:\n{''.join(lines)}" if lines else text


def _said(error: BaseException) -> str:
    """The text of an exception, which may fail to say it, or say what is no Unicode."""
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 - the model's own code
        return "<MESSAGE UNAVAILABLE DUE TO ANOTHER EXCEPTION>"
    return said.encode(errors="backslashreplace").decode() or "<EMPTY MESSAGE>"


_Outcome = tuple[Any, BaseException | None]


async def _outcome(coroutine: Coroutine[Any, Any, Any]) -> _Outcome:
    """What a coroutine returns or raises: a loop would end by `SystemExit`, and with it all that is asked later."""
    try:
        return await coroutine, None
    except BaseException as error:  # noqa: BLE001 - raised again where the batch ends
        return None, error


def _run_for_ever(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop on, whatever a task of the model's own ends it by."""
    while True:
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            loop.run_forever()


class _Unusable(Exception):
    """What a model returned cannot be sent."""


class _Failures:
    """Within it, what a model raises becomes a `LoadError` with its words."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and not isinstance(error, LoadError):
            raise LoadError(describe(error)) from error


def _class_of(config: ModelConfig) -> Any:
    """The class of a model file, which is imported as the module `model` of its version, as Triton imports it."""
    file = _file(config)
    if not file.is_file():
        raise LoadError(f"Python model file not found in '{file}'")
    if file.suffix != ".py":
        raise LoadError(f"Model name must end with '.py'. Model name is \"{file.name}\".")
    for place in (file.parent, file.parent.parent, _MODULES):
        if str(place) not in sys.path:
            sys.path.append(str(place))
    name = f"{file.parent.name}.{file.stem}"
    # Python takes bytecode for current by whole seconds and size: a model changed at once would be the old one again.
    sys.dont_write_bytecode = True
    with _Failures():
        __import__(name)
    module: ModuleType = sys.modules[name]
    if not hasattr(module, _CLASS):
        raise LoadError(f"AttributeError: module '{name}' has no attribute '{_CLASS}'")
    return getattr(module, _CLASS)


def _file(config: ModelConfig) -> Path:
    return Path(config.path) / (config.default_model_filename or _FILE)


def _completed(config: ModelConfig, found: dict[str, Any]) -> str:
    """Triton's JSON with what a model may complete: inputs, outputs, batch size, dynamic batching, decoupled."""
    document: dict[str, Any] = json.loads(config.document)
    document["max_batch_size"] = found["max_batch_size"]
    for side, complete_tensor in (("input", input_document), ("output", output_document)):
        document[side] = [
            complete_tensor(tensor["name"], tensor["data_type"], tensor["dims"], None) | tensor
            for tensor in found[side]
        ]
    if "dynamic_batching" in found:
        document["dynamic_batching"] = dynamic_batching() | found["dynamic_batching"]
    if "model_transaction_policy" in found:
        document["model_transaction_policy"] = found["model_transaction_policy"]
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))
