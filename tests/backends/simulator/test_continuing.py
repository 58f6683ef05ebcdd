"""Chat answers that continue the last message: how a gateway resumes a broken stream."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.backends.simulator.asking import chat, events, post, said
from tests.engines import EchoEngine

CHAT = "/v1/chat/completions"
TEXT = "one  two\nthree four five "


def continued(message: str, written: str, **fields: object) -> dict[str, Any]:
    body = chat(message, add_generation_prompt=False, continue_final_message=True, **fields)
    body["messages"].append({"role": "assistant", "content": written})
    return body


async def stream(client: httpx.AsyncClient, body: dict[str, Any]) -> list[Any]:
    return events((await client.post(CHAT, json={**body, "stream": True})).raise_for_status().text)


async def answered(client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[str, str, str | None]:
    choice = (await post(client, CHAT, body))["choices"][0]
    return choice["message"]["content"], choice["finish_reason"], choice["stop_reason"]


@pytest.mark.parametrize("place", range(1, len(TEXT) + 1))
async def test_the_answer_goes_on_wherever_it_broke_off(client: httpx.AsyncClient, place: int) -> None:
    chunks = await stream(client, continued(TEXT, TEXT[:place]))
    assert "".join(said(chunks)) == TEXT[place:]
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"


async def test_it_opens_with_a_role_as_every_answer(client: httpx.AsyncClient) -> None:
    first = (await stream(client, continued("a b c", "a")))[0]
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}


async def test_only_new_tokens_count_against_max_tokens_and_min_tokens(client: httpx.AsyncClient) -> None:
    assert await answered(client, continued("a b c d", "a b", max_tokens=1)) == (" c", "length", None)
    assert await answered(client, continued("a b c", "a b", min_tokens=3)) == (" c a b", "stop", None)
    assert await answered(client, continued("a b", "a", ignore_eos=True, max_tokens=3)) == (" b a b", "length", None)


async def test_the_natural_length_counts_from_the_start(client: httpx.AsyncClient) -> None:
    body = continued("a b", "a b a", echo={"tokens": 5})
    assert await answered(client, body) == (" b a", "stop", None)


async def test_stop_strings_are_looked_for_in_new_text_alone(client: httpx.AsyncClient) -> None:
    assert await answered(client, continued("a b c b d", "a b", stop=["b"])) == (" c ", "stop", "b")
    assert await answered(client, continued("one two", "one tw", stop=["two"])) == ("o", "stop", None)


async def test_structured_output_goes_on_inside_its_json(client: httpx.AsyncClient) -> None:
    body = continued("words", '{"te', response_format={"type": "json_object"})
    assert (await answered(client, body))[0] == 'xt": "words"}'


async def test_other_words_than_its_own_are_passed_over_one_for_one(client: httpx.AsyncClient) -> None:
    assert (await answered(client, continued("a b c d", "x y")))[0] == " c d"


async def test_the_message_counts_as_prompt_and_no_further_one_is_opened(client: httpx.AsyncClient) -> None:
    opened = (await post(client, CHAT, chat("a b c")))["usage"]["prompt_tokens"]
    usage = (await post(client, CHAT, continued("a b c", "a b")))["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (opened + 2, 1)


async def test_without_being_asked_to_the_answer_begins_anew(client: httpx.AsyncClient) -> None:
    body = chat("a b c")
    body["messages"].append({"role": "assistant", "content": "a"})
    assert (await answered(client, body))[0] == "a b c"


@pytest.mark.parametrize("fields", [{}, {"add_generation_prompt": True}])
async def test_continuing_and_opening_a_message_exclude_each_other(
    client: httpx.AsyncClient, engine: EchoEngine, fields: dict[str, object]
) -> None:
    answer = await client.post(CHAT, json=chat("a", continue_final_message=True, **fields))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "continue_final_message"
    assert engine.stats()["generation_tokens"] == 0
