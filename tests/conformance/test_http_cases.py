"""Some seven hundred requests over HTTP are answered as real Triton answers them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.conformance.http_answers import RECORDED, difference
from tests.conformance.http_cases import SHARED, ask, cases, prepare
from tests.conformance.triton_models import plane_over
from tests.gateway.kserve.http_server import listening
from tests.servers import serving

REPOSITORY = Path(__file__).with_name("model_repository")
OURS = {"GET /v2?x"}
"""The server's own name and version."""


def _differences(host: str, port: int, left_out: frozenset[str] = frozenset()) -> list[str]:
    asked = [case for case in cases() if case.name not in OURS and not case.name.startswith(tuple(left_out))]
    found = [difference(case.name, *ask(host, port, case)) for case in asked]
    return [line for line in found if line]


def test_each_request_has_an_answer_and_a_name_of_its_own() -> None:
    names = [case.name for case in cases()]
    assert sorted(names) == sorted(RECORDED)


@pytest.mark.parametrize("is_listenable", [True, False], ids=["shortcut", "long way"])
async def test_the_front_end_answers_as_triton_does(is_listenable: bool) -> None:
    prepare()
    try:
        async with listening(*plane_over(REPOSITORY, is_listenable=is_listenable)) as port:
            # Configurations are completed by whoever loads the models, which nobody does here.
            found = await asyncio.to_thread(_differences, "127.0.0.1", port, frozenset({"configuration of"}))
    finally:
        SHARED.unlink()
    assert found == []


@pytest.mark.slow
def test_the_whole_server_answers_as_triton_does() -> None:
    prepare()
    try:
        with serving(REPOSITORY, "--no-access-log") as server:
            host, port = server.url.removeprefix("http://").split(":")
            found = _differences(host, int(port))
    finally:
        SHARED.unlink()
    assert found == []
