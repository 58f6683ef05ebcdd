"""The model that this process runs, for those functions of its interface that are told of no request.

The interface has functions and constructors of a module (`load_model`, `MetricFamily(…)`, `InferenceRequest(…).exec`):
what they speak to has to be found, and a process has one model. Nothing else keeps state in a module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.worker.exchange import Exchange
from backends.worker.loaders.python.errors import TritonModelException

if TYPE_CHECKING:
    from backends.worker.loaders.python.metrics import Metrics


class Session:
    """`model` is the instance's name as errors have it, `directory` that of its version."""

    __slots__ = ("directory", "exchange", "is_decoupled", "metrics", "model", "outputs", "parent")

    def __init__(
        self,
        exchange: Exchange,
        model: str,
        directory: str,
        metrics: Metrics,
        outputs: frozenset[str],
        *,
        is_decoupled: bool,
    ) -> None:
        self.exchange = exchange
        self.model = model
        self.directory = directory
        self.metrics = metrics
        self.outputs = outputs
        self.is_decoupled = is_decoupled
        self.parent = 0
        """Id of a request that is, or was last, worked on: in its course other models are asked."""

    def tell_metrics(self) -> None:
        """Tell the host the model's own metrics, where they have changed."""
        if self.metrics.changed:
            self.exchange.send(self.metrics.told())


_sessions: list[Session] = []


def begin(session: Session) -> None:
    """From now on this is what the process runs."""
    _sessions[:] = [session]


def current() -> Session:
    """Raises `TritonModelException` outside of an instance."""
    if not _sessions:
        raise TritonModelException("this works only within a model that is being served")
    return _sessions[0]
