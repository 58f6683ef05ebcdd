"""Requests that an engine fails before their answer began: sent elsewhere unseen, within limits, counted, told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from backends.engine.attempts import Budget
from backends.engine.replica import Replica
from backends.engine.replicas import EngineModel
from backends.errors import ModelNotReady, Unavailable, UpstreamError, UpstreamTimeout
from backends.model import Endpoint, Endpoints, OpenAIRequest, OpenAIResponse, State
from tests.backends.engine.among import WORDS, Said, among, asked, engines, heard, over
from tests.backends.engine.scripted import OK, scripted
from tests.engines import MODEL, EchoEngine
from tests.waiting import eventually_async

STREAMED = pytest.mark.parametrize("stream", [True, False])
RESPONSES = "/v1/responses"
NOBODY = "unix:/none"
PATIENT = 1_000_000.0


@pytest.fixture(scope="module")
def started() -> Iterator[list[EchoEngine]]:
    with engines(3) as three:
        yield three


@pytest.fixture
def three(started: list[EchoEngine]) -> Iterator[list[EchoEngine]]:
    """Three engines. Of those that take turns the second is the first to be asked."""
    yield started
    for engine in started:
        engine.configure(fault="none", after=-1, times=0, itl_ms=0, ttft_ms=0, retry_after=1, prefix_cache_tokens=0)
        engine.reset()


@pytest.fixture
def two(three: list[EchoEngine]) -> list[EchoEngine]:
    return three[:2]


def endpoints(*addresses: str, states: Sequence[State] = ()) -> Endpoints:
    named = states or [State.READY] * len(addresses)
    return Endpoints(
        tuple(
            Endpoint(f"e{n}", address, state) for n, (address, state) in enumerate(zip(addresses, named, strict=True))
        )
    )


def fields(response: OpenAIResponse) -> dict[bytes, bytes]:
    """What the head says of the request's way."""
    return {name: value for name, value in response.headers if name.startswith(b"x-tritium-")}


async def told(response: OpenAIResponse) -> Any:
    """A whole answer, decoded."""
    whole = b"".join([part async for part in response.body])
    await response.body.aclose()
    return json.loads(whole)


async def text(response: OpenAIResponse, *, stream: bool) -> str:
    if stream:
        return (await heard(response, is_pumped=True)).text
    content: str = (await told(response))["choices"][0]["message"]["content"]
    return content


def requests(engine: EchoEngine) -> int:
    count: int = engine.stats()["requests"]
    return count


def replica(model: EngineModel, name: str) -> Replica:
    return next(one for one in model.replicas.ready() if one.endpoint.id == name)


def is_banned(one: Replica) -> bool:
    return not one.admits(0.0)


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


async def test_without_a_budget_an_engine_that_cannot_be_reached_is_passed_over_all_the_same(
    two: list[EchoEngine],
) -> None:
    async with over(endpoints(two[0].address, NOBODY), retry_budget="0", retries="0") as model:
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


# Waiting for an engine


async def is_waiting(model: EngineModel, request: OpenAIRequest) -> asyncio.Task[OpenAIResponse]:
    """A request that has found nobody to go to."""
    asking = asyncio.create_task(model.respond(request))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not asking.done()
    assert request.stall is not None
    assert not request.stall(UpstreamTimeout("It is silent."))
    return asking


@STREAMED
async def test_a_request_waits_for_an_engine_that_is_coming(stream: bool, two: list[EchoEngine]) -> None:
    found = endpoints(two[0].address, two[1].address, states=[State.STARTING, State.FAILED])
    async with over(found) as model:
        assert model.ready()
        request = asked(stream=stream)
        asking = await is_waiting(model, request)
        found.current = endpoints(two[0].address, two[1].address, states=[State.READY, State.FAILED]).current
        response = await asking
        assert fields(response) == {b"x-tritium-endpoint": b"e0"}
        assert await text(response, stream=stream) == WORDS


async def test_a_request_waits_no_longer_when_none_is_coming_any_more(two: list[EchoEngine]) -> None:
    addresses = [engine.address for engine in two]
    found = endpoints(*addresses, states=[State.STARTING, State.FAILED])
    async with over(found) as model:
        asking = await is_waiting(model, asked())
        found.current = endpoints(*addresses, states=[State.STOPPED, State.FAILED]).current
        with pytest.raises(ModelNotReady, match="'echo' is not ready: FAILED, STOPPED"):
            await asking
        assert not model.ready()
        with pytest.raises(ModelNotReady):
            await model.respond(asked())


async def test_what_failed_at_all_that_are_ready_waits_for_the_one_that_is_coming(two: list[EchoEngine]) -> None:
    addresses = [two[0].address, NOBODY]
    found = endpoints(*addresses, states=[State.RESTARTING, State.READY])
    async with over(found) as model:
        request = asked()
        asking = asyncio.create_task(model.respond(request))

        async def has_failed() -> bool:
            return bool(request.route.failures)

        await eventually_async(has_failed, what="a failure")
        assert not asking.done()
        found.current = endpoints(*addresses).current
        assert await text(await asking, stream=True) == WORDS


