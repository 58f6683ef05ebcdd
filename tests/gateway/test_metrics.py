import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from backends.config import ModelConfig
from backends.errors import Overloaded
from backends.model import Endpoint, State
from gateway.access_log import NoLog
from gateway.exposition import DEAD
from gateway.metrics import Ledger, MetricsServer
from gateway.settings import Settings
from gateway.snapshot import ModelStatus
from gateway.telemetry import Telemetry

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Process:
    """A server process as the supervisor sees it: something that counts and answers scrapes."""

    def __init__(self, connections: dict[str, tuple[int, int]] | None = None) -> None:
        self.telemetry = Telemetry(lambda: connections or {}, NoLog())
        self.telemetry.know(["alpha"])

    def serve(self, times: int = 1, model: str = "alpha", status: int = 200) -> None:
        for _ in range(times):
            exchange = self.telemetry.begin("chat_completions", "POST", "/v1/chat/completions", "", None)
            exchange.route(model, stream=True)
            exchange.admit()
            exchange.sent()
            for _ in range(3):
                exchange.chunk()
            exchange.answered()
            exchange.prompt_tokens, exchange.completion_tokens = 5, 3
            exchange.done(status)

    def hold(self) -> None:
        exchange = self.telemetry.begin("completions", "POST", "/v1/completions", "", None)
        exchange.route("alpha", stream=False)
        exchange.queue()

    def payload(self) -> bytes:
        return self.telemetry.payload()


class Page:
    """A scraped page, by sample name and labels."""

    def __init__(self, response: httpx.Response) -> None:
        assert response.status_code == 200
        self.content_type = response.headers["content-type"]
        parse = parse_openmetrics if self.content_type.startswith("application/openmetrics-text") else parse_text
        self.families = {family.name: family for family in parse(response.text)}
        self._samples = [sample for family in self.families.values() for sample in family.samples]

    def get(self, name: str, **labels: str) -> float | None:
        found = [sample.value for sample in self._samples if sample.name == name and sample.labels == labels]
        assert len(found) <= 1
        return found[0] if found else None

    def total(self) -> dict[tuple[str, str], float]:
        """Every series that must not fall."""
        return {
            (sample.name, str(sorted(sample.labels.items()))): sample.value
            for family in self.families.values()
            if family.type in {"counter", "histogram"} and "process" not in family.name
            for sample in family.samples
            if "process" not in sample.labels
        }


@asynccontextmanager
async def metrics_port(
    counters: Callable[[], Iterable[tuple[str, bytes]]], statuses: Iterable[ModelStatus] = ()
) -> AsyncIterator[httpx.AsyncClient]:
    async def answer() -> list[tuple[str, bytes]]:
        return list(counters())

    server = MetricsServer(Settings(metrics_port=0), answer, lambda: list(statuses), "1.2.3")
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=10) as client:
            yield client
    finally:
        await server.stop()


async def scrape(client: httpx.AsyncClient, path: str = "/metrics", accept: str = "text/plain") -> Page:
    return Page(await client.get(path, headers={"accept": accept}))


def status(name: str, state: State = State.READY, *endpoints: Endpoint) -> ModelStatus:
    return ModelStatus(ModelConfig(name, "echo"), state, endpoints=endpoints)


