"""The `kserve` kind: our own server as the remote one."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from backends.config import ModelConfig
from backends.engine.generated import piece
from backends.errors import (
    Code,
    InferenceError,
    InvalidRequest,
    ModelNotReady,
    ServingError,
    UnsupportedOperation,
    UpstreamError,
    UpstreamProtocolError,
)
from backends.kserve import connect, launch
from backends.model import Capability, Endpoint, Endpoints, InferResponse, OpenAIRequest, State
from backends.tensors import Tensor, elements
from tests.backends.remotes import answer, ask, chunks, config, content, model, numbers, post, text
from tests.processes import holds
from tests.servers import ROOT, Tritium, serving

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def cancelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("remote") / "cancelled"


@pytest.fixture(scope="module")
def remote(cancelled: Path) -> Iterator[Tritium]:
    repository = ROOT / "tests" / "backends" / "remote"
    with serving(repository, "--strict-readiness", environment={"CANCELLED_FILE": str(cancelled)}) as server:
        yield server


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    return tmp_path


async def test_tensors_go_to_the_remote_and_come_back_in_binary(remote: Tritium) -> None:
    async with model(remote, "plain") as asked:
        said = {"id": "abc", "parameters": {"a": 1}}
        (response,) = await ask(asked, numbers(1, 2), text("TEXT", "é", shape=(1, 1)), **said)
        outputs = {tensor.name: tensor for tensor in response.outputs}
        assert struct.unpack("<2f", outputs["OUT"].data) == (2, 4)
        assert (outputs["OUT"].datatype, outputs["OUT"].shape) == ("FP32", (1, 2))
        assert json.loads(elements(outputs["SAID"].data)[0]) == {**said, "text": "é"}
        assert asked.counted.inference_count == 1


async def test_only_the_wanted_outputs_come(remote: Tritium) -> None:
    async with model(remote, "plain") as asked:
        (response,) = await ask(asked, numbers(1), outputs=["OUT"])
        assert [tensor.name for tensor in response.outputs] == ["OUT"]


async def test_an_error_of_the_remote_keeps_its_words_and_code(remote: Tritium) -> None:
    async with model(remote, "plain") as asked:
        (response,) = await ask(asked, numbers(-1))
        assert response.error is not None
        assert (response.error.message, response.error.status) == ("negative", Code.INTERNAL)
        (response,) = await ask(asked, Tensor("NOPE", "FP32", (1, 1), b"0000"))
        assert response.error is not None
        assert response.error.status is Code.INVALID_ARG


async def test_a_decoupled_model_streams_over_grpc(remote: Tritium) -> None:
    async with model(remote, "stream") as asked:
        limit = Tensor("max_tokens", "INT32", (1,), struct.pack("<i", 9))
        flag = Tensor("stream", "BOOL", (1,), b"\x01")
        responses = await ask(asked, text("text_input", "one two three"), limit, flag, id="x")
        texts = [elements(one.outputs[0].data)[0] for one in responses if one.outputs]
        assert texts == [b"one ", b"two ", b"three "]
        assert [one.final for one in responses] == [False] * (len(responses) - 1) + [True]


async def test_an_error_of_a_streaming_model_keeps_its_code(remote: Tritium) -> None:
    async with model(remote, "stream") as asked:
        limit = Tensor("max_tokens", "INT32", (1,), struct.pack("<i", 9))
        (response,) = await ask(asked, text("text_input", "FAIL"), limit)
        assert response.error is not None
        assert (response.error.message, response.error.status) == ("An Error Occurred", Code.INTERNAL)
        (response,) = await ask(asked, text("text_input", "a"))
        assert response.error is not None
        assert "expected number of inputs between 2 and 5 but got 1" in response.error.message
        assert response.error.status is Code.INVALID_ARG
        assert asked.counted.failures == {"BACKEND": 2}


async def test_a_chat_is_put_through_the_models_own_template(remote: Tritium, files: Path) -> None:
    async with model(remote, "stream", files) as asked:
        assert asked.capabilities == {Capability.CHAT, Capability.COMPLETIONS}
        messages = [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        ]
        found = await answer(asked, "/v1/chat/completions", messages=messages)
        assert found["object"] == "chat.completion"
        assert found["choices"][0]["message"] == {
            "role": "assistant",
            "content": "system: be brief user: hi assistant: ",
        }
        assert found["choices"][0]["finish_reason"] == "stop"


async def test_a_chat_streams_as_chunks_that_end_with_reason_and_usage(remote: Tritium, files: Path) -> None:
    async with model(remote, "stream", files) as asked:
        messages = [{"role": "user", "content": "one two"}]
        options = {"stream_options": {"include_usage": True}}
        found = await chunks(asked, "/v1/chat/completions", messages=messages, **options)
        assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert content(found) == "user: one two assistant: "
        assert len(found) > 5
        assert found[-2]["choices"][0]["finish_reason"] == "stop"
        assert found[-1]["choices"] == []
        assert found[-1]["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("stream", [False, True])
async def test_a_limit_that_cut_the_answer_is_told(remote: Tritium, files: Path, stream: bool) -> None:
    async with model(remote, "stream", files) as asked:
        fields = {"messages": [{"role": "user", "content": "one two three"}], "max_tokens": 2}
        if stream:
            found = await chunks(asked, "/v1/chat/completions", **fields)
            assert (content(found), found[-1]["choices"][0]["finish_reason"]) == ("user: one ", "length")
        else:
            # One response, and no tokenizer: nobody can tell, so that it is not claimed.
            assert (await answer(asked, "/v1/chat/completions", **fields))["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_backend_of_vllm_tells_is_passed_on(remote: Tritium, files: Path, stream: bool) -> None:
    async with model(remote, "llm", files) as asked:
        fields: dict[str, Any] = {"prompt": "one two three", "max_tokens": 2, "temperature": 0}
        if stream:
            found = await chunks(asked, "/v1/completions", stream_options={"include_usage": True}, **fields)
            text = "".join(choice["text"] for chunk in found for choice in chunk["choices"])
            reason, usage = found[-2]["choices"][0]["finish_reason"], found[-1]["usage"]
        else:
            whole = await answer(asked, "/v1/completions", **fields)
            text, reason, usage = whole["choices"][0]["text"], whole["choices"][0]["finish_reason"], whole["usage"]
        assert (text.strip(), reason) == ("one two", "length")
        assert usage == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


async def test_a_prompt_is_part_of_the_answer_where_that_is_asked_for(remote: Tritium, files: Path) -> None:
    async with model(remote, "stream", files) as asked:
        assert (await answer(asked, "/v1/completions", prompt="a b", echo=True))["choices"][0]["text"] == "a ba b "
        found = await chunks(asked, "/v1/completions", prompt="a b", echo=True)
        assert "".join(choice["text"] for chunk in found for choice in chunk["choices"]) == "a ba b "


@pytest.mark.parametrize("stop", ["two thr", ["zzz", "two"]])
@pytest.mark.parametrize("stream", [False, True])
async def test_stop_strings_cut_though_the_remote_knows_none(
    remote: Tritium, files: Path, stop: Any, stream: bool
) -> None:
    async with model(remote, "stream", files) as asked:
        fields: dict[str, Any] = {"prompt": "one two three four", "stop": stop, "max_tokens": 9}
        if stream:
            found = await chunks(asked, "/v1/completions", **fields)
            text = "".join(choice["text"] for chunk in found for choice in chunk["choices"])
            reason = found[-1]["choices"][0]["finish_reason"]
        else:
            choice = (await answer(asked, "/v1/completions", **fields))["choices"][0]
            text, reason = choice["text"], choice["finish_reason"]
        assert (text, reason) == ("one ", "stop")


async def test_a_prompt_that_the_remote_repeats_is_left_out_where_that_is_said(remote: Tritium, files: Path) -> None:
    async with model(remote, "stream", files, exclude_input_in_output="false") as asked:
        assert (await answer(asked, "/v1/completions", prompt="one two"))["choices"][0]["text"] == " "


async def test_a_stop_string_cancels_what_the_remote_still_generates(
    remote: Tritium, cancelled: Path, files: Path
) -> None:
    async with model(remote, "stream", files) as asked:
        prompt = "one two " + "SLOW " * 40
        await chunks(asked, "/v1/completions", prompt=prompt, stop="two", max_tokens=100)
        await holds(cancelled.exists)
        assert int(cancelled.read_text().split()[-1]) < 20
        cancelled.unlink()


async def test_leaving_cancels_the_remote_stream(remote: Tritium, cancelled: Path, files: Path) -> None:
    async with model(remote, "stream", files) as asked:
        body = json.dumps({"prompt": "one two " + "SLOW " * 40, "stream": True, "max_tokens": 100}).encode()
        response = await asked.respond(OpenAIRequest("/v1/completions", body, "local", stream=True))
        await anext(response.body)
        await response.body.aclose()
        await holds(cancelled.exists)
        cancelled.unlink()
        assert asked.counted.failures == {"CANCELED": 1}
        assert sum(asked.work().values()) == 0


async def test_what_fails_before_the_first_text_has_a_status(remote: Tritium, files: Path) -> None:
    async with model(remote, "stream", files) as asked:
        for stream in (False, True):
            with pytest.raises(InferenceError, match=r"^An Error Occurred$"):
                await post(asked, "/v1/completions", prompt="FAIL", stream=stream)


async def test_what_fails_later_is_the_last_event(remote: Tritium, files: Path) -> None:
    async with model(remote, "stream", files) as asked:
        events = (await post(asked, "/v1/completions", prompt="one FAIL_HERE", stream=True)).decode().split("\n\n")
        assert json.loads(events[-2].removeprefix("data: "))["error"]["message"] == "An Error Occurred"


async def test_bodies_may_be_pumped(remote: Tritium, files: Path) -> None:
    written: list[bytes] = []
    async with model(remote, "stream", files) as asked:
        body = json.dumps({"prompt": "one two", "stream": True}).encode()
        response = await asked.respond(OpenAIRequest("/v1/completions", body, "local", stream=True))
        await response.body.pump(written.append)
        await response.body.aclose()
    assert written[-1] == b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"prompt": "a", "n": 2}, "no 'n'"),
        ({"prompt": "a", "tools": [{}]}, "no 'tools'"),
        ({"prompt": "a", "logprobs": 1}, "no 'logprobs'"),
        ({"prompt": "a", "response_format": {"type": "json_object"}}, "no 'response_format'"),
        ({"prompt": "a", "suffix": "b"}, "no 'suffix'"),
        ({"prompt": ["a", "b"]}, "one prompt a request"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens must be a positive integer"),
        ({"prompt": "a", "stop": 3}, "stop must be a text"),
        ({"prompt": "a", "temperature": "hot"}, "temperature must be FP32"),
    ],
)
async def test_what_the_remote_cannot_do_is_refused(
    remote: Tritium, files: Path, fields: dict[str, Any], why: str
) -> None:
    async with model(remote, "stream", files) as asked:
        with pytest.raises(InvalidRequest, match=why):
            await post(asked, "/v1/completions", **fields)


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([], "a list of messages"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "Only text can be sent"),
    ],
)
async def test_messages_that_are_none_are_refused(remote: Tritium, files: Path, messages: Any, why: str) -> None:
    async with model(remote, "stream", files) as asked:
        with pytest.raises(InvalidRequest, match=why):
            await post(asked, "/v1/chat/completions", messages=messages)
        with pytest.raises(InvalidRequest, match="no JSON object"):
            await asked.respond(OpenAIRequest("/v1/completions", b"[", "local", stream=False))


async def test_a_model_without_texts_or_a_template_offers_no_chat(remote: Tritium, tmp_path: Path) -> None:
    async with model(remote, "plain", tmp_path) as asked:
        assert asked.capabilities == frozenset()
    async with model(remote, "stream", tmp_path) as asked:
        assert asked.capabilities == {Capability.COMPLETIONS}
        with pytest.raises(UnsupportedOperation, match="does not offer /v1/chat/completions"):
            await post(asked, "/v1/chat/completions", messages=[{"role": "user", "content": "a"}])


async def test_a_remote_that_is_gone_is_told_as_such(remote: Tritium) -> None:
    gone = Endpoints((Endpoint("r", "http://127.0.0.1:9", State.READY),))
    for name, code in (("plain", None), ("stream", Code.UNAVAILABLE)):
        asked = connect(config(remote, name, grpc_port="9"), gone, None)
        try:
            with pytest.raises(ServingError) as failed:
                await ask(asked, *([numbers(1)] if name == "plain" else [text("text_input", "a")]))
            assert getattr(failed.value, "status", None) is code
        finally:
            await asked.aclose()
    nothing = connect(config(remote, "plain"), Endpoints(), None)
    assert not nothing.ready()
    assert isinstance(nothing.lacking(), ModelNotReady)


class Silent(grpc.GenericRpcHandler):
    """Ends each stream without a word."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:  # noqa: ARG002
        async def nothing(requests: object, context: object) -> AsyncIterator[bytes]:  # noqa: ARG001
            for said in ():
                yield said

        return grpc.stream_stream_rpc_method_handler(nothing)


