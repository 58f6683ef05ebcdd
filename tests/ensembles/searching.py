"""A chat model of the made-up house with a file search before it, and requests to it."""

from __future__ import annotations

from typing import Any

from backends.model import OpenAIRequest
from ensembles.file_search import FileSearch, before
from tests.ensembles.house import GENERATOR, FakeLibrary, House, asked, talker

TOOL = {"type": "file_search", "vector_store_ids": ["vs_fruit_"]}
WEIGH: dict[str, Any] = {
    "type": "function",
    "name": "weigh",
    "parameters": {"type": "object", "properties": {"what": {"type": "string"}}},
}


def searching(*texts: str, library: FakeLibrary | None = None, finish_reason: str = "stop") -> tuple[FileSearch, House]:
    house = House(talker(*texts, finish_reason=finish_reason), library=library)
    model = before(house.models[GENERATOR], house)  # type: ignore[arg-type]
    assert isinstance(model, FileSearch)
    return model, house


def request(*, tenant: str = "", **fields: Any) -> OpenAIRequest:
    return asked("/v1/responses", tenant=tenant, **{"input": "which is green?", "tools": [TOOL], **fields})
