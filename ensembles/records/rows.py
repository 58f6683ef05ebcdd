"""What the records hold, as the rest of the house sees it: files, vector stores, their members and batches, jobs."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Literal, TypeVar

from ensembles.stores.store import Attributes

Row = TypeVar("Row")
Order = Literal["asc", "desc"]

DEFAULT_CHUNK_TOKENS = 800
DEFAULT_OVERLAP_TOKENS = 400


class Status(StrEnum):
    """What becomes of a file in a vector store."""

    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"


class ErrorCode(StrEnum):
    """Why a file could not be ingested, in OpenAI's words."""

    SERVER_ERROR = "server_error"
    UNSUPPORTED_FILE = "unsupported_file"
    INVALID_FILE = "invalid_file"


@dataclass(frozen=True, slots=True)
class Chunking:
    """How a file is cut. `is_auto`: nobody asked for these numbers, so that smaller chunks may be made."""

    max_chunk_size_tokens: int = DEFAULT_CHUNK_TOKENS
    chunk_overlap_tokens: int = DEFAULT_OVERLAP_TOKENS
    is_auto: bool = True


@dataclass(frozen=True, slots=True)
class File:
    """A file that was uploaded. `sha256` is its contents' in hexadecimal; times are Unix seconds."""

    id: str
    owner: str
    filename: str
    purpose: str
    bytes: int
    sha256: str
    created_at: int
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class FileCounts:
    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        return self.in_progress + self.completed + self.failed + self.cancelled


@dataclass(frozen=True, slots=True)
class VectorStore:
    """A vector store. `embedder` is the model that its vectors are of, empty until one is known."""

    id: str
    owner: str
    name: str
    description: str
    metadata: dict[str, str]
    embedder: str
    created_at: int
    last_active_at: int
    expires_after_days: int | None
    expires_at: int | None
    usage_bytes: int = 0
    file_counts: FileCounts = field(default_factory=FileCounts)

    def is_expired(self, now: float) -> bool:
        return self.expires_at is not None and now >= self.expires_at


@dataclass(frozen=True, slots=True)
class LastError:
    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a vector store."""

    store_id: str
    file_id: str
    status: Status
    created_at: int
    usage_bytes: int
    attributes: Attributes
    chunking: Chunking
    last_error: LastError | None = None


@dataclass(frozen=True, slots=True)
class Addition:
    """A file that is to be put into a vector store."""

    file_id: str
    attributes: Attributes = field(default_factory=dict)
    chunking: Chunking = field(default_factory=Chunking)


@dataclass(frozen=True, slots=True)
class Batch:
    """Files that were put into a vector store at once."""

    id: str
    store_id: str
    created_at: int
    is_cancelled: bool
    file_counts: FileCounts

    @property
    def status(self) -> Status:
        counts = self.file_counts
        if self.is_cancelled:
            return Status.CANCELLED
        if counts.in_progress:
            return Status.IN_PROGRESS
        return Status.FAILED if counts.total and counts.failed == counts.total else Status.COMPLETED


@dataclass(frozen=True, slots=True)
class Job:
    """A file that a worker has claimed, to be put into a vector store.

    `claim` names this claim, which another one ends; `attempt` counts them from 1 on. `embedder` is the model whose
    vectors the store holds.
    """

    key: str
    owner: str
    store_id: str
    file_id: str
    filename: str
    bytes: int
    sha256: str
    attributes: Attributes
    chunking: Chunking
    embedder: str
    claim: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Range:
    """A part of a list: at most `limit` rows beyond `after`, or before `before`, by their ids, newest first or last."""

    limit: int = 20
    order: Order = "desc"
    after: str = ""
    before: str = ""


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    rows: list[Row]
    has_more: bool
