"""gRPC calls whose answers of real Triton are kept in `grpc_infer.json`: what is sent, by name.

`python -m tests.conformance.grpc_cases HOST:PORT FILE` asks a server over the conformance model repository and
writes what it answers; with `explicit` after it, one in explicit mode that was started with `simple` alone.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

from tests.conformance.grpc_calls import Call, ask
from tests.conformance.grpc_explicit_cases import explicit_cases
from tests.conformance.grpc_protocol_cases import protocol_cases
from tests.conformance.grpc_tensor_cases import tensor_cases


def cases() -> list[Call]:
    """Every call, each with a name of its own."""
    found = [*tensor_cases(), *protocol_cases()]
    names = [each.name for each in found]
    assert len(set(names)) == len(names), sorted({name for name in names if names.count(name) > 1})
    return found


def main() -> None:
    target, file, *mode = sys.argv[1:]
    recorded = []
    for call in explicit_cases() if mode else cases():
        answer = ask(target, call)
        recorded.append(
            {
                "name": call.name,
                "rpc": call.rpc,
                "metadata": call.metadata,
                "requests": [
                    base64.b64encode(each.SerializeToString(deterministic=True)).decode() for each in call.requests
                ],
                "code": answer.code,
                "details": answer.details,
                "responses": [base64.b64encode(each).decode() for each in answer.messages],
            }
        )
    Path(file).write_text("[\n" + ",\n".join(json.dumps(each, ensure_ascii=False) for each in recorded) + "\n]\n")


if __name__ == "__main__":
    main()
