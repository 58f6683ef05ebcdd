"""Loopback ports: the same each time, apart for each model and server, or where the model says."""

from __future__ import annotations

import pytest

from backends.config import ModelConfig
from backends.engine.loopback import loopback_ports
from backends.errors import InvalidRequest


def test_a_model_finds_its_ports_again() -> None:
    config = ModelConfig("m", "b")
    ports = loopback_ports(config, "/run/t", 3)
    assert ports == loopback_ports(config, "/run/t", 3)
    assert ports == list(range(ports[0], ports[0] + 3))
    assert 20000 <= ports[0] < ports[-1] < 32768


def test_models_versions_and_servers_are_apart() -> None:
    ways = [(ModelConfig("m", "b"), "/run/t"), (ModelConfig("n", "b"), "/run/t"), (ModelConfig("m", "b"), "/run/u")]
    ways.append((ModelConfig("m", "b", version=2), "/run/t"))
    assert len({loopback_ports(config, folder, 1)[0] for config, folder in ways}) == 4


def test_a_port_that_is_told_is_the_first() -> None:
    assert loopback_ports(ModelConfig("m", "b", arguments={"port": 9000}), "/run/t", 2) == [9000, 9001]


@pytest.mark.parametrize("port", [0, -1, 65535, "9000", True])
def test_a_port_that_is_none_is_refused(port: object) -> None:
    with pytest.raises(InvalidRequest, match="'port' is no TCP port"):
        loopback_ports(ModelConfig("m", "b", arguments={"port": port}), "/run/t", 2)
