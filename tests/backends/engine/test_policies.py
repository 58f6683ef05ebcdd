"""Policies: who gets a request, and what is learnt from its answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.engine.policies import Policy, policy
from backends.engine.replica import Replica
from backends.engine.ring import Ring, stable_name
from backends.engine.routing import POLICIES, Routing
from backends.model import Endpoint, Load, OpenAIRequest
from tests.backends.engine.routed import replicas, request, turns

HOME = "prefix", "session"
load = st.builds(Load, waiting=st.floats(0, 500), running=st.floats(0, 500), kv_usage=st.floats(0, 1))


def made(name: str = "prefix", **fields: float) -> Policy:
    return policy(Routing(routing_policy=name, **fields))


def places(chosen: Policy, among: Sequence[Replica], requests: Sequence[OpenAIRequest]) -> list[int]:
    return [list(among).index(chosen.pick(among, each)[0]) for each in requests]


def opening(number: int) -> OpenAIRequest:
    """The first request of some conversation, with a session of its own."""
    return request(turns(f"user {number}", 1)[0], session=f"session {number}")


@pytest.mark.parametrize("name", POLICIES)
def test_the_configuration_chooses_by_name(name: str) -> None:
    assert made(name).name == name


@pytest.mark.parametrize("name", POLICIES)
@given(
    tokens=st.lists(st.integers(0, 10**6), min_size=1, max_size=6),
    loads=st.lists(load, max_size=6),
    weights=st.lists(st.floats(0, 100), min_size=6, max_size=6),
    bodies=st.lists(
        st.one_of(st.binary(max_size=200), st.text(max_size=50).map(lambda text: request(prompt=text).body))
    ),
)
def test_every_policy_returns_one_of_those_given(
    name: str, tokens: list[int], loads: list[Load], weights: list[float], bodies: list[bytes]
) -> None:
    chosen, among = made(name), replicas(len(tokens), tokens=tokens, loads=loads, weights=weights)
    for number, body in enumerate(bodies):
        some = among[number % len(among) :]
        asked = OpenAIRequest("/v1/completions", body, "model", stream=False)
        replica, reason = chosen.pick(some, asked)
        assert replica in some
        assert reason
        chosen.learn(replica, asked, 100, 0)


@pytest.mark.parametrize("name", HOME)
@given(
    tokens=st.lists(st.integers(0, 10**5), min_size=2, max_size=8),
    numbers=st.lists(st.integers(0, 1000), min_size=1, max_size=40),
    factor=st.floats(1, 3),
)
def test_no_replica_takes_more_than_its_bound(name: str, tokens: list[int], numbers: list[int], factor: float) -> None:
    chosen, among = made(name, load_factor=factor), replicas(len(tokens), tokens=tokens)
    for number in numbers:
        asked = opening(number)
        before = [replica.tokens_in_flight for replica in among]
        replica, reason = chosen.pick(among, asked)
        mean = (sum(before) + asked.prompt_tokens) / len(among)
        allowance = {"over its bound": 0, "prefix": 1, "cached": 4, "session": 4}[reason] * asked.prompt_tokens
        assert replica.tokens_in_flight <= factor * mean + allowance + 1e-6
        replica.tokens_in_flight += asked.prompt_tokens


@pytest.mark.parametrize("name", HOME)
def test_two_gateways_agree_without_talking_in_whatever_order_they_list_the_replicas(name: str) -> None:
    requests = [opening(number) for number in range(200)]
    one, other = replicas(5), replicas(5)[::-1]
    first, second = made(name), made(name)
    assert places(first, one, requests) == [4 - place for place in places(second, other, requests)]


@pytest.mark.parametrize("name", HOME)
def test_conversations_with_a_common_system_prompt_spread_evenly(name: str) -> None:
    system = "Follow the rules. " * 500
    requests = [
        request(turns(f"user {number}", 1, system=system)[0], session=f"session {number}") for number in range(1000)
    ]
    shares = Counter(places(made(name), replicas(4), requests))
    assert all(200 <= shares[place] <= 300 for place in range(4))


@pytest.mark.parametrize("name", HOME)
def test_without_one_replica_only_its_own_conversations_move_and_to_all_others(name: str) -> None:
    among, requests = replicas(5), [opening(number) for number in range(500)]
    before = places(made(name), among, requests)
    after = places(made(name), among[:-1], requests)
    assert all(was == now for was, now in zip(before, after, strict=True) if was != 4)
    assert {now for was, now in zip(before, after, strict=True) if was == 4} == {0, 1, 2, 3}


@pytest.mark.parametrize("name", HOME)
def test_every_turn_goes_where_the_first_went_in_any_process(name: str) -> None:
    among = replicas(4)
    for user in range(50):
        requests = [request(messages, session=f"session {user}") for messages in turns(f"user {user}", 6)]
        same_process = places(made(name), among, requests)
        a_process_each = [places(made(name), among, [each])[0] for each in requests]
        assert len({*same_process, *a_process_each}) == 1


def test_a_conversation_stays_where_it_moved_to_while_its_home_was_full() -> None:
    chosen, among = made(), replicas(4)
    first, second, third = (request(messages) for messages in turns("Ann", 3))
    (home,) = places(made(), among, [first])
    among[home].tokens_in_flight = 10**6
    replica, reason = chosen.pick(among, first)
    assert (replica is among[home], reason) == (False, "over its bound")
    among[home].tokens_in_flight = 0
    assert [chosen.pick(among, each) for each in (second, third)] == [(replica, "cached")] * 2


def test_a_cached_prompt_is_worth_some_tokens_over_the_bound_and_no_more() -> None:
    chosen, among = made(load_factor=1), replicas(2)
    first, second = (request(messages) for messages in turns("Ann", 2))
    home, _ = chosen.pick(among, first)
    (other,) = (replica for replica in among if replica is not home)
    other.tokens_in_flight = 10**4
    home.tokens_in_flight = 10**4 + 3 * first.prompt_tokens
    assert chosen.pick(among, second)[0] is home
    home.tokens_in_flight = 10**4 + 12 * second.prompt_tokens
    assert chosen.pick(among, second) == (other, "over its bound")


def test_a_replica_that_lost_its_cache_loses_what_it_took_over_but_keeps_what_it_has_now() -> None:
    chosen, among = made(), replicas(2)
    moved = [[request(messages) for messages in turns(f"user {number}", 3)] for number in range(20)]
    homes = places(made(), among, [conversation[0] for conversation in moved])
    visitors = [conversation for home, conversation in zip(homes, moved, strict=True) if home == 0]
    among[0].tokens_in_flight = 10**6
    for conversation in visitors:
        assert chosen.pick(among, conversation[0])[0] is among[1]
        chosen.learn(among[1], conversation[0], 100, 0)
    among[0].tokens_in_flight = 0
    witness, *others = visitors[::-1]
    assert chosen.pick(among, witness[1]) == (among[1], "cached")
    chosen.learn(among[1], witness[1], 100, 0)
    assert [chosen.pick(among, conversation[1])[0] for conversation in others] == [among[0]] * len(others)
    assert chosen.pick(among, witness[2]) == (among[1], "cached")


@pytest.mark.parametrize("cached_tokens", [60, 100])
def test_a_replica_that_has_what_was_expected_is_trusted_further(cached_tokens: int) -> None:
    chosen, among = made(), replicas(2)
    first, second, third = (request(messages) for messages in turns("Ann", 3))
    (home,) = places(made(), among, [first])
    among[home].tokens_in_flight = 10**6
    guest, _ = chosen.pick(among, first)
    chosen.learn(guest, first, 100, 0)
    among[home].tokens_in_flight = 0
    assert chosen.pick(among, second)[0] is guest
    chosen.learn(guest, second, 100, cached_tokens)
    assert chosen.pick(among, third)[0] is guest


def test_an_answer_under_way_proves_nothing_of_the_cache() -> None:
    chosen, among = made(), replicas(2)
    openings = [opening(number) for number in range(20)]
    guests = [each for each, home in zip(openings, places(made(), among, openings), strict=True) if home == 0]
    among[0].tokens_in_flight = 10**6
    for each in guests:
        assert chosen.pick(among, each)[0] is among[1]
    among[0].tokens_in_flight = 0
    again = request(turns(f"user {openings.index(guests[-1])}", 2)[1])
    assert chosen.pick(among, again) == (among[1], "cached")
    chosen.learn(among[1], again, 100, 0)
    assert {chosen.pick(among, each) for each in guests} == {(among[1], "cached")}


def test_answers_of_others_than_the_one_picked_teach_nothing() -> None:
    chosen, among = made(), replicas(2)
    asked = opening(1)
    picked, _ = chosen.pick(among, asked)
    (other,) = (replica for replica in among if replica is not picked)
    chosen.learn(other, asked, 100, 0)
    chosen.learn(picked, opening(2), 100, 0)
    assert chosen.pick(among, asked) == (picked, "cached")


def test_a_short_prompt_goes_to_its_place_and_leaves_no_trace() -> None:
    chosen, among = made(), replicas(2)
    short = request([{"role": "user", "content": "Hello"}])
    home, reason = chosen.pick(among, short)
    assert reason == "prefix"
    home.tokens_in_flight = 100_000
    assert chosen.pick(among, short)[1] == "over its bound"
    home.tokens_in_flight = 0
    assert chosen.pick(among, short) == (home, "prefix")


def test_requests_without_a_prompt_go_where_there_is_least_work() -> None:
    asked = OpenAIRequest("/v1/embeddings", b'{"input":"text"}', "model", stream=False)
    assert places(made(), replicas(3, tokens=[5, 3, 4]), [asked]) == [1]


@pytest.mark.parametrize("name", ["least_load", "power_of_two"])
def test_tokens_count_and_not_requests(name: str) -> None:
    among = replicas(2, tokens=[900, 1000])
    among[0].in_flight = 9
    assert set(places(made(name), among, [opening(number) for number in range(20)])) == {0}


@pytest.mark.parametrize("name", ["least_load", "power_of_two"])
@pytest.mark.parametrize("busy", [Load(waiting=5), Load(running=5), Load(running=2, kv_usage=0.9)])
def test_what_the_engine_says_of_others_work_counts(name: str, busy: Load) -> None:
    among = replicas(2, tokens=[100, 100], loads=[busy, Load(running=2, kv_usage=0.1)])
    assert set(places(made(name), among, [opening(number) for number in range(20)])) == {1}


def test_requests_of_ours_that_a_load_has_counted_are_not_counted_twice_nor_after_they_ended() -> None:
    chosen, asked = made("least_load"), opening(1)
    among = replicas(2, tokens=[asked.prompt_tokens, asked.prompt_tokens + 1], loads=[Load(running=1), Load()])
    assert places(chosen, among, [asked] * 2) == [0, 0]
    among[0].tokens_in_flight = among[0].in_flight = 0
    among[1].tokens_in_flight = 1
    assert places(chosen, among, [asked] * 2) == [0, 0]


def test_a_peak_of_others_work_counts_in_part_and_one_that_lasts_in_full() -> None:
    chosen, asked = made("least_load"), opening(1)
    among = replicas(2, tokens=[0, 4 * asked.prompt_tokens], loads=[Load(), Load()])
    endpoints = among[0]._endpoints
    found = []
    for _ in range(5):
        found += places(chosen, among, [asked])
        endpoints.loads = {among[0].endpoint.id: Load(running=6), among[1].endpoint.id: Load()}
    assert found == [0, 0, 0, 0, 1]


def test_least_load_takes_turns_among_equals() -> None:
    assert set(places(made("least_load"), replicas(3), [opening(number) for number in range(3)])) == {0, 1, 2}


def test_power_of_two_spreads_evenly_among_equals_and_spares_the_busiest() -> None:
    requests = [opening(number) for number in range(600)]
    shares = Counter(places(made("power_of_two"), replicas(3), requests))
    assert all(120 <= shares[place] <= 280 for place in range(3))
    assert 2 not in places(made("power_of_two"), replicas(3, tokens=[0, 0, 10]), requests)


def test_round_robin_takes_turns() -> None:
    found = places(made("round_robin"), replicas(3), [opening(number) for number in range(9)])
    assert all((after - before) % 3 == 1 for before, after in pairwise(found))


def test_weights_are_exact_shares_smoothly_interleaved() -> None:
    found = places(made("weighted"), replicas(3, weights=[5, 1, 1]), [opening(number) for number in range(7 * 20)])
    assert found[:7] == [0, 0, 1, 0, 2, 0, 0]
    assert found == found[:7] * 20


@given(st.lists(st.integers(0, 20), min_size=2, max_size=5).filter(any))
def test_over_a_cycle_each_gets_its_weight(weights: list[int]) -> None:
    asked = opening(1)
    shares = Counter(places(made("weighted"), replicas(len(weights), weights=weights), [asked] * sum(weights)))
    assert [shares[place] for place in range(len(weights))] == weights


def test_a_canary_gets_its_hundredth_and_nothing_at_weight_zero() -> None:
    requests = [opening(1)] * 1000
    assert Counter(places(made("weighted"), replicas(2, weights=[0.99, 0.01]), requests))[1] == 10
    assert set(places(made("weighted"), replicas(2, weights=[1, 0]), requests)) == {0}
    assert set(places(made("weighted"), replicas(2, weights=[0, 0]), requests)) == {0, 1}


def test_a_session_is_named_by_the_header_then_by_the_cache_key_then_by_the_user() -> None:
    among = replicas(16)

    def place(session: str = "", **fields: str) -> int:
        return places(made("session"), among, [request(turns("Ann", 1)[0], session=session, **fields)])[0]

    assert place("a", prompt_cache_key="b", user="c") == place("a")
    assert place(prompt_cache_key="b", user="c") == place(prompt_cache_key="b") == place("b")
    assert place(user="c") == place("c")
    assert len({place(name) for name in "abcdefgh"}) > 4


@pytest.mark.parametrize("fields", [{}, {"user": ""}, {"user": 7}])
def test_a_request_without_a_session_goes_by_its_prefix(fields: dict[str, object]) -> None:
    among = replicas(16)
    requests = [request(turns(f"user {number}", 1)[0], **fields) for number in range(20)]
    assert places(made("session"), among, requests) == places(made(), among, requests)


def test_a_session_goes_elsewhere_while_its_replica_is_over_its_bound_and_comes_back() -> None:
    chosen, among, asked = made("session"), replicas(3), opening(1)
    home, reason = chosen.pick(among, asked)
    assert reason == "session"
    home.tokens_in_flight = 10**6
    away, reason = chosen.pick(among, asked)
    assert (away is home, reason) == (False, "over its bound")
    home.tokens_in_flight = 0
    assert chosen.pick(among, asked)[0] is home


def test_urls_name_endpoints_for_all_gateways_and_ids_our_own_sockets() -> None:
    assert stable_name(Endpoint("here/1/0", "http://engine:8000")) == "http://engine:8000"
    assert stable_name(Endpoint("model/1/0", "unix:/run/tritium-17/model.sock")) == "model/1/0"


@given(st.integers(0, 2**64), st.integers(1, 8))
def test_an_order_has_every_replica_once(key: int, count: int) -> None:
    assert sorted(Ring().order(replicas(count), key)) == list(range(count))
