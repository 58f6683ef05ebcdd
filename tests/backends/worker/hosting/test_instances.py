"""Instances that die, hang, cannot load, load again; hosts that stop: what clients and readiness see of it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from backends.config import InstanceGroup, ModelConfig
from backends.errors import Code
from backends.worker.client import WorkerModel
from backends.worker.hosting.instances import places
from backends.worker.hosting.process import Instance, LoadFailed, Place
from backends.worker.messages import Message
from backends.worker.options import Options
from tests.backends.worker.hosts import (
    STEADY,
    answer,
    appears,
    connected,
    host,
    request,
    statistics_of,
    values,
)
from tests.processes import alive, holds

pytestmark = pytest.mark.slow


async def test_a_killed_instance_fails_what_it_executed_and_nothing_that_waits(tmp_path: Path) -> None:
    with host(tmp_path, STEADY) as running:
        async with connected(running) as model:
            begun, never = tmp_path / "begun", tmp_path / "never"
            executing = asyncio.create_task(answer(model, request(begun=str(begun), until=str(never))))
            await appears(begun)
            waiting = [asyncio.create_task(answer(model, request([number]))) for number in range(20)]
            await statistics_of(model, lambda told: told.pending == 20)
            (pid,) = running.instances()
            was_unready = asyncio.create_task(_becomes(model, ready=False))
            os.kill(pid, signal.SIGKILL)
            error = (await executing).error
            assert error is not None
            assert error.status is Code.UNAVAILABLE
            assert error.message == (
                "Failed to process the request(s) for model 'm_0_0', message: the instance was killed by SIGKILL, "
                "as the kernel does when memory runs out"
            )
            await was_unready
            assert [values(response) for response in await asyncio.gather(*waiting)] == [
                [[2 * number]] for number in range(20)
            ]
            assert model.ready()
            assert await running.get("/health") == (200, {})
            assert not alive(pid)
            told = await statistics_of(model, lambda told: told.inference_stats.success.count == 20)
            assert told.failures == {"BACKEND": 1}


async def test_readiness_waits_for_an_instance_that_loads_again(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    source = STEADY.replace(
        "    def execute(",
        f"""    def initialize(self, args):
        while not os.path.exists({str(gate)!r}):
            time.sleep(0.002)

    def execute(""",
        1,
    )
    gate.touch()
    with host(tmp_path, source) as running:
        async with connected(running) as model:
            gate.unlink()
            os.kill(running.instances()[0], signal.SIGKILL)
            await _becomes(model, ready=False)
            assert await running.get("/health") == (503, {"error": "no instance is alive"})
            gate.touch()
            await _becomes(model, ready=True)


async def test_an_idempotent_model_tries_once_more(tmp_path: Path) -> None:
    with host(tmp_path, STEADY, parameters={"idempotent": {"string_value": "true"}}) as running:
        async with connected(running) as model:
            assert values(await answer(model, request([4], die=str(tmp_path / "died")))) == [[8]]
            twice = asyncio.create_task(
                answer(model, request([4], die=str(tmp_path / "no" / "such"), begun="/dev/null"))
            )
            error = (await twice).error
            assert error is not None
            assert "FileNotFoundError" in error.message  # it fails as itself: nothing was lost


async def test_an_execution_over_its_limit_ends_its_instance(tmp_path: Path) -> None:
    with host(tmp_path, STEADY, parameters={"execution_timeout_seconds": {"string_value": "0.2"}}) as running:
        async with connected(running) as model:
            error = (await answer(model, request(until=str(tmp_path / "never")))).error
            assert error is not None
            assert error.message.endswith(
                "the instance was killed: it executed for longer than execution_timeout_seconds (0.2)"
            )
            await _becomes(model, ready=True)
            assert values(await answer(model, request([4]))) == [[8]]


async def test_several_instances_work_at_once_and_outlive_each_other(tmp_path: Path) -> None:
    with host(tmp_path, STEADY, instance_group=[{"name": "g", "kind": "KIND_CPU", "count": 2}]) as running:
        async with connected(running) as model:
            marks = [tmp_path / "one", tmp_path / "two"]
            until = tmp_path / "until"
            tasks = [
                asyncio.create_task(answer(model, request(begun=str(mark), until=str(until), pid=True)))
                for mark in marks
            ]
            for mark in marks:
                await appears(mark)
            until.touch()
            pids = {values(await task)[0][0] for task in tasks}
            assert pids == set(running.instances())
            (upstream,) = model._upstreams.values()
            os.kill(pids.pop(), signal.SIGKILL)
            while upstream.status is None or upstream.status.alive == 2:
                assert model.ready()
                await asyncio.sleep(0)
            assert model.ready()
            assert values(await answer(model, request([4]))) == [[8]]


async def test_a_model_that_cannot_be_loaded_says_why_in_tritons_words(tmp_path: Path) -> None:
    source = """
class TritonPythonModel:
    def initialize(self, args):
        raise RuntimeError("cannot init on purpose")
    def execute(self, requests):
        return []
"""
    with host(tmp_path, source) as running:
        status, answered = await running.settled()
        line = source[: source.index("raise")].count("\n") + 4
        file = tmp_path / "m" / "1" / "model.py"
        assert (status, answered["error"]) == (
            500,
            f"Internal: RuntimeError: cannot init on purpose\n\nAt:\n  {file}({line}): initialize\n",
        )
        assert running.stop() == 0


async def test_a_process_that_ends_while_it_loads_says_how(tmp_path: Path) -> None:
    with host(tmp_path, "import os\nos._exit(3)") as running:
        assert await running.settled() == (
            500,
            {"error": "Internal: the instance exited with status 3 while it loaded the model"},
        )


async def test_a_model_that_fails_again_and_again_is_given_up(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    source = STEADY.replace(
        "    def execute(",
        f"""    def initialize(self, args):
        if os.path.exists({str(gone)!r}):
            os._exit(7)

    def execute(""",
        1,
    )
    with host(tmp_path, source) as running:
        async with connected(running) as model:
            (upstream,) = model._upstreams.values()
            executing = model.infer(request(until=str(tmp_path / "never")))
            waiting = model.infer(request())
            await statistics_of(model, lambda told: told.pending == 1)
            gone.touch()
            os.kill(running.instances()[0], signal.SIGKILL)

            def failed() -> bool:
                return upstream.status is not None and "exited with status 7" in upstream.status.reason

            await holds(failed, 30.0)
            await executing.aclose()
            error = (await anext(waiting)).error
            assert error is not None
            assert error.message.startswith("The model 'm' has failed: Internal: the instance exited with status 7")
            status, answered = await running.get("/health")
            assert (status, model.ready()) == (500, False)
            assert "exited with status 7 while it loaded the model" in answered["error"]


async def test_a_stop_finishes_what_was_taken_and_refuses_what_comes(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    source = (
        STEADY
        + f"""
    def finalize(self):
        open({str(ended)!r}, "w").close()
"""
    )
    with host(tmp_path, source) as running:
        async with connected(running) as model:
            begun, until = tmp_path / "begun", tmp_path / "until"
            executing = asyncio.create_task(answer(model, request([1], begun=str(begun), until=str(until))))
            await appears(begun)
            queued = asyncio.create_task(answer(model, request([2])))
            await statistics_of(model, lambda told: told.pending == 1)
            running.process.send_signal(signal.SIGTERM)
            await _becomes(model, ready=False)
            (upstream,) = model._upstreams.values()
            upstream.status = None  # as one who has not heard of it yet
            late = (await answer(model, request([3]))).error
            assert late is not None
            assert (late.status, late.message) == (Code.UNAVAILABLE, "The model 'm' is stopping.")
            assert await running.get("/health") == (503, {"error": "the model is stopping"})
            until.touch()
            assert (values(await executing), values(await queued)) == ([[2]], [[4]])
            assert await asyncio.to_thread(running.process.wait, 10) == 0
            assert ended.exists()


async def test_a_stop_does_not_wait_for_a_model_that_loads(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    source = f"""
import time
class TritonPythonModel:
    def initialize(self, args):
        open({str(begun)!r}, "w").close()
        time.sleep(60)
    def execute(self, requests):
        return []
"""
    with host(tmp_path, source) as running:
        await appears(begun)
        assert await running.get("/health") == (503, {"error": "the model is loading"})
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 5


async def test_a_host_that_fails_by_itself_says_so(tmp_path: Path) -> None:
    limiter = {"resources": [{"name": "R", "count": 1}]}
    options = Options(resources_path=str(tmp_path / "no" / "such" / "file"))
    with host(tmp_path, STEADY, options, instance_group=[{"count": 1, "rate_limiter": limiter}]) as running:
        status, answered = await running.settled()
        assert status == 500
        assert answered["error"].startswith("Internal: the host failed: FileNotFoundError(")


async def test_an_interpreter_that_is_not_there_fails_the_model() -> None:
    instance = Instance(0, Place("m_0_0", "CPU", -1), Nobody())
    with pytest.raises(LoadFailed, match="Internal: unable to start the instance: "):
        await instance.start(["/no/such/python"], {}, b"{}", completes=False)
    await instance.end()


def test_instances_are_counted_and_named_as_triton_does() -> None:
    groups = (
        InstanceGroup(2, "KIND_CPU"),
        InstanceGroup(1, "KIND_MODEL", name="whole"),
        InstanceGroup(1, "KIND_CPU", passive=True),
        InstanceGroup(1, "KIND_AUTO"),
    )
    found = list(places(ModelConfig("m", "python", instance_group=groups)))
    assert found[:3] == [Place("m_0_0", "CPU", -1), Place("m_0_1", "CPU", -1), Place("whole_0", "MODEL", -1)]
    assert found[3].name == "m_3_0"
    assert [place.name for place in places(ModelConfig("m", "python"))] == ["m_0_0"]


@pytest.mark.skipif(Path("/proc/driver/nvidia/gpus").is_dir(), reason="there is a GPU")
def test_instances_for_gpus_need_gpus() -> None:
    config = ModelConfig("m", "python", instance_group=(InstanceGroup(1, "KIND_GPU", name="g"),))
    with pytest.raises(LoadFailed, match="instance group g of model m has kind KIND_GPU but no GPUs are available"):
        list(places(config))


class Nobody:
    """The owner of an instance that says nothing."""

    def received(self, instance: Instance, message: Message, payload: memoryview) -> None:
        raise NotImplementedError

    def left(self, instance: Instance) -> None:
        raise NotImplementedError


async def _becomes(model: WorkerModel, *, ready: bool) -> None:
    while model.ready() is not ready:
        await asyncio.sleep(0)
