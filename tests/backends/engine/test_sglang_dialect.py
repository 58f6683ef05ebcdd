"""SGLang's dialect: vLLM's words are translated, and a request without them passes as it is."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from backends.engine.parameters import DROPPED
from backends.engine.sglang_dialect import Adapter
from backends.model import OpenAIRequest
from tests.backends.bodies import whole

CHAT = "/v1/chat/completions"
TURNS = [{"role": "user", "content": 'say "guided_json"'}]
SCHEMA = {"type": "object"}


def asking(path: str = CHAT, **fields: Any) -> OpenAIRequest:
    return OpenAIRequest(path, json.dumps({"model": "m", "messages": TURNS, **fields}).encode(), "m", stream=False)


def test_a_request_without_vllms_words_is_the_clients_bytes() -> None:
    request = asking(temperature=0.5, response_format={"type": "json_schema", "json_schema": {"schema": SCHEMA}})
    assert Adapter().request(request) is request
    other = OpenAIRequest("/v1/embeddings", b'{"guided_json":1}', "m", stream=False)
    assert Adapter().request(other) is other
    answer = whole(b"{}")
    assert Adapter().response(request, answer).headers == whole(b"{}").headers


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (
            {"guided_json": SCHEMA},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}},
        ),
        ({"guided_regex": "a+"}, {"regex": "a+"}),
        ({"include_stop_str_in_output": True}, {"no_stop_trim": True}),
        ({"structured_outputs": {"choice": ["a", "b"]}}, {"regex": "(a|b)"}),
        ({"structured_outputs": {"grammar": "root ::= x"}}, {"ebnf": "root ::= x"}),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_vllms_words_become_its_own(path: str, asked: dict[str, Any], sent: dict[str, Any]) -> None:
    changed = Adapter().request(asking(path, **asked))
    assert json.loads(changed.body) == {"model": "m", "messages": TURNS, **sent}


def test_what_it_would_not_heed_is_named_to_the_client() -> None:
    request = Adapter().request(asking(bad_words=["x"], prompt_logprobs=None))
    assert json.loads(request.body) == {"model": "m", "messages": TURNS}
    assert (DROPPED, b"bad_words") in Adapter().response(request, whole(b"{}")).headers


def test_its_chats_go_on_by_the_flag() -> None:
    fields = {"messages": msgspec.Raw(b"[]"), "model": msgspec.Raw(b'"m"')}
    assert Adapter().continuation(fields, CHAT, "x") is None
    fields["messages"] = msgspec.Raw(json.dumps(TURNS).encode())
    found = Adapter().continuation(fields, CHAT, "x")
    assert found is not None
    assert bytes(found["continue_final_message"]) == b"true"
