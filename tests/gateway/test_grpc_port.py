"""gRPC's port of a whole server."""

from __future__ import annotations

import grpc
import tritonclient.grpc as triton

from tests.servers import Tritium


def test_the_grpc_port_answers_for_the_whole_server(shared: Tritium) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{shared.grpc_port}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert not client.is_model_ready("broken")
        assert "sequence" in client.get_server_metadata().extensions


def test_the_health_service_says_that_work_may_be_sent(shared: Tritium) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{shared.grpc_port}") as channel:
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x01"
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert next(watch) == b"\x08\x01"
        watch.cancel()
