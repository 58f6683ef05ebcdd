"""Models that call models: through the server process that asked, with decoupled answers, under concurrency."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from backends.errors import Code, InferenceError
from backends.model import Endpoint, Endpoints, State
from backends.tensors import Buffer
from backends.worker.client import WorkerModel
from backends.worker.frames import MAGIC, BlockingLink, heads
from backends.worker.messages import Infer, Respond
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
from tests.processes import holds

pytestmark = pytest.mark.slow

REPEATING = """
import json, os, threading, time

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self.send, args=(request, request.get_response_sender())).start()

    def send(self, request, sender):
        does = json.loads(request.parameters())
        x = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
        for number in range(does.get("times", 3)):
            if request.is_cancelled():
                open(does["cancelled"], "w").close()
                break
            if "sent" in does:
                with open(does["sent"], "w") as file:
                    file.write(str(number))
            time.sleep(does.get("pause", 0))
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("Y", x + number)]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
"""Answers `times` times; `sent` names a file that says how often, `cancelled` one that is made when it may stop."""

CALLING = """
import json

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        does = json.loads(request.parameters())
        x = pb_utils.get_input_tensor_by_name(request, "X")
        passed = {key: does[key] for key in ("begun", "until", "times", "cancelled") if key in does}
        if "load" in does:
            try:
                pb_utils.load_model(does["load"], files={"file:1/model.py": b"source"}, config="{}")
                pb_utils.unload_model(does["load"], unload_dependents=True)
            except pb_utils.TritonModelException as error:
                return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
            ready = [pb_utils.is_model_ready("steady"), pb_utils.is_model_ready("nobody")]
            return pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([ready], np.int32))])
        inner = pb_utils.InferenceRequest(
            model_name=does["model"], requested_output_names=["Y"], inputs=[x], parameters=passed
        )
        if "cancelled" in does:
            responses = inner.exec(decoupled=True)
            first = next(iter(responses))
            responses.cancel()
            return first
        if "decoupled" in does:
            total = np.zeros_like(x.as_numpy())
            for response in inner.exec(decoupled=True):
                if response.has_error():
                    return pb_utils.InferenceResponse(error=response.error())
                for output in response.output_tensors():
                    total += output.as_numpy()
            return pb_utils.InferenceResponse([pb_utils.Tensor("Y", total)])
        response = inner.exec()
        if response.has_error():
            return pb_utils.InferenceResponse(error=response.error())
        y = pb_utils.get_output_tensor_by_name(response, "Y").as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("Y", y + 1)])
"""
"""One more than what `model` answers, or the sum of its answers where it is `decoupled`; `load` is loaded."""


