"""Engines as KServe models, over the real `echo` engine, whose texts are those that it is asked with."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

import pytest

from backends.config import ModelConfig, read
from backends.engine.answer import Collected
from backends.engine.inference import infer
from backends.engine.replicas import EngineModel
from backends.errors import Code, InferenceError, ServingError, UpstreamProtocolError
from backends.interface import complete
from backends.model import (
    Capability,
    Endpoint,
    Endpoints,
    InferRequest,
    InferResponse,
    OpenAIRequest,
    OpenAIResponse,
    State,
)
from backends.statistics import ModelStatistics
from backends.tensors import Tensor, elements, join
from tests.engines import EchoEngine, echo_engine
from tests.processes import holds


@pytest.fixture(scope="module")
def engine() -> Iterator[EchoEngine]:
    with echo_engine(model="small") as engine:
        yield engine


def config(backend: str = "echo", *, decoupled: bool = True) -> ModelConfig:
    fields = {"name": "small", "backend": backend, "max_batch_size": 0}
    complete(fields)
    fields["model_transaction_policy"] = {"decoupled": decoupled}
    return read(json.dumps(fields), version=1, path="", arguments={})


def model(engine: EchoEngine, configuration: ModelConfig | None = None, **options: object) -> EngineModel:
    endpoints = Endpoints((Endpoint("small-0", engine.address, State.READY),))
    capabilities = options.pop("capabilities", frozenset(Capability))
    return EngineModel(configuration or config(), endpoints, capabilities=capabilities, parallelism=None)


def text(name: str, *texts: str) -> Tensor:
    return Tensor(name, "BYTES", (len(texts),), join(one.encode() for one in texts))


def flag(name: str, value: bool = True) -> Tensor:
    return Tensor(name, "BOOL", (1,), bytes([value]))


def number(name: str, value: int) -> Tensor:
    return Tensor(name, "INT32", (1,), struct.pack("<i", value))


async def ask(asked: EngineModel, *inputs: Tensor, **fields: object) -> list[InferResponse]:
    responses = asked.infer(InferRequest("small", list(inputs), **fields))
    try:
        return [response async for response in responses]
    finally:
        await responses.aclose()
        asked.close()


def values(response: InferResponse, name: str = "text_output") -> list[str]:
    assert response.error is None
    (tensor,) = (tensor for tensor in response.outputs if tensor.name == name)
    if tensor.datatype == "BYTES":
        return [one.decode() for one in elements(tensor.data)]
    form = {"UINT32": "I", "FP32": "f"}[tensor.datatype]
    return list(struct.unpack(f"<{len(tensor.data) // 4}{form}", tensor.data))


async def test_a_whole_answer_begins_with_its_prompt(engine: EchoEngine) -> None:
    (response,) = await ask(model(engine), text("text_input", "one two three"))
    assert response.final
    assert values(response) == ["one two threeone two three"]
    assert [tensor.name for tensor in response.outputs] == ["text_output"]


async def test_the_prompt_is_left_out_where_that_is_asked_for(engine: EchoEngine) -> None:
    (response,) = await ask(model(engine), text("text_input", "one two"), flag("exclude_input_in_output"))
    assert values(response) == ["one two"]


async def test_tensorrtllm_answers_without_the_prompt(engine: EchoEngine) -> None:
    (response,) = await ask(model(engine, config("tensorrtllm")), text("text_input", "one two"))
    assert values(response) == ["one two"]


async def test_a_stream_is_a_response_for_each_piece_and_its_last_is_final(engine: EchoEngine) -> None:
    responses = await ask(
        model(engine), text("text_input", "one two three"), flag("stream"), flag("return_finish_reason")
    )
    assert "".join(values(response)[0] for response in responses) == "one two three"
    assert len(responses) > 2
    assert [response.final for response in responses] == [False] * (len(responses) - 1) + [True]
    assert [values(response, "finish_reason") for response in responses] == [["None"]] * (len(responses) - 1) + [
        ["stop"]
    ]


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_are_counted_by_the_engine(engine: EchoEngine, stream: bool) -> None:
    responses = await ask(
        model(engine),
        text("text_input", "one two three"),
        flag("stream", stream),
        flag("return_num_input_tokens"),
        flag("return_num_output_tokens"),
    )
    assert sum(values(response, "num_output_tokens")[0] for response in responses) == 3
    assert values(responses[-1], "num_input_tokens") == [3]
    assert sum(tensor.name == "num_input_tokens" for response in responses for tensor in response.outputs) == 1


@pytest.mark.parametrize(
    ("inputs", "fields"),
    [
        ([text("sampling_parameters", '{"max_tokens": "2", "temperature": "0"}')], {}),
        ([number("max_tokens", 2)], {}),
        ([], {"parameters": {"max_tokens": 2, "id": "x"}}),
        ([text("stop_words", "three")], {}),
        ([text("sampling_parameters", '{"stop": ["three"]}')], {"parameters": {"max_tokens": 1}}),
    ],
)
async def test_sampling_is_asked_for_in_each_backends_way(
    engine: EchoEngine, inputs: list[Tensor], fields: dict[str, object]
) -> None:
    flags = [flag("exclude_input_in_output"), flag("return_finish_reason")]
    (response,) = await ask(model(engine), text("text_input", "one two three"), *flags, *inputs, **fields)
    assert values(response)[0].strip() == "one two"


async def test_an_answer_cut_by_its_limit_says_so(engine: EchoEngine) -> None:
    (response,) = await ask(
        model(engine), text("text_input", "one two three"), number("max_tokens", 1), flag("return_finish_reason")
    )
    assert values(response, "finish_reason") == ["length"]


async def test_log_probabilities_come_as_the_backend_of_vllm_writes_them(engine: EchoEngine) -> None:
    (response,) = await ask(
        model(engine), text("text_input", "one two"), flag("return_logprobs"), flag("return_cumulative_logprob")
    )
    (tokens,) = (json.loads(one) for one in values(response, "logprobs"))
    assert len(tokens) == 2
    best = [min(candidates.values(), key=lambda candidate: candidate["rank"]) for candidates in tokens]
    assert values(response, "cumulative_logprob")[0] <= sum(candidate["logprob"] for candidate in best) + 1e-5


async def test_several_answers_stand_in_one_tensor(engine: EchoEngine) -> None:
    (response,) = await ask(
        model(engine), text("text_input", "one"), number("num_return_sequences", 2), flag("exclude_input_in_output")
    )
    assert values(response) == ["one", "one"]
    assert response.outputs[0].shape == (2,)


async def test_a_model_that_only_chats_is_asked_to_chat(engine: EchoEngine) -> None:
    asked = model(engine, capabilities=frozenset({Capability.CHAT}))
    (response,) = await ask(asked, text("text_input", "one two"), flag("exclude_input_in_output"))
    assert values(response) == ["one two"]


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ([text("text_input", "a", "b")], "takes one text_input a request, got 2"),
        (
            [text("text_input", "a"), flag("stream"), flag("exclude_input_in_output", value=False)],
            "When streaming, `exclude_input_in_output` = False is not allowed.",
        ),
        ([text("text_input", "a"), text("sampling_parameters", "{")], "sampling_parameters are no JSON: "),
        ([text("text_input", "a"), text("sampling_parameters", "[]")], "sampling_parameters are no JSON object"),
        (
            [text("text_input", "a"), text("sampling_parameters", '{"max_tokens": "few"}')],
            "the sampling parameter 'max_tokens' is no number: 'few'",
        ),
        ([text("text_input", "a"), text("image", "%%%%")], "image: base64 is wanted"),
    ],
)
def test_what_a_request_cannot_mean_is_refused_at_once(engine: EchoEngine, inputs: list[Tensor], why: str) -> None:
    with pytest.raises(InferenceError) as refused:
        model(engine).infer(InferRequest("small", inputs))
    assert why in refused.value.message
    assert refused.value.status is Code.INVALID_ARG


def test_a_model_that_is_not_decoupled_does_not_stream(engine: EchoEngine) -> None:
    with pytest.raises(InferenceError, match="Streaming is only supported in decoupled mode"):
        model(engine, config(decoupled=False)).infer(InferRequest("small", [text("text_input", "a"), flag("stream")]))


async def test_what_the_engine_refuses_is_an_error_in_its_words(engine: EchoEngine) -> None:
    asked = model(engine)
    (response,) = await ask(asked, text("text_input", "a"), number("max_tokens", -1))
    assert response.error is not None
    assert response.error.status is Code.INVALID_ARG
    assert "max_tokens" in response.error.message
    assert asked.counted.failures == {"BACKEND": 1}


async def test_a_stream_that_breaks_off_ends_with_an_error() -> None:
    with echo_engine(model="small", fault="cut", after=1) as engine:
        asked = model(engine)
        with pytest.raises(ServingError):
            await ask(asked, text("text_input", "one two three"), flag("stream"))
        assert asked.counted.failures == {"BACKEND": 1}


async def test_leaving_aborts_the_generation() -> None:
    with echo_engine(model="small", itl_ms=1000, tokens=50) as engine:
        asked = model(engine)
        responses = asked.infer(InferRequest("small", [text("text_input", "one two three"), flag("stream")]))
        await anext(responses)
        assert sum(asked.work().values()) == 1
        await responses.aclose()
        await holds(lambda: engine.stats()["aborted"] == 1)
        assert asked.counted.failures == {"CANCELED": 1}
        asked.close()


class OneAtATime:
    def __init__(self) -> None:
        self.inside = self.most = self.left = 0

    async def enter(self) -> str:
        self.inside += 1
        self.most = max(self.most, self.inside)
        return "permit"

    def leave(self, permit: str) -> None:
        assert permit == "permit"
        self.inside -= 1
        self.left += 1


async def test_inferences_pass_the_models_gate(engine: EchoEngine) -> None:
    asked = model(engine)
    asked.gate = gate = OneAtATime()
    await ask(asked, text("text_input", "one two"), flag("stream"))
    assert (gate.most, gate.inside, gate.left) == (1, 0, 1)


async def test_inferences_are_counted_with_the_time_to_their_first_response(engine: EchoEngine) -> None:
    asked = model(engine)
    await ask(asked, text("text_input", "one two"), flag("stream"))
    counted = await asked.statistics()
    assert (counted.inference_count, counted.execution_count, counted.inference_stats.success.count) == (1, 1, 1)
    assert counted.first_response_ms["100"] == 1


class Scripted:
    """A model whose engine answers with these bytes."""

    def __init__(self, body: bytes) -> None:
        self.config = config()
        self.capabilities = frozenset(Capability)
        self.counted = ModelStatistics()
        self.gate = None
        self._body = body

    async def respond(self, request: OpenAIRequest) -> OpenAIResponse:  # noqa: ARG002
        return OpenAIResponse(200, (), Collected(self._body))


@pytest.mark.parametrize(
    ("stream", "body", "why"),
    [
        (False, b"<html>", "no JSON: "),
        (False, b"[]", "no JSON object"),
        (True, b'data: {"choices":[{"text":"a","finish_reason":null}]}\n\n', "ended its stream too early"),
        (True, b"data: [DONE]\n\n", "ended its stream too early"),
    ],
)
async def test_an_answer_that_is_none_is_the_engines_fault(stream: bool, body: bytes, why: str) -> None:
    responses = infer(Scripted(body), InferRequest("small", [text("text_input", "a"), flag("stream", stream)]))
    with pytest.raises(UpstreamProtocolError, match=why):
        _ = [response async for response in responses]


async def test_an_error_in_a_stream_is_a_response() -> None:
    body = b'data: {"error":{"message":"no more"}}\n\n'
    responses = infer(Scripted(body), InferRequest("small", [text("text_input", "a"), flag("stream")]))
    (response,) = [response async for response in responses]
    assert response.error is not None
    assert response.error.message == "no more"
