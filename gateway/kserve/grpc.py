"""gRPC's transport in a server process, by grpc.aio: bytes in, bytes out, statuses."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio

from backends.errors import ServingError
from backends.tensors import Buffer
from gateway.kserve.call import Status, Stream, Unary, status_of
from gateway.kserve.services import Services

_log = logging.getLogger(__name__)

_CODE_OF_STATUS = {code.value[0]: code for code in grpc.StatusCode}
# Triton's defaults; a client may ping as often as it allows by itself.
_OPTIONS = (
    ("grpc.so_reuseport", 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.keepalive_time_ms", 7_200_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 2),
    ("grpc.http2.min_ping_interval_without_data_ms", 300_000),
    ("grpc.http2.max_ping_strikes", 2),
)


class GrpcServer:
    """The port. Bound once `start` has returned."""

    def __init__(self, services: Services, host: str, port: int) -> None:
        self._services = services
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._server: Any = None

    async def start(self) -> None:
        """Raises `RuntimeError` when the port cannot be had."""
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers((_Router(self._services),))
        self._server.add_insecure_port(self._address)
        await self._server.start()

    async def stop(self, seconds: float) -> None:
        """Take no more calls, let those under way end within `seconds`, cut the others off."""
        if self._server is not None:
            await self._server.stop(seconds)
            self._server = None


class _Router(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    def __init__(self, services: Services) -> None:
        self._handlers = {
            **{path: grpc.unary_unary_rpc_method_handler(_unary(rpc)) for path, rpc in services.unary.items()},
            **{path: grpc.stream_stream_rpc_method_handler(_stream(rpc)) for path, rpc in services.streams.items()},
        }

    def service(self, handler_call_details: Any) -> Any:
        return self._handlers.get(handler_call_details.method)


class _Call:
    """A call of grpc.aio."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self.metadata: Mapping[str, str] = dict(context.invocation_metadata() or ())
        remaining = context.time_remaining()
        self.deadline = None if remaining is None else time.monotonic() + remaining

    async def read(self) -> Buffer | None:
        message: Any = await self._context.read()
        return None if message is grpc.aio.EOF else message

    async def write(self, parts: list[Buffer]) -> None:
        await self._context.write(b"".join(parts))


def _unary(rpc: Unary) -> Any:
    async def handle(body: bytes, context: Any) -> bytes:
        try:
            parts = await rpc(body, _Call(context))
        except ServingError as error:
            await _refuse(context, status_of(error), error.message)
            return b""
        except Exception:  # noqa: BLE001  # the top of a call
            await _break(context)
            return b""
        return parts[0] if len(parts) == 1 and isinstance(parts[0], bytes) else b"".join(parts)

    return handle


def _stream(rpc: Stream) -> Any:
    async def handle(_requests: Any, context: Any) -> None:
        try:
            await rpc(_Call(context))
        except ServingError as error:
            await _refuse(context, status_of(error), error.message)
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001  # the top of a call
            await _break(context)

    return handle


async def _refuse(context: Any, status: Status, details: str) -> None:
    await context.abort(_CODE_OF_STATUS[int(status)], details)


async def _break(context: Any) -> None:
    _log.exception("An RPC broke")
    await context.abort(grpc.StatusCode.INTERNAL, "The gateway failed to serve this call.")
