"""Frames: what goes in comes out, however the stream is cut; what is none is refused."""

from __future__ import annotations

import random
import socket
import struct
import threading

import pytest

from backends.tensors import Tensor
from backends.worker.frames import (
    MESSAGE_LIMIT_BYTES,
    PAYLOAD_LIMIT_BYTES,
    BlockingLink,
    FrameDecoder,
    FrameError,
    heads,
    pack,
    repack,
    tensors,
)
from backends.worker.messages import Cancel, Infer, Message, Respond, TensorHead

SIZES = (0, 1, 1000, 64 * 1024, 64 * 1024 + 1, 255 * 1024, 256 * 1024, 300_000, 5 * 1024 * 1024)


def frame(size_bytes: int, number: int = 1) -> tuple[Message, list[Tensor]]:
    noise = random.Random(number)
    inputs = [Tensor("A", "UINT8", (size_bytes,), noise.randbytes(size_bytes)), Tensor("B", "UINT8", (2,), b"ab")]
    return Infer(number, "m", 1, "id", heads(inputs), ["Y"]), inputs


def decoded(data: bytes, pieces: int) -> list[tuple[Message, memoryview]]:
    """What comes of a stream that arrives in so many bytes at a time."""
    decoder = FrameDecoder()
    found = []
    while data:
        room = decoder.buffer()
        piece = data[: min(pieces, room.nbytes)]
        room[: len(piece)] = piece
        found += decoder.received(len(piece))
        data = data[len(piece) :]
    return found


@pytest.mark.parametrize("pieces", [997, 64 * 1024, 1 << 30])
def test_frames_come_out_as_they_went_in_however_they_are_cut(pieces: int) -> None:
    sent = [frame(size, number) for number, size in enumerate(SIZES, 1)]
    stream = b"".join(b"".join(pack(message, inputs)) for message, inputs in sent)
    found = decoded(stream, pieces)
    assert [message for message, _ in found] == [message for message, _ in sent]
    for (message, payload), (_, inputs) in zip(found, sent, strict=True):
        assert isinstance(message, Infer)
        assert [tensor.data for tensor in tensors(message.inputs, payload)] == [tensor.data for tensor in inputs]


def test_single_bytes_are_enough() -> None:
    message, inputs = frame(10)
    assert decoded(b"".join(pack(message, inputs)), 1)[0][0] == message


def test_a_large_message_makes_its_own_room() -> None:
    message = Respond(1, error="INTERNAL", message="x" * 1_000_000)
    assert decoded(b"".join(pack(message)) * 2, 60_000) == [(message, memoryview(b""))] * 2


def test_sending_large_tensors_copies_none_of_them() -> None:
    message, inputs = frame(1_000_000)
    buffers = pack(message, inputs)
    assert [buffer is tensor.data for buffer, tensor in zip(buffers[1:], inputs, strict=True)] == [True, True]
    payload = memoryview(bytes(1_000_000))
    assert repack(message, payload)[1] is payload


def test_a_message_goes_on_with_the_payload_it_came_with() -> None:
    for size in (10, 1_000_000):
        message, inputs = frame(size)
        ((came, payload),) = decoded(b"".join(pack(message, inputs)), 1 << 30)
        assert b"".join(repack(came, payload)) == b"".join(pack(message, inputs))


def test_a_payload_is_the_receivers_own() -> None:
    for size in (10, 300_000, 5 * 1024 * 1024):
        ((_, payload),) = decoded(b"".join(pack(*frame(size))), 1 << 30)
        payload[0] ^= 1


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<IQ", MESSAGE_LIMIT_BYTES + 1, 0),
        struct.pack("<IQ", 10, PAYLOAD_LIMIT_BYTES + 1),
        struct.pack("<IQ", 4, 0) + b"\xc1\xc1\xc1\xc1",
        struct.pack("<IQ", 2, 0) + b"\x91\xa1",
    ],
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        decoded(data, 1 << 30)


def test_heads_past_the_payload_are_refused() -> None:
    with pytest.raises(FrameError, match="tensors of 8 bytes in a payload of 4"):
        tensors([TensorHead("A", "INT32", (2,), 8)], memoryview(bytes(4)))


def test_a_blocking_link_sends_more_than_the_socket_takes_and_ends_with_its_peer() -> None:
    ours, theirs = socket.socketpair()
    sender, receiver = BlockingLink(ours), BlockingLink(theirs)
    sent = [frame(size, number) for number, size in enumerate(SIZES, 1)]

    def send() -> None:
        for message, inputs in sent:
            sender.send(message, inputs)
        sender.send(Cancel(1))
        ours.close()

    thread = threading.Thread(target=send)
    thread.start()
    found = [receiver.receive() for _ in range(len(sent) + 1)]
    thread.join()
    assert [message for message, _ in found] == [*(message for message, _ in sent), Cancel(1)]
    with pytest.raises(EOFError):
        receiver.receive()
    theirs.close()


def test_polling_takes_what_is_there_and_waits_for_nothing() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        receiver = BlockingLink(theirs)
        assert receiver.poll() is None
        BlockingLink(ours).send(Cancel(7))
        assert receiver.poll() == (Cancel(7), memoryview(b""))
        assert receiver.poll() is None
