"""An ensemble is what its parts are."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from backends.config import Input, ModelConfig, read
from backends.engine.command import Command
from backends.engine.process import EngineProcess
from backends.engine.watch import Patience
from backends.errors import InvalidRequest
from backends.model import State
from backends.pbtxt import read_text
from gateway.composition import cause, settled, status
from gateway.loading import LoadedModel, failed

READY, STARTING, FAILED, RESTARTING = State.READY, State.STARTING, State.FAILED, State.RESTARTING
TENSORS = (
    'input [ { name: "A" data_type: TYPE_FP32 dims: [ 1 ] } ] output [ { name: "Z" data_type: TYPE_FP32 dims: [ 1 ] } ]'
)


def config(name: str, text: str, version: int = 1) -> ModelConfig:
    fields = read_text(f'name: "{name}" {TENSORS} {text}')
    return read(json.dumps(fields), version=version, path="", arguments={})


def part(state: State, reason: str = "", *, name: str = "a", version: int = 1, text: str = "") -> LoadedModel:
    worker = EngineProcess(f"{name}-{version}-0", Command((), "unix:/s"), name, asyncio.Event(), Patience())
    worker.status.enter(state, reason)
    return LoadedModel(config(name, text, version), (worker,))


def ensemble(name: str = "e", of: str = "a", version: int = -1) -> LoadedModel:
    step = (
        f'model_name: "{of}" model_version: {version} '
        'input_map { key: "A" value: "A" } output_map { key: "Z" value: "Z" }'
    )
    return LoadedModel(config(name, f'platform: "ensemble" ensemble_scheduling {{ step [ {{ {step} }} ] }}'))


@pytest.mark.parametrize(
    ("states", "expected", "is_settled"),
    [
        ((READY,), READY, True),
        ((STARTING,), STARTING, False),
        ((READY, FAILED), READY, True),
        ((READY, STARTING), STARTING, False),
        ((FAILED,), FAILED, True),
        ((FAILED, RESTARTING), STARTING, False),
    ],
)
def test_an_ensemble_is_ready_while_each_part_has_a_version_that_is(
    states: tuple[State, ...], expected: State, is_settled: bool
) -> None:
    parts = [part(state, version=number + 1) for number, state in enumerate(states)]
    whole = ensemble()
    models = {"a": parts, "e": [whole]}
    assert status(whole, models).state is expected
    assert settled(whole, models) is is_settled


def test_an_ensemble_whose_part_comes_back_is_not_given_up() -> None:
    broken = part(READY)
    broken.endpoints[0].status.enter(RESTARTING, "was killed")
    whole = ensemble()
    found = status(whole, {"a": [broken], "e": [whole]})
    assert (found.state, "version 1 is at UNAVAILABLE state: Internal: was killed;" in found.reason) == (
        State.UNHEALTHY,
        True,
    )


def test_what_a_part_failed_for_is_told() -> None:
    whole = ensemble()
    models = {"a": [part(FAILED, "Internal: RuntimeError: no")], "e": [whole]}
    assert status(whole, models).reason == (
        "ensemble 'e' depends on 'a' which has no loaded version. Model 'a' loading failed with error: "
        "version 1 is at UNAVAILABLE state: Internal: RuntimeError: no;"
    )
    assert not status(whole, models).is_known


def test_missing_parts_versions_and_circles_are_told_in_tritons_words() -> None:
    def reason(whole: LoadedModel, **models: list[LoadedModel]) -> str:
        return status(whole, {"e": [whole], **models}).reason

    assert reason(ensemble()) == "ensemble e contains models that are not available or ambiguous: a"
    assert reason(ensemble(version=9), a=[part(READY)]) == (
        "ensemble 'e' depends on 'a' whose required version 9 is not loaded."
    )
    assert reason(ensemble(of="e")) == "circular dependency between ensembles: e -> ... -> e -> e"
    assert reason(ensemble(), a=[ensemble("a", of="e")]).startswith("circular dependency between ensembles: e")


def test_tensors_that_do_not_fit_fail_the_ensemble_and_no_other() -> None:
    whole, inner = ensemble(), part(READY)
    inner.config = msgspec.structs.replace(inner.config, input=(Input("A", "TYPE_FP32", (2,)),))
    found = status(whole, {"a": [inner], "e": [whole]})
    assert (found.state, found.is_known) == (FAILED, False)
    assert found.reason.startswith("in ensemble e, ensemble tensor A: inconsistent shape")


def test_an_ensemble_answers_as_often_as_its_parts_whatever_it_says() -> None:
    whole = ensemble()
    for decoupled in (True, False):
        text = f"model_transaction_policy {{ decoupled: {str(decoupled).lower()} }}"
        found = status(whole, {"a": [part(READY, text=text)], "e": [whole]})
        assert found.config.model_transaction_policy.decoupled is decoupled
        assert json.loads(found.config.document)["model_transaction_policy"] == {"decoupled": decoupled}
        assert found.is_known


def test_a_configuration_stays_the_same_object_while_nothing_changes() -> None:
    whole = ensemble()
    models = {"a": [part(READY)], "e": [whole]}
    assert status(whole, models).config is status(whole, models).config


def test_a_model_whose_part_was_unloaded_is_stopped_until_it_is_back() -> None:
    whole, around = ensemble(), ensemble("f", of="e")
    models = {"a": [part(READY)], "e": [whole], "f": [around]}
    assert status(around, models).state is READY
    inner = models.pop("a")
    found = status(whole, models)
    assert (found.state, found.reason) == (State.STOPPED, "'e' is composed of 'a', which was unloaded")
    assert cause(whole, found) == "unloaded"
    assert status(around, models).state is State.STOPPED
    models["a"] = inner
    assert [status(each, models).state for each in (whole, around)] == [READY, READY]


def test_why_an_ensemble_in_an_ensemble_is_not_ready_is_told_as_it_tells_it() -> None:
    whole = ensemble("f", of="e")
    models = {"a": [part(FAILED, "Internal: no")], "e": [ensemble()], "f": [whole]}
    assert status(whole, models).reason == (
        "ensemble 'f' depends on 'e' which is not valid. Model 'e' failed with error: ensemble 'e' depends on 'a' "
        "which has no loaded version. Model 'a' loading failed with error: version 1 is at UNAVAILABLE state: "
        "Internal: no;"
    )


def test_causes_begin_with_tritons_word_for_their_kind() -> None:
    refused = failed(config("a", ""), InvalidRequest("no backend"))
    assert cause(refused, status(refused, {})) == "Invalid argument: no backend"
    for reason, expected in (
        ("exited with status 1", "Internal: exited with status 1"),
        ("Internal: RuntimeError: no", "Internal: RuntimeError: no"),
        ("Invalid argument: bad", "Invalid argument: bad"),
    ):
        model = part(FAILED, reason)
        assert cause(model, status(model, {})) == expected