async def test_a_stream_that_ends_before_its_last_response_is_broken(remote: Tritium) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Silent(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    asked = connect(
        config(remote, "stream", grpc_port=str(port)), Endpoints((Endpoint("r", remote.url, State.READY),)), None
    )
    try:
        with pytest.raises(UpstreamError, match="ended its stream too early"):
            await ask(asked, text("text_input", "a"))
    finally:
        await asked.aclose()
        await server.stop(None)


def test_a_response_without_text_is_no_answer() -> None:
    with pytest.raises(UpstreamProtocolError, match="without a text_output"):
        piece(InferResponse([Tensor("other", "INT8", (1,), b"1")]))


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({}, "'endpoints' is missing"),
        ({"endpoints": "http://a", "speed": "3"}, "'speed' is unknown"),
        ({"endpoints": "http://a", "grpc_port": "x"}, "'grpc_port' wants a positive whole number"),
    ],
)
def test_wrong_parameters_are_refused_by_name(parameters: dict[str, str], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        launch(ModelConfig("m", "kserve", parameters=parameters, path=os.devnull), runtime_dir="")


def test_nothing_is_started() -> None:
    assert (
        launch(ModelConfig("m", "kserve", parameters={"endpoints": "http://a"}, path=str(ROOT)), runtime_dir="") == []
    )
