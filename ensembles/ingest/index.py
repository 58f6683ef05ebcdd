"""Files on their way into stores: all that wait for one store go in together, at little more than the cost of one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from backends.errors import ServingError
from ensembles.library.jobs import Finished

Complete = Callable[[Sequence[Finished]], Awaitable[list[bool]]]
"""Whether each of these files, all of one store, is there now; its claim was lost otherwise."""


@dataclass(slots=True)
class _Entry:
    finished: Finished
    done: asyncio.Future[bool]


class Indexer:
    """One change of a store after the other: those that meet are tried again, at five times the cost.

    Nothing waits for others to come: what came while a change was made is the next one.
    """

    def __init__(self, complete: Complete) -> None:
        self._complete = complete
        self._waiting: dict[str, list[_Entry]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def index(self, finished: Finished) -> bool:
        """Put a file into its store; False where its claim is lost. Raises what says that it cannot be there.

        Cancelling it takes the file back where its change has not begun.
        """
        store_id = finished.job.store_id
        entry = _Entry(finished, asyncio.get_running_loop().create_future())
        if store_id in self._waiting:
            self._waiting[store_id].append(entry)
        else:
            self._waiting[store_id] = [entry]
            task = asyncio.create_task(self._run(store_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await entry.done

    async def close(self) -> None:
        """Cancel the changes under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, store_id: str) -> None:
        entries: list[_Entry] = []
        try:
            while entries := [entry for entry in self._waiting[store_id] if not entry.done.done()]:
                self._waiting[store_id] = []
                await self._put(entries)
        finally:
            for entry in (*entries, *self._waiting.pop(store_id)):
                entry.done.cancel()

    async def _put(self, entries: Sequence[_Entry]) -> None:
        """Of several files one may be what the store refuses: then each is put alone."""
        try:
            told = await self._complete([entry.finished for entry in entries])
        except Exception as error:  # noqa: BLE001  # it belongs to those who wait, not to this task
            if isinstance(error, ServingError) and len(entries) > 1:
                for entry in entries:
                    await self._put([entry])
                return
            for entry in entries:
                if not entry.done.done():
                    entry.done.set_exception(error)
            return
        for entry, is_done in zip(entries, told, strict=True):
            if not entry.done.done():
                entry.done.set_result(is_done)
