"""One instance of a tensor model: a process of its own that loads it and executes batches, one after another.

`python -m backends.worker.instance --fd N`, N being its end of the link to its host. User code and heavy libraries
live here and nowhere else. Each kind of model has a loader: a module with the two functions of `Loader`.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Protocol, cast

import msgspec

from backends.config import ModelConfig, read
from backends.errors import InferenceError
from backends.worker.exchange import Answer, Exchange, Request
from backends.worker.frames import BlockingLink
from backends.worker.loaders import environments
from backends.worker.messages import Completed, Executed, Failed, Load, Loaded, Respond

LOADERS = {
    "python": "backends.worker.loaders.python_model",
    "onnxruntime": "backends.worker.loaders.onnx_model",
    "pytorch": "backends.worker.loaders.torch_model",
    "tensorflow": "backends.worker.loaders.tensorflow_model",
    "tensorrt": "backends.worker.loaders.tensorrt_model",
}
"""The loader's module by the `backend` of a configuration, imported when it is chosen."""


class LoadError(Exception):
    """The model cannot be loaded; the message is worded for whoever wrote it, as Triton words it."""


class Executable(Protocol):
    """A loaded model."""

    def execute(self, requests: Sequence[Request]) -> Sequence[Answer]:
        """Run one batch. What is returned is sent together with the end of the batch, in one system call.

        Each request is answered by at least one `Respond` with its `head.id`, up to a final one: returned, or sent
        (`Exchange.send`) by any thread at any time, also after this has returned; one with `again` set needs none yet.
        What it writes into its inputs nobody else sees. Raises `InferenceError` where the batch failed as a whole:
        what has no final answer gets it.
        """
        ...

    def finalize(self) -> None:
        """The end of the process is near; nothing is executed after this."""
        ...


class Loader(Protocol):
    """A module that loads one kind of models. Both raise `LoadError`; what else they raise counts as that too."""

    def complete(self, config: ModelConfig) -> str:
        """Triton's JSON of the configuration (`config.document`), completed from the model itself."""
        ...

    def load(self, config: ModelConfig, assignment: Load, exchange: Exchange) -> Executable:
        """Load the model onto the device of its assignment (`instance`, `kind`, `device`)."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run until the host closes the link. The exit status is 1 where the model could not be loaded."""
    parser = argparse.ArgumentParser(prog="python -m backends.worker.instance")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--load-fd", type=int, help="a file with `Load`, for who took this process over from another")
    options = parser.parse_args(argv)
    # A model's own code shall see neither our options nor what lies in the folder that the server was started in.
    del sys.argv[1:]
    if not sys.flags.safe_path:
        del sys.path[0]
    # The terminal's Ctrl-C is for the supervisor, which ends everybody in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What a model prints belongs into the log when it is printed.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    load = None
    if options.load_fd is not None:
        with os.fdopen(options.load_fd, "rb") as file:
            load = msgspec.msgpack.decode(file.read(), type=Load)
    with socket.socket(fileno=options.fd) as sock:
        return run(Exchange(BlockingLink(sock)), options.fd, load)


def run(exchange: Exchange, fd: int, load: Load | None = None) -> int:
    """Load what the host says, execute what it sends, until it closes the link. Returns the exit status."""
    try:
        assignment = load or exchange.work()
        assert isinstance(assignment, Load)
        try:
            executable = _load(assignment, exchange, fd)
        except Exception as error:  # noqa: BLE001 - a model's own code may raise anything
            exchange.send(Failed(str(error) or type(error).__name__))
            return 1
        exchange.send(Loaded())
    except (EOFError, OSError):
        return 0
    try:
        _execute(executable, exchange)
    except (EOFError, OSError):
        pass
    finally:
        executable.finalize()
    return 0


def _load(assignment: Load, exchange: Exchange, fd: int) -> Executable:
    config = msgspec.json.decode(assignment.config, type=ModelConfig)
    module = LOADERS.get(config.backend)
    if module is None:
        raise LoadError(
            f"unable to find backend library for backend '{config.backend}',"
            " try specifying runtime on the model configuration."
        )
    environments.enter(config, msgspec.msgpack.encode(assignment), fd)
    loader = cast("Loader", importlib.import_module(module))
    if assignment.completes:
        document = loader.complete(config)
        config = read(document, version=config.version, path=config.path, arguments=config.arguments)
        exchange.send(Completed(document))
    return loader.load(config, assignment, exchange)


def _execute(executable: Executable, exchange: Exchange) -> None:
    clock = time.perf_counter_ns
    while True:
        batch = exchange.work()
        assert isinstance(batch, list)
        began = clock()
        try:
            answers = executable.execute(batch)
            failed = False
        except InferenceError as error:
            answers = [
                (Respond(request.head.id, error=error.status, message=error.message), ())
                for request in batch
                if exchange.is_running(request)
            ]
            failed = True
        again = [request.head.id for request in batch if request.again and not failed]
        exchange.finish(answers, Executed(0, clock() - began, 0, failed, again))
        # Whatever the batch held is given back before the next one is waited for.
        del batch, answers


if __name__ == "__main__":
    raise SystemExit(main())
