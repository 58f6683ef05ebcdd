import asyncio
import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import closing

import pytest

from backends.errors import UpstreamTimeout
from gateway.access_log import AccessLog
from gateway.telemetry import Telemetry


class Pipe:
    """A log's file descriptor and what arrived at its other end."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()
        self._open = {self.read_fd, self.write_fd}
        os.set_blocking(self.read_fd, False)

    def read(self) -> bytes:
        data = b""
        try:
            while part := os.read(self.read_fd, 1 << 16):
                data += part
        except BlockingIOError:
            pass
        return data

    def stop_reading(self) -> None:
        self._open.remove(self.read_fd)
        os.close(self.read_fd)

    def close(self) -> None:
        for fd in self._open:
            os.close(fd)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    with closing(Pipe()) as made:
        yield made


def finish(telemetry: Telemetry, path: str = "/v1/chat/completions", offered_id: bytes | None = None) -> None:
    exchange = telemetry.begin("chat_completions", "POST", path, "192.0.2.7", offered_id)
    exchange.route("alpha", stream=True)
    exchange.sent()
    exchange.chunk()
    exchange.prompt_tokens, exchange.completion_tokens = 7, 4
    exchange.done(200)


def logging_to(fd: int, pending_limit: int = 1000) -> tuple[Telemetry, AccessLog]:
    log = AccessLog(fd, pending_limit)
    telemetry = Telemetry(dict, log)
    telemetry.know(["alpha"])
    return telemetry, log


async def test_a_finished_request_is_one_json_line(pipe: Pipe) -> None:
    telemetry, log = logging_to(pipe.write_fd)
    finish(telemetry, offered_id=b"mine-1")
    log.close()
    line = json.loads(pipe.read())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert 0 <= line.pop("ttft_ms") <= line.pop("duration_ms") < 1000
    assert line == {
        "request_id": "mine-1",
        "client": "192.0.2.7",
        "method": "POST",
        "path": "/v1/chat/completions",
        "model": "alpha",
        "status": 200,
        "stream": True,
        "prompt_tokens": 7,
        "completion_tokens": 4,
        "finish": "done",
    }


async def test_how_a_request_ended_is_told(pipe: Pipe) -> None:
    telemetry, log = logging_to(pipe.write_fd)
    telemetry.begin("messages", "POST", "/v1/messages", "", None).disconnect()
    telemetry.begin("messages", "POST", "/v1/messages", "", None).fail(UpstreamTimeout("silent"), 504)
    log.close()
    lines = [json.loads(line) for line in pipe.read().splitlines()]
    assert [(line["finish"], line["status"]) for line in lines] == [("disconnect", 499), ("upstream_timeout", 504)]
    assert lines[0]["ttft_ms"] is lines[0]["prompt_tokens"] is None


async def test_lines_are_written_by_themselves_soon_after_the_request(pipe: Pipe) -> None:
    telemetry, log = logging_to(pipe.write_fd)
    readable = asyncio.Event()
    asyncio.get_running_loop().add_reader(pipe.read_fd, readable.set)
    finish(telemetry)
    finish(telemetry)
    assert not readable.is_set()
    async with asyncio.timeout(5):
        await readable.wait()
    asyncio.get_running_loop().remove_reader(pipe.read_fd)
    assert pipe.read().count(b"\n") == 2
    assert log._timer is None  # nothing left to write, nothing armed


async def test_a_client_cannot_make_a_line_of_its_own(pipe: Pipe) -> None:
    telemetry, log = logging_to(pipe.write_fd)
    finish(telemetry, path='/x\n{"time":"now"}\u2028\x1b[2J' + "p" * 5000, offered_id=b'x"\n{}')
    log.close()
    data = pipe.read()
    assert data.count(b"\n") == 1
    assert b"\x1b" not in data
    assert len(data) < 1024
    assert json.loads(data)["path"].startswith("/x\n{")


async def test_each_write_is_whole_lines_that_a_pipe_takes_at_once(pipe: Pipe) -> None:
    telemetry, log = logging_to(pipe.write_fd)
    fcntl.fcntl(pipe.write_fd, fcntl.F_SETPIPE_SZ, 1 << 20)
    for number in range(500):
        finish(telemetry, path=f"/{number}")
    log.close()
    assert [json.loads(line)["path"] for line in pipe.read().splitlines()] == [f"/{number}" for number in range(500)]


async def test_a_reader_that_stands_still_costs_lines_and_never_blocks(pipe: Pipe) -> None:
    telemetry, log = logging_to(pipe.write_fd, pending_limit=100)
    fcntl.fcntl(pipe.write_fd, fcntl.F_SETPIPE_SZ, 4096)
    written = b""
    for number in range(100):
        finish(telemetry, path=f"/{number}")
    log._flush()
    for number in range(150):
        finish(telemetry, path=f"/later/{number}")
    log._flush()
    assert log.dropped == 50
    while part := pipe.read():
        written += part
        log._flush()
    log.close()
    paths = [json.loads(line)["path"] for line in (written + pipe.read()).splitlines()]
    assert paths == [f"/{number}" for number in range(100)] + [f"/later/{number}" for number in range(100)]


async def test_a_reader_that_is_gone_does_not_stop_the_serving(pipe: Pipe) -> None:
    telemetry, log = logging_to(pipe.write_fd)
    pipe.stop_reading()
    finish(telemetry)
    finish(telemetry)
    log.close()
    assert log.dropped == 2
