"""TLS on the gRPC port."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from backends.errors import InvalidRequest
from gateway.kserve.grpc import GrpcServer
from gateway.kserve.services import services
from gateway.kserve.tls import tls_context
from gateway.settings import Settings
from tests.gateway.kserve.tensor_models import plane_of

LIVE = "/inference.GRPCInferenceService/ServerLive"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "crt", folder / "key"


async def _code(credentials: grpc.ChannelCredentials, settings: Settings) -> str:
    plane, dataplane, _ = plane_of()
    server = GrpcServer(services(plane, dataplane), decompressed_bytes=1)
    listener = socket.create_server(("localhost", 0))
    await server.start(listener, tls_context(settings))
    try:
        async with grpc.aio.secure_channel(f"localhost:{listener.getsockname()[1]}", credentials) as channel:
            call = channel.unary_unary(LIVE)(b"", timeout=10)
            return str((await asyncio.wait_for(call.code(), 10)).name)
    finally:
        await server.stop(0)


async def test_the_port_speaks_tls(pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    settings = Settings(grpc_use_ssl=True, grpc_server_cert=certificate, grpc_server_key=key)
    assert await _code(grpc.ssl_channel_credentials(certificate.read_bytes()), settings) == "OK"


async def test_mutual_tls_wants_the_client_s_certificate(pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    settings = Settings(
        grpc_use_ssl_mutual=True, grpc_server_cert=certificate, grpc_server_key=key, grpc_root_cert=certificate
    )
    root = certificate.read_bytes()
    assert await _code(grpc.ssl_channel_credentials(root), settings) == "UNAVAILABLE"
    both = grpc.ssl_channel_credentials(root, key.read_bytes(), root)
    assert await _code(both, settings) == "OK"


def test_what_is_missing_or_wrong_is_named(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    with pytest.raises(InvalidRequest, match="--grpc-server-key"):
        tls_context(Settings(grpc_use_ssl=True, grpc_server_cert=pair[0]))
    with pytest.raises(InvalidRequest, match="cannot be used"):
        tls_context(Settings(grpc_use_ssl=True, grpc_server_cert=tmp_path / "none", grpc_server_key=pair[1]))