class Control:
    """A `ModelControl` that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.refusal = ""

    async def load(self, name: str, config: str, files: Mapping[str, Buffer]) -> None:
        if self.refusal:
            raise InferenceError(self.refusal, Code.UNAVAILABLE)
        self.asked.append((name, config, {key: bytes(data) for key, data in files.items()}))

    async def unload(self, name: str, *, unload_dependents: bool) -> None:
        self.asked.append((name, unload_dependents))


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RunningHost]]:
    decoupled = {"model_transaction_policy": {"decoupled": True}}
    with (
        host(tmp_path_factory.mktemp("steady"), STEADY) as steady,
        host(tmp_path_factory.mktemp("repeating"), REPEATING, **decoupled) as repeating,
        host(tmp_path_factory.mktemp("calling"), CALLING, instance_group=[{"count": 2, "kind": "KIND_CPU"}]) as calling,
    ):
        yield {"steady": steady, "repeating": repeating, "calling": calling}


@pytest.fixture
def control() -> Control:
    return Control()


@pytest.fixture
async def models(hosts: dict[str, RunningHost], control: Control) -> AsyncIterator[dict[str, WorkerModel]]:
    async with connected(hosts["steady"]) as steady, connected(hosts["repeating"]) as repeating:
        known = NoModels(steady=steady, repeating=repeating)
        known.control = control
        async with connected(hosts["calling"], known) as calling:
            yield {"steady": steady, "repeating": repeating, "calling": calling}


async def test_a_decoupled_model_answers_in_order_and_ends_with_a_final_one(models: dict[str, WorkerModel]) -> None:
    found = await answers(models["repeating"], request([5], times=3))
    assert [values(response) for response in found[:-1]] == [[[5]], [[6]], [[7]]]
    assert [response.final for response in found] == [False, False, False, True]
    assert found[-1].is_empty
    told = await models["repeating"].statistics()
    assert told.first_response_ms["sum"] > 0


async def test_a_model_calls_another_one_from_thirty_two_requests_at_once(models: dict[str, WorkerModel]) -> None:
    asked = [request([number], model="steady") for number in range(32)]
    found = await asyncio.gather(*(answer(models["calling"], one) for one in asked))
    assert [values(response) for response in found] == [[[2 * number + 1]] for number in range(32)]


async def test_a_model_calls_a_decoupled_one_from_thirty_two_requests_at_once(models: dict[str, WorkerModel]) -> None:
    asked = [request([number], model="repeating", decoupled=True) for number in range(32)]
    found = await asyncio.gather(*(answer(models["calling"], one) for one in asked))
    assert [values(response) for response in found] == [[[3 * number + 3]] for number in range(32)]


async def test_a_call_that_fails_tells_the_model_why(models: dict[str, WorkerModel]) -> None:
    unknown = (await answer(models["calling"], request(model="nobody"))).error
    assert unknown is not None
    assert unknown.message == (
        "Model nobody - Error when running inference: Failed for execute the inference request. Model 'nobody' is not"
        " ready."
    )
    decoupled = (await answer(models["calling"], request(model="repeating"))).error
    assert decoupled is not None
    assert decoupled.message == (
        "Model repeating - Error when running inference: Model repeating is using the decoupled. The current BLS"
        " request call doesn't support models using the decoupled transaction policy. Please use 'decoupled=True'"
        " argument to the 'exec' or 'async_exec' calls for decoupled models.'"
    )
    unfit = request(model="steady")
    unfit.inputs[0].shape = (9, 1)
    unfit.inputs[0].data = bytes(36)
    error = (await answer(models["calling"], unfit)).error
    assert error is not None
    assert "inference request batch-size must be <= 8 for 'm'" in error.message


async def test_a_call_to_a_model_that_is_not_ready_is_refused(hosts: dict[str, RunningHost], tmp_path: Path) -> None:
    nowhere = Endpoints((Endpoint("m", f"unix:{tmp_path}/none.sock", State.STARTING),))
    absent = WorkerModel(hosts["steady"].config, nowhere, NoModels())
    async with connected(hosts["calling"], NoModels(absent=absent)) as calling:
        error = (await answer(calling, request(model="absent"))).error
        assert error is not None
        assert "Model 'absent' is not ready" in error.message
    absent.close()


async def test_a_call_ends_with_its_caller(
    hosts: dict[str, RunningHost], models: dict[str, WorkerModel], tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    before = set(hosts["calling"].instances())
    asked = request(model="steady", begun=str(begun), until=str(tmp_path / "never"))
    calling = asyncio.create_task(answer(models["calling"], asked))
    await appears(begun)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    await appears(tmp_path / "begun.cancelled")
    error = (await calling).error
    assert error is not None
    assert error.status is Code.UNAVAILABLE
    await holds(models["calling"].ready)


async def test_a_call_whose_server_process_leaves_fails(hosts: dict[str, RunningHost], tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    async with connected(hosts["steady"]) as steady, connected(hosts["calling"], NoModels(steady=steady)) as leaving:
        asked = request(model="steady", begun=str(begun), until=str(tmp_path / "never"))
        calling = leaving.infer(asked)
        await appears(begun)
        failures = (await leaving.statistics()).inference_stats.success.count
        (upstream,) = leaving._upstreams.values()
        assert upstream._link is not None
        upstream._link.abort()
        await appears(tmp_path / "begun.cancelled")
        await holds(leaving.ready)
        await statistics_of(leaving, lambda told: told.inference_stats.success.count == failures + 1)
        await calling.aclose()


async def test_a_slow_reader_holds_its_own_stream_back_and_no_other(
    models: dict[str, WorkerModel], tmp_path: Path
) -> None:
    sent = tmp_path / "sent"
    slow = models["repeating"].infer(request([1], times=100_000, sent=str(sent), cancelled=str(tmp_path / "cancelled")))
    assert values(await anext(slow)) == [[1]]
    assert len(await answers(models["repeating"], request([1], times=10))) == 11

    reached = [-1, -2]

    def stands_still() -> bool:
        reached.append(int(sent.read_text() or 0))
        return reached[-1] > 60 and reached[-1] == reached[-2] == reached[-3]

    await holds(stands_still)
    assert reached[-1] < 5_000
    found = [values(await anext(slow))[0][0] for _ in range(reached[-1] + 500)]
    assert found == list(range(2, len(found) + 2))
    await slow.aclose()
    await appears(tmp_path / "cancelled")


async def test_leaving_a_stream_ends_it_in_the_model(models: dict[str, WorkerModel], tmp_path: Path) -> None:
    cancelled = tmp_path / "cancelled"
    stream = models["repeating"].infer(request([1], times=10_000, pause=0.002, cancelled=str(cancelled)))
    assert values(await anext(stream)) == [[1]]
    await stream.aclose()
    await appears(cancelled)


async def test_a_large_answer_to_a_call_passes_unchanged(models: dict[str, WorkerModel]) -> None:
    numbers = np.arange(1_000_000, dtype=np.int32)
    response = await answer(models["calling"], request(numbers, model="steady"))
    assert values(response) == [(2 * numbers + 1).tolist()]


async def test_a_model_loads_unloads_and_asks_after_models(models: dict[str, WorkerModel], control: Control) -> None:
    assert values(await answer(models["calling"], request(load="new"))) == [[1, 0]]
    assert control.asked == [("new", "{}", {"file:1/model.py": b"source"}), ("new", True)]


async def test_a_model_is_told_why_it_may_not_load(models: dict[str, WorkerModel], control: Control) -> None:
    control.refusal = "not now"
    error = (await answer(models["calling"], request(load="new"))).error
    assert error is not None
    assert "not now" in error.message


async def test_a_model_may_load_nothing_where_nobody_controls_models(
    hosts: dict[str, RunningHost],
) -> None:
    async with connected(hosts["calling"]) as calling:
        error = (await answer(calling, request(load="new"))).error
        assert error is not None
        assert "models cannot be loaded or unloaded from within a model here" in error.message


async def test_a_server_process_that_reads_nothing_does_not_fill_the_host(
    hosts: dict[str, RunningHost], models: dict[str, WorkerModel], tmp_path: Path
) -> None:
    sent, host = tmp_path / "sent", hosts["repeating"]
    asked = request([0] * 25_000, times=2000, sent=str(sent))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(host.address.removeprefix("unix:"))
        sock.sendall(MAGIC)
        link = BlockingLink(sock)
        link.send(Infer(7, "m", 1, "", heads(asked.inputs), [], asked.parameters), asked.inputs)
        await appears(sent)
        reached = [-1, -2]

        def stands_still() -> bool:
            reached.append(int(sent.read_text() or 0))
            return reached[-1] > 40 and reached[-1] == reached[-2] == reached[-3]

        await holds(stands_still)
        # 4 MB in the host, what the sockets hold, and a few on their way: not 200 MB.
        assert reached[-1] < 400
        assert len(await answers(models["repeating"], request([1], times=10))) == 11
        found = []

        def read_all() -> None:
            while not found or not found[-1].final:
                message, _ = link.receive()
                if isinstance(message, Respond):
                    found.append(message)

        await asyncio.to_thread(read_all)
        assert len(found) == 2001


async def test_a_model_that_cancels_its_call_ends_it_in_the_other_model(
    models: dict[str, WorkerModel], tmp_path: Path
) -> None:
    cancelled = tmp_path / "cancelled"
    asked = request([5], model="repeating", times=1_000_000, cancelled=str(cancelled))
    assert values(await answer(models["calling"], asked)) == [[5]]
    await appears(cancelled)


async def test_a_call_outside_of_any_request_goes_through_whatever_server_process_is_there(
    hosts: dict[str, RunningHost], tmp_path: Path
) -> None:
    source = f"""
import threading, time

class TritonPythonModel:
    def initialize(self, args):
        threading.Thread(target=self.call, daemon=True).start()

    def call(self):
        while True:
            x = pb_utils.Tensor("X", np.array([[21]], np.int32))
            asked = pb_utils.InferenceRequest(model_name="steady", requested_output_names=["Y"], inputs=[x])
            response = asked.exec()
            told = response.error().message() if response.has_error() else str(response.output_tensors()[0].as_numpy())
            with open({str(tmp_path / "told")!r}, "w") as file:
                file.write(told)
            time.sleep(0.005)

    def execute(self, requests):
        return []
"""

    def told(text: str) -> Callable[[], bool]:
        file = tmp_path / "told"
        return lambda: file.exists() and text in file.read_text()

    with host(tmp_path, source) as running:
        await holds(told("no server process is connected that could answer"))
        async with connected(hosts["steady"]) as steady, connected(running, NoModels(steady=steady)):
            await holds(told("[[42]]"))
        await holds(told("no server process is connected that could answer"))
