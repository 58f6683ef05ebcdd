"""Protobuf definitions without the client that they come with."""

from __future__ import annotations

import subprocess
import sys

LOOKS = """
import sys
from backends.protobuf import model_config_pb2, service_pb2
heavy = [name for name in ("grpc", "numpy", "tritonclient.grpc") if name in sys.modules]
assert not heavy, heavy
assert service_pb2.ModelInferRequest(model_name="m").SerializeToString() == b"\\n\\x01m"
import tritonclient.grpc
assert tritonclient.grpc.service_pb2 is service_pb2
assert tritonclient.grpc.InferenceServerClient
"""


def test_the_definitions_come_without_the_client_which_can_be_had_afterwards() -> None:
    subprocess.run([sys.executable, "-c", LOOKS], check=True)


def test_a_server_process_does_not_import_the_client() -> None:
    looks = "import sys, gateway.server; sys.exit(any(name in sys.modules for name in ('grpc', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", looks], check=False).returncode == 0
