"""Hashes of leading blocks, and the memory of who saw them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.engine.prefix import Memory, blocks
from tests.backends.engine.routed import request, turns
from tests.servers import ROOT

CHAT = "/v1/chat/completions"
texts = st.text(max_size=2000)
separators = st.sampled_from([(",", ":"), (", ", ": ")])


def hashed(messages: list[dict[str, Any]], **fields: Any) -> list[int]:
    asked = request(messages, **fields)
    return blocks(asked.path, asked.body)[0]


@given(texts, texts, texts, texts, separators)
def test_every_turn_of_a_conversation_has_the_same_head(
    system: str, first: str, answer: str, second: str, separators: tuple[str, str]
) -> None:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": first}]
    heads = []
    for more in ([], [{"role": "assistant", "content": answer}, {"role": "user", "content": second}]):
        messages += more
        body = json.dumps({"messages": messages, "model": "m"}, separators=separators).encode()
        heads.append(blocks(CHAT, body)[0][0])
    assert heads[0] == heads[1]


@given(texts, texts)
def test_a_longer_prompt_begins_with_the_blocks_of_a_shorter_one(one: str, more: str) -> None:
    short, long = (json.dumps({"prompt": text}, ensure_ascii=False).encode()[:-2] for text in (one, one + more))
    hashes, ends = blocks("/v1/completions", short)
    for place, (each, end) in enumerate(zip(*blocks("/v1/completions", long), strict=True)):
        if place < len(hashes) and ends[place] == end and short[:end] == long[:end]:
            assert hashes[place] == each


def test_users_with_the_same_long_system_prompt_are_told_apart() -> None:
    system = "Follow the rules. " * 2000
    heads = {hashed(turns(f"user {number}", 1, system=system)[0])[0] for number in range(100)}
    assert len(heads) == 100


def test_a_name_in_the_middle_of_a_long_system_prompt_is_seen() -> None:
    rules = "Follow the rules. " * 1000
    heads = {
        hashed(
            [{"role": "system", "content": f"{rules}The user is {name}.{rules}"}, {"role": "user", "content": "Hi"}]
        )[0]
        for name in ("Ann", "Robert", "Catherine", "Eve Adamson")
    }
    assert len(heads) == 4


def test_blocks_tell_conversations_with_one_head_apart_further_on() -> None:
    common = turns("Ann", 2)[-1]
    one, other = (
        hashed([*common, {"role": "assistant", "content": word * 2000}, {"role": "user", "content": "go on"}])
        for word in ("x", "y")
    )
    shared = sum(a == b for a, b in zip(one, other, strict=True))
    assert 0 < shared < len(one)


def test_a_prompt_of_64_kib_makes_no_more_than_sixteen_blocks() -> None:
    assert len(hashed([{"role": "user", "content": "Hi"}, {"role": "user", "content": "w " * 32000}])) <= 16


def test_braces_in_the_text_end_the_head_at_the_same_place_in_every_turn() -> None:
    first = [{"role": "user", "content": 'Explain {"a": {"b": "c"}} to me'}]
    later = [*first, {"role": "assistant", "content": "well"}, {"role": "user", "content": "more"}]
    assert hashed(first)[0] == hashed(later)[0]


def test_indented_json_is_recognised_as_well() -> None:
    found = [blocks(CHAT, json.dumps({"messages": each}, indent=2).encode())[0][0] for each in turns("Ann", 3)]
    assert len(set(found)) == 1
    other = blocks(CHAT, json.dumps({"messages": turns("Bob", 1)[0]}, indent=2).encode())[0][0]
    assert other not in found


def test_the_first_kib_of_a_long_message_is_its_head() -> None:
    document = "d" * 5000
    heads = {hashed([{"role": "user", "content": document + question}])[0] for question in ("Who?", "Why?")}
    assert len(heads) == 1


@pytest.mark.parametrize(
    ("path", "field"), [("/v1/messages", "messages"), ("/v1/completions", "prompt"), ("/v1/responses", "input")]
)
def test_each_operation_with_a_prompt_has_its_field(path: str, field: str) -> None:
    one, other = (blocks(path, json.dumps({"model": "m", field: text}).encode())[0] for text in ("one", "other"))
    assert one
    assert one != other


@pytest.mark.parametrize(
    ("path", "field", "values"),
    [
        ("/v1/completions", "prompt", ("p" * 5000, "p" * 5000 + " and more")),
        ("/v1/completions", "prompt", (["p" * 5000], ["p" * 5000 + " and more"])),
        ("/v1/responses", "input", ("p" * 5000, "p" * 5000 + " and more")),
    ],
)
def test_a_text_that_grows_keeps_its_head_whatever_field_follows(
    path: str, field: str, values: tuple[Any, Any]
) -> None:
    bodies = [json.dumps({"model": "m", field: value, "user": "Ann"}).encode() for value in values]
    assert len({blocks(path, body)[0][0] for body in bodies}) == 1


def test_no_more_than_64_kib_are_searched_for_the_first_user_message() -> None:
    heads = {hashed(turns(user, 1, system="s" * 70000)[0])[0] for user in ("Ann", "Bob")}
    assert len(heads) == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/embeddings", b'{"input":"text"}'), ("/v1/responses/resp_1", b""), (CHAT, b"{}"), (CHAT, b"")],
)
def test_what_has_no_prompt_has_no_blocks(path: str, body: bytes) -> None:
    assert blocks(path, body) == ([], [])


@given(
    st.binary(max_size=3000), st.sampled_from([b"", b'{"messages":', b'{"messages": [{"role": "user", "content": "'])
)
def test_any_bytes_are_hashed_in_order_within_the_body(body: bytes, opening: bytes) -> None:
    hashes, ends = blocks(CHAT, opening + body)
    assert len(hashes) == len(ends)
    assert ends == sorted(set(ends))
    assert all(0 < end <= len(opening + body) for end in ends)


def test_another_process_hashes_alike() -> None:
    asked = request(turns("Ann", 4)[-1])
    script = (
        "import sys; from backends.engine.prefix import blocks; print(blocks(sys.argv[1], sys.stdin.buffer.read()))"
    )
    argv = [sys.executable, "-c", script, asked.path]
    done = subprocess.run(argv, input=asked.body, capture_output=True, check=True, cwd=ROOT)
    assert done.stdout.decode().strip() == str(blocks(asked.path, asked.body))


def test_the_deepest_known_block_is_found() -> None:
    memory = Memory()
    memory.record([1, 2, 3], "a")
    memory.record([1, 2, 9], "b")
    visit, place = memory.find([1, 2, 3, 4])
    assert visit is not None
    assert (visit.replica, place) == ("a", 2)
    visit, place = memory.find([1, 2, 8])
    assert visit is not None
    assert (visit.replica, place) == ("b", 1)
    assert memory.find([7]) == (None, -1)


def test_the_memory_is_bounded_and_forgets_the_least_recent_first() -> None:
    memory = Memory(capacity=4)
    memory.record([1, 2], "a")
    memory.record([3, 4], "b")
    memory.record([1, 2], "a")
    memory.record([5, 6], "c")
    assert len(memory) == 4
    assert memory.find([3, 4]) == (None, -1)
    assert memory.find([1, 2])[1] == 1


def test_a_replica_that_lost_a_prompt_has_lost_all_that_it_saw_before() -> None:
    memory = Memory()
    memory.record([1], "a")
    middle = memory.record([2], "a")
    memory.record([3], "b")
    memory.record([4], "a")
    memory.forget("a", middle.stamp)
    assert [memory.find([each])[1] for each in (1, 2, 3, 4)] == [-1, -1, 0, 0]
    memory.forget("a", middle.stamp - 1)
    assert memory.find([2]) == (None, -1)
