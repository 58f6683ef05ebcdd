"""Models by name: what a snapshot changes and what it keeps, and why a model cannot be had."""

from __future__ import annotations

import pytest

from backends.config import ModelConfig
from backends.engine.replicas import EngineModel
from backends.errors import InvalidRequest, ModelNotFound, ModelNotReady, UnsupportedOperation
from backends.model import Capability, Endpoint, Endpoints, Models, State
from gateway.registry import Connect, Registry
from gateway.snapshot import ModelStatus, Snapshot

CHATS = frozenset({Capability.CHAT, Capability.COMPLETIONS})


class Model(EngineModel):
    """Knows whether it was closed."""

    closed = False

    def close(self) -> None:
        self.closed = True


class Kinds:
    """The kinds by name: `toy` connects; `picky` does not as long as it is `broken`."""

    def __init__(self) -> None:
        self.broken = "the key is missing"
        self.made: list[Model] = []

    def __call__(self, backend: str) -> Connect:
        if backend not in {"toy", "picky"}:
            raise InvalidRequest(f"Unknown backend {backend!r}.")

        def connect(config: ModelConfig, endpoints: Endpoints, models: Models) -> EngineModel:
            assert isinstance(models, Registry)
            if backend == "picky" and self.broken:
                raise InvalidRequest(self.broken)
            self.made.append(Model(config, endpoints, capabilities=CHATS, parallelism=5))
            return self.made[-1]

        return connect


@pytest.fixture
def kinds() -> Kinds:
    return Kinds()


@pytest.fixture
def registry(kinds: Kinds) -> Registry:
    return Registry(kinds, share=2, max_queue_size=7)


def status(
    name: str, state: State = State.READY, *, backend: str = "toy", address: str = "unix:/a", reason: str = ""
) -> ModelStatus:
    config = ModelConfig(name, backend)
    endpoints = (Endpoint(f"{name}-0", address, state),) if address else ()
    return ModelStatus(config, state, reason, endpoints)


def snapshot(*models: ModelStatus, settled: bool = True) -> Snapshot:
    return Snapshot(models, settled)


def test_it_is_settled_when_the_snapshot_is(registry: Registry) -> None:
    assert not registry.settled
    registry.apply(snapshot(settled=False))
    assert not registry.settled
    registry.apply(snapshot())
    assert registry.settled


def test_an_entry_of_the_same_configuration_keeps_its_model_and_its_queue(registry: Registry, kinds: Kinds) -> None:
    registry.apply(snapshot(status("a", State.STARTING), status("b")))
    entry = registry.find("a")
    gate, model = entry.gate, entry.model
    assert model is not None
    assert not model.ready()
    registry.apply(snapshot(status("a", address="unix:/b")))
    kept = registry.find("a")
    assert (kept.gate, kept.model) == (gate, model)
    assert kept.status.state is State.READY
    assert kept.endpoints.current[0].address == "unix:/b"
    assert model.ready()  # it reads the same endpoints
    assert len(kinds.made) == 2


def test_a_model_that_is_gone_or_configured_otherwise_is_closed(registry: Registry, kinds: Kinds) -> None:
    registry.apply(snapshot(status("a"), status("b"), status("c")))
    a, b, c = kinds.made
    changed = ModelStatus(ModelConfig("b", "toy", version=2), State.READY, endpoints=status("b").endpoints)
    registry.apply(snapshot(status("a"), changed))
    assert [model.closed for model in (a, b, c)] == [False, True, True]
    assert registry.openai("b") is kinds.made[-1]
    with pytest.raises(ModelNotFound):
        registry.find("c")
    registry.close()
    assert a.closed
    assert kinds.made[-1].closed


def test_a_model_whose_kind_refuses_it_fails_with_the_reason_and_spoils_no_other(
    registry: Registry, kinds: Kinds
) -> None:
    registry.apply(snapshot(status("old")))
    registry.apply(
        snapshot(status("old"), status("p", backend="picky"), status("u", backend="unheard-of"), status("n"))
    )
    assert list(registry.entries()) == ["old", "p", "u", "n"]
    for name in ("old", "n"):
        assert registry.openai(name).ready()
    entry = registry.find("p")
    assert (entry.model, entry.status.state, entry.status.reason) == (None, State.FAILED, "the key is missing")
    with pytest.raises(ModelNotReady, match="'p' could not be loaded: the key is missing"):
        registry.offering("p", Capability.CHAT)
    with pytest.raises(ModelNotReady, match="unheard-of"):
        registry.openai("u")
    # The reason lasts, and so does the hope.
    registry.apply(snapshot(status("p", backend="picky")))
    assert registry.find("p").status.reason == "the key is missing"
    kinds.broken = ""
    registry.apply(snapshot(status("p", backend="picky")))
    assert registry.offering("p", Capability.CHAT)[1].ready()


