"""Warm-up before a model is ready, and before an instance that was started again gets work."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.backends.worker.hosts import answer, connected, host, request, statistics_of, values
from tests.processes import holds

pytestmark = pytest.mark.slow

SOURCE = """
import os

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
            with open(os.path.join(os.path.dirname(__file__), "seen"), "a") as file:
                file.write(f"{os.getpid()} {len(requests)} {x.tolist()}\\n")
            if (x == 13).any():
                raise RuntimeError("unlucky")
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", x)]))
        return answers
"""
X = {"data_type": "TYPE_INT32", "dims": [2]}


def sample(name: str = "w", batch_size: int = 1, count: int = 1, **data: Any) -> dict[str, Any]:
    return {"name": name, "batch_size": batch_size, "count": count, "inputs": {"X": X | data}}


async def test_samples_run_before_the_first_request_and_count(tmp_path: Path) -> None:
    samples = [sample(batch_size=2, zero_data=True), sample(count=3, random_data=True)]
    with host(tmp_path, SOURCE, model_warmup=samples) as running:
        async with connected(running) as model:
            told = await model.statistics()
            assert (told.inference_count, told.execution_count) == (5, 4)
            assert told.inference_stats.success.count == 5
            assert told.batch_stats[2].compute_infer.count == 1
            assert values(await answer(model, request([7, 8]))) == [[7, 8]]
            seen = (tmp_path / "m" / "1" / "seen").read_text().splitlines()
            assert [line.split(" ", 1)[1] for line in seen[:2]] == ["2 [[0, 0]]"] * 2
            assert len(seen) == 6
            (pid,) = running.instances()
            os.kill(pid, signal.SIGKILL)
            await statistics_of(model, lambda told: told.execution_count == 9)
            await holds(model.ready)


async def test_samples_may_stand_in_files(tmp_path: Path) -> None:
    (tmp_path / "m" / "warmup").mkdir(parents=True)
    (tmp_path / "m" / "warmup" / "data").write_bytes(bytes([1, 0, 0, 0, 2, 0, 0, 0]))
    with host(tmp_path, SOURCE, model_warmup=[sample(input_data_file="data")]) as running:
        async with connected(running):
            assert (tmp_path / "m" / "1" / "seen").read_text().endswith("1 [[1, 2]]\n")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (
            {"input_data_file": "absent"},
            "Internal: failed to open text file for read {folder}/m/warmup/absent: No such file",
        ),
        (
            {"input_data_file": "thirteen"},
            "Invalid argument: failed to run warmup sample 'w': Failed to process the request(s)",
        ),
    ],
)
async def test_a_sample_that_fails_fails_the_model(tmp_path: Path, data: dict[str, Any], reason: str) -> None:
    (tmp_path / "m" / "warmup").mkdir(parents=True)
    (tmp_path / "m" / "warmup" / "thirteen").write_bytes(bytes([13, 0, 0, 0, 2, 0, 0, 0]))
    with host(tmp_path, SOURCE, model_warmup=[sample(**data)]) as running:
        status, answered = await running.settled()
        assert status == 500
        assert reason.format(folder=tmp_path) in answered["error"]


async def test_an_instance_that_ends_during_its_warm_up_says_so(tmp_path: Path) -> None:
    source = SOURCE.replace('raise RuntimeError("unlucky")', "os._exit(4)")
    (tmp_path / "m" / "warmup").mkdir(parents=True)
    (tmp_path / "m" / "warmup" / "thirteen").write_bytes(bytes([13, 0, 0, 0, 2, 0, 0, 0]))
    with host(tmp_path, source, model_warmup=[sample(input_data_file="thirteen")]) as running:
        assert await running.settled() == (
            500,
            {"error": "Internal: the instance exited with status 4 during its warm-up"},
        )
