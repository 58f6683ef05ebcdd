"""How the OpenAPI document speaks of the pass-through operations."""

from __future__ import annotations

import pytest

from gateway.app import OPERATIONS
from gateway.errors import TABLE
from gateway.operations import Operation

STREAMING = {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"}


def test_every_path_stands_once() -> None:
    paths = [operation.path for operation in OPERATIONS]
    assert len(paths) == len(set(paths))


def test_every_operation_has_an_id_of_its_own() -> None:
    ids = [operation.document()["operationId"] for operation in OPERATIONS]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.path)
def test_an_operation_says_what_it_takes_and_every_way_it_can_fail(operation: Operation) -> None:
    document = operation.document()
    schema = document["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["required"]) <= set(schema["properties"])
    assert "model" in schema["required"]
    statuses = {str(status) for _, status, *_ in TABLE}
    assert statuses <= set(document["responses"])
    for status in statuses:
        assert document["responses"][status]["content"]["application/json"]["schema"]["$ref"].endswith("/Error")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.path)
def test_what_streams_is_documented_as_a_stream(operation: Operation) -> None:
    content = operation.document()["responses"]["200"]["content"]
    assert ("text/event-stream" in content) == ("stream" in operation.properties)
    assert ("stream" in operation.properties) == (operation.path in STREAMING)
