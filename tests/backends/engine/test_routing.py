"""How a model is routed, as its configuration says: every parameter read, and every wrong one named."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.config import ModelConfig
from backends.engine.policies import policy
from backends.engine.replicas import EngineModel
from backends.engine.routing import PARAMETERS, POLICIES, Routing, read
from backends.errors import InvalidRequest
from backends.model import Endpoints


def config(**parameters: str) -> ModelConfig:
    return ModelConfig("m", "toy", parameters=parameters)


def test_without_parameters_the_defaults_hold() -> None:
    assert read(config(other="7")) == Routing()
    assert Routing().routing_policy == "prefix"
    assert not Routing().hedge
    assert Routing().resume


GIVEN = {
    "routing_policy": "session",
    "session_header": "X-Chat",
    "load_factor": "1.5",
    "retries": "0",
    "retry_budget": "1",
    "lost_engines": "1",
    "resume": "false",
    "hedge": "True",
}


def test_every_parameter_is_read() -> None:
    assert read(config(**GIVEN)) == Routing("session", "x-chat", 1.5, 0, 1.0, 1, resume=False, hedge=True)
    assert GIVEN.keys() == PARAMETERS
    for field in fields(Routing):  # each shows, whatever the others are
        assert getattr(read(config(**{field.name: GIVEN[field.name]})), field.name) != field.default


@given(factor=st.floats(1, 1e6), budget=st.floats(0, 1), retries=st.integers(0, 10**6), is_resumed=st.booleans())
def test_what_is_written_is_what_is_read(factor: float, budget: float, retries: int, is_resumed: bool) -> None:
    parameters = {
        "load_factor": f" {factor!r} ",
        "retry_budget": f"{budget!r}",
        "retries": f"{retries}\n",
        "resume": str(is_resumed).upper(),
    }
    routing = read(config(**parameters))
    assert (routing.load_factor, routing.retry_budget, routing.retries) == (factor, budget, retries)
    assert routing.resume == is_resumed


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_can_be_chosen(name: str) -> None:
    routing = read(config(routing_policy=name))
    assert policy(routing).name == name


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("routing_policy", "fastest", "one of prefix, round_robin, least_load, power_of_two, session, weighted"),
        ("routing_policy", "", "one of prefix"),
        ("load_factor", "0.99", "a number of at least 1"),
        ("load_factor", "much", "a number like 1.25"),
        ("load_factor", "nan", "a number of at least 1"),
        ("load_factor", "inf", "a number of at least 1"),
        ("retries", "-1", "a whole number of at least 0"),
        ("retries", "1.5", "a number like 2"),
        ("lost_engines", "0", "a whole number of at least 1"),
        ("retry_budget", "1.01", "a share between 0 and 1"),
        ("retry_budget", "-0.1", "a share between 0 and 1"),
        ("retry_budget", "nan", "a share between 0 and 1"),
        ("retry_budget", "20%", "a number like 0.2"),
        ("resume", "yes", "true or false"),
        ("hedge", "1", "true or false"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_parameter(name: str, value: str, wanted: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read(config(**{name: value}))
    assert raised.value.message.startswith(f"Model 'm': the parameter {name!r} must be {wanted}")
    assert raised.value.message.endswith(f"not {value!r}.")
    assert raised.value.param == name


def test_a_model_with_a_wrong_parameter_is_not_made() -> None:
    with pytest.raises(InvalidRequest, match="'hedge'"):
        EngineModel(config(hedge="maybe"), Endpoints(), capabilities=frozenset(), parallelism=None)
