"""Requests that an engine fails before their answer began: sent elsewhere unseen, within limits, counted, told."""

from __future__ import annotations

import asyncio
import json

import pytest
from msgspec.structs import replace

from backends.engine.attempts import Budget
from backends.errors import UpstreamError
from tests.backends.engine.among import (
    NOBODY,
    STREAMED,
    WORDS,
    Said,
    among,
    asked,
    endpoints,
    fields,
    heard,
    is_banned,
    over,
    replica,
    requests,
    text,
    told,
)
from tests.engines import EchoEngine
from tests.processes import holds

PATIENT = 1_000_000.0


# Elsewhere


@STREAMED
async def test_an_engine_that_cannot_be_reached_is_passed_over_unseen(stream: bool, two: list[EchoEngine]) -> None:
    async with over(endpoints(two[0].address, NOBODY)) as model:
        request = asked(stream=stream)
        response = await model.respond(request)
        assert response.status == 200
        assert fields(response) == {b"x-tritium-endpoint": b"e0", b"x-tritium-retries": b"1"}
        assert await text(response, stream=stream) == WORDS
        route = request.route
        assert (route.endpoint, route.policy, route.retries, route.ejections) == ("e0", "round_robin", 1, 1)
        assert route.reason.startswith("after a failure: ")
        assert len(route.failures) == 1
        assert route.failures[0].startswith("e1: The engine of model 'echo' cannot be reached")
        again = asked(stream=stream)  # its ban has begun
        response = await model.respond(again)
        assert fields(response) == {b"x-tritium-endpoint": b"e0"}
        await response.body.aclose()
        assert (again.route.retries, again.route.failures) == (0, [])


@STREAMED
@pytest.mark.parametrize("fault", ["500", "502", "503", "504", "429", "text-error", "refuse"])
async def test_what_another_engine_may_do_better_is_sent_there(fault: str, stream: bool, two: list[EchoEngine]) -> None:
    two[1].configure(fault=fault)
    async with among(two) as model:
        request = asked(stream=stream)
        response = await model.respond(request)
        assert response.status == 200
        assert fields(response) == {b"x-tritium-endpoint": b"e0", b"x-tritium-retries": b"1"}
        assert await text(response, stream=stream) == WORDS
        assert [failure[:4] for failure in request.route.failures] == ["e1: "]


@STREAMED
@pytest.mark.parametrize("fault", ["flat-error", "401", "404", "422"])
async def test_what_is_wrong_everywhere_is_answered_as_it_is(fault: str, stream: bool, two: list[EchoEngine]) -> None:
    two[1].configure(fault=fault)
    async with among(two) as model:
        request = asked(stream=stream)
        response = await model.respond(request)
        assert response.status == (400 if fault == "flat-error" else int(fault))
        assert fields(response) == {b"x-tritium-endpoint": b"e1"}
        assert "asked for" in json.dumps(await told(response))
        assert request.route.failures == []
        assert requests(two[0]) == 0
        assert not is_banned(replica(model, "e1"))


@STREAMED
@pytest.mark.parametrize("status", [500, 503, 429])
async def test_an_error_of_all_engines_is_the_answer(status: int, stream: bool, two: list[EchoEngine]) -> None:
    for engine in two:
        engine.configure(fault=str(status), retry_after=7)
    async with among(two) as model:
        request = asked(stream=stream)
        response = await model.respond(request)
        assert response.status == status
        assert fields(response) == {b"x-tritium-endpoint": b"e0", b"x-tritium-retries": b"1"}
        if status == 429:
            assert dict(response.headers)[b"retry-after"] == b"7"
        assert (await told(response))["error"]["message"] == f"The status {status} was asked for."
        assert request.route.failures == [f"{each}: It answered {status}." for each in ("e1", "e0")]


