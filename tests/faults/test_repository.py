"""Models that clients load, reload and unload while they serve: `model.py` files in workers, over HTTP."""

from __future__ import annotations

import base64
import json
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Tritium, serving
from tests.waiting import eventually

MODEL = """
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            given = pb_utils.get_input_tensor_by_name(request, "X")
            time.sleep(float(given.as_numpy()[0]))
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", given.as_numpy() * 0 + FACTOR)]))
        return answers
"""
TENSOR = "data_type: TYPE_FP32 dims: [ 1 ]"
CONFIG = f'backend: "python" input [ {{ name: "X" {TENSOR} }} ] output [ {{ name: "Y" {TENSOR} }} ]'
STEP = 'model_name: "part" model_version: -1 input_map { key: "X" value: "X" } output_map { key: "Y" value: "Y" }'
WHOLE = (
    f'platform: "ensemble" input [ {{ name: "X" {TENSOR} }} ] output [ {{ name: "Y" {TENSOR} }} ] '
    f"ensemble_scheduling {{ step [ {{ {STEP} }} ] }}"
)


def write(repository: Path, name: str, factor: int, version: int = 1, config: str = CONFIG) -> None:
    folder = repository / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    (repository / name / "config.pbtxt").write_text(config)
    (folder / "model.py").write_text(MODEL.replace("FACTOR", str(factor)))


class Client:
    def __init__(self, server: Tritium) -> None:
        self.url = server.url

    def ask(self, path: str, body: Any = None, method: str = "POST") -> tuple[int, Any]:
        data = None if method == "GET" else json.dumps(body or {}).encode()
        request = urllib.request.Request(f"{self.url}/v2/{path}", data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null")

    def load(self, name: str, **parameters: str) -> tuple[int, Any]:
        return self.ask(f"repository/models/{name}/load", {"parameters": parameters} if parameters else None)

    def unload(self, name: str, **parameters: Any) -> tuple[int, Any]:
        return self.ask(f"repository/models/{name}/unload", {"parameters": parameters})

    def infer(self, name: str, seconds: float = 0.0) -> Any:
        tensor = {"name": "X", "datatype": "FP32", "shape": [1], "data": [seconds]}
        status, answer = self.ask(f"models/{name}/infer", {"inputs": [tensor]})
        return answer["outputs"][0]["data"][0] if status == 200 else answer["error"]

    def index(self, name: str) -> list[dict[str, str]]:
        _, entries = self.ask("repository/index")
        return [entry for entry in entries if entry["name"] == name]

    def is_ready(self, name: str) -> bool:
        return self.ask(f"models/{name}/ready", method="GET")[0] == 200


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def client(repository: Path) -> Iterator[Client]:
    with serving(repository, "--model-control-mode", "explicit", "--workers", "2") as server:
        yield Client(server)


def test_a_model_serves_as_soon_as_it_is_loaded_and_not_after_it_was_unloaded(repository: Path, client: Client) -> None:
    write(repository, "fresh", 3)
    assert not client.is_ready("fresh")
    assert client.index("fresh") == [{"name": "fresh"}]
    assert client.load("fresh") == (200, None)
    assert all(client.is_ready("fresh") for _ in range(10))
    assert client.infer("fresh") == 3.0
    assert client.unload("fresh") == (200, None)
    assert not any(client.is_ready("fresh") for _ in range(10))
    assert client.infer("fresh") == "Request for unknown model: 'fresh' has no available versions"
    assert client.index("fresh") == [{"name": "fresh", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}]


def test_a_changed_model_answers_anew_and_what_is_under_way_ends_as_it_began(repository: Path, client: Client) -> None:
    write(repository, "changing", 1)
    client.load("changing")
    under_way: list[Any] = []
    asking = threading.Thread(target=lambda: under_way.append(client.infer("changing", 2.0)))
    asking.start()
    time.sleep(0.3)  # it is in the model by then
    write(repository, "changing", 2)
    assert client.load("changing") == (200, None)
    assert client.infer("changing") == 2.0
    assert not under_way
    asking.join()
    assert under_way == [1.0]


def test_a_change_that_does_not_load_leaves_the_old_one_serving(repository: Path, client: Client) -> None:
    write(repository, "fragile", 5)
    client.load("fragile")
    (repository / "fragile" / "1" / "model.py").write_text("raise RuntimeError('on purpose')")
    status, answer = client.load("fragile")
    assert status == 400
    assert answer["error"].startswith(
        "load failed for model 'fragile': version 1 is at UNAVAILABLE state: Internal: RuntimeError: on purpose\n"
    )
    (repository / "fragile" / "config.pbtxt").write_text("max_batch_size: banana")
    assert client.load("fragile")[0] == 500
    assert client.infer("fragile") == 5.0
    assert client.index("fragile") == [{"name": "fragile", "version": "1", "state": "READY"}]


def test_a_new_version_takes_over_and_the_old_one_is_told_as_unloaded(repository: Path, client: Client) -> None:
    write(repository, "grown", 1)
    client.load("grown")
    write(repository, "grown", 2, version=2)
    client.load("grown")
    assert client.infer("grown") == 2.0
    assert client.ask("models/grown", method="GET")[1]["versions"] == ["2"]
    eventually(
        lambda: (
            client.index("grown")[0] == {"name": "grown", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
        ),
        what="the end of version 1",
    )


def test_every_version_that_the_policy_chooses_serves_beside_the_others(repository: Path, client: Client) -> None:
    for version in (1, 2, 3):
        write(repository, "many", version, version, f"{CONFIG} version_policy {{ specific {{ versions: [ 1, 3 ] }} }}")
    client.load("many")
    assert client.ask("models/many", method="GET")[1]["versions"] == ["1", "3"]
    assert (client.infer("many/versions/1"), client.infer("many")) == (1.0, 3.0)
    assert client.infer("many/versions/2") == "Request for unknown model: 'many' version 2 is not found"


def test_an_ensemble_brings_its_parts_and_takes_them_along_and_goes_and_comes_with_each(
    repository: Path, client: Client
) -> None:
    write(repository, "part", 7)
    (repository / "whole").mkdir()
    (repository / "whole" / "config.pbtxt").write_text(WHOLE)
    assert client.load("whole") == (200, None)
    assert (client.infer("whole"), client.infer("part")) == (7.0, 7.0)
    client.unload("whole", unload_dependents=True)
    assert not client.is_ready("part")
    client.load("whole")
    client.unload("part")
    assert not client.is_ready("whole")
    assert client.index("whole")[0]["reason"] == "unloaded"
    assert client.infer("whole") == "Request for unknown model: 'whole' has no available versions"
    client.load("part")
    assert client.infer("whole") == 7.0


def test_a_model_is_loaded_from_what_the_client_sends(repository: Path, client: Client) -> None:
    write(repository, "m", 3)
    client.load("m")
    client.load("m", config=json.dumps({"backend": "python", "max_batch_size": 0, "parameters": {}}))
    assert client.ask("models/m/config", method="GET")[1]["input"] == []
    code = base64.b64encode(MODEL.replace("FACTOR", "11").encode()).decode()
    config = json.dumps(
        {
            "backend": "python",
            "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [1]}],
            "output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [1]}],
        }
    )
    assert client.load("sent", config=config, **{"file:1/model.py": code}) == (200, None)
    assert client.infer("sent") == 11.0
    client.unload("sent")
    shutil.rmtree(repository / "m")
    assert client.load("m")[0] == 500
    assert client.is_ready("m")
