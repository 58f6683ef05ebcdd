"""A vector store that is read while it is filled: each reader asks for words that only one file has."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx

_POLL_SECONDS = 0.1
_PAGE = 100
_UPLOADERS = 4


def document(number: int, sections: int) -> str:
    """Markdown with a chunk for each section, which has a word of its own."""
    return "\n\n".join(
        f"## Cargo of day {section}\n\n"
        + f"The ship of harbour {number % 17} carries {word(number, section)} to the north, day {section}. " * 8
        for section in range(sections)
    )


def word(number: int, section: int) -> str:
    return f"cargo{number}x{section}"


@dataclass(slots=True)
class ReadStore:
    """A vector store of a running gateway, in files of so many sections each.

    `known` are the numbers of the completed files, by their ids; `took` is how many seconds each search has taken.
    """

    url: str
    sections: int
    id: str = ""
    known: dict[str, int] = field(default_factory=dict)
    took: list[float] = field(default_factory=list)

    async def fill(self, numbers: Iterable[int]) -> None:
        """Ingest these files; the first ones make the store. Fails where one of them does."""
        numbers, ids = iter(numbers), dict[str, int]()
        async with httpx.AsyncClient(base_url=f"{self.url}/v1", timeout=60) as client:
            self.id = self.id or (await _sent(client, "/vector_stores", {}))["id"]

            async def upload() -> None:
                for number in numbers:
                    file = (f"{number}.md", document(number, self.sections))
                    answer = await client.post("/files", files={"file": file}, data={"purpose": "assistants"})
                    ids[answer.raise_for_status().json()["id"]] = number

            await asyncio.gather(*(upload() for _ in range(_UPLOADERS)))
            await _sent(client, f"/vector_stores/{self.id}/file_batches", {"file_ids": list(ids)})
            after = ""
            while not self.known.keys() >= ids.keys():
                await asyncio.sleep(_POLL_SECONDS)
                path = f"/vector_stores/{self.id}/files?order=asc&limit={_PAGE}&after={after}"
                page = (await client.get(path)).raise_for_status().json()["data"]
                states = {file["id"]: file["status"] for file in page}
                assert set(states.values()) <= {"in_progress", "completed"}, page
                self.known |= {file: ids[file] for file in states if states[file] == "completed" and file in ids}
                if len(page) == _PAGE and "in_progress" not in states.values():
                    after = page[-1]["id"]

    async def read(self, readers: int, until: asyncio.Task[Any]) -> None:
        """Search, so many at once, until the task is done. Fails for an error, and where a known file is not found."""
        await asyncio.gather(*(self._read(until) for _ in range(readers)))

    async def _read(self, until: asyncio.Task[Any]) -> None:
        async with httpx.AsyncClient(base_url=f"{self.url}/v1", timeout=60) as client:
            while not until.done():
                file, number = random.choice(list(self.known.items()))
                asked = {"query": word(number, random.randrange(self.sections))}
                began = time.perf_counter()
                found = await _sent(client, f"/vector_stores/{self.id}/search", asked)
                self.took.append(time.perf_counter() - began)
                assert file in {result["file_id"] for result in found["data"]}, f"{asked} is lost: {found}"


async def _sent(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, f"{answer.status_code}: {answer.text}"
    sent: dict[str, Any] = answer.json()
    return sent
