"""Every vector store lets through what a filter says and nothing else, as the filter in Python does."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensembles.stores.filters import Comparison, Compound
from ensembles.stores.opening import open_store
from ensembles.stores.store import Chunk
from tests.conformance.store_chunks import DIMENSIONS, found, texts, vector

KEYS = ["a", "a.b", "it's", '"', "%", "", "$.a", "ключ", "a\\", "{}"]
STRINGS = ["", "a", "A", "b", "it's", "%", "_", "\\", '"', "1", "true", "null", "é", "zz", "😀", "\uffff"]
scalars = st.one_of(
    st.sampled_from(STRINGS),
    st.text(max_size=4).filter(lambda text: "\x00" not in text),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2, 10, 0.1, -0.0, 1e300, 5e-324]),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
)
keys = st.sampled_from(KEYS)
comparisons = st.one_of(
    st.builds(Comparison, st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte"]), keys, scalars),
    st.builds(Comparison, st.sampled_from(["in", "nin"]), keys, st.lists(scalars, max_size=4)),
)
filters = st.recursive(
    comparisons,
    lambda members: st.builds(Compound, st.sampled_from(["and", "or"]), st.lists(members, min_size=1, max_size=3)),
    max_leaves=6,
)


def holds(condition, attributes):
    """The filter in Python."""
    if isinstance(condition, Compound):
        every = all if condition.type == "and" else any
        return every(holds(member, attributes) for member in condition.filters)
    there = attributes.get(condition.key)

    def equals(value):
        return kind(there) == kind(value) and there == value

    if condition.type in {"in", "nin"}:
        return any(map(equals, condition.value)) is (condition.type == "in")
    if condition.type in {"eq", "ne"}:
        return equals(condition.value) is (condition.type == "eq")
    if kind(there) != kind(condition.value):
        return False
    return {
        "gt": there > condition.value,
        "gte": there >= condition.value,
        "lt": there < condition.value,
        "lte": there <= condition.value,
    }[condition.type]


def kind(value):
    return float if type(value) is int else type(value)


@pytest.fixture(scope="module")
def filtered(store_url):
    """A collection of four files, and a loop to ask it in."""
    with asyncio.Runner() as runner:
        store, name = open_store(store_url), f"vs_{uuid4().hex}"

        async def fill():
            await store.create(name, DIMENSIONS)
            for number in range(4):
                await store.put(name, {f"f{number}": texts("same text", file_id=f"f{number}")})

        runner.run(fill())
        yield runner, store, name
        runner.run(store.close())


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    attributes=st.lists(st.dictionaries(keys, scalars, max_size=4), min_size=4, max_size=4),
    asked=st.lists(filters, min_size=1, max_size=8),
)
def test_a_filter_lets_through_what_it_says_and_nothing_else(filtered, attributes, asked):
    runner, store, name = filtered

    async def ask():
        for number, of in enumerate(attributes):
            await store.set_attributes(name, f"f{number}", of)
        for condition in asked:
            expected = {f"f{number}:0" for number, of in enumerate(attributes) if holds(condition, of)}
            dense, words = await asyncio.gather(
                store.dense(name, vector(1, 0, 0, 0), 9, condition), store.words(name, "same", 9, condition)
            )
            assert set(found(dense)) == set(found(words)) == expected, condition

    runner.run(ask())


async def test_a_filter_finds_the_few_among_the_many(store, collection):
    await store.put(
        collection, {"few": [Chunk("few", "few", 0, "same", vector=vector(-1, 0, 0, 0), attributes={"is": "it"})]}
    )
    for number in range(5):
        await store.put(collection, {f"f{number}": texts(*["same"] * 100, file_id=f"f{number}")})
    assert found(await store.dense(collection, vector(1, 0, 0, 0), 3, Comparison("eq", "is", "it"))) == ["few:0"]
    assert found(await store.words(collection, "same", 3, Comparison("eq", "is", "it"))) == ["few:0"]


@pytest.mark.slow
async def test_a_filter_may_name_very_many_values(store, collection):
    await store.put(collection, {"f": texts("same", attributes={"number": 17_499})})
    for wanted in (range(17_500), range(17_499)):
        condition = Comparison("in", "number", list(wanted))
        assert len(await store.words(collection, "same", 3, condition)) == (17_499 in wanted)
        assert len(await store.dense(collection, vector(1, 0, 0, 0), 3, condition)) == (17_499 in wanted)
