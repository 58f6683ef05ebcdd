"""`/admin`: what runs, who waits, what was decided, and model control, for those who hold an admin key.

Every answer comes from the supervisor, which asks all server processes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

from gateway.admin_keys import AdminKeys
from gateway.operations import error_document
from gateway.plane import Plane


def router(plane: Plane) -> APIRouter:
    """The routes of `/admin`."""
    keys = AdminKeys(plane.settings)

    async def authorised(request: Request) -> None:
        keys.check(dict(request.headers.raw))

    routes = APIRouter(
        prefix="/admin",
        tags=["Admin"],
        dependencies=[Depends(authorised)],
        responses={
            400: error_document("The configuration is wrong."),
            401: error_document("No admin key."),
            403: error_document("Nobody may ask here."),
            404: error_document("No such model."),
            503: error_document("The model does not start."),
        },
        default_response_class=Response,
    )

    @routes.get("/endpoints", summary="Endpoints: states, loads, what is under way", response_model=dict[str, Any])
    async def endpoints() -> Response:
        return _json(await plane.questions.ask("endpoints"))

    @routes.get("/queue", summary="Who runs and who waits, by model and tenant", response_model=dict[str, Any])
    async def queue() -> Response:
        return _json(await plane.questions.ask("queue"))

    @routes.get("/decisions", summary="The last requests: where they went, and why", response_model=dict[str, Any])
    async def decisions(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Response:
        return _json(await plane.questions.ask("decisions", str(limit)))

    @routes.get("/models", summary="Models as the supervisor has them", response_model=dict[str, Any])
    async def models() -> Response:
        return _json(await plane.questions.ask("models"))

    @routes.post("/models/{name:path}/{action}", summary="Control a model", response_model=dict[str, Any])
    async def control(name: str, action: Literal["load", "unload", "drain"]) -> Response:
        return _json(await plane.questions.ask(action, name))

    @routes.post("/reload", summary="Read the repository and the keys once more", response_model=dict[str, Any])
    async def reload() -> Response:
        return _json(await plane.questions.ask("reload"))

    return routes


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
