"""A fake host: starts an instance on a model that a test wrote, and speaks frames with it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from backends.config import ModelConfig, read
from backends.tensors import Tensor
from backends.worker.frames import BlockingLink, heads, tensors
from backends.worker.messages import Execute, Executed, Infer, Load, Message, Metrics, Respond

TYPES = {"FP32": np.float32, "INT32": np.int32, "BYTES": np.object_}

PREAMBLE = """
import numpy as np
import triton_python_backend_utils as pb_utils
"""


def document(name: str = "m", **fields: Any) -> str:
    """Triton's JSON of a configuration with one INT32 input X and one INT32 output Y, changed by `fields`."""
    base: dict[str, Any] = {
        "name": name,
        "backend": "python",
        "max_batch_size": 8,
        "input": [{"name": "X", "data_type": "TYPE_INT32", "dims": [-1]}],
        "output": [{"name": "Y", "data_type": "TYPE_INT32", "dims": [-1]}],
    }
    return json.dumps(base | fields)


def configuration(folder: Path, source: str, **fields: Any) -> ModelConfig:
    """The configuration of a model whose `model.py` is `source`, written below the folder."""
    version = folder / "m" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(PREAMBLE + source)
    return read(document(**fields), version=1, path=str(version), arguments={})


def tensor(name: str, array: np.ndarray) -> Tensor:
    if array.dtype == np.object_:
        parts = [len(element).to_bytes(4, "little") + element for element in array.ravel()]
        return Tensor(name, "BYTES", array.shape, b"".join(parts))
    datatype = {"i": "INT", "f": "FP", "u": "UINT", "b": "BOOL"}[array.dtype.kind]
    size = "" if datatype == "BOOL" else str(8 * array.itemsize)
    return Tensor(name, datatype + size, array.shape, array.tobytes())


def array(tensor: Tensor) -> np.ndarray:
    if tensor.datatype == "BYTES":
        raw, found, offset = bytes(tensor.data), [], 0
        while offset < len(raw):
            end = offset + 4 + int.from_bytes(raw[offset : offset + 4], "little")
            found.append(raw[offset + 4 : end])
            offset = end
        return np.array(found, dtype=object).reshape(tensor.shape)
    kind = {"FP16": "f2", "FP32": "f4", "FP64": "f8", "BOOL": "?"}.get(tensor.datatype) or tensor.datatype.lower()
    return np.frombuffer(tensor.data, kind).reshape(tensor.shape)


class Host:
    """The host's end of the link. Requests get ids 1, 2, 3 …"""

    def __init__(self, link: BlockingLink, process: subprocess.Popen[str]) -> None:
        self.link = link
        self.process = process
        self.last_id = 0
        self.executed: Executed | None = None
        self.metrics: Metrics | None = None
        self.others: list[tuple[Message, memoryview]] = []

    def load(self, config: ModelConfig, *, completes: bool = False) -> Message:
        self.link.send(Load(msgspec.json.encode(config), "m_0_0", "KIND_CPU", -1, completes))
        return self.link.receive()[0]

    def start(self, *requests: Sequence[Tensor], **fields: Any) -> list[int]:
        """Send a batch. Returns its requests' ids."""
        batch = []
        for inputs in requests:
            self.last_id += 1
            batch.append(Infer(self.last_id, "m", 1, f"r{self.last_id}", heads(inputs), **{"outputs": [], **fields}))
        self.link.send(Execute(batch), [each for inputs in requests for each in inputs])
        return [request.id for request in batch]

    def next(self) -> tuple[Respond, list[Tensor]]:
        """The next answer; the end of a batch and metrics are kept, anything else goes to `others`."""
        while True:
            message, payload = self.link.receive()
            if isinstance(message, Respond):
                return message, tensors(message.outputs, payload)
            if isinstance(message, Executed):
                self.executed = message
            elif isinstance(message, Metrics):
                self.metrics = message
            else:
                self.others.append((message, payload))

    def ask(self, *inputs: Tensor, **fields: Any) -> tuple[Respond, dict[str, np.ndarray]]:
        """Execute one request that has one answer, and await the end of its batch."""
        self.start(inputs, **fields)
        respond, outputs = self.next()
        self.await_end()
        return respond, {output.name: array(output) for output in outputs}

    def await_end(self) -> Executed:
        while self.executed is None:
            message, _ = self.link.receive()
            if isinstance(message, Executed):
                self.executed = message
            elif isinstance(message, Metrics):
                self.metrics = message
        executed, self.executed = self.executed, None
        return executed


@contextlib.contextmanager
def instance(executable: str = sys.executable, **environment: str) -> Iterator[Host]:
    """An instance's process that waits for `Load`."""
    ours, theirs = socket.socketpair()
    ours.settimeout(30)
    argv = [executable, "-m", "backends.worker.instance", "--fd", str(theirs.fileno())]
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        argv,
        pass_fds=[theirs.fileno()],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
    )
    theirs.close()
    try:
        yield Host(BlockingLink(ours), process)
    finally:
        ours.close()
        try:
            process.communicate(timeout=10)
        finally:
            process.kill()
            process.wait()
