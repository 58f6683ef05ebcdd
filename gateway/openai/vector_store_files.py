"""Files in vector stores, one by one and in batches."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field, model_validator

from ensembles.records import rows
from ensembles.records.rows import Addition, Batch, Member
from gateway.operations import error_document
from gateway.plane import Plane
from gateway.shapes import (
    Added,
    Attributes,
    ChunkingStrategy,
    Counts,
    Cursor,
    Deleted,
    Id,
    Limit,
    ListOf,
    Order,
    PathId,
    Shape,
    Static,
    Status,
    chunking,
    counts,
    listed,
    part_of,
)

_MOST_FILES = 2000
# The SDK asks again after so long; without it, after a second.
_POLL = {"openai-poll-after-ms": "200"}

_REFUSED: dict[int | str, dict[str, Any]] = {400: error_document("The request is wrong.")}


class UpdateFile(Shape):
    attributes: Attributes | None


class CreateBatch(Shape):
    file_ids: Annotated[list[Id], Field(min_length=1, max_length=_MOST_FILES)] | None = None
    files: Annotated[list[Added], Field(min_length=1, max_length=_MOST_FILES)] | None = None
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> CreateBatch:
        if (self.file_ids is None) is (self.files is None):
            raise ValueError("give either file_ids or files")
        return self

    def additions(self) -> list[Addition]:
        """What stands beside `file_ids` holds for all of them; `files` have their own."""
        if self.files is not None:
            return [file.addition() for file in self.files]
        attributes, strategy = self.attributes or {}, chunking(self.chunking_strategy)
        return [Addition(file_id, attributes, strategy) for file_id in self.file_ids or ()]


class LastError(BaseModel):
    code: Literal["server_error", "unsupported_file", "invalid_file"]
    message: str


class VectorStoreFile(BaseModel):
    id: str
    object: Literal["vector_store.file"]
    created_at: int
    usage_bytes: int
    vector_store_id: str
    status: Status
    last_error: LastError | None
    attributes: dict[str, Any]
    chunking_strategy: Static


class Piece(BaseModel):
    type: Literal["text"]
    text: str


class Contents(BaseModel):
    object: Literal["vector_store.file_content.page"]
    file_id: str
    filename: str
    attributes: dict[str, Any]
    data: list[Piece]
    has_more: bool
    next_page: str | None


class FileBatch(BaseModel):
    id: str
    object: Literal["vector_store.files_batch"]
    created_at: int
    vector_store_id: str
    status: Status
    file_counts: Counts


Filter = Annotated[Status | None, Query()]


def router(plane: Plane, route_class: type[APIRoute]) -> APIRouter:
    """The routes under `/v1/vector_stores/{id}` of files and batches; `route_class` lets callers in."""
    prefix = "/vector_stores/{vector_store_id}"
    routes = APIRouter(prefix=prefix, route_class=route_class, responses=_REFUSED)
    _add_files(routes, plane)
    _add_batches(routes, plane)
    return routes


def _add_files(routes: APIRouter, plane: Plane) -> None:
    @routes.post("/files", summary="Put a file into a vector store", response_model=VectorStoreFile)
    async def create(request: Request, vector_store_id: PathId, asked: Added) -> Any:
        return _shown(
            await plane.registry.library.members.add(request.state.tenant.name, vector_store_id, asked.addition())
        )

    @routes.get("/files", summary="List the files of a vector store", response_model=ListOf[VectorStoreFile])
    async def page(
        request: Request,
        vector_store_id: PathId,
        filter: Filter = None,
        limit: Limit = 20,
        order: Order = "desc",
        after: Cursor = "",
        before: Cursor = "",
    ) -> Any:
        part = part_of(limit, order, after, before)
        found = await plane.registry.library.members.page(
            request.state.tenant.name, vector_store_id, part, status=_status(filter)
        )
        return listed(found, [_shown(member) for member in found.rows])

    @routes.get("/files/{file_id}", summary="Show one file of a vector store", response_model=VectorStoreFile)
    async def show(request: Request, response: Response, vector_store_id: PathId, file_id: PathId) -> Any:
        response.headers.update(_POLL)
        return _shown(await plane.registry.library.members.get(request.state.tenant.name, vector_store_id, file_id))

    @routes.post("/files/{file_id}", summary="Replace a file's attributes", response_model=VectorStoreFile)
    async def update(request: Request, vector_store_id: PathId, file_id: PathId, asked: UpdateFile) -> Any:
        owner, attributes = request.state.tenant.name, asked.attributes or {}
        return _shown(await plane.registry.library.members.set_attributes(owner, vector_store_id, file_id, attributes))

    @routes.delete("/files/{file_id}", summary="Take a file out; it stays a file", response_model=Deleted)
    async def delete(request: Request, vector_store_id: PathId, file_id: PathId) -> Any:
        await plane.registry.library.members.delete(request.state.tenant.name, vector_store_id, file_id)
        return {"id": file_id, "object": "vector_store.file.deleted", "deleted": True}

    @routes.get("/files/{file_id}/content", summary="What was read of a file", response_model=Contents)
    async def content(request: Request, vector_store_id: PathId, file_id: PathId) -> Any:
        owner = request.state.tenant.name
        chunks = await plane.registry.library.members.content(owner, vector_store_id, file_id)
        member, file = (
            await plane.registry.library.members.get(owner, vector_store_id, file_id),
            await plane.registry.library.files.get(owner, file_id),
        )
        return {
            "object": "vector_store.file_content.page",
            "file_id": file_id,
            "filename": file.filename,
            "attributes": member.attributes,
            "data": [{"type": "text", "text": chunk.text} for chunk in chunks],
            "has_more": False,
            "next_page": None,
        }


def _add_batches(routes: APIRouter, plane: Plane) -> None:
    @routes.post("/file_batches", summary="Put several files in at once", response_model=FileBatch)
    async def create(request: Request, vector_store_id: PathId, asked: CreateBatch) -> Any:
        return _batch(
            await plane.registry.library.members.add_batch(
                request.state.tenant.name, vector_store_id, asked.additions()
            )
        )

    @routes.get("/file_batches/{batch_id}", summary="Show one batch", response_model=FileBatch)
    async def show(request: Request, response: Response, vector_store_id: PathId, batch_id: PathId) -> Any:
        response.headers.update(_POLL)
        return _batch(
            await plane.registry.library.members.get_batch(request.state.tenant.name, vector_store_id, batch_id)
        )

    @routes.post(
        "/file_batches/{batch_id}/cancel", summary="Give up what is not ingested yet", response_model=FileBatch
    )
    async def cancel(request: Request, vector_store_id: PathId, batch_id: PathId) -> Any:
        return _batch(
            await plane.registry.library.members.cancel_batch(request.state.tenant.name, vector_store_id, batch_id)
        )

    @routes.get(
        "/file_batches/{batch_id}/files", summary="List the files of a batch", response_model=ListOf[VectorStoreFile]
    )
    async def page(
        request: Request,
        vector_store_id: PathId,
        batch_id: PathId,
        filter: Filter = None,
        limit: Limit = 20,
        order: Order = "desc",
        after: Cursor = "",
        before: Cursor = "",
    ) -> Any:
        owner, part = request.state.tenant.name, part_of(limit, order, after, before)
        found = await plane.registry.library.members.page(
            owner, vector_store_id, part, status=_status(filter), batch_id=batch_id
        )
        return listed(found, [_shown(member) for member in found.rows])


def _status(name: str | None) -> rows.Status | None:
    return None if name is None else rows.Status(name)


def _shown(member: Member) -> dict[str, Any]:
    sizes, error = member.chunking, member.last_error
    return {
        "id": member.file_id,
        "object": "vector_store.file",
        "created_at": member.created_at,
        "usage_bytes": member.usage_bytes,
        "vector_store_id": member.store_id,
        "status": member.status.value,
        "last_error": None if error is None else {"code": error.code.value, "message": error.message},
        "attributes": member.attributes,
        "chunking_strategy": {
            "type": "static",
            "static": {
                "max_chunk_size_tokens": sizes.max_chunk_size_tokens,
                "chunk_overlap_tokens": sizes.chunk_overlap_tokens,
            },
        },
    }


def _batch(batch: Batch) -> dict[str, Any]:
    return {
        "id": batch.id,
        "object": "vector_store.files_batch",
        "created_at": batch.created_at,
        "vector_store_id": batch.store_id,
        "status": batch.status.value,
        "file_counts": counts(batch.file_counts),
    }
