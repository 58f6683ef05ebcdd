"""Some six hundred gRPC calls are answered as real Triton answers them."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import grpc
import pytest

from tests.conformance.grpc_answers import readable, recorded
from tests.conformance.grpc_calls import Answer, Call, ask
from tests.conformance.grpc_cases import cases
from tests.conformance.grpc_explicit_cases import explicit_cases
from tests.conformance.triton_models import plane_over
from tests.gateway.kserve.grpc_server import serving_grpc
from tests.servers import serving

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER / "model_repository"
RECORDED = list(recorded(FOLDER / "grpc_infer.json"))
EXPLICIT = list(recorded(FOLDER / "grpc_explicit.json"))
METADATA = list(recorded(FOLDER / "grpc_metadata.json"))

# Models are loaded by the supervisor: without one nothing completes a configuration, fails or is told of.
OF_LOADING = ("configuration of", "statistics of 'broken", "the model '", "index", "meta_", "config_", "ready_")
# What models, their sequences and ensembles do is not the front end's.
OF_MODELS = ("a sequence", "one output of", "a decoupled ensemble")

# Triton hands the model 0 for a text where it takes a number, so that all such sequences are one to it.
BETTER = {"a sequence with a text as its id"}


def _differences(target: str, asked: list[tuple[Call, Answer]]) -> list[str]:
    found = []
    with grpc.insecure_channel(target) as channel:
        for call, expected in asked:
            answer, wanted = (readable(call.rpc, each) for each in (ask(target, call, channel), expected))
            if answer != wanted:
                found.append(f"{call.name}: {answer} is not {wanted}")
    return found


def test_what_was_recorded_is_what_would_be_asked() -> None:
    for answered, asked in ((RECORDED, cases()), (EXPLICIT, explicit_cases())):
        assert {call.name: [base64.b64encode(body) for body in call.requests] for call, _ in answered} == {
            call.name: [base64.b64encode(each.SerializeToString(deterministic=True)) for each in call.requests]
            for call in asked
        }


async def test_the_front_end_answers_as_triton_does() -> None:
    asked = [pair for pair in RECORDED if not pair[0].name.startswith((*OF_LOADING, *OF_MODELS))]
    async with serving_grpc(*plane_over(REPOSITORY)) as port:
        found = await asyncio.to_thread(_differences, f"127.0.0.1:{port}", asked)
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_the_whole_server_answers_as_triton_does() -> None:
    asked = [pair for pair in (*METADATA, *RECORDED) if pair[0].name not in BETTER]
    with serving(REPOSITORY, "--no-access-log") as server:
        found = _differences(f"127.0.0.1:{server.grpc_port}", asked)
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_models_come_and_go_as_triton_s_do() -> None:
    with serving(REPOSITORY, "--model-control-mode", "explicit", "--load-model", "simple") as server:
        found = _differences(f"127.0.0.1:{server.grpc_port}", EXPLICIT)
    assert not found, "\n".join(found)
