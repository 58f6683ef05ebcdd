"""The application assembled: every URL in one list, the hot ones ahead of FastAPI's stack."""

from __future__ import annotations

from collections.abc import MutableMapping
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi_swagger import patch_fastapi
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from backends.errors import InvalidRequest, ServingError
from gateway import admin
from gateway.body import Receive
from gateway.bounded import bounded_route
from gateway.errors import render
from gateway.health import readiness
from gateway.intake import serve
from gateway.kserve import document as kserve
from gateway.kserve.dataplane import DataPlane
from gateway.kserve.http import KServe
from gateway.kserve.shortcut import Shortcut as InferenceShortcut
from gateway.openai import (
    chat,
    completions,
    embeddings,
    files,
    messages,
    models,
    rag,
    rerank,
    responses,
    tokenize,
    vector_store_files,
    vector_stores,
)
from gateway.openai.shortcut import Shortcut as OpenAIShortcut
from gateway.operations import ERROR_SCHEMA, Operation, error_document
from gateway.plane import Plane
from gateway.protocol import Shortcuts
from gateway.tenants import ANYONE
from gateway.wire import Scope, Send

OPERATIONS: tuple[Operation, ...] = (
    *chat.OPERATIONS,  # /v1/chat/completions
    *completions.OPERATIONS,  # /v1/completions
    *embeddings.OPERATIONS,  # /v1/embeddings
    *responses.OPERATIONS,  # /v1/responses
    *messages.OPERATIONS,  # /v1/messages /v1/messages/count_tokens
    *rag.OPERATIONS,  # /v1/rag/query
    *rerank.OPERATIONS,  # /v1/rerank /rerank /v2/rerank /v1/score /score
    *tokenize.OPERATIONS,  # /tokenize /detokenize
)

_CODES = {404: "not_found", 405: "method_not_allowed"}
_ENVELOPED = ("/v1/", "/admin/")
_METHODS = ("DELETE", "GET", "HEAD", "POST")


class Endpoint:
    """One hot path as an ASGI application."""

    def __init__(self, plane: Plane, operation: Operation) -> None:
        self._plane = plane
        self._dialect = operation.dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await serve(self._plane, self._dialect, scope, receive, send)


class App:
    """The ASGI application of a server process.

    A request to a hot path goes straight to its endpoint: FastAPI's router and middleware would cost half as much
    again. The same endpoints stand in FastAPI's routes, which answer 405 to other methods.
    """

    def __init__(self, plane: Plane, dataplane: DataPlane | None = None) -> None:
        endpoints = {operation.path: Endpoint(plane, operation) for operation in OPERATIONS}
        self._hot = endpoints
        dataplane = DataPlane(plane.registry) if dataplane is None else dataplane
        self._kserve = KServe(plane, dataplane)
        self.shortcut = Shortcuts(InferenceShortcut(plane, dataplane), OpenAIShortcut(plane, embeddings.OPERATIONS))
        self._telemetry = plane.telemetry
        self._fastapi = _fastapi(plane, endpoints)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            endpoint = self._hot.get(scope["path"])
            if endpoint is not None:
                await endpoint(scope, receive, send)
                return
        if scope["type"] == "http" and scope["path"].startswith("/v2") and scope["path"] not in self._hot:
            await self._kserve(scope, receive, send)
            return
        request_id = self._telemetry.request_id(dict(scope["headers"]).get(b"x-request-id"))
        scope["state"] = {"request_id": request_id}

        async def identified(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        await self._fastapi(scope, receive, identified)

    def document(self) -> dict[str, Any]:
        """The OpenAPI document."""
        return self._fastapi.openapi()


def _fastapi(plane: Plane, endpoints: dict[str, Endpoint]) -> FastAPI:
    app = FastAPI(
        title="Tritium",
        version=version("tritium"),
        summary="An OpenAI-compatible, streaming generation gateway.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        swagger_ui_oauth2_redirect_url=None,
    )
    app.include_router(_pages())
    patch_fastapi(app, redirect_from_root_to_docs=False)  # the page's script is served from here, not from elsewhere
    app.router.routes.extend(Route(path, endpoint, methods=["POST"]) for path, endpoint in endpoints.items())
    app.include_router(_guarded_routes(plane))
    app.include_router(_open_routes(plane))
    app.include_router(admin.router(plane))
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(ServingError, _serving_error)
    app.add_exception_handler(Exception, _internal_error)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it
    return app


def _pages() -> APIRouter:
    router = APIRouter()

    @router.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        # Relative, unlike the package's own page: whatever scheme and name a proxy in front is asked by.
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title="Tritium",
            swagger_js_url="swagger/swagger-ui-bundle.js",
            swagger_css_url="swagger/swagger-ui.css",
            swagger_favicon_url="swagger/favicon-32x32.png",
        )

    return router


