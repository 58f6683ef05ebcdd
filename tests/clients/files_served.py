"""A gateway with two server processes and two tenants, which ingests their files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai

from tests.servers import Tritium, echo_repository, serving

MODEL = "echo"
_TENANTS = """
[tenants.alice]
keys = ["alice-key"]
[tenants.bob]
keys = ["bob-key"]
"""


@dataclass
class FilesServed:
    server: Tritium
    alice: openai.OpenAI
    bob: openai.OpenAI

    @property
    def data_dir(self) -> Path:
        return self.server.runtime_dir.parent / "data"


@contextmanager
def serving_files(folder: Path, *flags: str) -> Iterator[FilesServed]:
    keys = folder / "keys.toml"
    keys.write_text(_TENANTS)
    repository = echo_repository(folder / "models", {MODEL: {}})
    with (
        serving(repository, "--workers", "2", "--api-key-file", str(keys), *flags) as server,
        openai_client(server, "alice-key") as alice,
        openai_client(server, "bob-key") as bob,
    ):
        yield FilesServed(server, alice, bob)


def openai_client(server: Tritium, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=30)
