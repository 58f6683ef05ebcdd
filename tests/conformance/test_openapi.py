"""The OpenAPI document is valid, and the server behaves as it says, whatever is sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from gateway.access_log import NoLog
from gateway.app import OPERATIONS, App
from gateway.plane import Plane
from gateway.registry import Registry
from gateway.settings import Settings
from gateway.telemetry import Telemetry
from tests.servers import Tritium, echo_repository, serving


def connect(backend: str) -> NoReturn:
    raise AssertionError(backend)


REGISTRY = Registry(connect, share=1, max_queue_size=1)
DOCUMENT = App(Plane(Settings(), REGISTRY, None, Telemetry(REGISTRY.connections, NoLog()))).document()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
RULED = "^/v1/(files|vector_stores)"
PASSED_ON = SCHEMA.include(path=[operation.path for operation in OPERATIONS], method="POST")

# Some 20 requests an operation, its edge cases included.
few = settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))


# Beside a parameter schemathesis 4 tells operations apart in pytest 9.2's ids, each of which pytest-xdist runs once.
@pytest.fixture(scope="module", params=["echo"])
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Tritium]:
    repository = echo_repository(tmp_path_factory.mktemp("models"), {request.param: {}})
    with serving(repository, "--no-access-log") as server:
        yield server


def test_the_document_is_valid_and_is_the_one_that_is_served(server: Tritium) -> None:
    SCHEMA.validate()
    assert httpx.get(f"{server.url}/openapi.json").json() == DOCUMENT


@pytest.mark.slow
@SCHEMA.exclude(path_regex="^/v2(?!/rerank)").exclude(path_regex=RULED, method="POST").parametrize()
@few
def test_the_gateway_does_what_its_document_says(case: schemathesis.Case, server: Tritium) -> None:
    case.call_and_validate(base_url=server.url)


@SCHEMA.include(path_regex=RULED, method="POST").parametrize()
@few
def test_files_and_vector_stores_answer_as_the_document_says(case: schemathesis.Case, server: Tritium) -> None:
    # A schema cannot say that an overlap is at most half of a size, nor how filters nest.
    case.call_and_validate(base_url=server.url, excluded_checks=[positive_data_acceptance])


@pytest.mark.slow
@SCHEMA.include(path_regex="^/v2(?!/rerank)").parametrize()
@few
def test_kserves_operations_answer_as_the_document_says(case: schemathesis.Case, server: Tritium) -> None:
    # Triton refuses some of what fits, takes much that does not, and says 500 to JSON of other types.
    excluded = [positive_data_acceptance, negative_data_rejection, not_a_server_error]
    answer = case.call_and_validate(base_url=server.url, excluded_checks=excluded)
    assert "failed to serve" not in answer.text


@pytest.mark.slow
@PASSED_ON.parametrize()
@few
def test_what_reaches_an_engine_is_answered_as_the_document_says(case: schemathesis.Case, server: Tritium) -> None:
    if isinstance(case.body, dict):
        case.body["model"] = "echo"
    # Beyond the model's name, what a body may hold is the engine's to judge.
    case.call_and_validate(base_url=server.url, excluded_checks=[positive_data_acceptance, negative_data_rejection])