async def test_leaving_while_waiting_for_an_engine_is_possible(two: list[EchoEngine]) -> None:
    found = endpoints(two[0].address, two[1].address, states=[State.STARTING] * 2)
    async with over(found) as model:
        asking = await is_waiting(model, asked())
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_where_nobody_can_be_reached_and_nobody_is_coming_it_says_why() -> None:
    found = endpoints(NOBODY, f"{NOBODY}/either")
    async with over(found) as model:
        request = asked()
        asking = asyncio.create_task(model.respond(request))

        async def have_failed() -> bool:
            return len(request.route.failures) >= 2

        await eventually_async(have_failed, what="two failures")
        found.current = endpoints(NOBODY, f"{NOBODY}/either", states=[State.FAILED] * 2).current
        with pytest.raises(Unavailable, match="The engine of model 'echo' cannot be reached"):
            await asking


# Stalls


async def stall(request: OpenAIRequest, engine: EchoEngine) -> None:
    """Break the attempt off that is under way there."""
    await engine.holds(1)

    async def is_told() -> bool:
        return request.stall is not None and request.stall(UpstreamTimeout("It is silent."))

    await eventually_async(is_told, what="the stall")
    assert request.stall is not None
    assert not request.stall(UpstreamTimeout("It is told already."))


@STREAMED
async def test_a_stall_before_the_head_is_broken_off_and_goes_elsewhere(stream: bool, two: list[EchoEngine]) -> None:
    two[1].configure(fault="hang-before-head")
    async with among(two) as model:
        request = asked(stream=stream)
        asking = asyncio.create_task(model.respond(request))
        await stall(request, two[1])
        response = await asking
        assert await text(response, stream=stream) == WORDS
        assert request.route.failures == ["e1: It is silent."]
        await two[1].idle()


@STREAMED
async def test_a_stall_that_may_not_be_tried_elsewhere_is_what_the_request_fails_with(
    stream: bool, two: list[EchoEngine]
) -> None:
    two[1].configure(fault="hang-before-head")
    async with among(two, retries="0") as model:
        request = asked(stream=stream)
        asking = asyncio.create_task(model.respond(request))
        await stall(request, two[1])
        with pytest.raises(UpstreamTimeout, match="It is silent"):
            await asking
        assert requests(two[0]) == 0
        await two[1].idle()


async def test_a_stall_in_the_middle_of_a_whole_answer_is_broken_off_and_goes_elsewhere(two: list[EchoEngine]) -> None:
    async with scripted() as server, over(endpoints(two[0].address, server.address)) as model:
        request = asked(stream=False)
        asking = asyncio.create_task(model.respond(request))
        conversation = await server.next()
        await conversation.request()
        await conversation.say(OK + b"content-type: application/json\r\ncontent-length: 10\r\n\r\n{")
        assert request.stall is not None
        assert request.stall(UpstreamTimeout("It is silent."))
        assert await text(await asking, stream=False) == WORDS
        assert request.route.failures == ["e1: It is silent."]
        await conversation.gone()


@STREAMED
async def test_nothing_is_broken_off_any_more_once_the_answer_is_over(stream: bool, two: list[EchoEngine]) -> None:
    async with among(two) as model:
        request = asked(stream=stream)
        await text(await model.respond(request), stream=stream)
        assert request.stall is None or not request.stall(UpstreamTimeout("It is silent."))


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


# Stored responses


def remembered(previous: str, *, stream: bool = False, model: str = MODEL) -> OpenAIRequest:
    body: dict[str, Any] = {"model": model, "input": "one two", "stream": stream}
    if previous:
        body["previous_response_id"] = previous
    return OpenAIRequest(RESPONSES, json.dumps(body).encode(), model, stream=stream)


@STREAMED
async def test_a_stored_response_is_looked_for_at_the_others(stream: bool, two: list[EchoEngine]) -> None:
    async with among(two) as model:
        first = remembered("")
        answer = await told(await model.respond(first))
        assert first.route.endpoint == "e1"
        second = remembered(answer["id"], stream=stream)
        response = await model.respond(second)
        assert response.status == 200
        assert fields(response) == {b"x-tritium-endpoint": b"e1", b"x-tritium-retries": b"1"}
        whole = b"".join([part async for part in response.body])
        await response.body.aclose()
        assert answer["id"].encode() in whole
        assert second.route.failures == ["e0: It answered 404."]


async def test_a_response_that_nobody_keeps_is_not_found_and_nobodys_fault(two: list[EchoEngine]) -> None:
    async with among(two, retry_budget="1") as model:
        for _ in range(4):
            request = remembered("resp_nowhere")
            response = await model.respond(request)
            assert response.status == 404
            assert len(request.route.failures) == 2
        assert not any(map(is_banned, model.replicas.ready()))


