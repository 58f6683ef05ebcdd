"""What clients send and get about vector stores and their files, as OpenAI types it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import Path, Query
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StringConstraints,
    Tag,
    model_validator,
)

from ensembles.records.rows import (
    DEFAULT_CHUNK_TOKENS,
    DEFAULT_OVERLAP_TOKENS,
    Addition,
    Chunking,
    FileCounts,
    Page,
    Range,
)

T = TypeVar("T")

_LARGEST_INTEGER = 2**53 - 1  # beyond it JSON's numbers are not exact

# PostgreSQL's texts have no NUL.
Text = Annotated[str, StringConstraints(strict=True, pattern=r"^[^\x00]*$", max_length=4096)]
Id = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9_-]{1,64}$")]
PathId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
_Key = Annotated[str, StringConstraints(strict=True, pattern=r"^[^\x00]*$", max_length=64)]
_Value = Annotated[str, StringConstraints(strict=True, pattern=r"^[^\x00]*$", max_length=512)]
_Integer = Annotated[StrictInt, Field(ge=-_LARGEST_INTEGER, le=_LARGEST_INTEGER)]
_Number = Annotated[StrictFloat, Field(allow_inf_nan=False)]
Metadata = Annotated[dict[_Key, _Value], Field(max_length=16)]


def _kind(value: object) -> str | None:
    """Which type an attribute is judged by, so that a refusal speaks of that one."""
    match value:
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
    return None


_Scalar = Annotated[
    Annotated[StrictBool, Tag("boolean")]
    | Annotated[_Number | _Integer, Tag("number")]
    | Annotated[_Value, Tag("string")],
    Discriminator(
        _kind,
        custom_error_type="scalar",
        custom_error_message="Values should be strings, numbers or booleans",
    ),
]
Attributes = Annotated[dict[_Key, _Scalar], Field(max_length=16)]
Status = Literal["in_progress", "completed", "failed", "cancelled"]
Order = Literal["asc", "desc"]
Limit = Annotated[int, Query(ge=1, le=100)]
Cursor = Annotated[str, Query(max_length=64, pattern=r"^[A-Za-z0-9_-]*$")]


class Shape(BaseModel):
    """A body of a client. Fields that we do not know are left aside: clients are newer than servers."""

    model_config = ConfigDict(extra="ignore")


class Auto(Shape):
    type: Literal["auto"]


class StaticSizes(Shape):
    max_chunk_size_tokens: Annotated[StrictInt, Field(ge=100, le=4096)] = DEFAULT_CHUNK_TOKENS
    chunk_overlap_tokens: Annotated[StrictInt, Field(ge=0, le=2048)] = DEFAULT_OVERLAP_TOKENS

    @model_validator(mode="after")
    def _overlaps_by_half_at_most(self) -> StaticSizes:
        if self.chunk_overlap_tokens * 2 > self.max_chunk_size_tokens:
            raise ValueError(
                f"chunk_overlap_tokens ({self.chunk_overlap_tokens}) must not exceed half of max_chunk_size_tokens "
                f"({self.max_chunk_size_tokens})"
            )
        return self


class Static(Shape):
    type: Literal["static"]
    static: StaticSizes


ChunkingStrategy = Annotated[Auto | Static, Field(discriminator="type")]


def chunking(strategy: Auto | Static | None) -> Chunking:
    if isinstance(strategy, Static):
        return Chunking(strategy.static.max_chunk_size_tokens, strategy.static.chunk_overlap_tokens, is_auto=False)
    return Chunking()


class Added(Shape):
    """A file that is to be put into a vector store."""

    file_id: Id
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None

    def addition(self) -> Addition:
        return Addition(self.file_id, self.attributes or {}, chunking(self.chunking_strategy))


class Counts(BaseModel):
    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int


def counts(counted: FileCounts) -> dict[str, int]:
    return {
        "in_progress": counted.in_progress,
        "completed": counted.completed,
        "failed": counted.failed,
        "cancelled": counted.cancelled,
        "total": counted.total,
    }


class ListOf(BaseModel, Generic[T]):
    """A page of a list."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(BaseModel):
    id: str
    object: str
    deleted: Literal[True] = True


def part_of(limit: int, order: Order, after: str, before: str = "") -> Range:
    """The part of a list that a client asks for."""
    return Range(limit, order, after, before)


def listed(page: Page[Any], shown: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The answer with a page whose rows are shown so."""
    ids = [row["id"] for row in shown]
    return {
        "object": "list",
        "data": shown,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": page.has_more,
    }
