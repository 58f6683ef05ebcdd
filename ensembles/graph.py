"""The `ensemble` kind: Triton's `ensemble_scheduling`, tensors through models that are loaded beside it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from backends.config import ModelConfig
from backends.engine.command import Command
from backends.errors import Code, InferenceError, ServingError
from backends.model import Capability, Endpoints, Holdable, InferRequest, Models, TensorModel
from backends.signature import Signature
from backends.statistics import ModelStatistics
from ensembles.endpointless import Endpointless
from ensembles.execution import Bound, in_ensemble
from ensembles.plan import Plan, plan
from ensembles.run import Run
from ensembles.slots import Slots

# Of one ensemble: clients that name outputs in ever new orders must not pile up plans.
_MOST_PLANS = 64


def launch(config: ModelConfig, *, runtime_dir: str) -> Sequence[Command]:  # noqa: ARG001  # every kind's
    """Nothing: it runs in the server process."""
    return []


def connect(config: ModelConfig, endpoints: Endpoints, models: Models) -> Ensemble:  # noqa: ARG001  # every kind's
    """An ensemble of `models`. Raises nothing: what the supervisor hands on has been checked."""
    return Ensemble(config, models)


class Ensemble(Endpointless):
    """A `TensorModel` made of others, which are looked up when a request begins and kept for its life."""

    capabilities: frozenset[Capability] = frozenset()

    def __init__(self, config: ModelConfig, models: Models) -> None:
        assert config.ensemble_scheduling is not None
        self.config = config
        self._models = models
        self._plans: dict[tuple[str, ...], Plan] = {(): plan(config)}
        self._bound: dict[tuple[str, int], Bound] = {}
        self._optional = tuple(tensor.name for tensor in config.input if tensor.optional)
        limit = config.ensemble_scheduling.max_inflight_requests
        steps = range(len(config.ensemble_scheduling.step)) if limit else ()
        self._slots = {index: Slots(limit) for index in steps}
        self.counted = ModelStatistics()
        self.held = 0

    def ready(self) -> bool:
        """Whether every step's model can take a request."""
        try:
            return all(self._bind(name, version).model.ready() for name, version in self._composing())
        except ServingError:
            return False

    def infer(self, request: InferRequest) -> Run:
        """Begin the first steps. Raises `ServingError` that names the ensemble and what its step said."""
        began_ns = time.monotonic_ns()
        batch = request.inputs[0].shape[0] if self.config.max_batch_size > 0 and request.inputs else 0
        chosen = self._plan(tuple(request.outputs))
        try:
            bound = {step.index: self._bind(step.model, step.version) for step in chosen.steps}
        except ServingError as error:
            named = in_ensemble(error, self.config.name)
            self._settled(batch, began_ns, named)
            raise named from error
        run = Run(
            self.config.name,
            chosen,
            bound,
            self._slots,
            request,
            batch=batch,
            is_decoupled=self.config.model_transaction_policy.decoupled,
            settle=lambda error: self._settled(batch, began_ns, error),
        )
        if request.trace is not None:
            request.trace.mark("QUEUE_START")
        run.begin(self._optional)
        return run

    async def statistics(self) -> ModelStatistics:
        """What this server process has run of it; the supervisor adds up what all of them have."""
        return self.counted

    def _plan(self, outputs: tuple[str, ...]) -> Plan:
        found = self._plans.get(outputs)
        if found is None:
            found = plan(self.config, outputs)
            if len(self._plans) < _MOST_PLANS:
                self._plans[outputs] = found
        return found

    def _bind(self, name: str, version: int) -> Bound:
        """The model as it is now. Raises `ServingError` where there is none."""
        model = self._models.tensor(name, version)
        bound = self._bound.get((name, version))
        if bound is None or bound.model is not model:
            bound = self._bound[name, version] = _bound(model)
        return bound

    def _composing(self) -> set[tuple[str, int]]:
        return {(step.model, step.version) for step in self._plans[()].steps}

    def _settled(self, batch: int, began_ns: int, error: ServingError | None) -> None:
        failure = ""
        if error is not None:
            is_cancelled = isinstance(error, InferenceError) and error.status is Code.CANCELLED
            failure = "CANCELED" if is_cancelled else "OTHER"
        self.counted.settle(max(batch, 1), time.monotonic_ns() - began_ns, failure)


def _bound(model: TensorModel) -> Bound:
    config = model.config
    return Bound(
        model,
        Signature(config),
        {tensor.name: tensor.dims for tensor in config.input},
        config.model_transaction_policy.decoupled,
        model if isinstance(model, Holdable) else None,
    )
