"""The simulator assembled: every URL in one list, errors in one place, the process around it."""

from __future__ import annotations

import asyncio
import signal
import ssl
import sys
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from backends.simulator import chat, completions, messages, pooling, responses, status, tokenizer
from backends.simulator.engine import Call, Engine
from backends.simulator.faults import Broken, Canned, Refused, RequestError, break_off
from backends.simulator.http import Exchange, Server
from backends.simulator.options import Options, parser, read

_BACKLOG = 4096

Route = Callable[[Call], Awaitable[None]]

ROUTES: dict[str, dict[str, Route]] = {
    "/v1/chat/completions": {"POST": chat.answer},
    "/v1/completions": {"POST": completions.answer},
    "/v1/embeddings": {"POST": pooling.embeddings},
    "/v1/responses": {"POST": responses.create},
    "/v1/messages": {"POST": messages.answer},
    "/v1/messages/count_tokens": {"POST": messages.count_tokens},
    "/v1/rerank": {"POST": pooling.rerank},
    "/rerank": {"POST": pooling.rerank},
    "/v2/rerank": {"POST": pooling.rerank},
    "/v1/score": {"POST": pooling.score},
    "/score": {"POST": pooling.score},
    "/tokenize": {"POST": tokenizer.tokenize},
    "/detokenize": {"POST": tokenizer.detokenize},
    "/v1/models": {"GET": status.models},
    "/health": {"GET": status.health},
    "/version": {"GET": status.version},
    "/metrics": {"GET": status.metrics},
    "/echo/stats": {"GET": status.stats},
    "/echo/config": {"GET": status.configure},
}
STORED = {"GET": responses.get, "DELETE": responses.delete}


class App:
    """Routes requests, and turns what goes wrong into the answer that a server gives."""

    def __init__(self, engine: Engine, api_key: str = "") -> None:
        self._engine = engine
        self._authorization = f"Bearer {api_key}" if api_key else ""

    async def __call__(self, exchange: Exchange) -> None:
        path = exchange.request.path
        try:
            await self._route(Call(self._engine, exchange), path)
        except RequestError as error:
            exchange.reply(error.status, _error(path, error), headers=error.headers)
        except Canned as canned:
            exchange.reply(canned.status, canned.body, canned.content_type)
        except Refused:
            exchange.drop()
        except Broken as broken:
            failure = RequestError(500, f"The fault {broken.fault.value!r} was asked for.", "InternalServerError")
            name = b"event: error\n" if path == "/v1/messages" else b""
            await break_off(exchange, broken.fault, name + b"data: " + _error(path, failure) + b"\n\n")

    async def _route(self, call: Call, path: str) -> None:
        request = call.exchange.request
        if self._authorization and path.startswith("/v1") and request.header("authorization") != self._authorization:
            raise Canned(401, b'{"error":"Unauthorized"}')
        methods = ROUTES.get(path)
        if methods is not None:
            route = methods.get(request.method)
            if route is None:
                raise RequestError(405, "Method Not Allowed", "Method Not Allowed")
            await route(call)
            return
        base, _, rest = path.removeprefix("/v1/responses/").partition("/")
        stored = STORED.get(request.method) if not rest else responses.cancel
        if base == path or not base or rest not in ("", "cancel") or (rest and request.method != "POST"):
            raise RequestError(404, "Not Found", "Not Found")
        if stored is None:
            raise RequestError(405, "Method Not Allowed", "Method Not Allowed")
        await stored(call, base)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a simulator until SIGTERM; the exit status."""
    arguments = vars(parser().parse_args(argv))
    try:
        options = read({name: arguments[name] for name in Options.__struct_fields__})
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if options.start_error:
        sys.stderr.write(f"{options.start_error}\n")
        return 1
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(options, **{name: arguments[name] for name in _SERVING}))
    return 0


_SERVING = ("uds", "host", "port", "model", "api_key", "ssl_certfile", "ssl_keyfile")


async def _serve(
    options: Options,
    *,
    uds: str | None,
    host: str,
    port: int | None,
    model: list[str],
    api_key: str,
    ssl_certfile: str,
    ssl_keyfile: str,
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGINT, stop.set)
    loop.add_signal_handler(signal.SIGTERM, _nothing if options.ignore_sigterm else stop.set)
    await asyncio.sleep(options.start_delay_ms / 1000)
    server = Server(App(Engine(model, options), api_key), options.keep_alive_seconds)
    context = None
    if ssl_certfile:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(ssl_certfile, ssl_keyfile or None)
    if uds is not None:
        listening = await loop.create_unix_server(server, uds, backlog=_BACKLOG, ssl=context)
        address = f"unix:{uds}"
    else:
        listening = await loop.create_server(server, host, port, backlog=_BACKLOG, ssl=context)
        address = f"{'https' if context else 'http'}://{host}:{listening.sockets[0].getsockname()[1]}"
    sys.stdout.write(f"listening on {address}\n")
    sys.stdout.flush()
    await stop.wait()
    listening.close()


def _nothing() -> None:
    """Go on: SIGTERM is ignored."""


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """That of uvloop where it is installed: a stream costs half."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _error(path: str, error: RequestError) -> bytes:
    """The body of an error: Anthropic's on its routes, vLLM's on the others."""
    if path.startswith("/v1/messages"):
        return msgspec.json.encode({"type": "error", "error": {"type": error.kind, "message": error.message}})
    detail = {"message": error.message, "type": error.kind, "param": error.param, "code": error.status}
    return msgspec.json.encode({"error": detail})