async def test_another_thing_that_is_not_found_is_not_looked_for(two: list[EchoEngine]) -> None:
    async with among(two) as model:
        response = await model.respond(remembered("", model="nobody"))
        assert response.status == 404
        assert requests(two[0]) == 0


async def test_what_has_no_body_takes_turns(two: list[EchoEngine]) -> None:
    async with among(two, routing_policy="prefix") as model:
        turns = []
        for _ in range(4):
            request = OpenAIRequest("/v1/models", b"", MODEL, stream=False, method="GET")
            assert (await told(await model.respond(request)))["object"] == "list"
            turns.append(request.route.endpoint)
        assert turns == ["e1", "e0"] * 2


async def test_what_is_done_with_a_stored_response_takes_turns_too(two: list[EchoEngine]) -> None:
    async with among(two, routing_policy="prefix") as model:
        body = json.dumps({"model": MODEL, "input": "one", "background": True, "echo": {"ttft_ms": PATIENT}}).encode()
        kept = await told(await model.respond(OpenAIRequest(RESPONSES, body, MODEL, stream=False)))
        cancel = f"{RESPONSES}/{kept['id']}/cancel"
        statuses = [(await model.respond(OpenAIRequest(cancel, b"", MODEL, stream=False))).status for _ in two]
        assert sorted(statuses) == [200, 404]


# What policies learn


class Learning:
    """Asks the first, and keeps what it is told."""

    name = "learning"

    def __init__(self) -> None:
        self.lessons: list[tuple[str, OpenAIRequest, int, int]] = []

    def pick(self, replicas: Sequence[Replica], request: OpenAIRequest) -> tuple[Replica, str]:  # noqa: ARG002
        return replicas[0], "first"

    def learn(self, replica: Replica, request: OpenAIRequest, prompt_tokens: int, cached_tokens: int) -> None:
        self.lessons.append((replica.endpoint.id, request, prompt_tokens, cached_tokens))


def taught(model: EngineModel) -> Learning:
    learning = model.replicas.policy = Learning()
    return learning


@STREAMED
async def test_a_policy_learns_what_was_cached_of_each_prompt(stream: bool, two: list[EchoEngine]) -> None:
    two[0].configure(prefix_cache_tokens=4096)
    async with among(two) as model:
        learning = taught(model)
        first, second = asked(stream=stream), asked(stream=stream)
        for request in (first, second):
            await text(await model.respond(request), stream=stream)
        (one, asked_first, prompt, cached), (_, asked_second, again, then_cached) = learning.lessons
        assert (one, asked_first, asked_second) == ("e0", first, second)
        assert prompt == again >= len(WORDS.split())
        assert (cached, then_cached) == (0, 16)


@STREAMED
async def test_an_engine_that_tells_nothing_of_its_cache_teaches_nothing(stream: bool, two: list[EchoEngine]) -> None:
    async with among(two) as model:
        learning = taught(model)
        await text(await model.respond(asked(stream=stream)), stream=stream)
        assert learning.lessons == []


@pytest.mark.parametrize("fault", ["500", "422"])
async def test_an_error_teaches_nothing(fault: str, two: list[EchoEngine]) -> None:
    for engine in two:
        engine.configure(fault=fault, prefix_cache_tokens=4096)
    async with among(two) as model:
        learning = taught(model)
        assert (await model.respond(asked())).status == int(fault)
        assert learning.lessons == []


async def test_the_engine_that_answered_is_the_one_that_is_learned_of(two: list[EchoEngine]) -> None:
    for engine in two:
        engine.configure(prefix_cache_tokens=4096)
    two[0].configure(fault="500")
    async with among(two) as model:
        learning = taught(model)
        await text(await model.respond(asked()), stream=True)
        assert [lesson[0] for lesson in learning.lessons] == ["e1"]


async def test_a_stream_that_went_on_elsewhere_teaches_nothing(two: list[EchoEngine]) -> None:
    for engine in two:
        engine.configure(prefix_cache_tokens=4096)
    two[0].configure(fault="cut", after=5)
    async with among(two) as model:
        learning = taught(model)
        request = asked()
        assert await text(await model.respond(request), stream=True) == WORDS
        assert request.route.resumes == 1
        assert learning.lessons == []  # the answer so far was a part of its prompt


async def test_a_whole_answer_of_another_form_teaches_nothing(two: list[EchoEngine]) -> None:
    two[0].configure(prefix_cache_tokens=4096)
    async with among(two) as model:
        learning = taught(model)
        body = json.dumps({"model": MODEL, "prompt": "one two"}).encode()
        answer = await told(await model.respond(OpenAIRequest("/tokenize", body, MODEL, stream=False)))
        assert answer["count"] == 2
        assert learning.lessons == []
