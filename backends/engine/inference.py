"""An engine as a KServe model: a text in a tensor in, texts out, through the model's own completions.

A whole answer is one response. A stream's chunks are responses, the last of which is final: it is sent once the
engine has told its usage.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec

from backends.config import ModelConfig
from backends.engine.answer import whole_of
from backends.engine.begun import Answers, Begun
from backends.engine.sampling import Asked, asked
from backends.engine.texts import Choice, outputs, read
from backends.errors import Code, InferenceError, UpstreamProtocolError
from backends.model import Body, Capability, InferRequest, InferResponse, OpenAIRequest, OpenAIResponse
from backends.statistics import ModelStatistics

_COMPLETIONS = "/v1/completions"
_CHAT = "/v1/chat/completions"
_DATA = b"data:"
_DONE = b"[DONE]"
# Kinds whose backends in Triton answer without the prompt.
_PLAIN = frozenset({"tensorrtllm"})
_CODES = {
    400: Code.INVALID_ARG,
    404: Code.NOT_FOUND,
    422: Code.INVALID_ARG,
    429: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
}

_decode = msgspec.json.decode


class Gate(Protocol):
    """Lets so many requests in at once. Whoever leaves gives back what it was given."""

    async def enter(self) -> Any: ...
    def leave(self, permit: Any) -> None: ...


class Generator(Protocol):
    """The model that answers."""

    config: ModelConfig
    capabilities: frozenset[Capability]
    counted: ModelStatistics
    gate: Gate | None

    async def respond(self, request: OpenAIRequest) -> OpenAIResponse: ...


def infer(model: Generator, request: InferRequest) -> Begun:
    """Begin the generation that a request asks for; leaving its responses aborts it.

    Raises `InferenceError` where the request does not say what to do.
    """
    return Begun(_Generation(model, request).answers(), model.counted)


class _Generation:
    """One request on its way through a model's completions."""

    def __init__(self, model: Generator, request: InferRequest) -> None:
        config = model.config
        self._asked = asked(
            request,
            is_streaming=config.model_transaction_policy.decoupled,
            echoes_prompt=config.backend not in _PLAIN,
        )
        names = {"text_output"} | self._asked.returns | set(request.outputs)
        self._names = [output.name for output in config.output if output.name in names]
        self._lead = (1,) if config.max_batch_size > 0 else ()
        self._model = model
        self._request = _openai(model, request, self._asked, self._names)

    async def answers(self) -> Answers:
        gate = self._model.gate
        permit = None if gate is None else await gate.enter()
        try:
            response = await self._model.respond(self._request)
            try:
                if response.status >= 400:
                    yield InferResponse(error=_refusal(response.status, await whole_of(response.body)))
                elif self._asked.stream:
                    async for answer in self._stream(response.body):
                        yield answer
                else:
                    yield self._whole(await whole_of(response.body))
            finally:
                await response.body.aclose()
        finally:
            if gate is not None:
                gate.leave(permit)

    def _whole(self, body: bytes) -> InferResponse:
        fields = _object(body)
        choices = [read(choice) for choice in fields.get("choices") or ()]
        prompt_tokens, tokens = _usage(fields)
        for choice in choices:
            # Usage is of all choices together; each has its part of it.
            choice.tokens = tokens // len(choices)
            if self._asked.echoes_prompt:
                choice.text = self._asked.prompt + choice.text
        return InferResponse(outputs(choices, self._names, self._lead, prompt_tokens))

    async def _stream(self, body: Body) -> AsyncIterator[InferResponse]:
        """Each chunk is sent as it comes but the last: its tokens, and the prompt's, are known only behind it."""
        count = max(int(self._asked.sampling.get("n") or 1), 1)
        last: list[Choice] | None = None
        sent = [0] * count
        finished = prompt_tokens = tokens = 0
        async for data in _events(body):
            fields = _object(data)
            if "error" in fields:
                yield InferResponse(error=_refusal(500, data))
                return
            if fields.get("usage"):
                prompt_tokens, tokens = _usage(fields)
            for each in fields.get("choices") or ():
                index = min(each.get("index", 0), count - 1)
                choice = read(each)
                choice.tokens = 1 if choice.text else 0
                sent[index] += choice.tokens
                row = [Choice() for _ in range(count)]
                row[index] = choice
                if last is not None:
                    yield self._part(last, prompt_tokens)
                    last = None
                finished += choice.finish_reason is not None
                if finished >= count:
                    last = row
                elif choice.text or choice.finish_reason:
                    yield self._part(row, prompt_tokens)
        if last is None:
            raise UpstreamProtocolError(f"The engine of model '{self._model.config.name}' ended its stream too early.")
        if tokens and count == 1:
            last[0].tokens = max(tokens - (sent[0] - last[0].tokens), 0)
        answer = self._part(last, prompt_tokens)
        answer.final = True
        yield answer

    def _part(self, choices: list[Choice], prompt_tokens: int) -> InferResponse:
        return InferResponse(outputs(choices, self._names, self._lead, prompt_tokens), final=False)