def test_a_model_that_gets_its_endpoints_later_is_connected_then(registry: Registry) -> None:
    registry.apply(snapshot(status("a", State.FAILED, address="", reason="no such file")))
    with pytest.raises(ModelNotReady, match="no such file"):
        registry.openai("a")
    registry.apply(snapshot(status("a")))
    assert registry.openai("a").ready()


def test_a_model_without_a_backend_says_why_it_could_not_be_loaded(registry: Registry) -> None:
    registry.apply(snapshot(status("a", State.FAILED, backend="", reason="config.pbtxt, line 3")))
    with pytest.raises(ModelNotReady, match=r"'a' could not be loaded: config\.pbtxt, line 3"):
        registry.offering("a", Capability.CHAT)


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("smollm2-135m-instuct", "Nearest: smollm2-135m-instruct"),
        ("SmolLM2-135M-Instruct", "Nearest: smollm2-135m-instruct"),
        ("gpt-4o", "Nearest: all-minilm, qwen3, smollm2-135m-instruct."),
        ("", "Nearest: all-minilm, qwen3, smollm2-135m-instruct."),
    ],
)
def test_an_unknown_name_gets_the_nearest_ones(asked: str, hint: str, registry: Registry) -> None:
    registry.apply(snapshot(*(status(name) for name in ("smollm2-135m-instruct", "all-minilm", "qwen3"))))
    with pytest.raises(ModelNotFound) as raised:
        registry.find(asked)
    assert raised.value.message.startswith(f"The model '{asked}' does not exist. {hint}")
    assert raised.value.param == "model"


def test_without_models_it_says_so(registry: Registry) -> None:
    with pytest.raises(ModelNotFound, match="No model is loaded"):
        registry.find("a")


def test_a_name_of_megabytes_is_neither_compared_nor_repeated(registry: Registry) -> None:
    registry.apply(snapshot(status("a")))
    with pytest.raises(ModelNotFound) as raised:
        registry.find("a" * 20_000_000)
    assert len(raised.value.message) < 300


def test_an_operation_that_is_not_offered_lists_those_that_are(registry: Registry) -> None:
    # Even while it is not ready: waiting would not help.
    registry.apply(snapshot(status("a", State.STARTING)))
    with pytest.raises(UnsupportedOperation) as raised:
        registry.offering("a", Capability.EMBEDDINGS)
    assert raised.value.message == "The model 'a' does not support embeddings; it supports: chat, completions."


@pytest.mark.parametrize(
    ("state", "reason", "message"),
    [
        (State.STARTING, "", "The model 'a' is not ready (STARTING)."),
        (State.RESTARTING, "killed by signal 9", "The model 'a' is not ready (RESTARTING): killed by signal 9."),
        (State.FAILED, "given up", "The model 'a' is not ready (FAILED): given up."),
    ],
)
def test_a_model_that_is_not_ready_says_its_state_and_why(
    state: State, reason: str, message: str, registry: Registry
) -> None:
    registry.apply(snapshot(status("a", state, reason=reason)))
    with pytest.raises(ModelNotReady) as raised:
        registry.offering("a", Capability.CHAT)
    assert raised.value.message == message
    assert raised.value.retry_after_seconds
    assert registry.openai("a").config.name == "a"


def test_permits_are_shared_among_the_processes_and_rounded_up(registry: Registry) -> None:
    registry.apply(snapshot(status("a"), status("none", State.FAILED, address="")))
    gate = registry.find("a").gate
    assert (gate.name, gate.permits, gate.max_queue_size) == ("a", 3, 7)
    assert registry.find("none").gate.permits is None


def test_connections_are_told_by_model(registry: Registry) -> None:
    registry.apply(snapshot(status("a"), status("none", State.FAILED, address="")))
    assert registry.connections() == {"a": (0, 0)}
