from __future__ import annotations

import pytest

from backends.errors import InvalidRequest
from backends.interface import ENGINES, INPUTS, OUTPUTS, adopt, complete
from backends.kinds import WORKER_KINDS
from backends.repository import adopted, completed, load
from ensembles.kinds import KINDS
from tests.servers import echo_repository


def test_every_kind_is_an_engine_or_runs_in_workers_or_is_remote_or_composed() -> None:
    assert ENGINES | WORKER_KINDS | {"ensemble", "kserve"} == KINDS.keys()


def test_an_engine_without_tensors_gets_those_of_tritons_backends(tmp_path) -> None:
    (config,) = load([echo_repository(tmp_path, {"m": {}})])
    assert [tensor.name for tensor in config.input] == list(INPUTS)
    assert [tensor.name for tensor in config.input if not tensor.optional] == ["text_input"]
    assert [tensor.name for tensor in config.output] == list(OUTPUTS)
    assert config.model_transaction_policy.decoupled


def test_a_configurations_own_tensors_are_kept(tmp_path) -> None:
    own = """
        input [ { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] } ]
        output [ { name: "text_output" data_type: TYPE_STRING dims: [ 1 ] } ]
    """
    (config,) = load([echo_repository(tmp_path, {"m": {"config": own}})])
    assert [tensor.name for tensor in config.input] == ["text_input"]
    assert not config.model_transaction_policy.decoupled


def test_other_kinds_are_left_as_they_are() -> None:
    fields = {"backend": "python"}
    complete(fields)
    assert fields == {"backend": "python"}


def test_the_tensors_of_a_remote_model_stand_in_for_none() -> None:
    fields, remote = {"input": []}, {"input": [1], "output": [2], "max_batch_size": 3, "name": "other"}
    adopt(fields, remote)
    assert fields == {"input": [1], "output": [2], "max_batch_size": 3}
    own = {"input": [0]}
    adopt(own, remote)
    assert own == {"input": [0]}


def test_a_remote_configuration_becomes_that_of_the_model(tmp_path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text('backend: "kserve"')
    (config,) = load([tmp_path])
    remote = '{"name":"other","max_batch_size":4,"input":[{"name":"X","data_type":"TYPE_INT8","dims":[1]}]}'
    found = completed(config, adopted(config, remote))
    assert (found.name, found.backend, found.max_batch_size) == ("m", "kserve", 4)
    assert found.input[0].name == "X"
    for wrong in ("{", "[]", '{"input":[{"nome":"X"}]}'):
        with pytest.raises(InvalidRequest, match="configuration of model 'm' is wrong"):
            adopted(config, wrong)