@pytest.mark.parametrize("fault", ["cut", "eof", "error-event", "refuse"])
async def test_a_whole_answer_that_breaks_in_the_middle_is_asked_for_again(fault: str, two: list[EchoEngine]) -> None:
    two[1].configure(fault=fault)
    async with among(two) as model:
        request = asked(stream=False)
        response = await model.respond(request)
        assert await text(response, stream=False) == WORDS
        assert fields(response) == {b"x-tritium-endpoint": b"e0", b"x-tritium-retries": b"1"}
        assert [requests(engine) for engine in two] == [1, 1]


async def test_a_stream_that_begins_anew_has_the_head_of_the_engine_that_answers(two: list[EchoEngine]) -> None:
    two[1].configure(fault="cut", after=0)
    async with among(two) as model:
        response = await model.respond(asked())
        assert fields(response) == {b"x-tritium-endpoint": b"e1"}
        assert (await heard(response, is_pumped=True)).text == WORDS
        assert fields(response) == {b"x-tritium-endpoint": b"e0", b"x-tritium-retries": b"1"}


@pytest.mark.parametrize("is_pumped", [True, False])
async def test_failures_that_are_not_in_a_row_ban_nobody(is_pumped: bool, two: list[EchoEngine]) -> None:
    async with among(two, retry_budget="1") as model:
        for _ in range(4):
            two[1].configure(fault="500")
            await text(await model.respond(asked()), stream=True)
            two[1].configure(fault="none")
            endpoint = ""
            while endpoint != "e1":
                request = asked()
                await heard(await model.respond(request), is_pumped=is_pumped)
                endpoint = request.route.endpoint
        assert not is_banned(replica(model, "e1"))


@pytest.mark.parametrize(("fault", "is_out"), [("500", True), ("429", False)])
async def test_an_engine_that_fails_three_times_in_a_row_is_out_but_not_one_that_is_full(
    fault: str, is_out: bool, two: list[EchoEngine]
) -> None:
    two[1].configure(fault=fault)
    async with among(two, retry_budget="1") as model:
        ejections = 0
        while requests(two[1]) < 3:
            request = asked(stream=False)
            await model.respond(request)
            ejections += request.route.ejections
        assert (is_banned(replica(model, "e1")), ejections) == (is_out, int(is_out))


async def test_an_error_that_is_passed_on_counts_against_its_engine_all_the_same(two: list[EchoEngine]) -> None:
    two[1].configure(fault="500")
    async with among(two, retries="0") as model:
        statuses = [(await model.respond(asked(stream=False))).status for _ in range(6)]
        assert sorted(statuses) == [200] * 3 + [500] * 3
        assert is_banned(replica(model, "e1"))


# Limits


@pytest.mark.parametrize(("retries", "status", "sent"), [("0", 500, 1), ("1", 500, 2), ("2", 200, 3)])
@STREAMED
async def test_no_more_retries_than_the_model_allows(
    retries: str, status: int, sent: int, stream: bool, three: list[EchoEngine]
) -> None:
    for engine in three[:2]:
        engine.configure(fault="500")
    async with among(three, retries=retries) as model:
        request = asked(stream=stream)
        response = await model.respond(request)
        await response.body.aclose()
        assert response.status == status
        assert sum(map(requests, three)) == sent
        assert request.route.retries == sent - 1


async def test_without_a_budget_nothing_is_sent_again_that_an_engine_answered(two: list[EchoEngine]) -> None:
    two[1].configure(fault="500")
    async with among(two, retry_budget="0") as model:
        response = await model.respond(asked())
        assert response.status == 500
        assert requests(two[0]) == 0


async def test_an_engine_that_cannot_be_reached_is_passed_over_whatever_the_limits(two: list[EchoEngine]) -> None:
    none = {"retry_budget": "0", "retries": "0", "lost_engines": "1"}
    async with over(endpoints(two[0].address, NOBODY), **none) as model:
        assert await text(await model.respond(asked()), stream=True) == WORDS


