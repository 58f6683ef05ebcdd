"""A model in front of its endpoints: which one is asked, what is changed on the way, what is let go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from backends.config import ModelConfig
from backends.engine.continuation import Fields
from backends.engine.replicas import Adapter, EngineModel
from backends.errors import ModelNotReady, Unavailable
from backends.model import Capability, Endpoint, Endpoints, Headers, OpenAIRequest, OpenAIResponse, State
from tests.backends.engine.scripted import EMPTY, OK, Conversation, Scripted, scripted
from tests.processes import holds

REQUEST = OpenAIRequest("/v1/x", b"{}", "m", stream=False, headers=((b"x-request-id", b"r1"),))


@pytest.fixture
async def servers() -> AsyncIterator[list[Scripted]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(scripted()) for _ in range(2)]


def model(
    endpoints: Endpoints, *, adapter: Adapter | None = None, headers: Headers = (), **parameters: str
) -> EngineModel:
    return EngineModel(
        ModelConfig("m", "toy", parameters=parameters),
        endpoints,
        capabilities=frozenset({Capability.CHAT}),
        parallelism=None,
        adapter=adapter,
        headers=headers,
    )


def endpoint(server: Scripted, state: State = State.READY) -> Endpoint:
    return Endpoint(server.path, server.address, state)


class Served:
    """Answers the requests to a server, over one connection, and keeps them."""

    def __init__(self, server: Scripted, answer: bytes = EMPTY) -> None:
        self.server = server
        self.answer = answer
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.conversations: list[Conversation] = []

    async def ask(self, asked: EngineModel, request: OpenAIRequest = REQUEST) -> OpenAIResponse:
        """One request, which is expected to come here."""
        task = asyncio.create_task(asked.respond(request))
        if not self.conversations:
            self.conversations.append(await self.server.next())
        head, body = await self.conversations[-1].request()
        self.heads.append(head)
        self.bodies.append(body)
        await self.conversations[-1].say(self.answer)
        return await task


async def test_ready_endpoints_take_turns(servers: list[Scripted]) -> None:
    endpoints = Endpoints(tuple(map(endpoint, servers)))
    toy = model(endpoints, routing_policy="round_robin")
    sides = [Served(server) for server in servers]
    for number in range(1, 7):  # a request that came to the other one would wait for ever
        await sides[number % 2].ask(toy)
    assert [len(side.heads) for side in sides] == [3, 3]
    assert toy.connections() == (0, 2)
    toy.close()
    await holds(lambda: toy.connections() == (0, 0))


async def test_only_ready_endpoints_are_asked(servers: list[Scripted]) -> None:
    endpoints = Endpoints((endpoint(servers[0], State.UNHEALTHY), endpoint(servers[1])))
    toy = model(endpoints)
    side = Served(servers[1])
    for _ in range(3):
        await side.ask(toy)
    assert servers[0].opened == 0
    # What the supervisor says is heeded at the next request.
    endpoints.current = (endpoint(servers[0]), endpoint(servers[1], State.RESTARTING))
    await Served(servers[0]).ask(toy)
    toy.close()


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ((), "without an endpoint"),
        ((State.STARTING,), "STARTING"),
        ((State.RESTARTING,), "RESTARTING"),
        ((State.STARTING, State.RESTARTING), "RESTARTING, STARTING"),
        ((State.STOPPED, State.FAILED, State.STOPPED), "FAILED, STOPPED"),
        ((State.DRAINING, State.DRAINING), "DRAINING"),
    ],
)
async def test_without_a_ready_endpoint_it_says_how_they_are(states: tuple[State, ...], said: str) -> None:
    toy = model(Endpoints(tuple(Endpoint(str(n), "unix:/none", state) for n, state in enumerate(states))))
    assert not toy.ready()
    with pytest.raises(ModelNotReady, match=f"'m' is not ready: {said}") as raised:
        await toy.respond(REQUEST)
    assert raised.value.retry_after_seconds


@pytest.mark.parametrize("state", [State.STARTING, State.RESTARTING, State.UNHEALTHY])
async def test_among_several_a_request_waits_for_one_that_is_coming(state: State, servers: list[Scripted]) -> None:
    gone = Endpoint("gone", "unix:/none", State.FAILED)
    endpoints = Endpoints((endpoint(servers[0]), gone))
    toy = model(endpoints)
    assert toy.ready()
    endpoints.current = (endpoint(servers[0], state), gone)
    assert toy.ready()
    waiting = asyncio.create_task(toy.respond(REQUEST))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    assert servers[0].opened == 0
    endpoints.current = (endpoint(servers[0]), gone)
    conversation = await servers[0].next()
    await conversation.request()
    await conversation.say(EMPTY)
    assert (await waiting).status == 200
    toy.close()


async def test_the_only_endpoint_is_not_waited_for() -> None:
    toy = model(Endpoints((Endpoint("e", "unix:/none", State.UNHEALTHY),)))
    assert not toy.ready()
    with pytest.raises(ModelNotReady, match="'m' is not ready: UNHEALTHY"):
        await toy.respond(REQUEST)


async def test_an_endpoint_that_cannot_be_reached_is_named_by_its_model() -> None:
    toy = model(Endpoints((Endpoint("e", "unix:/none", State.READY),)))
    assert toy.ready()
    with pytest.raises(Unavailable, match="The engine of model 'm' cannot be reached"):
        await toy.respond(REQUEST)


async def test_the_connections_of_an_endpoint_that_is_gone_are_closed(servers: list[Scripted]) -> None:
    endpoints = Endpoints((endpoint(servers[0]),))
    toy = model(endpoints)
    old = Served(servers[0])
    await old.ask(toy)
    endpoints.current = (endpoint(servers[1]),)
    await Served(servers[1]).ask(toy)
    await old.conversations[0].gone()
    assert toy.connections() == (0, 1)
    toy.close()


class Renaming:
    """An adapter that changes a request and its answer."""

    def request(self, request: OpenAIRequest) -> OpenAIRequest:
        return replace(request, path="/other", body=b'{"other":1}')

    def response(self, request: OpenAIRequest, response: OpenAIResponse) -> OpenAIResponse:
        assert request.path == "/other"
        return OpenAIResponse(response.status + 1, [*response.headers, (b"x-adapted", b"1")], response.body)

    def limited(self, fields: Fields, path: str) -> Fields:
        raise NotImplementedError

    def continuation(self, fields: Fields, path: str, text: str) -> Fields | None:
        raise NotImplementedError


async def test_an_adapter_changes_the_request_and_the_response_once(servers: list[Scripted]) -> None:
    toy = model(Endpoints((endpoint(servers[0]),)), adapter=Renaming(), headers=((b"authorization", b"Bearer k"),))
    side = Served(servers[0], OK + b"content-length: 2\r\nx-own: 1\r\n\r\nok")
    response = await side.ask(toy)
    assert side.heads[0].startswith(b"POST /other HTTP/1.1\r\n")
    assert b"authorization: Bearer k\r\n" in side.heads[0]
    assert b"x-request-id: r1\r\n" in side.heads[0]
    assert side.bodies == [b'{"other":1}']
    assert (response.status, response.headers) == (201, [(b"x-own", b"1"), (b"x-adapted", b"1")])
    assert b"".join([data async for data in response.body]) == b"ok"
    assert toy.connections() == (0, 1)
    toy.close()


async def test_a_connection_counts_as_in_use_until_its_answer_ends(servers: list[Scripted]) -> None:
    toy = model(Endpoints((endpoint(servers[0]),)))
    response = await Served(servers[0], OK + b"content-length: 2\r\n\r\no").ask(toy)
    assert toy.connections() == (1, 0)
    await response.body.aclose()
    await holds(lambda: toy.connections() == (0, 0))
