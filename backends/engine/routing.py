"""How a model's requests are routed and saved, as `parameters` of its `config.pbtxt` say: one frozen object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf
from typing import Any

from backends.config import ModelConfig
from backends.errors import InvalidRequest

POLICIES = ("prefix", "round_robin", "least_load", "power_of_two", "session", "weighted")


@dataclass(frozen=True, slots=True)
class Routing:
    """Every field is a parameter of the same name, any kind of engine has them all.

    `session_header` is in lower case, as headers arrive.
    `retry_budget` is the share of a model's requests that may be sent once more. `hedge` starts a second attempt
    when the first token is later than the 95th percentile of this model's.
    """

    routing_policy: str = "prefix"
    session_header: str = "x-session-id"
    load_factor: float = 1.25
    """How far above the mean load a replica may be before `prefix` and `session` go to the next one."""
    retries: int = 2
    retry_budget: float = 0.2
    lost_engines: int = 30
    """How many engines may die on a request in a row that gets nothing from any: it may be what they die of."""
    resume: bool = True
    hedge: bool = False


PARAMETERS = frozenset(field.name for field in fields(Routing))
"""The names that are read here: no kind may take them for something else."""


def read(config: ModelConfig) -> Routing:
    """The routing of a model. Raises `InvalidRequest` that names the parameter at fault."""
    values: dict[str, Any] = {
        name: _value(config, name, getattr(Routing(), name)) for name in PARAMETERS & config.parameters.keys()
    }
    routing = Routing(**values)
    if routing.routing_policy not in POLICIES:
        raise _wrong(config.name, "routing_policy", config.parameters, f"one of {', '.join(POLICIES)}")
    if not 1 <= routing.load_factor < inf:
        raise _wrong(config.name, "load_factor", config.parameters, "a number of at least 1")
    for name, least in (("retries", 0), ("lost_engines", 1)):
        if getattr(routing, name) < least:
            raise _wrong(config.name, name, config.parameters, f"a whole number of at least {least}")
    if not 0 <= routing.retry_budget <= 1:
        raise _wrong(config.name, "retry_budget", config.parameters, "a share between 0 and 1")
    return routing


def _value(config: ModelConfig, name: str, default: object) -> object:
    """Cases: true or false, a whole number, a number, a word."""
    text = config.parameters[name].strip()
    if isinstance(default, bool):
        if text.lower() not in {"true", "false"}:
            raise _wrong(config.name, name, config.parameters, "true or false")
        return text.lower() == "true"
    if isinstance(default, int | float):
        try:
            return type(default)(text)
        except ValueError as error:
            raise _wrong(config.name, name, config.parameters, f"a number like {default}") from error
    return text.lower() if name == "session_header" else text


def _wrong(model: str, name: str, parameters: Mapping[str, str], wanted: str) -> InvalidRequest:
    return InvalidRequest(
        f"Model {model!r}: the parameter {name!r} must be {wanted}, not {parameters[name]!r}.", param=name
    )
