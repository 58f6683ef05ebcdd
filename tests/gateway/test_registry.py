"""Models by name: what a snapshot changes and what it keeps, and why a model cannot be had."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from backends.config import ModelConfig
from backends.engine.replicas import EngineModel
from backends.errors import Code, InferenceError, InvalidRequest, ModelNotFound, ModelNotReady, UnsupportedOperation
from backends.model import Capability, Endpoint, Endpoints, Load, Models, OpenAIRequest, State
from gateway.registry import Connect, Registry
from gateway.snapshot import ModelStatus, Snapshot
from tests.engines import echo_engine
from tests.waiting import eventually_async

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


def test_models_that_are_counted_here_have_quantiles_where_those_are_wanted(registry: Registry, kinds: Kinds) -> None:
    registry.apply(snapshot(status("a")))
    Registry(kinds, share=2, max_queue_size=7, has_quantiles=True).apply(snapshot(status("a")))
    assert [model.counted.recent for model in kinds.made] == [None, {}]


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


def named(name: str, *, endpoints: int = 1, backend: str = "toy", **parameters: str) -> ModelStatus:
    config = ModelConfig(name, backend, parameters=parameters)
    ready = tuple(Endpoint(f"{name}-{number}", f"unix:/{number}", State.READY) for number in range(endpoints))
    return ModelStatus(config, State.READY, endpoints=ready)


def test_an_alias_finds_the_model(registry: Registry) -> None:
    registry.apply(snapshot(named("a", aliases="gpt-4o, default"), status("b")))
    assert registry.find("gpt-4o") is registry.find("a")
    assert registry.offering("default", Capability.CHAT)[0] is registry.find("a")
    assert [registry.served_name(name) for name in ("default", "a", "zz")] == ["a", "a", "zz"]
    with pytest.raises(ModelNotFound, match=r"Nearest: gpt-4o\."):
        registry.find("gpt-4")
    registry.apply(snapshot(status("a"), status("b")))
    with pytest.raises(ModelNotFound):
        registry.find("gpt-4o")


def test_it_knows_who_could_stand_in(registry: Registry) -> None:
    registry.apply(snapshot(named("a", aliases="default"), status("p", backend="picky"), status("s", State.STARTING)))
    assert [registry.offers(name, Capability.CHAT) for name in ("a", "default", "s")] == [True] * 3
    assert [registry.offers(name, Capability.CHAT) for name in ("p", "zz")] == [False] * 2
    assert not registry.offers("a", Capability.EMBEDDINGS)


def test_permits_follow_the_endpoints(registry: Registry) -> None:
    registry.apply(snapshot(named("a", endpoints=2)))
    gate = registry.find("a").gate
    assert gate.permits == 3  # half of the 5 that two of them have together
    for count, permits in ((4, 5), (1, 2)):
        registry.apply(snapshot(named("a", endpoints=count)))
        assert registry.find("a").gate is gate
        assert gate.permits == permits


def test_a_changed_model_keeps_its_queue_and_the_old_one_sees_the_endpoints_of_now(
    registry: Registry, kinds: Kinds
) -> None:
    registry.apply(snapshot(named("a")))
    gate, (old,) = registry.find("a").gate, kinds.made
    registry.apply(snapshot(named("a", endpoints=2, retries="1")))
    assert registry.find("a").gate is gate
    assert registry.find("a").model is not old
    assert len(old.replicas.ready()) == 2
    registry.apply(snapshot())
    assert not old.ready()


def test_loads_reach_every_model_also_one_that_comes_later(registry: Registry) -> None:
    registry.apply(snapshot(named("a")))
    registry.hear({"a-0": Load(running=2), "b-0": Load(waiting=1)})
    registry.apply(snapshot(named("a"), named("b")))
    for name, load in (("a", Load(running=2)), ("b", Load(waiting=1))):
        (replica,) = registry.openai(name).replicas.ready()
        assert replica.load == load


async def test_work_of_a_model_that_was_replaced_still_counts(registry: Registry, kinds: Kinds) -> None:
    async with asyncio.timeout(10):
        with echo_engine() as engine:
            registry.apply(snapshot(status("a", address=engine.address)))
            body = (
                b'{"model":"echo","stream":true,"messages":[{"role":"user","content":"a b"}],"echo":{"itl_ms":600000}}'
            )
            request = OpenAIRequest("/v1/chat/completions", body, "a", stream=True)
            response = await registry.openai("a").respond(request)
            assert registry.work()[engine.address] == 1
            changed = ModelConfig("a", "toy", parameters={"retries": "1"})
            registry.apply(snapshot(ModelStatus(changed, State.READY, endpoints=registry.find("a").endpoints.current)))
            registry.apply(snapshot())
            for made in kinds.made:
                assert not made.ready()  # as a request finds that has waited for its permit
            assert registry.work()[engine.address] == 1
            await response.body.aclose()
            await eventually_async(lambda: gone(registry, engine.address))


async def gone(registry: Registry, address: str) -> bool:
    return not registry.work()[address]


def test_of_several_versions_the_last_one_is_meant_by_the_name(registry: Registry, kinds: Kinds) -> None:
    both = (
        ModelStatus(ModelConfig("a", "toy", version=version), State.READY, endpoints=status("a").endpoints)
        for version in (1, 2)
    )
    models = snapshot(*both)
    registry.apply(models)
    registry.apply(models)
    assert [made.config.version for made in kinds.made] == [1, 2]
    assert registry.openai("a") is kinds.made[1]
    assert registry.version("a").status.config.version == 2
    assert registry.version("a", 1).model is kinds.made[0]
    with pytest.raises(InferenceError, match="'a' version 3 is not found"):
        registry.version("a", 3)


def test_the_last_version_that_is_ready_is_meant_before_one_that_is_not(registry: Registry) -> None:
    def version(number: int, state: State) -> ModelStatus:
        found = status("m", state)
        return msgspec.structs.replace(found, config=msgspec.structs.replace(found.config, version=number))

    registry.apply(snapshot(version(1, State.READY), version(2, State.FAILED)))
    assert registry.version("m").status.config.version == 1
    registry.apply(snapshot(version(1, State.READY), version(2, State.READY)))
    assert registry.version("m").status.config.version == 2


@pytest.mark.parametrize(
    ("name", "version", "words", "code"),
    [
        ("nope", 0, "Request for unknown model: 'nope' is not found", Code.NOT_FOUND),
        ("nope", 1, "Request for unknown model: 'nope' is not found", Code.NOT_FOUND),
        ("garbled", 0, "Request for unknown model: 'garbled' is not found", Code.NOT_FOUND),
        ("m", 7, "Request for unknown model: 'm' version 7 is not found", Code.NOT_FOUND),
        ("m", 3, "Request for unknown model: 'm' version 3 is not at ready state", Code.UNAVAILABLE),
        ("gone", 0, "Request for unknown model: 'gone' has no available versions", Code.NOT_FOUND),
        ("gone", 1, "Request for unknown model: 'gone' version 1 is not at ready state", Code.UNAVAILABLE),
        ("gone", 2, "Request for unknown model: 'gone' version 2 is not found", Code.NOT_FOUND),
    ],
)
def test_what_is_not_there_is_told_as_triton_tells_it(
    registry: Registry, name: str, version: int, words: str, code: Code
) -> None:
    garbled = msgspec.structs.replace(status("garbled", State.FAILED, address=""), is_known=False)
    registry.apply(Snapshot((status("m"), garbled), True, {"m": (3,), "gone": (1,)}))
    with pytest.raises(InferenceError) as raised:
        registry.version(name, version)
    assert (raised.value.message, raised.value.status) == (words, code)
