"""Batches for models of libraries, executed without a process: requests as an instance receives them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backends.tensors import Tensor
from backends.worker.exchange import Answer, Request
from backends.worker.frames import heads
from backends.worker.instance import Executable
from backends.worker.messages import Infer, Load
from tests.backends.worker.instances import array

CPU = Load(b"", "m_0_0", "CPU", -1, completes=False)


def request(*inputs: Tensor, id: int = 1, outputs: Sequence[str] = (), **parameters: object) -> Request:
    infer = Infer(id, "m", 1, "", heads(inputs), list(outputs), parameters)
    return Request(None, infer, list(inputs))


def executed(model: Executable, *requests: Request) -> list[Answer]:
    """The answers in the order of the requests, which they belong to."""
    for number, each in enumerate(requests, 1):
        each.head.id = number
    answers = list(model.execute(requests))
    assert [respond.id for respond, _ in answers] == list(range(1, len(requests) + 1))
    return answers


def arrays(answer: Answer) -> dict[str, np.ndarray]:
    respond, outputs = answer
    assert not respond.error, respond.message
    assert respond.outputs == heads(outputs)
    return {output.name: array(output) for output in outputs}