async def test_a_storm_of_failures_uses_the_budget_up_and_traffic_earns_it_back(two: list[EchoEngine]) -> None:
    for engine in two:
        engine.configure(fault="429")
    async with among(two, retry_budget="0.25") as model:
        sent = []
        for _ in range(21):
            request = asked(stream=False)
            await model.respond(request)
            sent.append(request.route.retries)
        # Ten to begin with, a quarter for each request: then every fourth.
        assert sum(sent) == 10 + 20 // 4
        assert sent[:13] == [1] * 13
        assert sum(sent[13:17]) == sum(sent[17:21]) == 1


async def test_engines_that_live_and_close_connections_are_asked_again_within_the_budget(two: list[EchoEngine]) -> None:
    for engine in two:
        engine.configure(fault="refuse")
    async with among(two, retry_budget="0.01") as model:
        told = await asyncio.gather(*(model.respond(asked(stream=False)) for _ in range(3)), return_exceptions=True)
    assert [isinstance(error, UpstreamError) and "closed the connection" in error.message for error in told] == [
        True
    ] * 3
    # Each request asks each engine once for nothing; the ten of the reserve are shared.
    assert sum(map(requests, two)) == 3 * 2 + 10


@STREAMED
async def test_engines_whose_death_is_told_late_cost_no_budget(stream: bool, two: list[EchoEngine]) -> None:
    for engine in two:
        engine.configure(fault="refuse")
    known = endpoints(*(engine.address for engine in two))
    async with over(known, retry_budget="0") as model:
        asking = asyncio.create_task(model.respond(asked(stream=stream)))
        await holds(lambda: all(map(requests, two)))
        await asyncio.wait((asking,), timeout=0.2)
        assert not asking.done()
        two[0].configure(fault="none")
        known.current = tuple(replace(endpoint, restarts=1) for endpoint in known.current)
        assert await text(await asking, stream=stream) == WORDS
        assert requests(two[0]) + requests(two[1]) <= 4


def test_a_budget_is_a_share_of_the_requests_with_a_small_reserve() -> None:
    budget = Budget(0.5)
    assert [budget.spend() for _ in range(11)] == [True] * 10 + [False]
    budget.earn()
    assert not budget.spend()
    budget.earn()
    assert [budget.spend() for _ in range(2)] == [True, False]
    for _ in range(1000):
        budget.earn()
    assert sum(budget.spend() for _ in range(100)) == 10


def test_a_budget_of_none_is_none() -> None:
    budget = Budget(0.0)
    budget.earn()
    assert not budget.spend()


@STREAMED
async def test_a_request_that_engines_die_of_is_given_up(stream: bool, two: list[EchoEngine]) -> None:
    for engine in two:
        engine.configure(fault="refuse")
    async with among(two, lost_engines="3") as model:
        with pytest.raises(UpstreamError, match="closed the connection before its answer was complete"):
            await model.respond(asked(stream=stream))
        assert sum(map(requests, two)) == 3


# Leaving


def hanging(stream: bool) -> list[str]:
    return ["hang-before-head", "hang-before-first-token", "hang"] if stream else ["hang-before-head", "hang"]


@pytest.mark.parametrize(("fault", "stream"), [(f, s) for s in (True, False) for f in hanging(s)])
async def test_leaving_frees_the_engine_and_what_it_was_counted_with(
    fault: str, stream: bool, two: list[EchoEngine]
) -> None:
    two[1].configure(fault=fault)
    async with among(two) as model:
        request = asked(stream=stream)

        async def whole() -> Said:
            return await heard(await model.respond(request), is_pumped=True)

        asking = asyncio.create_task(whole())
        await two[1].holds(1)
        busy = replica(model, "e1")
        assert (busy.in_flight, busy.tokens_in_flight) == (1, 10)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert (busy.in_flight, busy.tokens_in_flight) == (0, 0)
        await two[1].idle()
        assert request.route.failures == []


async def test_closing_a_stream_that_nobody_read_frees_the_engine(two: list[EchoEngine]) -> None:
    two[1].configure(itl_ms=PATIENT)
    async with among(two) as model:
        response = await model.respond(asked())
        await response.body.aclose()
        await response.body.aclose()
        await two[1].idle()