def _openai(model: Generator, request: InferRequest, asked: Asked, names: list[str]) -> OpenAIRequest:
    """The completion that is asked for; a chat where there are images, or where the model offers nothing else."""
    name = model.config.name
    fields: dict[str, Any] = {"model": asked.model or name, **asked.sampling, "stream": asked.stream}
    is_chat = bool(asked.images) or Capability.COMPLETIONS not in model.capabilities
    wants_scores = not {"logprobs", "cumulative_logprob"}.isdisjoint(names)
    if is_chat:
        parts: list[Any] = [{"type": "image_url", "image_url": {"url": url}} for url in asked.images]
        content = [*parts, {"type": "text", "text": asked.prompt}] if parts else asked.prompt
        fields["messages"] = [{"role": "user", "content": content}]
        if wants_scores:
            fields |= {"logprobs": True, "top_logprobs": fields.get("logprobs") or 1}
    else:
        fields["prompt"] = asked.prompt
        if wants_scores:
            fields["logprobs"] = fields.get("logprobs") or 1
    if asked.stream:
        fields["stream_options"] = {"include_usage": True}
    headers = (
        [(b"x-request-id", request.id.encode("ascii", "ignore"))] if request.id.isprintable() and request.id else []
    )
    if request.traceparent:
        headers.append((b"traceparent", request.traceparent.encode()))
    return OpenAIRequest(
        path=_CHAT if is_chat else _COMPLETIONS,
        body=msgspec.json.encode(fields),
        model=name,
        stream=asked.stream,
        headers=headers,
        deadline=request.deadline,
        tenant=request.tenant,
        prompt_tokens=len(asked.prompt) // 4,
        output_tokens=int(fields.get("max_tokens") or 0),
    )


async def _events(body: Body) -> AsyncIterator[bytes]:
    """The data of a stream's events, up to its end."""
    rest = b""
    async for part in body:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(_DATA):
                data = line[len(_DATA) :].strip()
                if data == _DONE:
                    return
                yield data


def _object(data: bytes) -> dict[str, Any]:
    try:
        fields = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpstreamProtocolError(f"The engine's answer is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise UpstreamProtocolError("The engine's answer is no JSON object.")
    return fields


def _usage(fields: dict[str, Any]) -> tuple[int, int]:
    usage = fields.get("usage") or {}
    return usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0


def _refusal(status: int, body: bytes) -> InferenceError:
    """What an engine answered instead."""
    try:
        fields = _object(body)
    except UpstreamProtocolError:
        fields = {}
    error = fields.get("error", fields)
    message = error.get("message") if isinstance(error, dict) else error
    return InferenceError(str(message or f"The engine answered {status}."), _CODES.get(status, Code.INTERNAL))
