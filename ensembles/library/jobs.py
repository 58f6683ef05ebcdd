"""Files that wait to be ingested: claimed for a while by a worker, finished by whoever still holds the claim."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ensembles.records.rows import ErrorCode, Job
from ensembles.stores.store import Chunk


class Jobs:
    """The work of ingesters, on any number of machines. A claim that was not renewed in time is anybody's."""

    async def claim(self, worker: str, lease_seconds: float) -> Job | None:
        """The file that has waited longest, None where none waits. Cheap then: no lock is taken."""
        raise NotImplementedError

    async def renew(self, job: Job, lease_seconds: float) -> bool:
        """Keep a claim. False: it is lost, since the file was deleted or cancelled or another worker has it."""
        raise NotImplementedError

    async def release(self, worker: str) -> int:
        """Give back all that a worker of this name had claimed, say before it was killed. Returns how many."""
        raise NotImplementedError

    async def cancelled(self, job: Job) -> bool:
        """Whether the claim is lost, so that going on is of no use."""
        raise NotImplementedError

    def content(self, job: Job) -> Path:
        """Where the file's bytes are."""
        raise NotImplementedError

    async def complete(self, job: Job, chunks: Sequence[Chunk]) -> bool:
        """Put the file's chunks into the store, vectors included, and make them visible.

        Attributes and filename are set here. The collection is made with the first vector's dimensions. False: the
        claim is lost, and nothing of it is left. No chunks: the file is completed and holds nothing.
        """
        raise NotImplementedError

    async def fail(self, job: Job, code: ErrorCode, message: str) -> bool:
        """Say for good why it could not be ingested. False: the claim is lost."""
        raise NotImplementedError

    async def waiting(self) -> int:
        """How many files are in progress, claimed or not."""
        raise NotImplementedError
