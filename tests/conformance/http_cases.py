"""HTTP requests whose answers of real Triton are kept in `http_cases.json`: what is sent, by name, in order.

`python -m tests.conformance.http_cases HOST:PORT FILE` asks a server over the conformance model repository and writes
what it answers.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.conformance.http_control_cases import SHARED, control_cases
from tests.conformance.http_edge_cases import edge_cases
from tests.conformance.http_requests import Case, ask
from tests.conformance.http_tensor_cases import tensor_cases

__all__ = ["SHARED", "Case", "ask", "cases", "prepare"]


def cases() -> Iterator[Case]:
    """Every request, each with a name of its own."""
    yield from tensor_cases()
    yield from control_cases()
    yield from edge_cases(SHARED)


def prepare() -> None:
    """What the requests need beside the server."""
    SHARED.write_bytes(bytes(range(256)) * 32)


def _main() -> None:
    host, _, port = sys.argv[1].partition(":")
    prepare()
    answers = []
    for case in cases():
        status, headers, body = ask(host, int(port), case)
        kept = {
            name: headers[name] for name in ("content-encoding", "inference-header-content-length") if name in headers
        }
        answers.append(
            {
                "name": case.name,
                "status": status,
                "headers": kept,
                "body": base64.b64encode(body).decode(),
            }
        )
    lines = ",\n".join(json.dumps(answer) for answer in answers)
    Path(sys.argv[2]).write_text(f"[\n{lines}\n]\n")
    SHARED.unlink()


if __name__ == "__main__":
    _main()
