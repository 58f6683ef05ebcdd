"""Composed models among those that run: an ensemble is what its parts are, a pipeline what its generator is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from backends.config import ModelConfig, TransactionPolicy
from backends.model import State
from ensembles.validation import check, circle, is_decoupled
from gateway.choice import is_composed, needs, parts
from gateway.loading import LoadedModel
from gateway.snapshot import ModelStatus

_CODES = ("Internal", "Invalid argument", "Unavailable", "Not found", "Unsupported", "Already exists", "Unknown")

Models = Mapping[str, Sequence[LoadedModel]]
"""The versions of each model, by name."""


def status(model: LoadedModel, models: Models) -> ModelStatus:
    """What a version of a model is now; that of a composed one follows from its parts', whatever became of them."""
    if model.reason or not is_composed(model.config):
        return model.status()
    config = model.completed or model.config
    missing = next((part for part in needs(config) if part not in models), None)
    if missing is not None and model.completed is not None:
        reason = f"'{config.name}' is composed of '{missing}', which was unloaded"
        return ModelStatus(config, State.STOPPED, reason, created=model.created)
    if model.config.ensemble_scheduling is None:
        return _pipeline(model, models)
    state, reason = _state(model, models)
    return ModelStatus(
        model.completed or model.config,
        state,
        reason,
        created=model.created,
        is_known=model.completed is not None,
    )


def settled(model: LoadedModel, models: Models) -> bool:
    """Whether it was ready or failed once."""
    return _is_settled(model, status(model, models))


def cause(model: LoadedModel, status: ModelStatus) -> str:
    """Why a version is not ready, as Triton's index says it."""
    if model.cause:
        return model.cause
    if status.state is State.STOPPED:
        return "unloaded"
    return status.reason if status.reason.split(":")[0] in _CODES else f"Internal: {status.reason}"


def described(model: LoadedModel, status: ModelStatus) -> dict[str, Any]:
    """A version for people: its state, and why it or an endpoint of it is not ready."""
    return {
        "name": model.config.name,
        "version": model.config.version,
        "backend": model.config.backend,
        "state": status.state,
        "reason": status.reason,
        "aliases": model.naming.aliases,
        "fallbacks": model.naming.fallbacks,
        "endpoints": [
            {
                "id": endpoint.id,
                "address": endpoint.address,
                "state": endpoint.status.state,
                "reason": endpoint.status.reason,
                "restarts": endpoint.status.restarts,
                "weight": model.weights.get(endpoint.id, 1.0),
            }
            for endpoint in (*model.endpoints, *model.departing)
        ],
    }


def _state(model: LoadedModel, models: Models) -> tuple[State, str]:
    config = model.config
    ensembles = {name: versions[-1].config for name, versions in models.items()}
    loop = circle(config.name, ensembles)
    if loop:
        return State.FAILED, loop
    ready: dict[str, dict[int, ModelConfig]] = {}
    for part in parts(config):
        versions = models.get(part)
        if versions is None:
            continue
        statuses = [status(version, models) for version in versions]
        if not all(map(_is_settled, versions, statuses)):
            return State.STARTING, ""
        ready[part] = {one.config.version: one.config for one in statuses if one.state is State.READY}
        if not ready[part]:
            causes = [_failure(version, one) for version, one in zip(versions, statuses, strict=True)]
            what = (
                f"is not valid. Model '{part}' failed with error: {statuses[-1].reason}"
                if versions[-1].config.ensemble_scheduling is not None
                else f"has no loaded version. Model '{part}' loading failed with error: {''.join(causes)}"
            )
            return _worst(statuses), f"ensemble '{config.name}' depends on '{part}' which {what}"
    fault = check(config, ready)
    if fault:
        return State.FAILED, fault
    decoupled = is_decoupled(config, ready)
    if model.completed is None or model.completed.model_transaction_policy.decoupled != decoupled:
        model.completed = _completed(config, is_decoupled=decoupled)
    return State.READY, ""


def _pipeline(model: LoadedModel, models: Models) -> ModelStatus:
    """As ready as its generator: what else it asks it can do without for a while."""
    config = model.config
    (generator,) = needs(config)
    versions = models.get(generator, ())
    if not versions or any(one.config.backend == config.backend for one in versions):
        fault = "is not loaded" if not versions else "is a pipeline itself"
        reason = f"pipeline '{config.name}' answers by '{generator}', which {fault}"
        return ModelStatus(config, State.FAILED, reason, created=model.created)
    statuses = [status(version, models) for version in versions]
    ready = [one for one in statuses if one.state is State.READY]
    if ready:
        model.completed = config
        return ModelStatus(config, State.READY, context_length=ready[-1].context_length, created=model.created)
    if not all(map(_is_settled, versions, statuses)):
        return ModelStatus(config, State.STARTING, created=model.created)
    reason = f"pipeline '{config.name}' answers by '{generator}', which is not ready: {statuses[-1].reason}"
    return ModelStatus(config, _worst(statuses), reason, created=model.created)


def _is_settled(model: LoadedModel, found: ModelStatus) -> bool:
    return found.state is not State.STARTING if is_composed(model.config) else model.settled


def _completed(config: ModelConfig, *, is_decoupled: bool) -> ModelConfig:
    """An ensemble answers as often as its parts do, whatever it says itself."""
    fields = msgspec.json.decode(config.document)
    fields["model_transaction_policy"] = {"decoupled": is_decoupled}
    return msgspec.structs.replace(
        config,
        model_transaction_policy=TransactionPolicy(decoupled=is_decoupled),
        document=msgspec.json.encode(fields).decode(),
    )


def _failure(model: LoadedModel, found: ModelStatus) -> str:
    return f"version {found.config.version} is at UNAVAILABLE state: {cause(model, found)};"


def _worst(statuses: Sequence[ModelStatus]) -> State:
    """Of a model of which a part has no version that is ready: failed or stopped as that is, or to be ready again."""
    states = {one.state for one in statuses}
    return states.pop() if states in ({State.FAILED}, {State.STOPPED}) else State.UNHEALTHY
