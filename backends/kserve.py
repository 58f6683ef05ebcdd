"""A remote Triton, or another KServe v2 server, by its URL: its tensors, and its texts under the OpenAI API."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import grpc

from backends.config import ModelConfig
from backends.engine import addresses, generated, kserve_http, naming, routing
from backends.engine.answer import Collected, whole_of
from backends.engine.begun import Answers, Begun
from backends.engine.chat_template import ChatTemplate, read_counter, read_template
from backends.engine.command import Command
from backends.engine.composed import Composed
from backends.engine.policies import policy
from backends.engine.replica import Replica, Replicas
from backends.errors import Code, InferenceError, InvalidRequest, ModelNotReady, UnsupportedOperation, UpstreamError
from backends.model import (
    Capability,
    Endpoints,
    Headers,
    InferRequest,
    InferResponse,
    Models,
    OpenAIRequest,
    OpenAIResponse,
    Responses,
    legible,
)
from backends.statistics import ModelStatistics
from backends.tensors import Tensor

_OWN_PARAMETERS = ("model", "model_version", "grpc_port", "max_tokens", "tokenizer", "exclude_input_in_output")
_PARAMETERS = (*_OWN_PARAMETERS, *sorted(addresses.PARAMETERS | naming.PARAMETERS | routing.PARAMETERS))
_GRPC_PORT = 8001
_CHAT_TOKENS = 1024
_STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
_FINAL = "triton_final_response"
_CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: Code.INVALID_ARG,
    grpc.StatusCode.NOT_FOUND: Code.NOT_FOUND,
    grpc.StatusCode.UNAVAILABLE: Code.UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED: Code.UNSUPPORTED,
    grpc.StatusCode.ALREADY_EXISTS: Code.ALREADY_EXISTS,
    grpc.StatusCode.CANCELLED: Code.CANCELLED,
}
# Errors come with their codes, as the status of the call.
_METADATA = (("triton_grpc_error", "true"),)
_UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
_OPERATIONS = {generated.CHAT: Capability.CHAT, generated.COMPLETIONS: Capability.COMPLETIONS}


def launch(config: ModelConfig, *, runtime_dir: str) -> Sequence[Command]:  # noqa: ARG001  # every kind's
    """Nothing: somebody else starts it. Raises `InvalidRequest` that names the parameter at fault."""
    addresses.check_remote(config, _PARAMETERS)
    for name in ("grpc_port", "max_tokens", "model_version"):
        _number(config, name, 1)
    _template(config)
    return []


def connect(config: ModelConfig, endpoints: Endpoints, models: Models) -> RemoteModel:  # noqa: ARG001  # every kind's
    """A model of a remote server.

    `model` and `model_version` are the remote's own name and version for it, `grpc_port` where it streams (8001).
    With a `text_input` and a `text_output` it completes texts; with a chat template among the files of its version,
    or of the folder that `tokenizer` names, it chats. `max_tokens` is the limit of a chat that says none.
    With `exclude_input_in_output` false, as TensorRT-LLM's ensemble has it, the remote's text begins with the prompt.
    """
    return RemoteModel(config, endpoints)


class RemoteModel:
    """A `TensorModel`, and an `OpenAIModel` where it generates text, in front of remote servers."""

    parallelism: int | None = None

    def __init__(self, config: ModelConfig, endpoints: Endpoints) -> None:
        self.config = config
        self.counted = ModelStatistics()
        routes = routing.read(config)
        self.session_header = routes.session_header.encode()
        self._replicas = Replicas(config.name, endpoints, policy(routes), ())
        self._name = config.parameters.get("model") or config.name
        self._version = config.parameters.get("model_version", "")
        self._path = f"/v2/models/{self._name}{f'/versions/{self._version}' if self._version else ''}/infer"
        self._grpc_port = _number(config, "grpc_port", _GRPC_PORT)
        self._max_tokens = _number(config, "max_tokens", _CHAT_TOKENS)
        self._repeats_prompt = config.parameters.get("exclude_input_in_output", "").strip().lower() == "false"
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._template = _template(config)
        self._count: Callable[[str], int] | None = read_counter(_files(config))
        self.capabilities = _capabilities(config, self._template)

    def ready(self) -> bool:
        return bool(self._replicas.ready())

    def lacking(self) -> ModelNotReady | None:
        return None if self._replicas.ready() else self._replicas.not_ready()

    def infer(self, request: InferRequest) -> Begun:
        """Ask one remote: over HTTP for one response, over a gRPC stream where there may be several."""
        replica = self._replicas.next()
        is_decoupled = self.config.model_transaction_policy.decoupled
        answers = self._streamed(replica, request) if is_decoupled else self._answered(replica, request)
        is_batched = self.config.max_batch_size > 0 and request.inputs
        return Begun(answers, self.counted, request.inputs[0].shape[0] if is_batched else 1)

    async def statistics(self) -> ModelStatistics:
        """What this server process has asked; the supervisor adds up what all of them have."""
        return self.counted

    async def respond(self, request: OpenAIRequest) -> OpenAIResponse:
        """Answer a text completion or a chat by the remote's generated text.

        Returns once the first of it is there, so that what fails before has a status of its own.
        """
        if _OPERATIONS.get(request.path) not in self.capabilities:
            raise UnsupportedOperation(f"The model '{self.config.name}' does not offer {request.path}.", param="model")
        question = generated.read(request, self._template, self._max_tokens)
        inference = generated.tensors(question, self.config)
        inference.deadline, inference.tenant = request.deadline, request.tenant
        responses = self.infer(inference)
        answer = generated.Answer(question, self._count, repeats_prompt=self._repeats_prompt)
        kind = "chatcmpl" if request.path == generated.CHAT else "cmpl"
        said = (f"{kind}-{uuid4().hex}", request.model, question)
        try:
            if not question.stream:
                body = await generated.whole(*said, responses, answer)
                return OpenAIResponse(200, [(b"content-type", b"application/json")], Collected(body))
            first = await _first(responses)
        except BaseException:
            await responses.aclose()
            raise
        finally:
            if not question.stream:
                await responses.aclose()
        follows = _Following(first, responses)
        headers: Headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        return OpenAIResponse(200, headers, Composed(generated.events(*said, follows, answer), follows))

    def work(self) -> Mapping[str, int]:
        return self._replicas.work()

    def connections(self) -> tuple[int, int]:
        return self._replicas.connections()

    def close(self) -> None:
        """Idle connections; channels close with the last of what they carry, when they are let go."""
        self._replicas.close()

    async def aclose(self) -> None:
        """Close everything at once, whatever is under way."""
        self.close()
        for channel in self._channels.values():
            await channel.close()

    async def _answered(self, replica: Replica, request: InferRequest) -> Answers:
        headers, body = kserve_http.write(request)
        answer = await replica.pool.send("POST", self._path, headers, body)
        try:
            yield kserve_http.read(answer.status, answer.headers, await whole_of(answer))
        finally:
            await answer.aclose()

    async def _streamed(self, replica: Replica, request: InferRequest) -> Answers:
        """One call a request: cancelling it cancels the request, and nothing else."""
        replica.in_flight += 1
        call = None
        try:
            call = self._stream_infer(replica)
            await call.write(_message(request, self._name, self._version))
            await call.done_writing()
            while (message := await call.read()) is not grpc.aio.EOF:
                response = _read(message)
                yield response
                if response.final:
                    return
            raise UpstreamError(f"The remote server of model '{self.config.name}' ended its stream too early.")
        except grpc.aio.AioRpcError as error:
            failure = InferenceError(error.details() or str(error.code()), _CODES.get(error.code(), Code.INTERNAL))
            if failure.status is Code.UNAVAILABLE:
                raise failure from error
            yield InferResponse(error=failure)
        finally:
            replica.in_flight -= 1
            if call is not None:
                call.cancel()

    def _stream_infer(self, replica: Replica) -> Any:
        from tritonclient.grpc import service_pb2

        url = urlsplit(replica.endpoint.address)
        target = f"{url.hostname}:{self._grpc_port}"
        channel = self._channels.get(target)
        if channel is None:
            secure = grpc.ssl_channel_credentials() if url.scheme == "https" else None
            make = grpc.aio.insecure_channel if secure is None else grpc.aio.secure_channel
            channel = self._channels[target] = make(target, *(() if secure is None else (secure,)), options=_UNLIMITED)
        return channel.stream_stream(
            _STREAM_INFER,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )(metadata=_METADATA)


class _Following:
    """The rest of some responses, of which the first was read already."""

    def __init__(self, first: InferResponse, responses: Responses) -> None:
        self._first: InferResponse | None = first
        self._responses = responses

    def __aiter__(self) -> _Following:
        return self

    async def __anext__(self) -> InferResponse:
        first, self._first = self._first, None
        return await anext(self._responses) if first is None else first

    async def aclose(self) -> None:
        await self._responses.aclose()


async def _first(responses: Responses) -> InferResponse:
    """Raises the error of a first response that is one."""
    first = await anext(responses)
    if first.error is not None:
        raise first.error
    return first


def _message(request: InferRequest, name: str, version: str) -> Any:
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferRequest(model_name=name, model_version=version, id=legible(request.id))
    for tensor in request.inputs:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_input_contents.append(bytes(tensor.data))
    for output in request.outputs:
        message.outputs.add(name=output)
    said = kserve_http.parameters(request) | {"triton_enable_empty_final_response": True}
    for key, value in said.items():
        parameter = message.parameters[key]
        match value:
            case bool():
                parameter.bool_param = value
            case int():
                parameter.int64_param = value
            case float():
                parameter.double_param = value
            case _:
                parameter.string_param = value
    return message


def _read(message: Any) -> InferResponse:
    answer = message.infer_response
    final = answer.parameters[_FINAL].bool_param if _FINAL in answer.parameters else False
    if message.error_message:
        # What a model itself fails with ends the call, as `_METADATA` asks: this is the request's refusal.
        return InferResponse(error=InferenceError(message.error_message, Code.INVALID_ARG))
    outputs = [
        Tensor(output.name, output.datatype, tuple(output.shape), data)
        for output, data in zip(answer.outputs, answer.raw_output_contents, strict=True)
    ]
    parameters = {
        key: getattr(value, which)
        for key, value in answer.parameters.items()
        if key != _FINAL and (which := value.WhichOneof("parameter_choice"))
    }
    return InferResponse(outputs, parameters, final=final)


def _capabilities(config: ModelConfig, template: ChatTemplate | None) -> frozenset[Capability]:
    inputs = {tensor.name for tensor in config.input}
    if "text_input" not in inputs or "text_output" not in {tensor.name for tensor in config.output}:
        return frozenset()
    return frozenset({Capability.COMPLETIONS} | (set() if template is None else {Capability.CHAT}))


def _files(config: ModelConfig) -> Path:
    return Path(config.path, config.parameters.get("tokenizer", ""))


def _template(config: ModelConfig) -> ChatTemplate | None:
    return read_template(_files(config))


def _number(config: ModelConfig, name: str, default: int) -> int:
    text = config.parameters.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise _wrong(config, name, f"wants a positive whole number, not {text!r}")
    return int(text)


def _wrong(config: ModelConfig, parameter: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"Model {config.name!r}: the parameter {parameter!r} {why}.", param=parameter)
