"""HTTP/2 frame by frame: what is taken in whatever pieces, and what ends the connection, that one alone."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.kserve import http2_frames as h2
from tests.gateway.kserve.grpc_server import Served, grpc_served
from tests.gateway.kserve.raw_http2 import Raw
from tests.gateway.kserve.tensor_models import identity_request

INFER = "/inference.GRPCInferenceService/ModelInfer"
LIVE = b"\0\0\0\0\2\x08\x01"


async def _lives(served: Served) -> bool:
    """Whether a new connection is served."""
    raw = await Raw.open(served.port)
    raw.call(1)
    _, body, trailers = await raw.answer(1)
    await raw.close()
    return body == LIVE and trailers["grpc-status"] == "0"


async def test_a_call_is_answered_by_a_head_a_message_and_a_status(served: Served) -> None:
    raw = await Raw.open(served.port)
    raw.call(1)
    head, body, trailers = await raw.answer(1)
    assert (head[":status"], head["content-type"]) == ("200", "application/grpc")
    assert body == LIVE
    assert trailers == {"grpc-status": "0"}
    await raw.close()


async def test_a_call_may_come_byte_by_byte(served: Served) -> None:
    raw = await Raw.open(served.port, greets=False)
    head = raw.head()
    for byte in (
        h2.PREFACE
        + h2.settings({})
        + h2.frame(h2.HEADERS, h2.END_HEADERS, 1, head)
        + h2.frame(h2.DATA, h2.END_STREAM, 1, b"\0\0\0\0\0")
    ):
        raw.send(bytes((byte,)))
        await raw.writer.drain()
        await asyncio.sleep(0)
    assert (await raw.answer(1))[1] == LIVE
    await raw.close()


async def test_heads_in_pieces_padding_priorities_and_unknown_frames_are_taken(served: Served) -> None:
    raw = await Raw.open(served.port)
    block = raw.head()
    raw.send(h2.frame(0xEE, 0xFF, 0, b"whatever"))
    raw.send(h2.frame(h2.PRIORITY, 0, 1, b"\0\0\0\0\x10"))
    padded = b"\x03" + b"\0\0\0\0\x10" + block[:5] + b"pad"
    raw.send(h2.frame(h2.HEADERS, h2.PADDED | h2.PRIORITY_GIVEN, 1, padded))
    raw.send(h2.frame(h2.CONTINUATION, 0, 1, block[5:9]))
    raw.send(h2.frame(h2.CONTINUATION, h2.END_HEADERS, 1, block[9:]))
    raw.send(h2.frame(h2.DATA, h2.PADDED, 1, b"\x02\0\0\0pp"))
    raw.send(h2.frame(h2.DATA, 0, 1, b""))
    raw.send(h2.frame(h2.DATA, h2.PADDED | h2.END_STREAM, 1, b"\x01\0\0p"))
    assert (await raw.answer(1))[1] == LIVE
    await raw.close()


async def test_streams_go_on_beside_each_other_and_heads_that_come_again_are_known(served: Served) -> None:
    raw = await Raw.open(served.port)
    blocks = [raw.head() for _ in range(3)]
    assert blocks[1] == blocks[2] != blocks[0]
    for number, block in enumerate(blocks):
        raw.send(h2.frame(h2.HEADERS, h2.END_HEADERS, 2 * number + 1, block))
    for stream in (5, 1, 3):
        raw.send(h2.frame(h2.DATA, h2.END_STREAM, stream, b"\0\0\0\0\0"))
        assert (await raw.answer(stream))[1] == LIVE
    await raw.close()


async def test_a_ping_is_answered_and_settings_are_acknowledged(served: Served) -> None:
    raw = await Raw.open(served.port)
    raw.send(h2.frame(h2.PING, 0, 0, b"12345678"))
    raw.send(h2.frame(h2.PING, h2.ACK, 0, b"answered"))
    answer = await raw.expect(h2.PING)
    assert (answer.flags, answer.payload) == (h2.ACK, b"12345678")
    await raw.close()


async def test_a_large_answer_waits_for_the_client_s_windows(served: Served) -> None:
    raw = await Raw.open(served.port, settings={h2.INITIAL_WINDOW_SIZE: 10})
    body = identity_request(50_000)
    message = b"\0" + len(body).to_bytes(4) + body
    raw.send(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, raw.head(INFER)))
    raw.send(h2.frame(h2.DATA, h2.END_STREAM, 1, message))
    received = 0
    for room in (10, 1_000):
        raw.send(h2.settings({h2.INITIAL_WINDOW_SIZE: room}))
        while received < room:
            received += len((await raw.expect(h2.DATA)).payload)
        assert received == room
    raw.send(h2.window_update(1, 1 << 20))
    received += len((await raw.expect(h2.DATA)).payload)
    raw.send(h2.window_update(0, 1 << 20))
    _, rest, trailers = await raw.answer(1)
    assert received + len(rest) > 200_000
    assert trailers["grpc-status"] == "0"
    await raw.close()


async def test_a_large_request_gets_more_room_as_it_is_read(served: Served) -> None:
    raw = await Raw.open(served.port)
    body = identity_request(1_000_000)
    message = memoryview(b"\0" + len(body).to_bytes(4) + body)
    raw.send(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, raw.head(INFER)))
    room, position = 1 << 20, 0
    while position < len(message):
        if not room:
            update = await raw.expect(h2.WINDOW_UPDATE)
            room += int.from_bytes(update.payload) if update.stream else 0
            continue
        piece = message[position : position + min(room, 100_000)]
        room -= len(piece)
        position += len(piece)
        ends = h2.END_STREAM if position == len(message) else 0
        raw.send(h2.frame(h2.DATA, ends, 1, bytes(piece)))
    raw.send(h2.window_update(0, 1 << 24) + h2.window_update(1, 1 << 24))
    head, answer, trailers = await raw.answer(1)
    assert head[":status"] == "200"
    assert trailers == {"grpc-status": "0"}
    assert len(answer) > 4_000_000
    await raw.close()


def _stray(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return h2.frame(kind, flags, stream, payload)


WRONG = {
    "data on a stream that was never opened": (_stray(h2.DATA, 0, 1, b"x"), h2.PROTOCOL_ERROR),
    "an even stream": (_stray(h2.HEADERS, h2.END_HEADERS, 2, b"\x82"), h2.PROTOCOL_ERROR),
    "a head that is no HPACK": (_stray(h2.HEADERS, h2.END_HEADERS, 1, b"\xff\xff\xff\xff"), h2.COMPRESSION_ERROR),
    "more padding than payload": (_stray(h2.HEADERS, h2.PADDED, 1, b"\x09ab"), h2.PROTOCOL_ERROR),
    "a continuation of nothing": (_stray(h2.CONTINUATION, 0, 1, b"x"), h2.PROTOCOL_ERROR),
    "another frame within a head": (
        _stray(h2.HEADERS, 0, 1, b"\x82") + _stray(h2.PING, 0, 0, bytes(8)),
        h2.PROTOCOL_ERROR,
    ),
    "a head without end": (
        _stray(h2.HEADERS, 0, 1, b"\x82") + _stray(h2.CONTINUATION, 0, 1, b"\x82" * 16_000) * 3,
        h2.ENHANCE_YOUR_CALM,
    ),
    "empty continuations": (
        _stray(h2.HEADERS, 0, 1, b"\x82") + _stray(h2.CONTINUATION, 0, 1, b""),
        h2.ENHANCE_YOUR_CALM,
    ),
    "a push": (_stray(h2.PUSH_PROMISE, 0, 1, b"\0\0\0\2"), h2.PROTOCOL_ERROR),
    "settings of a stream": (_stray(h2.SETTINGS, 0, 1, b""), h2.PROTOCOL_ERROR),
    "settings of a wrong length": (_stray(h2.SETTINGS, 0, 0, b"12345"), h2.FRAME_SIZE_ERROR),
    "a window beyond its limit": (h2.settings({h2.INITIAL_WINDOW_SIZE: 2**31}), h2.FLOW_CONTROL_ERROR),
    "frames that are too small": (h2.settings({h2.MAX_FRAME_SIZE: 100}), h2.PROTOCOL_ERROR),
    "a short ping": (_stray(h2.PING, 0, 0, b"1234"), h2.FRAME_SIZE_ERROR),
    "a short window update": (_stray(h2.WINDOW_UPDATE, 0, 0, b"1"), h2.FRAME_SIZE_ERROR),
    "a window update of nothing": (h2.window_update(0, 0), h2.FLOW_CONTROL_ERROR),
    "a window that overflows": (h2.window_update(0, 2**31 - 1), h2.FLOW_CONTROL_ERROR),
    "a window of a stream that was never opened": (h2.window_update(7, 1), h2.PROTOCOL_ERROR),
    "a short reset": (_stray(h2.RST_STREAM, 0, 1, b"1"), h2.FRAME_SIZE_ERROR),
    "a reset of a stream that was never opened": (h2.rst_stream(7, 0), h2.PROTOCOL_ERROR),
    "a frame that is too long": (struct.pack(">BHBBI", 0x20, 0, h2.DATA, 0, 1), h2.FRAME_SIZE_ERROR),
    "a ping that is too long": (struct.pack(">BHBBI", 0x10, 0, h2.PING, 0, 0), h2.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_breaks_the_protocol_ends_the_connection_with_its_code(served: Served, name: str) -> None:
    sent, code = WRONG[name]
    raw = await Raw.open(served.port)
    raw.send(sent)
    assert await raw.goodbye() == code
    await raw.close()
    assert await _lives(served)


async def test_a_second_head_of_a_stream_ends_the_connection(served: Served) -> None:
    raw = await Raw.open(served.port)
    for _ in range(2):
        raw.send(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, raw.head()))
    assert await raw.goodbye() == h2.PROTOCOL_ERROR
    await raw.close()


async def test_more_data_than_there_was_room_for_ends_its_stream(served: Served) -> None:
    raw = await Raw.open(served.port)
    raw.send(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, raw.head("/grpc.health.v1.Health/Watch")))
    for _ in range(12):
        raw.send(h2.frame(h2.DATA, 0, 1, b"\0" + (100_000).to_bytes(4) + bytes(100_000)))
    assert int.from_bytes((await raw.expect(h2.RST_STREAM)).payload) == h2.FLOW_CONTROL_ERROR
    raw.call(3)
    assert (await raw.answer(3))[1] == LIVE
    await raw.close()


async def test_a_stream_s_window_that_overflows_ends_that_stream_alone(served: Served) -> None:
    raw = await Raw.open(served.port)
    raw.send(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, raw.head()))
    raw.send(h2.window_update(1, 2**31 - 1))
    assert int.from_bytes((await raw.expect(h2.RST_STREAM)).payload) == h2.FLOW_CONTROL_ERROR
    raw.call(3)
    assert (await raw.answer(3))[1] == LIVE
    await raw.close()


async def test_what_is_no_http2_is_closed_without_a_word(served: Served) -> None:
    for sent in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", bytes(100)):
        raw = await Raw.open(served.port, greets=False)
        raw.send(sent)
        assert await raw.reader.read() == b""
        await raw.close()


async def test_a_client_that_asks_without_reading_is_sent_away(served: Served) -> None:
    raw = await Raw.open(served.port)
    pings = h2.frame(h2.PING, 0, 0, b"12345678") * 100_000

    async def flood() -> None:
        while True:
            raw.send(pings)
            await raw.writer.drain()

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(flood(), 10)
    await raw.close()
    assert await _lives(served)


async def test_pings_while_a_large_answer_waits_to_be_read_hurt_nobody(served: Served) -> None:
    raw = await Raw.open(served.port, settings={h2.INITIAL_WINDOW_SIZE: 1 << 30})
    body = identity_request(2_000_000)
    raw.send(h2.window_update(0, 1 << 30))
    raw.send(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, raw.head(INFER)))
    message = b"\0" + len(body).to_bytes(4) + body
    for position in range(0, len(message), 500_000):
        ends = h2.END_STREAM if position + 500_000 >= len(message) else 0
        raw.send(h2.frame(h2.DATA, ends, 1, message[position : position + 500_000]))
        await raw.writer.drain()
    await raw.expect(h2.DATA)
    for _ in range(100):
        raw.send(h2.frame(h2.PING, 0, 0, b"12345678"))
    assert (await raw.answer(1))[2]["grpc-status"] == "0"
    await raw.close()


async def test_what_is_no_grpc_gets_an_http_status(served: Served) -> None:
    raw = await Raw.open(served.port)
    block = raw.encoder.encode([(":method", "GET"), (":path", "/"), (":scheme", "http")])
    raw.send(h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 1, block))
    assert (await raw.answer(1))[0][":status"] == "405"
    block = raw.encoder.encode([(":method", "POST"), (":path", "/"), ("content-type", "text/plain")])
    raw.send(h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 3, block))
    assert (await raw.answer(3))[0][":status"] == "415"
    await raw.close()


async def test_stopping_lets_calls_end_and_takes_no_new_ones() -> None:
    async with grpc_served() as served:
        raw = await Raw.open(served.port)
        raw.send(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, raw.head()))
        await raw.expect(h2.SETTINGS)
        stopping = asyncio.create_task(served.server.stop(10))
        assert int.from_bytes((await raw.expect(h2.GOAWAY)).payload[:4]) == 1
        raw.call(3)
        raw.send(h2.frame(h2.DATA, h2.END_STREAM, 1, b"\0\0\0\0\0"))
        assert (await raw.answer(1))[1] == LIVE
        assert await raw.reader.read() == b""
        await stopping
        await raw.close()


async def test_stopping_cuts_off_what_does_not_end() -> None:
    async with grpc_served() as served:
        raw = await Raw.open(served.port)
        raw.send(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, raw.head()))
        await raw.expect(h2.SETTINGS)
        await served.server.stop(0.05)
        head, _, _ = await raw.answer(1)
        assert head["grpc-status"] == "14"
        await raw.close()


async def test_connections_notice_that_their_client_is_gone(served: Served) -> None:
    raw = await Raw.open(served.port)
    await raw.expect(h2.SETTINGS)
    (peer,) = served.server._peers
    accepted = peer._output._transport.get_extra_info("socket")
    assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    await raw.close()


frames = st.builds(
    h2.frame,
    st.integers(0, 10),
    st.integers(0, 255),
    st.integers(0, 5),
    st.binary(max_size=60),
)


@given(st.lists(st.one_of(frames, st.binary(max_size=30)), max_size=12))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_sent_hurts_nobody_else(pieces: list[bytes]) -> None:
    async def scenario() -> None:
        async with grpc_served() as served:
            raw = await Raw.open(served.port)
            raw.send(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, raw.head()) + b"".join(pieces))
            raw.writer.write_eof()
            await raw.reader.read()
            await raw.close()
            assert await _lives(served)

    asyncio.run(scenario())
