"""A load of inference requests on one server: so many callers, each asks again when it is answered.

    python -m tests.bench.infer_load {http,grpc} PORT MODEL ELEMENTS CALLERS SECONDS

Prints one JSON object: requests, seconds, latencies in microseconds (p50, p99), failures.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import time

import uvloop

_WARMUP_SECONDS = 0.5
_LARGE = 1 << 30


class Tally:
    """Latencies of what was asked after the warm-up."""

    def __init__(self, seconds: float) -> None:
        self.start = time.perf_counter() + _WARMUP_SECONDS
        self.end = self.start + seconds
        self.seconds = seconds
        self.latencies: list[float] = []
        self.failures = 0

    def count(self, asked: float, answered: float, *, is_good: bool) -> bool:
        """Whether to ask again."""
        if asked >= self.start:
            self.latencies.append(answered - asked)
            self.failures += not is_good
        return answered < self.end

    def report(self) -> dict[str, float]:
        ordered = sorted(self.latencies)
        return {
            "requests": len(ordered),
            "seconds": self.seconds,
            "p50_us": round(ordered[len(ordered) // 2] * 1e6, 1),
            "p99_us": round(ordered[len(ordered) * 99 // 100] * 1e6, 1),
            "failures": self.failures,
        }


def http_request(model: str, elements: int) -> bytes:
    """The whole request with binary tensors."""
    names = ["INPUT0", "INPUT1"] if model == "simple" else ["INPUT0"]
    size = elements * 4
    inputs = [
        {
            "name": name,
            "datatype": "INT32" if model == "simple" else "FP32",
            "shape": [1, elements],
            "parameters": {"binary_data_size": size},
        }
        for name in names
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    body = head + bytes(size * len(names))
    return (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        f"Inference-Header-Content-Length: {len(head)}\r\nContent-Type: application/octet-stream\r\n\r\n"
    ).encode() + body


class Caller(asyncio.Protocol):
    """One connection that is never idle."""

    def __init__(self, request: bytes, tally: Tally) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._tally = tally
        self._head = b""
        self._missing = 0
        self._good = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
        else:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._head[:end].lower()
            self._good = head.startswith(b"http/1.1 200")
            at = head.index(b"\r\ncontent-length:") + 17
            self._missing = int(head[at:].split(b"\r\n", 1)[0]) - (len(self._head) - end - 4)
            self._head = b""
        if not self._missing:
            if self._tally.count(self._asked, time.perf_counter(), is_good=self._good):
                self._ask()
            else:
                self.done.set_result(None)

    def _ask(self) -> None:
        self._asked = time.perf_counter()
        self._transport.write(self._request)


async def http_load(port: int, request: bytes, callers: int, tally: Tally) -> None:
    loop = asyncio.get_running_loop()
    made = [(await loop.create_connection(lambda: Caller(request, tally), "127.0.0.1", port)) for _ in range(callers)]
    await asyncio.gather(*(caller.done for _, caller in made))
    for transport, _ in made:
        transport.close()


def grpc_request(model: str, elements: int) -> bytes:
    from tritonclient.grpc import service_pb2

    names = ["INPUT0", "INPUT1"] if model == "simple" else ["INPUT0"]
    datatype = "INT32" if model == "simple" else "FP32"
    request = service_pb2.ModelInferRequest(model_name=model)
    for name in names:
        request.inputs.add(name=name, datatype=datatype, shape=[1, elements])
        request.raw_input_contents.append(struct.pack(f"<{elements}i", *range(elements)))
    return request.SerializeToString()


async def grpc_load(port: int, request: bytes, callers: int, tally: Tally) -> None:
    import grpc

    options = [("grpc.max_receive_message_length", _LARGE), ("grpc.max_send_message_length", _LARGE)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        async def caller() -> None:
            while True:
                asked = time.perf_counter()
                try:
                    await infer(request)
                    is_good = True
                except grpc.RpcError:
                    is_good = False
                if not tally.count(asked, time.perf_counter(), is_good=is_good):
                    return

        await asyncio.gather(*(caller() for _ in range(callers)))


async def _main(protocol: str, port: int, model: str, elements: int, callers: int, seconds: float) -> None:
    request = http_request(model, elements) if protocol == "http" else grpc_request(model, elements)
    tally = Tally(seconds)
    load = http_load if protocol == "http" else grpc_load
    await load(port, request, callers, tally)
    print(json.dumps(tally.report()))


if __name__ == "__main__":
    protocol, port, model, elements, callers, seconds = sys.argv[1:]
    uvloop.run(_main(protocol, int(port), model, int(elements), int(callers), float(seconds)))
