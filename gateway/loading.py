"""What the supervisor runs for the models of the repository: configurations in, endpoints and their states out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from backends.config import ModelConfig
from backends.engine import naming, routing
from backends.engine.addresses import addresses
from backends.engine.process import EngineProcess
from backends.engine.watch import Patience, RemoteEndpoint
from backends.errors import InvalidRequest, ServingError
from backends.kinds import find_kind
from backends.model import Endpoint, State
from backends.repository import BrokenModel, load
from gateway.settings import Settings
from gateway.snapshot import ModelStatus

_logger = logging.getLogger(__name__)

# A model is as well as its best endpoint.
_BEST_FIRST = (
    State.READY,
    State.STARTING,
    State.RESTARTING,
    State.UNHEALTHY,
    State.DRAINING,
    State.STOPPED,
    State.FAILED,
)


@dataclass(slots=True)
class LoadedModel:
    """One version of one model with its endpoints; none, and a reason, if it cannot be served."""

    config: ModelConfig
    endpoints: Sequence[EngineProcess | RemoteEndpoint] = ()
    reason: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def settled(self) -> bool:
        """Whether it was ready or failed once."""
        return all(endpoint.status.settled for endpoint in self.endpoints)

    def status(self) -> ModelStatus:
        if not self.endpoints:
            return ModelStatus(self.config, State.FAILED, self.reason, created=self.created)
        statuses = [endpoint.status for endpoint in self.endpoints]
        best = min(statuses, key=lambda status: _BEST_FIRST.index(status.state))
        return ModelStatus(
            config=self.config,
            state=best.state,
            reason=best.reason,
            endpoints=tuple(
                Endpoint(
                    endpoint.id, endpoint.address, endpoint.status.state, endpoint.status.restarts, endpoint.weight
                )
                for endpoint in self.endpoints
            ),
            # A request may go to any of them.
            context_length=min((n for s in statuses if (n := s.context_length) is not None), default=None),
            created=self.created,
        )


def choose(settings: Settings) -> list[ModelConfig | BrokenModel]:
    """The models to load at the start, by `--model-control-mode`: none (all), explicit (those named).

    One that is named but not there is a broken one. Raises `InvalidRequest` where the settings make no sense.
    """
    mode, names = settings.model_control_mode, settings.load_model
    if mode == "none" and names:
        raise InvalidRequest("--load-model needs --model-control-mode explicit.", param="load_model")
    found = load(settings.model_repository, settings.model_config_name or None)
    if mode == "none" or "*" in names:
        return found
    places = ", ".join(str(path) for path in settings.model_repository)
    missing = sorted(set(names) - {model.name for model in found})
    return [
        *(model for model in found if model.name in names),
        *(BrokenModel(name, f"there is no such model in {places}") for name in missing),
    ]


async def prepare(
    models: Iterable[ModelConfig | BrokenModel], settings: Settings, runtime_dir: str, changed: asyncio.Event
) -> list[LoadedModel]:
    """Ask each model's kind what to run. Nothing is started yet, and one that fails spoils no other."""
    patience = Patience(interval_seconds=settings.health_interval, max_restarts=settings.max_restarts)
    return list(await asyncio.gather(*(_prepare(model, runtime_dir, changed, patience) for model in models)))


async def _prepare(
    model: ModelConfig | BrokenModel, runtime_dir: str, changed: asyncio.Event, patience: Patience
) -> LoadedModel:
    if isinstance(model, BrokenModel):
        return _failed(ModelConfig(model.name, backend=""), model.reason)
    try:
        # Kinds look at files, and importing one takes its time.
        endpoints = await asyncio.to_thread(_endpoints, model, runtime_dir, changed, patience)
    except ServingError as error:
        return _failed(model, error.message)
    except Exception as error:
        _logger.exception("%s: loading failed", model.name)
        return _failed(model, f"loading failed: {error!r}")
    return LoadedModel(model, endpoints)


def _failed(config: ModelConfig, reason: str) -> LoadedModel:
    _logger.warning("%s: FAILED (%s)", config.name, reason)
    return LoadedModel(config, reason=reason)


def _endpoints(
    config: ModelConfig, runtime_dir: str, changed: asyncio.Event, patience: Patience
) -> Sequence[EngineProcess | RemoteEndpoint]:
    routing.read(config)
    naming.read(config)
    prefix = f"{config.name}-{config.version}"
    return [
        *(
            EngineProcess(f"{prefix}-{number}", command, config.name, changed, patience)
            for number, command in enumerate(find_kind(config.backend).launch(config, runtime_dir=runtime_dir))
        ),
        *(
            # By its address: several gateways, and this one after a reload, call it the same.
            RemoteEndpoint(
                f"{prefix}-{address.url.partition('://')[2]}",
                address.url,
                config.name,
                changed,
                patience,
                address.weight,
            )
            for address in addresses(config)
        ),
    ]
