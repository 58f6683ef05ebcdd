"""Files: uploaded, listed, given back, deleted. Each is its tenant's alone."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from backends.errors import InvalidRequest, NotFound
from ensembles.blobs import Draft
from ensembles.library import Library
from ensembles.records.rows import File
from gateway.multipart import Form, Part
from gateway.operations import error_document
from gateway.plane import Plane
from gateway.shapes import Cursor, Deleted, ListOf, Order, PathId, listed, part_of

PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")

_SHORTEST_SECONDS = 3600
_LONGEST_SECONDS = 2592000
_FILENAME_CHARACTERS = 255
_CLIENT_LEFT = 499
_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(PURPOSES)},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": _SHORTEST_SECONDS,
                            "maximum": _LONGEST_SECONDS,
                        },
                    },
                }
            }
        },
    }
}

_REFUSED: dict[int | str, dict[str, Any]] = {400: error_document("The request is wrong.")}


class FileObject(BaseModel):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: None


def router(plane: Plane, route_class: type[APIRoute]) -> APIRouter:
    """The routes of `/v1/files`; `route_class` lets callers in."""
    routes = APIRouter(prefix="/files", route_class=route_class, responses=_REFUSED)

    @routes.post(
        "",
        summary="Upload a file",
        response_model=FileObject,
        openapi_extra=_UPLOAD,
        responses={413: error_document("The file is too large.")},
    )
    async def create(request: Request) -> Any:
        try:
            return _shown(await _upload(plane.registry.library, request, plane.settings.max_file_bytes))
        except ClientDisconnect:
            return Response(status_code=_CLIENT_LEFT)

    @routes.get("", summary="List the files", response_model=ListOf[FileObject])
    async def page(
        request: Request,
        purpose: Annotated[str, Query(max_length=64, pattern=r"^[^\x00]*$")] = "",
        limit: Annotated[int, Query(ge=1, le=10000)] = 10000,
        order: Order = "desc",
        after: Cursor = "",
    ) -> Any:
        found = await plane.registry.library.files.page(
            request.state.tenant.name, part_of(limit, order, after), purpose
        )
        return listed(found, [_shown(file) for file in found.rows])

    @routes.get("/{file_id}", summary="Show one file", response_model=FileObject)
    async def show(request: Request, file_id: PathId) -> Any:
        return _shown(await plane.registry.library.files.get(request.state.tenant.name, file_id))

    @routes.delete("/{file_id}", summary="Delete a file, from vector stores too", response_model=Deleted)
    async def delete(request: Request, file_id: PathId) -> Any:
        await plane.registry.library.files.delete(request.state.tenant.name, file_id)
        return {"id": file_id, "object": "file", "deleted": True}

    @routes.get("/{file_id}/content", summary="Get a file's contents", response_class=FileResponse)
    async def content(request: Request, file_id: PathId) -> FileResponse:
        file = await plane.registry.library.files.get(request.state.tenant.name, file_id)
        path = await plane.registry.library.files.content(request.state.tenant.name, file_id)
        try:
            status = await asyncio.to_thread(os.stat, path)
        except FileNotFoundError as error:
            raise NotFound(f"The contents of '{file_id}' are gone.", param="id") from error
        # Whatever it is, a browser shall keep it and not run it.
        headers = {"x-content-type-options": "nosniff"}
        return FileResponse(path, 200, headers, "application/octet-stream", filename=file.filename, stat_result=status)

    return routes


async def _upload(library: Library, request: Request, limit_bytes: int) -> File:
    """The file of a form, whatever the order of its parts."""
    upload = _Upload(library, limit_bytes)
    try:
        async for part in Form(request.headers.get("content-type", ""), _pieces(request)).parts():
            await upload.take(part)
        return await upload.kept(request.state.tenant.name)
    finally:
        await upload.discard()


@dataclass(slots=True)
class _Upload:
    """A form as far as it has come."""

    library: Library
    limit_bytes: int
    fields: dict[str, str] = field(default_factory=dict)
    filename: str = ""
    draft: Draft | None = None

    async def take(self, part: Part) -> None:
        if part.filename is None:
            self.fields[part.name] = await part.text()
            return
        if part.name != "file" or self.draft is not None:
            raise InvalidRequest("A form has one file, 'file'.", param=part.name or "file")
        self.filename = _safe(part.filename)
        self.draft = await self.library.files.receive(part.content, self.limit_bytes)

    async def kept(self, owner: str) -> File:
        if self.draft is None:
            raise InvalidRequest("The form has no part 'file' with a filename.", param="file")
        purpose, seconds = _purpose(self.fields), _seconds(self.fields)
        draft, self.draft = self.draft, None
        return await self.library.files.keep(owner, self.filename, purpose, draft, seconds)

    async def discard(self) -> None:
        if self.draft is not None:
            await self.library.files.discard(self.draft)


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    async for piece in request.stream():
        if piece:
            yield piece


def _purpose(fields: dict[str, str]) -> str:
    purpose = fields.get("purpose")
    if purpose not in PURPOSES:
        given = "missing" if purpose is None else f"'{purpose[:64]}'"
        raise InvalidRequest(f"'purpose' is {given}: it is one of {', '.join(PURPOSES)}.", param="purpose")
    return purpose


def _seconds(fields: dict[str, str]) -> int | None:
    """What `expires_after` says, None where the file stays."""
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequest("'expires_after[anchor]' is 'created_at'.", param="expires_after")
    if seconds is None or not re.fullmatch(r"[0-9]{1,9}", seconds):
        raise InvalidRequest("'expires_after[seconds]' is a whole number.", param="expires_after")
    if not _SHORTEST_SECONDS <= int(seconds) <= _LONGEST_SECONDS:
        raise InvalidRequest(
            f"'expires_after[seconds]' is between {_SHORTEST_SECONDS} and {_LONGEST_SECONDS}.", param="expires_after"
        )
    return int(seconds)


def _safe(filename: str) -> str:
    """The name without folders and control characters: it is shown to others, and never used as a path."""
    name = _UNFIT.sub("", re.split(r"[/\\]", filename.replace("%22", '"'))[-1]).strip()
    return name[-_FILENAME_CHARACTERS:] or "file"


def _shown(file: File) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }
