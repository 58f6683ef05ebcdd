"""As many passages as the generator's context has room for, the weakest left out first."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any

import pytest

from backends.errors import InvalidRequest, Unavailable
from backends.model import Capability
from ensembles.step import Passage, Turn
from ensembles.steps.prompt import Prompt, block, load
from tests.ensembles.house import GENERATOR, House, chunk, question, talker

WORDS = 20
FIXED = {"instructions": "Be brief."}


def prompt(house: House, **options: Any) -> Prompt:
    return load({"model": GENERATOR, "reserve_tokens": 10, **FIXED, **options}, house)  # type: ignore[arg-type]


def turn(count: int = 5, text: str = "what is red?", **fields: Any) -> Turn:
    """A turn with passages of 20 words each, with their number and name 22."""
    passages = [Passage(chunk(n, " ".join(["word"] * WORDS)), 1 - n / 10) for n in range(1, count + 1)]
    return Turn(question(), [{"role": "user", "content": text}], text, [], passages=passages, **fields)


def numbers(turn: Turn) -> list[int]:
    return [passage.number for passage in turn.passages]


def sizes(house: House) -> list[int]:
    return [len(fields["prompt"].split()) for _, fields in house.models[GENERATOR].asked]


async def test_where_everything_has_room_nothing_is_counted() -> None:
    house = House(talker())
    asked = turn()
    await prompt(house).run(asked)
    assert numbers(asked) == [1, 2, 3, 4, 5]
    assert house.models[GENERATOR].asked == []
    assert all(block(n, asked.passages[n - 1]) in asked.prompt[-1]["content"] for n in numbers(asked))


async def test_what_is_close_is_counted_once_by_the_generators_own_tokenizer() -> None:
    house = House(talker(), context=200)
    asked = turn()
    await prompt(house).run(asked)
    assert numbers(asked) == [1, 2, 3, 4, 5]
    assert sizes(house) == [2 + 3 + 5 * (WORDS + 2)]


@pytest.mark.parametrize(("context", "kept"), [(149, 5), (148, 4), (127, 4), (126, 3), (50, 0)])
async def test_the_weakest_passages_are_left_out_to_the_token(context: int, kept: int) -> None:
    # Two messages of 12 tokens beside their words, 10 for the answer, 5 words that are there anyway, 22 a passage.
    house = House(talker(), context=context)
    asked = turn()
    await prompt(house).run(asked)
    assert numbers(asked) == [n if n <= kept else 0 for n in range(1, 6)]
    assert ("[1] 1.txt" in asked.prompt[-1]["content"]) is bool(kept)
    assert f"[{kept + 1}]" not in asked.prompt[-1]["content"]


async def test_a_longer_answer_leaves_less_room() -> None:
    house = House(talker(), context=160)
    asked = turn(output_tokens=60)
    await prompt(house).run(asked)
    assert numbers(asked) == [1, 2, 3, 0, 0]


async def test_a_generator_without_a_tokenizer_is_reckoned_for() -> None:
    house = House(talker(), context=200)
    house.models[GENERATOR].capabilities = frozenset({Capability.CHAT})
    asked = turn()
    await prompt(house).run(asked)
    assert 0 < sum(map(bool, numbers(asked))) < 5
    assert asked.degraded == {}


async def test_a_tokenizer_that_fails_is_done_without_and_told() -> None:
    house = House(talker(), context=200)
    house.models[GENERATOR].says["tokenize"] = lambda _: Unavailable("full")
    asked = turn()
    await prompt(house).run(asked)
    assert asked.degraded == {"prompt": "service_unavailable"}
    assert 0 < sum(map(bool, numbers(asked))) < 5
    assert asked.prompt


async def test_a_count_that_is_cut_short_leaves_a_prompt() -> None:
    house = House(talker(), context=200)
    house.models[GENERATOR].hangs = asyncio.Event()
    asked = turn()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await prompt(house).run(asked)
    assert asked.prompt
    assert 0 < sum(map(bool, numbers(asked))) < 5


@pytest.mark.parametrize(("context", "kept"), [(None, 3), (100_000, 5)])
async def test_the_context_of_a_generator_that_does_not_say_its_own_is_an_option(
    context: int | None, kept: int
) -> None:
    house = House(talker(), context=context)
    asked = turn()
    await prompt(house, context_tokens=126).run(asked)
    assert sum(map(bool, numbers(asked))) == kept


async def test_passages_may_stand_in_the_systems_message() -> None:
    asked = turn(1)
    await prompt(House(talker()), place="system").run(asked)
    system, user = asked.prompt
    assert system["content"].startswith("Be brief.\n\nPassages:\n\n[1] 1.txt\nword")
    assert user == asked.messages[0]


async def test_instructions_are_added_to_a_system_message_of_parts() -> None:
    asked = turn(1)
    parts = [{"type": "text", "text": "Be kind."}]
    asked.messages.insert(0, {"role": "system", "content": parts})
    await prompt(House(talker())).run(asked)
    assert asked.prompt[0]["content"] == [*parts, {"type": "text", "text": "Be brief."}]


async def test_only_so_many_passages_are_taken() -> None:
    asked = turn(5)
    await prompt(House(talker()), passages=2).run(asked)
    assert numbers(asked) == [1, 2]


def shown(turn: Turn) -> list[str]:
    """The names of the files in the prompt, in their order."""
    return re.findall(r"^\[\d\] (\d)\.txt$", turn.prompt[-1]["content"], re.MULTILINE)


async def asked(step: Prompt, *passages: int, tenant: str = "") -> Turn:
    """A turn with these passages, the best first, as the step has left it."""
    made = turn(0)
    made.request = replace(made.request, tenant=tenant)
    made.passages = [Passage(chunk(n, "word"), 1 - place / 10) for place, n in enumerate(passages)]
    await step.run(made)
    return made


async def test_passages_stand_by_score_unless_what_is_computed_is_to_be_used_again() -> None:
    step = prompt(House(talker()))
    assert shown(await asked(step, 3, 1, 2)) == ["3", "1", "2"]
    assert shown(await asked(step, 1, 3, 2)) == ["1", "3", "2"]


async def test_a_prompt_begins_with_as_many_passages_as_it_can_of_an_earlier_one() -> None:
    step = prompt(House(talker()), order="reuse")
    assert shown(await asked(step, 3, 1, 2)) == ["3", "1", "2"]
    assert shown(await asked(step, 4, 1, 3)) == ["3", "1", "4"]
    assert shown(await asked(step, 5, 2, 1)) == ["5", "2", "1"]
    assert shown(await asked(step, 4, 5, 1, 3)) == ["3", "1", "4", "5"]


async def test_another_excerpt_of_a_passage_is_not_the_same_beginning() -> None:
    step = prompt(House(talker()), order="reuse")
    await asked(step, 2, 1)
    found = turn(0)
    found.passages = [Passage(chunk(n, "word"), 1.0, excerpt="wor") for n in (1, 2)]
    await step.run(found)
    assert shown(found) == ["1", "2"]
    assert "[1] 1.txt\nwor\n" in found.prompt[-1]["content"]


async def test_numbers_follow_the_prompt_and_the_passages_keep_their_order() -> None:
    step = prompt(House(talker()), order="reuse")
    await asked(step, 3, 1, 2)
    found = await asked(step, 1, 2, 3)
    assert [passage.chunk.filename for passage in found.passages] == ["1.txt", "2.txt", "3.txt"]
    assert numbers(found) == [2, 3, 1]


async def test_what_one_tenant_asks_changes_no_others_prompt() -> None:
    step = prompt(House(talker()), order="reuse")
    await asked(step, 3, 1, tenant="alice")
    assert shown(await asked(step, 1, 3, tenant="bob")) == ["1", "3"]


async def test_the_weakest_are_left_out_in_either_order() -> None:
    step = prompt(House(talker(), context=126), order="reuse")
    await asked(step, 5, 1)
    found = turn()
    await step.run(found)
    assert numbers(found) == [1, 2, 3, 0, 0]


async def test_a_passage_that_was_found_twice_stays_where_it_is() -> None:
    step = prompt(House(talker()), order="reuse")
    await asked(step, 2, 1)
    assert shown(await asked(step, 1, 2, 1)) == ["1", "2", "1"]


async def test_only_so_many_orders_are_remembered() -> None:
    step = prompt(House(talker()), order="reuse")
    await asked(step, 2, 1)
    for _ in range(32):
        await asked(step, 3)
    assert shown(await asked(step, 1, 2)) == ["1", "2"]


def test_a_passage_says_where_it_is_from() -> None:
    passage = Passage(chunk(1, " text\n", page=3, heading="A > B"), 1.0)
    assert block(2, passage) == "[2] 1.txt, A > B, page 3\ntext"


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no option 'colour'"):
        prompt(House(talker()), colour="red")