@asynccontextmanager
async def engine(answer: Callable[[], Awaitable[bytes]]) -> AsyncIterator[str]:
    """An HTTP server that answers everything with the bytes of `answer`; yields its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(await answer())
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def http_ok(body: bytes, status_line: bytes = b"200 OK") -> Callable[[], Awaitable[bytes]]:
    async def answer() -> bytes:
        return b"HTTP/1.1 %b\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (status_line, len(body), body)

    return answer


@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS])
async def test_two_processes_are_added_up(accept: str) -> None:
    first, second = Process({"alpha": (2, 1)}), Process({"alpha": (1, 4)})
    first.serve(3)
    second.serve(4)
    second.serve(1, model="nobody", status=404)
    second.telemetry.begin("messages", "POST", "/v1/messages", "", None).fail(Overloaded("full"), 429)
    first.hold()
    second.hold()
    async with metrics_port(lambda: [("0", first.payload()), ("1", second.payload())]) as client:
        page = await scrape(client, accept=accept)
    assert page.content_type.startswith(accept.partition(";")[0])
    ours = {"model": "alpha"}
    assert page.get("tritium_requests_total", endpoint="chat_completions", status="200", **ours) == 7
    assert page.get("tritium_requests_total", endpoint="chat_completions", status="404", model="unknown") == 1
    assert page.get("tritium_errors_total", kind="overloaded", model="unknown") == 1
    assert page.get("tritium_prompt_tokens_total", **ours) == 35
    assert page.get("tritium_completion_tokens_total", **ours) == 21
    assert page.get("tritium_requests_in_flight", **ours) == 2
    assert page.get("tritium_queue_depth", **ours) == 2
    assert page.get("tritium_upstream_connections", state="active", **ours) == 3
    assert page.get("tritium_upstream_connections", state="idle", **ours) == 5
    assert page.get("tritium_queue_wait_seconds_count", **ours) == 7
    assert page.get("tritium_time_to_first_token_seconds_count", **ours) == 7
    assert page.get("tritium_inter_token_latency_seconds_count", **ours) == 14
    assert page.get("tritium_gateway_overhead_seconds_bucket", le="+Inf", **ours) == 7
    sums = [process.telemetry.model("alpha").inter_token.sum for process in (first, second)]
    assert page.get("tritium_inter_token_latency_seconds_sum", **ours) == pytest.approx(sum(sums))
    assert page.get("tritium_event_loop_lag_max_seconds", process="1") == 0
    assert page.get("tritium_server_processes") == 2
    build = next(iter(page.families["tritium_build_info" if accept == "text/plain" else "tritium_build"].samples))
    assert build.labels["version"] == "1.2.3"
    assert page.get("process_resident_memory_bytes")


async def test_a_dead_process_keeps_its_totals_and_loses_its_gauges() -> None:
    dead, alive = Process({"alpha": (9, 9)}), Process({"alpha": (1, 0)})
    dead.serve(3)
    dead.hold()
    alive.serve(2)
    async with metrics_port(lambda: [(DEAD + "0", dead.payload()), ("1", alive.payload())]) as client:
        page = await scrape(client)
    assert page.get("tritium_requests_total", endpoint="chat_completions", status="200", model="alpha") == 5
    assert page.get("tritium_time_to_first_token_seconds_count", model="alpha") == 5
    assert page.get("tritium_requests_in_flight", model="alpha") == 0
    assert page.get("tritium_queue_depth", model="alpha") == 0
    assert page.get("tritium_upstream_connections", model="alpha", state="active") == 1
    assert page.get("tritium_event_loop_lag_max_seconds", process=DEAD + "0") is None
    assert page.get("tritium_server_processes") == 1


async def test_no_counter_falls_while_processes_die_and_are_replaced() -> None:
    ledger, processes = Ledger(), {"0": Process(), "1": Process()}
    async with metrics_port(ledger.entries) as client:
        before: dict[tuple[str, str], float] = {}
        for turn in range(8):
            for key, process in processes.items():
                process.serve(turn + 1, status=200 + turn % 3)
                ledger.keep(key, process.payload())
            now = (await scrape(client)).total()
            assert all(now[series] >= value for series, value in before.items())
            ledger.bury(str(turn % 2))
            after = (await scrape(client)).total()
            assert after == now
            processes[str(turn % 2)] = Process()
            before = after
        page = await scrape(client)
    served = [
        page.get("tritium_requests_total", endpoint="chat_completions", status=str(code), model="alpha") or 0
        for code in (200, 201, 202)
    ]
    assert sum(served) == 2 * sum(range(1, 9))


def test_the_ledger_stays_small_however_many_processes_die() -> None:
    ledger = Ledger()
    for _ in range(50):
        process = Process()
        process.serve()
        ledger.keep("0", process.payload())
        ledger.bury("0")
    ledger.bury("0")
    assert [key for key, _ in ledger.entries()] == [DEAD]


async def test_engine_states_and_restarts_are_told_by_model() -> None:
    statuses = [
        status("alpha", State.READY, Endpoint("a", "unix:/a", restarts=2), Endpoint("b", "unix:/b", restarts=1)),
        status("beta", State.FAILED),
    ]
    async with metrics_port(list, statuses) as client:
        page = await scrape(client)
    assert page.get("tritium_engine_restarts_total", model="alpha") == 3
    assert page.get("tritium_model_ready", model="alpha") == 1
    assert page.get("tritium_model_ready", model="beta") == 0
    for state in State:
        assert page.get("tritium_engine_state", model="alpha", state=state.value) == (state is State.READY)
        assert page.get("tritium_engine_state", model="beta", state=state.value) == (state is State.FAILED)
    assert page.get("tritium_server_processes") == 0


async def test_engines_metrics_are_passed_on_and_those_that_fail_are_down() -> None:
    async with AsyncExitStack() as stack:
        good = await stack.enter_async_context(engine(http_ok(b"# TYPE load gauge\nload 3\n")))
        missing = await stack.enter_async_context(engine(http_ok(b"load 4\n", b"404 Not Found")))
        closed = "unix:/nowhere/engine.sock"
        statuses = [
            status("alpha", State.READY, Endpoint("a0", good, State.READY), Endpoint("a1", closed, State.READY)),
            status("beta", State.READY, Endpoint("b0", missing, State.READY)),
            status("gamma", State.STARTING, Endpoint("g0", good, State.STARTING)),
        ]
        client = await stack.enter_async_context(metrics_port(list, statuses))
        page = await scrape(client, "/metrics/engines")
    assert page.get("load", model="alpha", replica="a0") == 3
    assert page.get("tritium_engine_scrape_up", model="alpha", replica="a0") == 1
    assert page.get("tritium_engine_scrape_up", model="alpha", replica="a1") == 0
    assert page.get("tritium_engine_scrape_up", model="beta", replica="b0") == 0
    assert page.get("tritium_engine_scrape_up", model="gamma", replica="g0") is None
    assert page.get("load", model="beta", replica="b0") is None


async def test_engines_are_asked_at_once_and_not_for_long() -> None:
    stop = asyncio.Event()

    async def hang() -> bytes:
        await stop.wait()
        return b""

    async with AsyncExitStack() as stack:
        good = await stack.enter_async_context(engine(http_ok(b"load 3\n")))
        silent = await stack.enter_async_context(engine(hang))
        endpoints = [Endpoint(f"s{index}", silent, State.READY) for index in range(4)]
        statuses = [status("alpha", State.READY, *endpoints, Endpoint("good", good, State.READY))]
        client = await stack.enter_async_context(metrics_port(list, statuses))
        started = time.monotonic()
        page = await scrape(client, "/metrics/engines")
        seconds = time.monotonic() - started
        stop.set()
    assert 1.5 < seconds < 4
    assert page.get("load", model="alpha", replica="good") == 3
    assert page.get("tritium_engine_scrape_up", model="alpha", replica="s3") == 0


async def test_other_routes_and_methods_are_refused_in_plain_text() -> None:
    async with metrics_port(list) as client:
        assert (await client.get("/health")).text == "ok\n"
        assert (await client.head("/metrics")).status_code == 200
        lost = await client.get("/nothing")
        refused = await client.post("/metrics")
    assert (lost.status_code, refused.status_code) == (404, 405)
    assert lost.headers["content-type"] == refused.headers["content-type"] == "text/plain; charset=utf-8"


async def test_the_port_is_bound_at_once_and_free_after_the_stop() -> None:
    async def nothing() -> list[tuple[str, bytes]]:
        return []

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    server = MetricsServer(Settings(metrics_port=0), nothing, list, "1")
    await server.start()
    assert server.port
    with pytest.raises(OSError, match="in use"):
        await MetricsServer(Settings(metrics_port=server.port), nothing, list, "1").start()
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)  # an idle connection must not hold up the stop
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    async with asyncio.timeout(5):
        await server.stop()
    writer.close()
    await server.stop()
    with socket.create_server(("127.0.0.1", server.port)):
        pass
