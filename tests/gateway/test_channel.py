"""The control channel over a real socket pair."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from backends.config import InstanceGroup, ModelConfig
from backends.model import Endpoint, State
from gateway.channel import FRAME_LIMIT_BYTES, Channel, ChannelError
from gateway.snapshot import Counters, Drain, ModelStatus, Scrape, Serving, Snapshot, ToServer, ToSupervisor

CONFIG = ModelConfig(
    "m", "echo", instance_group=(InstanceGroup(2),), parameters={"a": "b"}, arguments={"list": [1, None, {"x": 1.5}]}
)
SNAPSHOT = Snapshot(
    (ModelStatus(CONFIG, State.READY, endpoints=(Endpoint("m-1-0", "unix:/s", State.READY, 3),), context_length=5),),
    settled=True,
)


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Channel, Channel]]:
    first, second = socket.socketpair()
    ends = await Channel.open(first), await Channel.open(second)
    yield ends
    for end in ends:
        await end.close()


@pytest.fixture
async def raw() -> AsyncIterator[tuple[socket.socket, Channel]]:
    first, second = socket.socketpair()
    channel = await Channel.open(second)
    yield first, channel
    first.close()
    await channel.close()


@pytest.mark.parametrize("message", [SNAPSHOT, Drain(2.5), Scrape(7), Counters(7, b"\0\xff"), Serving(1)])
async def test_a_message_arrives_as_it_was_sent(
    ends: tuple[Channel, Channel], message: ToServer | ToSupervisor
) -> None:
    await ends[0].send(message)
    assert await ends[1].receive() == message


async def test_messages_arrive_in_order_however_large(ends: tuple[Channel, Channel]) -> None:
    sent = [Counters(number, bytes(size)) for number, size in enumerate((0, 1, 300_000, 5, 2_000_000))]

    async def send() -> None:
        for message in sent:
            await ends[0].send(message)

    sending = asyncio.create_task(send())
    assert [await ends[1].receive() for _ in sent] == sent
    await sending


async def test_the_end_of_the_other_side_is_told(ends: tuple[Channel, Channel]) -> None:
    await ends[0].close()
    await ends[0].close()
    with pytest.raises(EOFError):
        await ends[1].receive()


async def test_an_end_within_a_frame_is_told(raw: tuple[socket.socket, Channel]) -> None:
    raw[0].sendall(b"\0\0\0\x10abc")
    raw[0].close()
    with pytest.raises(EOFError):
        await raw[1].receive()


@pytest.mark.parametrize("junk", [b"\0\0\0\x01\xc1", (FRAME_LIMIT_BYTES + 1).to_bytes(4, "big"), b"GET / HTTP/1.1\r\n"])
async def test_what_is_no_message_is_refused(raw: tuple[socket.socket, Channel], junk: bytes) -> None:
    raw[0].sendall(junk)
    with pytest.raises(ChannelError):
        await raw[1].receive()


async def test_sending_to_nobody_fails(ends: tuple[Channel, Channel]) -> None:
    await ends[1].close()
    with pytest.raises(ConnectionError):
        await ends[0].send(Counters(1, bytes(2_000_000)))


async def test_whoever_reads_all_messages_is_done_when_the_other_end_is_gone(ends: tuple[Channel, Channel]) -> None:
    await ends[0].send(Scrape(1))
    await ends[0].send(Scrape(2))
    await ends[0].close()
    assert [message async for message in ends[1]] == [Scrape(1), Scrape(2)]
