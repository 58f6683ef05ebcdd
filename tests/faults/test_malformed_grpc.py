"""Ten thousand malformed calls on the gRPC port: broken HTTP/2, broken messages, absurd frames; nothing grows."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from hpack import Encoder
from tritonclient.grpc import service_pb2 as pb

from gateway.kserve import http2_frames as h2
from tests.conformance.grpc_cases import cases
from tests.conformance.grpc_requests import addsub
from tests.faults.breaking import malformed, open_files, resident_bytes, send, server_process
from tests.servers import serving
from tests.waiting import eventually

REPOSITORY = Path(__file__).parents[1] / "conformance" / "model_repository"
CALLS = 10_000
ROUND = 50
SLACK_BYTES = 24 << 20
SLACK_FILES = 4
SEED = 7
SERVICE = "/inference.GRPCInferenceService"
GREETING = h2.PREFACE + h2.settings({})


def head(rpc: str) -> bytes:
    fields = [(":method", "POST"), (":scheme", "http"), (":path", f"{SERVICE}/{rpc}")]
    return Encoder().encode([*fields, ("content-type", "application/grpc"), ("te", "trailers")], huffman=False)


def call(stream: int, block: bytes, message: bytes) -> bytes:
    body = b"\0%b%b" % (len(message).to_bytes(4), message)
    return h2.frame(h2.HEADERS, h2.END_HEADERS, stream, block) + h2.frame(h2.DATA, h2.END_STREAM, stream, body)


def bytes_in_disorder(chance: random.Random, messages: list[tuple[str, bytes]]) -> bytes:
    """A call whose bytes, those of frames and of headers too, are changed."""
    rpc, message = chance.choice(messages)
    return GREETING + malformed(chance, [call(1, head(rpc), message)])


def broken_messages(chance: random.Random, messages: list[tuple[str, bytes]]) -> bytes:
    """Calls in order whose messages are none."""
    calls = []
    for stream in range(1, 2 * ROUND, 2):
        rpc, message = chance.choice(messages)
        calls.append(call(stream, head(rpc), malformed(chance, [message])))
    return GREETING + b"".join(calls)


def absurd_frames(chance: random.Random, messages: list[tuple[str, bytes]]) -> bytes:
    """Frames of any kind in any order, some of which say that they are longer than they are."""
    rpc, message = chance.choice(messages)
    frames = [call(1, head(rpc), message)]
    for _ in range(chance.randint(1, 8)):
        payload = chance.randbytes(chance.choice((0, 1, 4, 5, 6, 8, 64)))
        stream = chance.choice((0, 1, 1, 2, 3, 2**31 - 1))
        frame = h2.frame(chance.randrange(12), chance.randrange(256), stream, payload)
        if chance.random() < 0.2:
            frame = chance.randbytes(3) + frame[3:]
        frames.insert(chance.randint(0, len(frames)), frame)
    return GREETING + b"".join(frames)


def converse(address: tuple[str, int], request: bytes) -> None:
    """Send it and read until there is nothing more for a while: the calls are all answered."""
    with socket.create_connection(address, timeout=10) as client, suppress(ConnectionError, TimeoutError):
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        while client.recv(1 << 16):
            pass


def rounds(chance: random.Random, messages: list[tuple[str, bytes]], count: int) -> Iterator[list[bytes]]:
    """What is sent at once: as many calls as are in a round, over as many connections or over one."""
    for number in range(count // ROUND):
        match number % 3:
            case 0:
                yield [bytes_in_disorder(chance, messages) for _ in range(ROUND)]
            case 1:
                yield [absurd_frames(chance, messages) for _ in range(ROUND)]
            case _:
                yield [broken_messages(chance, messages)]


@pytest.mark.timeout(400)
def test_ten_thousand_malformed_calls_break_nothing_and_leave_nothing() -> None:
    chance = random.Random(SEED)
    messages = [(each.rpc, each.requests[0].SerializeToString()) for each in cases() if each.requests]
    messages = [(rpc, message) for rpc, message in messages if message and "Repository" not in rpc]
    with serving(REPOSITORY, "--no-access-log") as server:
        address = ("127.0.0.1", server.grpc_port)
        child = server_process(server)

        def disturb(count: int) -> None:
            for batch in rounds(chance, messages, count):
                if len(batch) == 1:
                    converse(address, batch[0])
                else:
                    send(address, batch)

        disturb(CALLS // 5)
        before = resident_bytes(child), open_files(child)
        disturb(CALLS - CALLS // 5)
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            body = channel.unary_unary(f"{SERVICE}/ModelInfer")(addsub().SerializeToString(), timeout=20)
        assert pb.ModelInferResponse.FromString(body).model_name == "simple"
        assert server_process(server) == child
        eventually(lambda: open_files(child) <= before[1] + SLACK_FILES, what="connections closed")
        assert resident_bytes(child) - before[0] < SLACK_BYTES
