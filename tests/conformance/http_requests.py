"""A request over HTTP that is asked of a server, and how those of the conformance cases are put together."""

from __future__ import annotations

import http.client
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

D = list(range(16))
INTEGERS = struct.pack("<16i", *D)
GENERATE = "/v2/models/gen_plain/generate"


@dataclass(frozen=True)
class Case:
    """One request; `body` None for none."""

    name: str
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


def ask(host: str, port: int, case: Case) -> tuple[int, dict[str, str], bytes]:
    """Send a request over a connection of its own: status, header fields, body."""
    connection = http.client.HTTPConnection(host, port, timeout=30)
    try:
        connection.putrequest(case.method, case.path, skip_accept_encoding=True)
        for name, value in case.headers.items():
            connection.putheader(name, value)
        if "Transfer-Encoding" not in case.headers and (case.body is not None or case.method == "POST"):
            connection.putheader("Content-Length", str(len(case.body or b"")))
        connection.endheaders(case.body)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def to_bytes(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else json.dumps(body).encode()


def infer_case(name: str, body: Any, model: str = "simple", **headers: str) -> Case:
    fields = {key.replace("_", "-"): value for key, value in headers.items()}
    return Case(f"infer {name}", "POST", f"/v2/models/{model}/infer", fields, to_bytes(body))


def tensor_of(name: str = "INPUT0", datatype: str = "INT32", shape: Any = (1, 16), **fields: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **fields}


A, B = tensor_of(data=D), tensor_of("INPUT1", data=D)
