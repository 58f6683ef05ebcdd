"""Files, vector stores, their files and batches."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
_LIVE = sa.text("deleted_at IS NULL")


def upgrade() -> None:
    _files()
    _vector_stores()
    _members()
    _batches()


def downgrade() -> None:
    for table in ("file_batch_files", "file_batches", "vector_store_files", "vector_stores", "files"):
        op.drop_table(table)


def _files() -> None:
    op.create_table(
        "files",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("purpose", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
    )
    op.create_index("files_by_owner", "files", ["owner", "id"])
    op.create_index("files_by_expiry", "files", ["expires_at"])


def _vector_stores() -> None:
    op.create_table(
        "vector_stores",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("embedder", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("last_active_at", sa.BigInteger, nullable=False),
        sa.Column("expires_after_days", sa.Integer),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("deleted_at", sa.BigInteger),
        sa.Column("claimed_until", sa.Float(53)),
    )
    op.create_index("vector_stores_by_owner", "vector_stores", ["owner", "id"])
    op.create_index("vector_stores_by_expiry", "vector_stores", ["expires_at"])
    op.create_index("vector_stores_by_deletion", "vector_stores", ["deleted_at"])


def _members() -> None:
    table = "vector_store_files"
    op.create_table(
        table,
        sa.Column("key", _ID, primary_key=True),
        sa.Column("store_id", _ID, sa.ForeignKey("vector_stores.id", ondelete="CASCADE"), nullable=False),
        sa.Column("file_id", _ID, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("error_code", sa.String(32)),
        sa.Column("error_message", sa.Text),
        sa.Column("attributes", sa.JSON, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("indexed_revision", sa.Integer, nullable=False),
        sa.Column("max_chunk_size_tokens", sa.Integer, nullable=False),
        sa.Column("chunk_overlap_tokens", sa.Integer, nullable=False),
        sa.Column("is_auto", sa.Boolean, nullable=False),
        sa.Column("usage_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("worker", sa.String(128), nullable=False),
        sa.Column("claim", sa.String(64), nullable=False),
        sa.Column("claimed_until", sa.Float(53)),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("deleted_at", sa.BigInteger),
        sa.Column("is_removed", sa.Boolean, nullable=False),
    )
    op.create_index(
        "vector_store_files_live",
        table,
        ["store_id", "file_id"],
        unique=True,
        sqlite_where=_LIVE,
        postgresql_where=_LIVE,
    )
    op.create_index("vector_store_files_in_order", table, ["store_id", "key"])
    op.create_index("vector_store_files_by_status", table, ["status", "key"])
    op.create_index("vector_store_files_by_file", table, ["file_id"])
    op.create_index("vector_store_files_by_deletion", table, ["deleted_at"])


def _batches() -> None:
    op.create_table(
        "file_batches",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("store_id", _ID, sa.ForeignKey("vector_stores.id", ondelete="CASCADE"), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("is_cancelled", sa.Boolean, nullable=False),
    )
    op.create_index("file_batches_by_store", "file_batches", ["store_id"])
    op.create_table(
        "file_batch_files",
        sa.Column("batch_id", _ID, sa.ForeignKey("file_batches.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("file_id", _ID, primary_key=True),
    )
