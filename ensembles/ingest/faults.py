"""Why a document cannot be ingested, for whoever sent it."""

from __future__ import annotations

from ensembles.records.rows import ErrorCode


class DocumentError(Exception):
    """The document itself is at fault: trying again cannot help."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message: str) -> DocumentError:
    """It is of a kind that is read, and broken, locked, empty or too large."""
    return DocumentError(ErrorCode.INVALID_FILE, message)


def unsupported(message: str) -> DocumentError:
    """It is of a kind that is not read."""
    return DocumentError(ErrorCode.UNSUPPORTED_FILE, message)
