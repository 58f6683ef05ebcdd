"""Responses kept in memory, and the background work that fills them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine

from backends.simulator.faults import RequestError

_LIMIT = 1024

Response = dict[str, object]


class Store:
    """The last responses by id. It owns the tasks of those that run in the background."""

    def __init__(self) -> None:
        self._responses: OrderedDict[str, Response] = OrderedDict()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def put(self, response: Response) -> None:
        self._responses[str(response["id"])] = response
        if len(self._responses) > _LIMIT:
            oldest, _ = self._responses.popitem(last=False)
            self._stop(oldest)

    def get(self, response_id: str) -> Response:
        """The response. Raises `RequestError` for an id that is not, or no longer, known."""
        try:
            return self._responses[response_id]
        except KeyError:
            raise RequestError(
                404, f"Response with id '{response_id}' not found.", "invalid_request_error", "response_id"
            ) from None

    def work(self, response_id: str, work: Coroutine[None, None, None]) -> None:
        """Run the work that will fill a response in."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[response_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(response_id, None))

    def cancel(self, response_id: str) -> Response:
        """Stop the work of a background response."""
        response = self.get(response_id)
        if not response["background"]:
            raise RequestError(400, "Cannot cancel a synchronous response.", "invalid_request_error", "response_id")
        if response_id in self._tasks:
            response["status"] = "cancelled"
            self._stop(response_id)
        return response

    def delete(self, response_id: str) -> None:
        self.get(response_id)
        del self._responses[response_id]
        self._stop(response_id)

    def _stop(self, response_id: str) -> None:
        task = self._tasks.get(response_id)
        if task is not None:
            task.cancel()
