"""Routes of FastAPI whose callers are known before their bodies are read, and whose bodies are bounded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from gateway.body import ClientLeft, read_body

Authorise = Callable[[Request], Awaitable[None]]
_LEFT = 499


def bounded_route(authorise: Authorise, limit_bytes: int) -> type[APIRoute]:
    """The class of such routes. FastAPI itself would read whatever anybody sends before it asks who that is."""

    class Bounded(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def bounded(request: Request) -> Response:
                await authorise(request)
                if self.body_field is not None:
                    try:
                        body = await read_body(request.receive, dict(request.headers.raw), limit_bytes)
                    except ClientLeft:
                        return Response(status_code=_LEFT)

                    async def replay() -> dict[str, Any]:
                        return {"type": "http.request", "body": body}

                    request = Request(request.scope, replay)
                return await handle(request)

            return bounded

    return Bounded
