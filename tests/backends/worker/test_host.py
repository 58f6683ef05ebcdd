"""A host with real instances: answers, errors, cancellation, statistics, health."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from backends.config import ModelConfig
from backends.errors import Code, InferenceError, InvalidRequest, ModelNotReady
from backends.model import Endpoint, Endpoints, State
from backends.worker.client import WorkerModel
from backends.worker.frames import MAGIC
from backends.worker.launching import launch
from tests.backends.worker.hosts import (
    STEADY,
    NoModels,
    RunningHost,
    answer,
    answers,
    appears,
    connected,
    host,
    request,
    statistics_of,
    values,
)
from tests.backends.worker.instances import array, configuration, tensor
from tests.waiting import eventually_async


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    with host(tmp_path_factory.mktemp("steady"), STEADY) as running:
        yield running


@pytest.fixture
async def model(steady: RunningHost) -> AsyncIterator[WorkerModel]:
    async with connected(steady) as connection:
        yield connection


async def test_requests_at_the_same_time_get_each_their_own_answer(model: WorkerModel) -> None:
    found = await asyncio.gather(*(answer(model, request([number])) for number in range(50)))
    assert [values(response) for response in found] == [[[2 * number]] for number in range(50)]


async def test_a_large_tensor_passes_unchanged(model: WorkerModel) -> None:
    rows = np.arange(4 * 1024 * 1024, dtype=np.int32).reshape(1, -1)
    asked = request()
    asked.inputs = [tensor("X", rows)]
    (output,) = (await answer(model, asked)).outputs
    assert output.shape == rows.shape
    assert np.array_equal(array(output), rows * 2)


async def test_a_host_keeps_nothing_of_large_requests(steady: RunningHost, model: WorkerModel) -> None:
    asked = request()
    asked.inputs = [tensor("X", np.zeros((1, 2 * 1024 * 1024), np.int32))]
    for _ in range(25):
        assert (await answer(model, asked)).error is None
    peak = Path(f"/proc/{steady.process.pid}/status").read_text().partition("VmHWM:")[2].split()[0]
    # Two payloads of 16 MB (of the test before) at a time, and the process itself.
    assert int(peak) < 100_000


class Marks:
    """A trace that remembers what it was told."""

    def __init__(self) -> None:
        self.times: tuple[int, ...] = ()

    def child(self, config: ModelConfig) -> Marks:
        raise NotImplementedError(config)

    def mark(self, activity: str, ns: int = 0) -> None:
        raise NotImplementedError(activity, ns)

    def worked(self, queued_ns: int, began_ns: int, ended_ns: int) -> None:
        self.times = queued_ns, began_ns, ended_ns

    def finish(self) -> None:
        raise NotImplementedError


async def test_what_is_traced_is_told_when_it_waited_ran_and_ended(model: WorkerModel) -> None:
    asked = request([3])
    asked.trace = marks = Marks()
    sent_ns = time.monotonic_ns()
    assert values(await answer(model, asked)) == [[6]]
    assert sorted(marks.times) == list(marks.times)
    assert sent_ns < marks.times[0]
    assert marks.times[2] < time.monotonic_ns()


async def test_an_error_of_the_model_is_an_answer_with_its_code(model: WorkerModel) -> None:
    bad, good = await asyncio.gather(answer(model, request(fail=True)), answer(model, request([3])))
    assert bad.error is not None
    assert (bad.error.status, bad.error.message, bad.final) == (Code.NOT_FOUND, "on purpose", True)
    assert values(good) == [[6]]


async def test_an_exception_of_the_model_fails_its_batch_and_no_other(model: WorkerModel) -> None:
    bad, good = await asyncio.gather(answer(model, request(**{"raise": True})), answer(model, request([3])))
    assert bad.error is not None
    assert bad.error.status is Code.INTERNAL
    assert bad.error.message.startswith(
        "Failed to process the request(s) for model 'm_0_0', message: RuntimeError: boom\n\nAt:\n"
    )
    assert values(good) == [[6]]


async def test_statistics_count_as_tritons_do(steady: RunningHost, model: WorkerModel) -> None:
    before = (await model.statistics()).inference_stats.success.count
    failed = (await model.statistics()).inference_stats.fail.count
    told = await model.statistics()
    rows, batches, of_three = told.inference_count, told.execution_count, told.batch_stats.get(3)
    threes = of_three.compute_infer.count if of_three else 0
    await answer(model, request([1], [2], [3]))
    await answer(model, request(fail=True))
    await answer(model, request(**{"raise": True}))
    told = await statistics_of(model, lambda told: told.execution_count == batches + 3)
    stats = told.inference_stats
    # An answer that the model itself makes an error is a success; one that it raised is not, though it was executed.
    assert (stats.success.count, stats.fail.count) == (before + 2, failed + 1)
    assert told.inference_count == rows + 4
    assert told.batch_stats[3].compute_infer.count == threes + 1
    assert stats.queue.count == stats.compute_infer.count == stats.success.count
    assert stats.success.ns > stats.compute_infer.ns > 0
    assert told.failures["BACKEND"] == stats.fail.count - told.failures.get("CANCELED", 0)
    status, shown = await steady.get("/statistics")
    assert status == 200
    assert shown["statistics"]["execution_count"] == told.execution_count
    assert told.recent is None
    assert shown["metrics"] == []


async def test_leaving_drops_a_queued_request_at_once(model: WorkerModel, tmp_path: Path) -> None:
    begun, until, never = tmp_path / "begun", tmp_path / "until", tmp_path / "never"
    canceled = (await model.statistics()).failures.get("CANCELED", 0)
    running = asyncio.create_task(answer(model, request([1], begun=str(begun), until=str(until))))
    await appears(begun)
    queued = model.infer(request([2], begun=str(never)))
    await statistics_of(model, lambda told: told.pending == 1)
    await queued.aclose()
    told = await statistics_of(model, lambda told: told.pending == 0)
    assert told.failures["CANCELED"] == canceled + 1
    until.touch()
    assert values(await running) == [[2]]
    assert values(await answer(model, request([5]))) == [[10]]
    assert not never.exists()


async def test_leaving_tells_the_model_that_executes(model: WorkerModel, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    responses = model.infer(request(begun=str(begun), until=str(tmp_path / "never")))
    await appears(begun)
    await responses.aclose()
    await appears(tmp_path / "begun.cancelled")
    await responses.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(responses)
    assert values(await answer(model, request([5]))) == [[10]]


async def test_a_lost_connection_cancels_what_came_over_it(steady: RunningHost, tmp_path: Path) -> None:
    running, queued = tmp_path / "running", tmp_path / "queued"
    async with connected(steady) as leaving, connected(steady) as staying:
        first = leaving.infer(request(begun=str(running), until=str(tmp_path / "never")))
        await appears(running)
        second = leaving.infer(request(begun=str(queued)))
        await statistics_of(staying, lambda told: told.pending == 1)
        (upstream,) = leaving._upstreams.values()
        assert upstream._link is not None
        upstream._link.abort()
        for responses in (first, second):
            with pytest.raises(InferenceError, match="The model 'm' lost its process") as raised:
                await anext(responses)
            assert raised.value.status is Code.UNAVAILABLE
        await appears(tmp_path / "running.cancelled")
        assert values(await answer(staying, request([4]))) == [[8]]
        assert not queued.exists()

        async def reconnected() -> bool:
            return leaving.ready()

        await eventually_async(reconnected)
        assert values(await answer(leaving, request([4]))) == [[8]]


async def test_a_closed_model_finishes_lets_go_and_still_serves_who_holds_it(
    steady: RunningHost, tmp_path: Path
) -> None:
    async with connected(steady) as model:
        begun, until = tmp_path / "begun", tmp_path / "until"
        running = asyncio.create_task(answer(model, request([1], begun=str(begun), until=str(until))))
        await appears(begun)
        model.close()
        assert model.work() == {steady.address: 1}
        assert model.connections() == (1, 0)
        until.touch()
        assert values(await running) == [[2]]

        async def let_go() -> bool:
            return model.connections() == (0, 0)

        await eventually_async(let_go, what="the end of the connection")
        assert values(await answer(model, request([2]))) == [[4]]
        await eventually_async(let_go, what="the end of the second connection")


async def test_bytes_that_are_no_frames_end_their_connection_alone(steady: RunningHost, model: WorkerModel) -> None:
    path = steady.address.removeprefix("unix:")
    for garbage in (b"\xff" * 64, b"\x04\x00\x00\x00" + bytes(8) + b"\xc1\xc1\xc1\xc1"):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(MAGIC + garbage)
        while await reader.read(1024):
            pass
        writer.close()
    assert values(await answer(model, request([5]))) == [[10]]


@pytest.mark.usefixtures("model")
async def test_http_answers_health_configuration_and_nothing_else(steady: RunningHost) -> None:
    assert await steady.get("/health") == (200, {})
    status, config = await steady.get("/config")
    assert (status, config["name"], config["max_batch_size"]) == (200, "m", 8)
    assert (await steady.get("/metrics"))[0] == 404
    reader, writer = await asyncio.open_unix_connection(steady.address.removeprefix("unix:"))
    writer.write(b"POST /health HTTP/1.1\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 405 ")
    writer.write(b"x" * 20_000)
    while await reader.read(1024):
        pass
    writer.close()


async def test_a_model_is_not_ready_where_no_host_is(tmp_path: Path) -> None:
    endpoints = Endpoints((Endpoint("m", f"unix:{tmp_path}/none.sock", State.STARTING),))
    model = WorkerModel(configuration(tmp_path, STEADY), endpoints, NoModels())
    assert not model.ready()
    with pytest.raises(ModelNotReady, match="The model 'm' is not ready: its process is starting"):
        model.infer(request())
    model.close()


async def test_a_host_that_is_expected_and_not_there_fails_requests_once(tmp_path: Path) -> None:
    endpoints = Endpoints((Endpoint("m", f"unix:{tmp_path}/none.sock", State.READY),))
    model = WorkerModel(configuration(tmp_path, STEADY), endpoints, NoModels())
    with pytest.raises(InferenceError, match="The model 'm' cannot be reached: No such file"):
        await answers(model, request())
    assert not model.ready()
    with pytest.raises(ModelNotReady, match="its process cannot be reached"):
        model.infer(request())
    model.close()


async def test_leaving_before_there_is_a_connection_sends_nothing(steady: RunningHost, tmp_path: Path) -> None:
    status, _ = await steady.settled()
    assert status == 200
    model = WorkerModel(steady.config, steady.endpoints, NoModels())
    never = tmp_path / "never"
    await model.infer(request(begun=str(never))).aclose()
    assert values(await answer(model, request([4]))) == [[8]]
    assert not never.exists()
    model.close()


async def test_a_listener_that_says_nothing_leaves_statistics_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        endpoints = Endpoints((Endpoint("m", f"unix:{path}", State.READY),))
        model = WorkerModel(configuration(tmp_path, STEADY), endpoints, NoModels())
        with pytest.raises(Exception, match="told no statistics within 1 s"):
            await model.statistics()
        model.close()
    lonely = WorkerModel(model.config, Endpoints(), NoModels())
    with pytest.raises(Exception, match="no process that could tell its statistics"):
        await lonely.statistics()


def test_a_wrong_time_limit_is_refused_at_launch(tmp_path: Path) -> None:
    for text in ("soon", "0", "-1", "inf", "nan"):
        config = configuration(
            tmp_path / text, STEADY, parameters={"execution_timeout_seconds": {"string_value": text}}
        )
        with pytest.raises(InvalidRequest, match=f"execution_timeout_seconds is '{text}', not seconds"):
            launch(config, runtime_dir=str(tmp_path))


def test_a_configuration_that_does_not_fit_is_refused_at_launch(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).bytes(120_000).hex()
    config = configuration(tmp_path, STEADY, parameters={"noise": {"string_value": noise}})
    with pytest.raises(InvalidRequest, match=r"its configuration is \d+ bytes compressed, over the limit of"):
        launch(config, runtime_dir=str(tmp_path))
