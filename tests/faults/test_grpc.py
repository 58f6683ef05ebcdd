"""The gRPC port of a whole server under faults: drained, restarted, flooded."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb

from tests.clients.tensors import inputs_of, repeat_inputs
from tests.conformance.grpc_calls import SERVICE
from tests.processes import command_line, descendants
from tests.servers import ROOT, Tritium, serving
from tests.waiting import eventually

MODELS = ("simple", "repeat_int32")
RAMP = np.arange(16, dtype=np.int32).reshape(1, 16)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Tritium]:
    for name in MODELS:
        (tmp_path / name).symlink_to(ROOT / "tests" / "conformance" / "model_repository" / name)
    with serving(tmp_path, "--workers", "2", "--no-access-log") as running:
        yield running


def _stream(server: Tritium, count: int, delay_ms: int) -> tuple[grpc.Channel, Iterator[bytes]]:
    inputs = repeat_inputs(triton, *range(1, count + 1))
    inputs[1].set_data_from_numpy(np.full(count, delay_ms, np.uint32))
    request = pb.ModelInferRequest(model_name="repeat_int32")
    for tensor in inputs:
        request.inputs.append(tensor._get_tensor())
        request.raw_input_contents.append(tensor._get_content())
    channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")
    return channel, channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(iter([request.SerializeToString()]))


def _end(answers: Iterator[bytes]) -> str:
    """How many answers came to the end, or what came instead of it."""
    try:
        return f"{len(list(answers))} answers"
    except grpc.RpcError as error:
        return str(error.code())


def test_a_stream_that_is_under_way_ends_before_the_server_does(server: Tritium) -> None:
    channel, answers = _stream(server, 10, 100)
    next(answers)
    server.process.send_signal(signal.SIGTERM)
    assert len(list(answers)) == 9
    assert server.stop() == 0
    channel.close()


def test_a_server_process_that_is_killed_takes_its_own_calls_alone_with_it(server: Tritium) -> None:
    streams = [_stream(server, 40, 20) for _ in range(8)]
    for _, answers in streams:
        next(answers)
    processes = [pid for pid in descendants(server.pid) if "gateway.server" in command_line(pid)]
    killed = max(processes)
    os.kill(killed, signal.SIGKILL)

    def is_served() -> bool:
        try:
            with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
                result = client.infer("simple", inputs_of(triton, INPUT0=RAMP, INPUT1=RAMP))
            return bool((result.as_numpy("OUTPUT0") == 2 * RAMP).all())
        except triton.InferenceServerException:
            return False

    eventually(is_served, seconds=10, what="a new process on the port")
    ends = {_end(answers) for _, answers in streams}
    assert ends <= {"39 answers", "StatusCode.UNAVAILABLE"}
    assert "39 answers" in ends
    for channel, _ in streams:
        channel.close()
    for _ in range(20):
        assert is_served()


def test_memory_does_not_grow_with_clients_that_leave(server: Tritium) -> None:
    def leave(count: int) -> None:
        for _ in range(count):
            channel, answers = _stream(server, 2, 0)
            next(answers)
            channel.close()

    def resident_kib() -> int:
        pids = [pid for pid in descendants(server.pid) if "gateway.server" in command_line(pid)]
        lines = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
        return sum(int(text.partition("VmRSS:")[2].split()[0]) for text in lines)

    leave(100)
    before = resident_kib()
    leave(400)
    assert resident_kib() - before < 6 * 1024
