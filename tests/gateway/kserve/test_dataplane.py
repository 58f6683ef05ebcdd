"""The data plane finds models in Triton's words, checks once, and gives answers the form that clients want."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from backends.config import Output, Reshape
from backends.errors import Code, InferenceError
from backends.model import InferRequest, State
from backends.tensors import Tensor
from gateway.kserve.dataplane import DataPlane, TensorMetadata, Wanted
from gateway.kserve.elements import texts
from gateway.snapshot import ModelStatus, Snapshot
from gateway.tenants import Tenant, read
from tests.gateway.kserve.tensor_models import CONFIGS, plane_of

NUMBERS = struct.pack("<16i", *range(16))


def request() -> InferRequest:
    return InferRequest("", [Tensor(f"INPUT{n}", "INT32", (1, 16), NUMBERS) for n in (0, 1)])


def refusal(dataplane: DataPlane, name: str, version: str = "", tenant: Tenant | None = None) -> str:
    with pytest.raises(InferenceError) as raised:
        dataplane.find(name, version, *([] if tenant is None else [tenant]))
    assert raised.value.status in {Code.NOT_FOUND, Code.INVALID_ARG}
    return raised.value.message


@pytest.fixture
def region() -> Iterator[str]:
    file = Path(f"/dev/shm/tritium-{uuid4().hex}")
    file.write_bytes(bytes(4096))
    yield f"/{file.name}"
    file.unlink()


@pytest.fixture
def tenant(tmp_path: Path) -> Tenant:
    """One that may use `simple` alone."""
    file = tmp_path / "keys.toml"
    file.write_text('[tenants.a]\nkeys = ["secret-a"]\nmodels = ["simple"]\n')
    (found,) = read(file).by_digest.values()
    return found


def test_models_are_found_by_name_and_version() -> None:
    _, dataplane, models = plane_of()
    served = dataplane.find("simple")
    assert served.model is models["simple"]
    assert dataplane.find("simple", "1") is served
    assert dataplane.find("repeat").is_decoupled
    assert refusal(dataplane, "nope") == "Request for unknown model: 'nope' is not found"
    assert refusal(dataplane, "simple", "9") == "Request for unknown model: 'simple' version 9 is not found"
    assert refusal(dataplane, "simple", "0") == "Request for unknown model: 'simple' version 0 is not found"
    for wrong in ("x", str(2**64)):
        assert "failed to get model version from specified version string" in refusal(dataplane, "simple", wrong)


@pytest.mark.parametrize("state", [State.STARTING, State.FAILED])
def test_a_model_that_never_served_has_no_versions(state: State) -> None:
    plane, dataplane, _ = plane_of()
    plane.registry.apply(Snapshot((ModelStatus(CONFIGS["simple"][0], state),), settled=True))
    assert refusal(dataplane, "simple") == "Request for unknown model: 'simple' has no available versions"
    assert not dataplane.is_known("simple")
    assert not dataplane.is_ready("simple")


def test_a_changed_configuration_is_taken_over() -> None:
    plane, dataplane, _ = plane_of()
    before = dataplane.find("simple")
    config = msgspec.structs.replace(CONFIGS["simple"][0], max_batch_size=1)
    plane.registry.apply(Snapshot((ModelStatus(config, State.READY),), settled=True))
    after = dataplane.find("simple")
    assert after is not before
    assert after.config.max_batch_size == 1


def test_a_model_that_a_tenant_may_not_use_is_none(tenant: Tenant) -> None:
    _, dataplane, _ = plane_of()
    assert dataplane.find("simple", "", tenant).config.name == "simple"
    assert refusal(dataplane, "repeat", "", tenant) == "Request for unknown model: 'repeat' is not found"
    assert not dataplane.is_ready("repeat", "", tenant)
    assert not dataplane.is_known("repeat", tenant)
    assert dataplane.is_ready("simple", "", tenant)
    assert dataplane.is_ready("repeat")


def test_metadata_has_shapes_with_the_batch() -> None:
    _, dataplane, _ = plane_of()
    metadata = dataplane.metadata("simple", "1")
    assert (metadata.versions, metadata.platform) == (["1"], "simple")
    assert metadata.inputs[0] == TensorMetadata("INPUT0", "INT32", (-1, 16))
    assert dataplane.metadata("identity").outputs == [TensorMetadata("OUTPUT0", "FP32", (-1,))]


async def test_statistics_are_of_one_version_of_a_model_or_of_all(tenant: Tenant) -> None:
    _, dataplane, _ = plane_of()
    assert [name for name, _, _ in await dataplane.statistics()] == sorted(CONFIGS)
    assert [name for name, _, _ in await dataplane.statistics(tenant=tenant)] == ["simple"]
    assert [(name, number) for name, number, _ in await dataplane.statistics("simple", "1")] == [("simple", 1)]
    for name, version, words in [
        ("nope", "", "requested model 'nope' is not"),
        ("simple", "7", "model version is not"),
    ]:
        with pytest.raises(InferenceError, match=words):
            await dataplane.statistics(name, version)


async def test_a_request_that_does_not_fit_never_reaches_the_model() -> None:
    _, dataplane, models = plane_of()
    with pytest.raises(InferenceError, match="unexpected inference output 'X'"):
        dataplane.infer(dataplane.find("simple"), request(), [Wanted("X")])
    assert models["simple"].requests == []


async def test_outputs_are_classified_and_put_into_memory(region: str) -> None:
    _, dataplane, models = plane_of()
    dataplane.regions.register("r", region, 0, 4096)
    wanted = [Wanted("OUTPUT0", classes=1), Wanted("OUTPUT1", region="r", offset=64, byte_size=64), Wanted("OUTPUT0")]
    responses = dataplane.infer(dataplane.find("simple"), request(), wanted)
    (response,) = [response async for response in responses]
    await responses.aclose()
    assert models["simple"].requests[0].outputs == ["OUTPUT0", "OUTPUT1"]
    assert models["simple"].ended == 1
    placed = next(tensor for tensor in response.outputs if tensor.name == "OUTPUT1")
    assert (placed.shape, placed.data) == ((1, 16), b"")
    assert bytes(dataplane.regions.read("r", 64, 64)) == bytes(64)
    dataplane.regions.close()


async def test_the_last_wish_for_an_output_counts_and_reshaped_outputs_have_the_clients_shape() -> None:
    plane, dataplane, _ = plane_of()
    outputs = (Output("OUTPUT0", "TYPE_INT32", (4, 4), Reshape((16,))), Output("OUTPUT1", "TYPE_INT32", (16,)))
    config = msgspec.structs.replace(CONFIGS["simple"][0], output=outputs)
    plane.registry.apply(Snapshot((ModelStatus(config, State.READY),), settled=True))
    served = dataplane.find("simple")
    response = await anext(dataplane.infer(served, request(), [Wanted("OUTPUT0"), Wanted("OUTPUT1", classes=2)]))
    assert response.outputs[0].shape == (1, 4, 4)
    assert texts(response.outputs[1].data) == ["0:0", "0:1"]
