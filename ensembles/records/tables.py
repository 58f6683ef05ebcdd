"""The tables. A change here needs a migration beside it: a test compares the two."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

METADATA = MetaData()

# Ids begin with the time of their making, so that their order is the rows' and a page's cursor needs no row. PostgreSQL
# would sort them by its language's rules.
_ID = String(64).with_variant(String(64, collation="C"), "postgresql")

FILES = Table(
    "files",
    METADATA,
    Column("id", _ID, primary_key=True),
    Column("owner", String(128), nullable=False),
    Column("filename", Text, nullable=False),
    Column("purpose", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Index("files_by_owner", "owner", "id"),
    Index("files_by_expiry", "expires_at"),
)

# A row that is marked as deleted stays until the store has dropped its collection, and no claim can bring it back.
VECTOR_STORES = Table(
    "vector_stores",
    METADATA,
    Column("id", _ID, primary_key=True),
    Column("owner", String(128), nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("embedder", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("last_active_at", BigInteger, nullable=False),
    Column("expires_after_days", Integer),
    Column("expires_at", BigInteger),
    Column("deleted_at", BigInteger),
    Column("claimed_until", Float(53)),
    Index("vector_stores_by_owner", "owner", "id"),
    Index("vector_stores_by_expiry", "expires_at"),
    Index("vector_stores_by_deletion", "deleted_at"),
)

# `revision` counts the changes of the attributes, `indexed_revision` is the chunks'. A deleted row stays as the mark
# that chunks may be there, and as a cursor of pages.
MEMBERS = Table(
    "vector_store_files",
    METADATA,
    Column("key", _ID, primary_key=True),
    Column("store_id", _ID, ForeignKey("vector_stores.id", ondelete="CASCADE"), nullable=False),
    Column("file_id", _ID, nullable=False),
    Column("status", String(16), nullable=False),
    Column("error_code", String(32)),
    Column("error_message", Text),
    Column("attributes", JSON, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("indexed_revision", Integer, nullable=False),
    Column("max_chunk_size_tokens", Integer, nullable=False),
    Column("chunk_overlap_tokens", Integer, nullable=False),
    Column("is_auto", Boolean, nullable=False),
    Column("usage_bytes", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("worker", String(128), nullable=False),
    Column("claim", String(64), nullable=False),
    Column("claimed_until", Float(53)),
    Column("attempt", Integer, nullable=False),
    Column("deleted_at", BigInteger),
    Column("is_removed", Boolean, nullable=False),
)
_LIVE = MEMBERS.c.deleted_at.is_(None)
Index(
    "vector_store_files_live",
    MEMBERS.c.store_id,
    MEMBERS.c.file_id,
    unique=True,
    sqlite_where=_LIVE,
    postgresql_where=_LIVE,
)
Index("vector_store_files_in_order", MEMBERS.c.store_id, MEMBERS.c.key)
Index("vector_store_files_by_status", MEMBERS.c.status, MEMBERS.c.key)
Index("vector_store_files_by_file", MEMBERS.c.file_id)
Index("vector_store_files_by_deletion", MEMBERS.c.deleted_at)

BATCHES = Table(
    "file_batches",
    METADATA,
    Column("id", _ID, primary_key=True),
    Column("store_id", _ID, ForeignKey("vector_stores.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("is_cancelled", Boolean, nullable=False),
    Index("file_batches_by_store", "store_id"),
)

BATCH_FILES = Table(
    "file_batch_files",
    METADATA,
    Column("batch_id", _ID, ForeignKey("file_batches.id", ondelete="CASCADE"), primary_key=True),
    Column("file_id", _ID, primary_key=True),
)
