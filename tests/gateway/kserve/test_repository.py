"""The repository extension in a server process: what is asked of the supervisor, and what is refused before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from backends.errors import Code, InferenceError, NotAuthenticated, NotPermitted
from gateway.access_log import NoLog
from gateway.kserve.repository import IndexEntry, authorise, check_unnamed, index, load, unload
from gateway.plane import Plane
from gateway.questions import Questions
from gateway.registry import Registry
from gateway.settings import Settings
from gateway.snapshot import Ask, LoadOrder, Told
from gateway.telemetry import Telemetry

INDEX = [
    {"name": "a", "version": "1", "state": "READY"},
    {"name": "b", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"},
    {"name": "c"},
    {"name": "twice", "state": "UNAVAILABLE", "reason": "model appears in two or more repositories"},
]


class Supervisor:
    """Answers with the index, and keeps what it was asked, with the files that lay there when it was."""

    def __init__(self) -> None:
        self.asked: list[Ask] = []
        self.files: list[dict[str, bytes]] = []
        self.questions = Questions(self.send)

    async def send(self, question: Ask) -> None:
        self.asked.append(question)
        self.files.append({path: Path(place).read_bytes() for path, place in question.order.files.items()})
        self.questions.told(Told(question.id, json.dumps(INDEX).encode()))


@pytest.fixture
def supervisor() -> Supervisor:
    return Supervisor()


def plane(supervisor: Supervisor, mode: str = "explicit", **settings: Any) -> Plane:
    registry = Registry(pytest.fail, share=1, max_queue_size=1)
    made = Plane(
        Settings(model_control_mode=mode, **settings), registry, None, Telemetry(registry.connections, NoLog())
    )
    made.questions = supervisor.questions
    return made


def orders(supervisor: Supervisor) -> list[tuple[str, str, LoadOrder]]:
    return [(question.action, question.subject, question.order) for question in supervisor.asked]


async def test_the_index_tells_everything_or_what_can_be_used_now(supervisor: Supervisor) -> None:
    entries = await index(plane(supervisor))
    assert entries[1:3] == [IndexEntry("b", "1", "UNAVAILABLE", "unloaded"), IndexEntry("c")]
    assert [entry.name for entry in await index(plane(supervisor), ready=True)] == ["a", "twice"]


async def test_a_model_is_loaded_with_what_the_client_sends(supervisor: Supervisor, tmp_path: Path) -> None:
    await load(plane(supervisor), "m")
    sent = {"config": "{}", "file:1/a": "aGk=", "file:1/b": b"raw", "file:1/c": "%%%"}
    await load(plane(supervisor, runtime_dir=tmp_path), "m", sent)
    assert [(question.action, question.subject, question.order.config) for question in supervisor.asked] == [
        ("kserve_load", "m", None),
        ("kserve_load", "m", "{}"),
    ]
    assert supervisor.files == [{}, {"1/a": b"hi", "1/b": b"raw", "1/c": b""}]
    assert list(tmp_path.iterdir()) == [], "what was sent lies around"


async def test_a_configuration_of_megabytes_is_refused(supervisor: Supervisor) -> None:
    with pytest.raises(InferenceError, match="is over 8388608 characters"):
        await load(plane(supervisor), "m", {"config": "x" * (8 * 1024 * 1024 + 1)})
    assert supervisor.asked == []


async def test_a_model_is_unloaded_alone_or_with_its_parts(supervisor: Supervisor) -> None:
    await unload(plane(supervisor), "m")
    await unload(plane(supervisor), "m", dependents=True)
    assert orders(supervisor) == [
        ("kserve_unload", "m", LoadOrder()),
        ("kserve_unload", "m", LoadOrder(with_parts=True)),
    ]


@pytest.mark.parametrize("act", [load, unload])
async def test_models_are_controlled_in_explicit_mode_alone(act: Any, supervisor: Supervisor) -> None:
    for mode in ("none", "poll"):
        with pytest.raises(InferenceError, match="explicit model load / unload is not allowed") as raised:
            await act(plane(supervisor, mode), "m")
        assert raised.value.status is Code.UNAVAILABLE
    assert supervisor.asked == []


def test_a_repository_has_no_name() -> None:
    with pytest.raises(InferenceError, match="'repository_name' specification is not supported") as raised:
        check_unnamed("r")
    assert raised.value.status is Code.UNSUPPORTED
    check_unnamed("")


async def test_an_unknown_parameter_is_refused(supervisor: Supervisor) -> None:
    with pytest.raises(InferenceError, match="unexpected error on creating Triton parameter"):
        await load(plane(supervisor), "m", {"nonsense": "x"})


@pytest.mark.parametrize(
    ("settings", "headers", "refusal"),
    [
        ({}, {b"host": b"127.0.0.1:8000"}, None),
        ({}, {b"host": b"evil.example"}, NotPermitted),
        ({"host": "0.0.0.0", "insecure": True}, {b"host": b"127.0.0.1"}, NotPermitted),
        ({"admin_key_file": "keys"}, {b"host": b"127.0.0.1"}, NotAuthenticated),
        ({"admin_key_file": "keys"}, {b"authorization": b"Bearer secret"}, None),
    ],
)
def test_control_is_for_whom_admin_lets_in(
    settings: Mapping[str, Any],
    headers: Mapping[bytes, bytes],
    refusal: type[Exception] | None,
    supervisor: Supervisor,
    tmp_path: Path,
) -> None:
    (tmp_path / "keys").write_text("secret\n")
    given = {key: tmp_path / value if key == "admin_key_file" else value for key, value in settings.items()}
    asked = plane(supervisor, **given)
    if refusal is None:
        authorise(asked, headers)
    else:
        with pytest.raises(refusal):
            authorise(asked, headers)
