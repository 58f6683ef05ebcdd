"""Files on their way into stores: all that wait for one store go in together, at little more than the cost of one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from backends.errors import ServingError
from ensembles.library.jobs import Finished

Complete = Callable[[Sequence[Finished]], Awaitable[list[bool]]]
"""Whether each of these files, all of one store, is there now; its claim was lost otherwise."""


@dataclass(slots=True)
class _Entry:
    finished: Finished
    done: asyncio.Future[bool]


@dataclass(slots=True)
class _Queue:
    """What waits for one store, and who puts it there."""

    entries: deque[_Entry] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None


class Indexer:
    """One change of a store after the other: those that meet are tried again, at five times the cost.

    Nothing waits for others to come: what came while a change was made is the next one.
    """

    def __init__(self, complete: Complete) -> None:
        self._complete = complete
        self._queues: dict[str, _Queue] = {}

    async def index(self, finished: Finished) -> bool:
        """Put a file into its store; False where its claim is lost. Raises what says that it cannot be there.

        Cancelling it takes the file back where its change has not begun.
        """
        store_id = finished.job.store_id
        queue = self._queues.setdefault(store_id, _Queue())
        entry = _Entry(finished, asyncio.get_running_loop().create_future())
        queue.entries.append(entry)
        if queue.task is None:
            queue.task = asyncio.create_task(self._run(store_id, queue))
        return await entry.done

    async def close(self) -> None:
        """Cancel the changes under way."""
        tasks = [queue.task for queue in self._queues.values() if queue.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, store_id: str, queue: _Queue) -> None:
        try:
            while queue.entries:
                entries = [entry for entry in queue.entries if not entry.done.done()]
                queue.entries.clear()
                if entries:
                    await self._put(entries)
        finally:
            del self._queues[store_id]
            for entry in queue.entries:
                entry.done.cancel()

    async def _put(self, entries: Sequence[_Entry]) -> None:
        """Of several files one may be what the store refuses: then each is put alone."""
        try:
            told = await self._complete([entry.finished for entry in entries])
        except ServingError as error:
            if len(entries) > 1:
                for entry in entries:
                    await self._put([entry])
            elif not entries[0].done.done():
                entries[0].done.set_exception(error)
        except BaseException as error:
            for entry in entries:
                if isinstance(error, Exception) and not entry.done.done():
                    entry.done.set_exception(error)
                entry.done.cancel()
            if not isinstance(error, Exception):
                raise
        else:
            for entry, is_done in zip(entries, told, strict=True):
                if not entry.done.done():
                    entry.done.set_result(is_done)
