"""The engines that the official clients are put in front of: each started once a session."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import openai
import pytest

from tests.clients.served import EMBEDDER, Served, serving_kind
from tests.conftest import DEMO_MODEL
from tests.servers import ROOT, Tritium, serving
from tests.stand_ins.served import MODEL as STAND_IN
from tests.stand_ins.served import serving_stand_in

CONFORMANCE = ROOT / "tests" / "conformance" / "model_repository"


@pytest.fixture(scope="session")
def llamacpp(tritium_server: Tritium) -> Served:
    return Served("llamacpp", tritium_server)


@pytest.fixture(scope="session")
def vllm() -> Iterator[Served]:
    """A generator and an embedder, in two vLLM processes behind one gateway; responses are kept."""
    store = {"VLLM_ENABLE_RESPONSES_API_STORE": "1"}
    with serving_kind("vllm", DEMO_MODEL, EMBEDDER, environment=store) as served:
        yield served


@pytest.fixture(scope="session")
def transformers() -> Iterator[Served]:
    with serving_kind("transformers", DEMO_MODEL) as served:
        yield served


@pytest.fixture(scope="session")
def tensorrtllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Its stand-in: the real one needs a GPU."""
    with serving_stand_in(tmp_path_factory.mktemp("tensorrtllm")) as (server, engine):
        yield Served("tensorrtllm", server, STAND_IN, engine)


@pytest.fixture(params=["llamacpp", "vllm"])
def served(request: pytest.FixtureRequest) -> Served:
    """Each engine with the whole surface."""
    found: Served = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["llamacpp", "vllm", "tensorrtllm"])
def completer(request: pytest.FixtureRequest) -> Served:
    """Each engine with all that chat and text completions have."""
    found: Served = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["llamacpp", "vllm", "tensorrtllm", "transformers"])
def generator(request: pytest.FixtureRequest) -> Served:
    """Each engine that generates text."""
    found: Served = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with served.openai() as client:
        yield client


@pytest.fixture
def claude(served: Served) -> Iterator[anthropic.Anthropic]:
    with served.anthropic() as client:
        yield client


@pytest.fixture(scope="session")
def tensor_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tritium]:
    """Models of the conformance repository, each in a worker."""
    repository = tmp_path_factory.mktemp("tensors")
    for name in ("simple", "identity_fp32", "identity_bytes", "queue_policy", "repeat_int32", "seq_accumulate"):
        (repository / name).symlink_to(CONFORMANCE / name)
    with serving(repository, "--no-access-log") as server:
        yield server
