"""Vector stores: made, listed, changed, deleted, searched. Each is its tenant's alone."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, Discriminator, Field, StrictBool, StringConstraints, Tag, field_validator

from backends.errors import InvalidRequest
from ensembles.answering.answer import without
from ensembles.answering.store_search import StoreSearch
from ensembles.library import Ranking
from ensembles.records.rows import Addition, VectorStore
from ensembles.step import Passage
from ensembles.stores import filters
from gateway.operations import error_document
from gateway.plane import Plane
from gateway.shapes import (
    ChunkingStrategy,
    Counts,
    Cursor,
    Deleted,
    Id,
    Limit,
    ListOf,
    Metadata,
    Order,
    PathId,
    Shape,
    Text,
    chunking,
    counts,
    listed,
    part_of,
)

_Query = Annotated[str, StringConstraints(strict=True, min_length=1, pattern=r"^[^\x00]*$")]

_REFUSED: dict[int | str, dict[str, Any]] = {400: error_document("The request is wrong.")}


class ExpiresAfter(Shape):
    anchor: Literal["last_active_at"]
    days: Annotated[int, Field(strict=True, ge=1, le=365)]


class CreateStore(Shape):
    name: Text | None = None
    description: Text | None = None
    file_ids: Annotated[list[Id], Field(max_length=500)] | None = None
    chunking_strategy: ChunkingStrategy | None = None
    expires_after: ExpiresAfter | None = None
    metadata: Metadata | None = None


class UpdateStore(Shape):
    name: Text | None = None
    description: Text | None = None
    expires_after: ExpiresAfter | None = None
    metadata: Metadata | None = None


class HybridSearch(Shape):
    embedding_weight: Annotated[float, Field(ge=0, le=1000)] = 1.0
    text_weight: Annotated[float, Field(ge=0, le=1000)] = 1.0


class RankingOptions(Shape):
    ranker: Annotated[str, Field(max_length=64)] | None = None
    score_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    hybrid_search: HybridSearch | None = None


class SearchStore(Shape):
    query: Annotated[
        Annotated[_Query, Tag("text")] | Annotated[list[_Query], Field(min_length=1, max_length=20), Tag("list")],
        Discriminator(lambda query: "list" if isinstance(query, list) else "text"),
    ]
    filters: dict[str, Any] | None = None
    max_num_results: Annotated[int, Field(strict=True, ge=1, le=50)] = 10
    ranking_options: RankingOptions | None = None
    rewrite_query: StrictBool | None = None

    @field_validator("max_num_results", mode="before")
    @classmethod
    def _or_ten(cls, value: object) -> object:
        return 10 if value is None else value


class VectorStoreObject(BaseModel):
    id: str
    object: Literal["vector_store"]
    created_at: int
    name: str
    description: str | None
    usage_bytes: int
    file_counts: Counts
    status: Literal["expired", "in_progress", "completed"]
    expires_after: ExpiresAfter | None
    expires_at: int | None
    last_active_at: int
    metadata: dict[str, str]


class Content(BaseModel):
    type: Literal["text"]
    text: str


class Result(BaseModel):
    file_id: str
    filename: str
    score: float
    attributes: dict[str, Any]
    content: list[Content]


class Results(BaseModel):
    object: Literal["vector_store.search_results.page"]
    search_query: list[str]
    data: list[Result]
    has_more: bool
    next_page: str | None


def router(plane: Plane, route_class: type[APIRoute]) -> APIRouter:
    """The routes of `/v1/vector_stores`; `route_class` lets callers in."""
    routes = APIRouter(prefix="/vector_stores", route_class=route_class, responses=_REFUSED)
    searching = StoreSearch(plane.registry)

    @routes.post("", summary="Make a vector store", response_model=VectorStoreObject)
    async def create(request: Request, asked: CreateStore) -> Any:
        files = [
            Addition(file_id, {}, chunking(asked.chunking_strategy)) for file_id in dict.fromkeys(asked.file_ids or ())
        ]
        made = await plane.registry.library.vector_stores.create(
            request.state.tenant.name,
            asked.name or "",
            description=asked.description or "",
            metadata=asked.metadata,
            expires_after_days=asked.expires_after.days if asked.expires_after else None,
            files=files,
        )
        return _shown(made)

    @routes.get("", summary="List the vector stores", response_model=ListOf[VectorStoreObject])
    async def page(
        request: Request, limit: Limit = 20, order: Order = "desc", after: Cursor = "", before: Cursor = ""
    ) -> Any:
        found = await plane.registry.library.vector_stores.page(
            request.state.tenant.name, part_of(limit, order, after, before)
        )
        return listed(found, [_shown(store) for store in found.rows])

    @routes.get("/{vector_store_id}", summary="Show one vector store", response_model=VectorStoreObject)
    async def show(request: Request, vector_store_id: PathId) -> Any:
        return _shown(await plane.registry.library.vector_stores.get(request.state.tenant.name, vector_store_id))

    @routes.post("/{vector_store_id}", summary="Change a vector store", response_model=VectorStoreObject)
    async def update(request: Request, vector_store_id: PathId, asked: UpdateStore) -> Any:
        days = asked.expires_after.days if asked.expires_after else 0
        changed = await plane.registry.library.vector_stores.update(
            request.state.tenant.name,
            vector_store_id,
            name=asked.name,
            description=asked.description,
            metadata=({} if asked.metadata is None else asked.metadata)
            if "metadata" in asked.model_fields_set
            else None,
            expires_after_days=days if "expires_after" in asked.model_fields_set else None,
        )
        return _shown(changed)

    @routes.delete("/{vector_store_id}", summary="Delete a vector store; its files stay", response_model=Deleted)
    async def delete(request: Request, vector_store_id: PathId) -> Any:
        await plane.registry.library.vector_stores.delete(request.state.tenant.name, vector_store_id)
        return {"id": vector_store_id, "object": "vector_store.deleted", "deleted": True}

    @routes.post(
        "/{vector_store_id}/search",
        summary="Search a vector store by meaning and by words",
        response_model=Results,
        responses={503: error_document("The embedder is not ready.")},
    )
    async def search(request: Request, response: Response, vector_store_id: PathId, asked: SearchStore) -> Any:
        queries = [asked.query] if isinstance(asked.query, str) else asked.query
        options = asked.ranking_options or RankingOptions()
        turn = await searching.search(
            request.state.tenant.name,
            vector_store_id,
            queries,
            condition=filters.read(asked.filters) if asked.filters else None,
            limit=asked.max_num_results,
            ranking=_ranking(options),
            is_reranked=options.ranker != "none",
        )
        response.raw_headers.extend(without(turn))
        return {
            "object": "vector_store.search_results.page",
            "search_query": queries,
            "data": [_result(passage) for passage in turn.passages],
            "has_more": False,
            "next_page": None,
        }

    return routes


def _ranking(options: RankingOptions) -> Ranking:
    weights = options.hybrid_search or HybridSearch()
    if not weights.embedding_weight and not weights.text_weight:
        raise InvalidRequest("One of the weights of 'hybrid_search' must be over 0.", param="ranking_options")
    return Ranking(options.score_threshold or 0.0, weights.embedding_weight, weights.text_weight)


def _shown(store: VectorStore) -> dict[str, Any]:
    if store.is_expired(time.time()):
        status = "expired"
    else:
        status = "in_progress" if store.file_counts.in_progress else "completed"
    days = store.expires_after_days
    return {
        "id": store.id,
        "object": "vector_store",
        "created_at": store.created_at,
        "name": store.name,
        "description": store.description or None,
        "usage_bytes": store.usage_bytes,
        "file_counts": counts(store.file_counts),
        "status": status,
        "expires_after": None if days is None else {"anchor": "last_active_at", "days": days},
        "expires_at": store.expires_at,
        "last_active_at": store.last_active_at,
        "metadata": store.metadata,
    }


def _result(passage: Passage) -> dict[str, Any]:
    chunk = passage.chunk
    return {
        "file_id": chunk.file_id,
        "filename": chunk.filename,
        "score": passage.score,
        "attributes": chunk.attributes,
        "content": [{"type": "text", "text": chunk.text}],
    }