def _guarded_routes(plane: Plane) -> APIRouter:
    async def authorised(request: Request) -> None:
        request.state.tenant = ANYONE if plane.keys is None else await plane.keys.tenant(dict(request.headers.raw))

    router = APIRouter(
        prefix="/v1",
        tags=["OpenAI"],
        route_class=(bounded := bounded_route(authorised, plane.settings.max_body_bytes)),
        responses={401: error_document("No known API key."), 404: error_document("Nothing of that name.")},
    )
    for family in (files, vector_stores, vector_store_files):  # /v1/files /v1/vector_stores
        router.include_router(family.router(plane, bounded))
    # What the engine that keeps a response answers is its own.
    stored: dict[int | str, dict[str, Any]] = {"4XX": error_document("Refused."), "5XX": error_document("No engine.")}

    @router.get("/models", summary="List the models")
    async def list_models(request: Request) -> dict[str, Any]:
        return models.list_models(plane, request.state.tenant)

    @router.get("/models/{name:path}", summary="Show one model")
    async def show_model(name: str, request: Request) -> dict[str, Any]:
        return models.show_model(plane, name, request.state.tenant)

    @router.get("/responses/{response_id}", summary="Get a stored response", responses=stored)
    async def get_response(response_id: str, request: Request) -> Response:  # noqa: ARG001
        return await responses.stored_response(plane, request)

    @router.delete("/responses/{response_id}", summary="Delete a stored response", responses=stored)
    async def delete_response(response_id: str, request: Request) -> Response:  # noqa: ARG001
        return await responses.stored_response(plane, request)

    @router.post("/responses/{response_id}/cancel", summary="Cancel a background response", responses=stored)
    async def cancel_response(response_id: str, request: Request) -> Response:  # noqa: ARG001
        return await responses.stored_response(plane, request)

    return router


def _open_routes(plane: Plane) -> APIRouter:
    router = APIRouter(tags=["Health"])
    unready: dict[int | str, dict[str, Any]] = {503: {"description": "No work should be sent here now."}}

    @router.get("/health/live", summary="Whether the process serves at all")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @router.get("/health/ready", summary="Whether work should be sent here", responses=unready)
    @router.get("/health", summary="The same, under vLLM's name", responses=unready)
    async def ready() -> JSONResponse:
        ok, body = readiness(plane)
        return JSONResponse(body, 200 if ok else 503)

    @router.get("/version", summary="The version of the gateway")
    async def show_version() -> dict[str, str]:
        return {"version": version("tritium")}

    return router


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router raises: no such path (404; as Triton words it beside OpenAI's), another method (405)."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404 and not f"{request.url.path}/".startswith(_ENVELOPED):
        return JSONResponse({"error": error.detail}, error.status_code)
    fields = {
        "message": f"{error.detail}: {request.method} {request.url.path}",
        "type": "invalid_request_error",
        "param": None,
        "code": _CODES.get(error.status_code),
    }
    headers = error.headers
    if error.status_code == 405:  # the router names the methods of the first route only
        headers = {"allow": ", ".join(method for method in _METHODS if _is_routed(request, method))}
    return JSONResponse({"type": "error", "error": fields}, error.status_code, headers)


def _is_routed(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes)


async def _invalid_request(request: Request, error: Exception) -> Response:
    """A parameter that FastAPI refuses, in the envelope of all other errors."""
    assert isinstance(error, RequestValidationError)
    fault = error.errors()[0]
    # What stands behind the field in a body is pydantic's way through it; a number alone is a place in broken JSON.
    param = next((name for name in fault["loc"][1:] if isinstance(name, str)), str(fault["loc"][0]))
    told = fault["msg"].removeprefix("Value error, ")
    return await _serving_error(request, InvalidRequest(f"Invalid '{param}': {told}.", param=param))


async def _serving_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ServingError)
    status, headers, body = render(error)
    return Response(body, status, {name.decode(): value.decode() for name, value in headers})


async def _internal_error(request: Request, _error: Exception) -> Response:
    """Anything else; the server logs the traceback."""
    return await _serving_error(
        request, ServingError("The gateway failed to serve this request.", code="internal_error")
    )


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        own = {operation.path: {"post": operation.document()} for operation in OPERATIONS}
        document["paths"] = own | document["paths"] | kserve.paths()
        document["components"]["schemas"]["Error"] = ERROR_SCHEMA
        document["components"]["schemas"]["KServeError"] = kserve.ERROR_SCHEMA
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{}, {"key": []}]
        app.openapi_schema = document
    return app.openapi_schema
