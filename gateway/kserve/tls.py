"""TLS on the gRPC port, from Triton's flags for it."""

from __future__ import annotations

import ssl

from backends.errors import InvalidRequest
from gateway.settings import Settings


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """None where the port speaks plain HTTP/2. Raises `InvalidRequest` naming what is missing or wrong."""
    if not (settings.grpc_use_ssl or settings.grpc_use_ssl_mutual):
        return None
    if settings.grpc_server_cert is None or settings.grpc_server_key is None:
        raise InvalidRequest("--grpc-use-ssl needs --grpc-server-cert and --grpc-server-key.")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["h2"])
    try:
        context.load_cert_chain(settings.grpc_server_cert, settings.grpc_server_key)
        if settings.grpc_use_ssl_mutual:
            context.verify_mode = ssl.CERT_REQUIRED
            if settings.grpc_root_cert is not None:
                context.load_verify_locations(settings.grpc_root_cert)
    except (OSError, ssl.SSLError) as error:
        raise InvalidRequest(f"The certificates of the gRPC port cannot be used: {error}.") from error
    return context
