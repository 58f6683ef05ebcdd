"""A remote Triton's generated text under the OpenAI API: its requests as tensors, its responses as completions.

Triton has neither chats nor stop strings nor, in TensorRT-LLM's ensemble, a reason why a text ended: all of that is
worked out here.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from backends.config import Input, ModelConfig
from backends.engine.chat_template import ChatTemplate
from backends.errors import InvalidRequest, ServingError, UnsupportedOperation, UpstreamProtocolError
from backends.model import InferRequest, InferResponse, OpenAIRequest, Responses
from backends.tensors import DATATYPE_OF_TYPE, Tensor, elements, join

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"

_FORMATS = {"BOOL": "?", "INT32": "i", "INT64": "q", "UINT32": "I", "UINT64": "Q", "FP32": "f", "FP64": "d"}
_SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty"),
    *("repetition_penalty", "length_penalty", "min_tokens", "ignore_eos", "stop_token_ids", "skip_special_tokens"),
)
_OPENAI_COMPLETION_TOKENS = 16
_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(slots=True)
class Question:
    """What a client asks for: the prompt as the model sees it, and the rest by OpenAI's names."""

    path: str
    prompt: str
    stream: bool
    max_tokens: int
    stop: list[str] = field(default_factory=list)
    sampling: dict[str, Any] = field(default_factory=dict)
    includes_usage: bool = False
    echo: bool = False


def read(request: OpenAIRequest, template: ChatTemplate | None, max_tokens: int) -> Question:
    """Read a request; `max_tokens` is the limit of a chat that says none. Raises `InvalidRequest`."""
    try:
        fields = _decode(request.body)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The body is no JSON object: {error}") from error
    _refuse(fields)
    is_chat = request.path == CHAT
    if is_chat:
        if template is None:
            raise UnsupportedOperation(f"The model '{request.model}' has no chat template.", param="messages")
        prompt = template.render(_messages(fields), **(fields.get("chat_template_kwargs") or {}))
    else:
        prompt = _prompt(fields)
    limit = fields.get("max_completion_tokens") or fields.get("max_tokens")
    if limit is None:
        limit = max_tokens if is_chat else _OPENAI_COMPLETION_TOKENS
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise InvalidRequest(f"max_tokens must be a positive integer, not {limit!r}.", param="max_tokens")
    return Question(
        path=request.path,
        prompt=prompt,
        stream=request.stream,
        max_tokens=limit,
        stop=_stop(fields.get("stop")),
        sampling={name: fields[name] for name in _SAMPLING if fields.get(name) is not None},
        includes_usage=bool((fields.get("stream_options") or {}).get("include_usage")),
        echo=bool(fields.get("echo")) and not is_chat,
    )


def tensors(question: Question, config: ModelConfig) -> InferRequest:
    """The inference that answers it, in those inputs that the remote model has."""
    given: dict[str, Any] = {
        "text_input": question.prompt,
        "stream": question.stream and config.model_transaction_policy.decoupled,
        "exclude_input_in_output": True,
        "return_finish_reason": True,
        "return_num_input_tokens": True,
        "return_num_output_tokens": True,
        "max_tokens": question.max_tokens,
        "sampling_parameters": json.dumps(
            question.sampling | {"max_tokens": question.max_tokens} | ({"stop": question.stop} if question.stop else {})
        ),
        "stop_words": question.stop or None,
        **question.sampling,
    }
    inputs = []
    for declared in config.input:
        value = given.get(declared.name)
        if value is not None:
            inputs.append(_tensor(declared, value, is_batched=config.max_batch_size > 0))
    return InferRequest(config.name, inputs)


@dataclass(slots=True)
class Piece:
    """What one response adds. Counts are None where the remote does not tell them."""

    text: str
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    tokens: int | None = None


def piece(response: InferResponse) -> Piece:
    """Raises the response's error, `UpstreamProtocolError` for one without text."""
    if response.error is not None:
        raise response.error
    found = {tensor.name: tensor for tensor in response.outputs}
    text = found.get("text_output")
    if text is None:
        raise UpstreamProtocolError("The remote model answered without a text_output.")
    reason = _text(found.get("finish_reason"))
    return Piece(
        _text(text),
        reason if reason in {"stop", "length"} else None,
        _count(found.get("num_input_tokens")),
        _count(found.get("num_output_tokens")),
    )


class Answer:
    """The text of an answer as it grows: cut at a stop string, counted, with the reason of its end.

    `repeats_prompt`: the remote's text begins with the prompt.
    """

    def __init__(self, question: Question, count: Callable[[str], int] | None, *, repeats_prompt: bool = False) -> None:
        self.is_cut = False
        self.prompt_tokens: int | None = None
        self._question = question
        self._count = count
        self._held = ""
        self._text: list[str] = []
        self._tokens = 0
        self._tells_tokens = False
        self._reason: str | None = None
        self._pieces = 0
        self._repeated = question.prompt if repeats_prompt else ""

    def take(self, part: Piece) -> str:
        """What may be sent of it: a beginning of a stop string waits for what follows."""
        text = part.text
        if not self._pieces:
            text = text.removeprefix(self._repeated)
        self._pieces += 1
        self._reason = part.finish_reason or self._reason
        self.prompt_tokens = self.prompt_tokens if part.prompt_tokens is None else part.prompt_tokens
        if part.tokens is not None:
            self._tells_tokens = True
            self._tokens += part.tokens
        text = self._held + text
        self._held = ""
        at = min((found for stop in self._question.stop if (found := text.find(stop)) >= 0), default=-1)
        if at >= 0:
            self.is_cut = True
            text = text[:at]
        elif held := max((_overlap(text, stop) for stop in self._question.stop), default=0):
            self._held = text[len(text) - held :]
            text = text[: len(text) - held]
        self._text.append(text)
        return text

    def rest(self) -> str:
        """What was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        self._text.append(held)
        return held

    @property
    def finish_reason(self) -> str:
        if self.is_cut:
            return "stop"
        return self._reason or ("length" if self.tokens >= self._question.max_tokens else "stop")

    @property
    def tokens(self) -> int:
        """As the remote told it, else as the tokenizer counts them, else one a response."""
        if self._tells_tokens:
            return self._tokens
        return self._pieces if self._count is None else self._count("".join(self._text))

    def usage(self) -> dict[str, int]:
        prompt_tokens = self.prompt_tokens
        if prompt_tokens is None:
            prompt_tokens = 0 if self._count is None else self._count(self._question.prompt)
        tokens = self.tokens
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": prompt_tokens + tokens,
        }


async def whole(id: str, model: str, question: Question, responses: Responses, answer: Answer) -> bytes:
    """The answer as one JSON object."""
    text = question.prompt if question.echo else ""
    async for response in responses:
        if response.outputs or response.error is not None:
            text += answer.take(piece(response))
            if answer.is_cut:
                break
    text += answer.rest()
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": answer.finish_reason}
    choice |= {"message": {"role": "assistant", "content": text}} if question.path == CHAT else {"text": text}
    kind = "chat.completion" if question.path == CHAT else "text_completion"
    return _encode(_head(id, model, kind) | {"choices": [choice], "usage": answer.usage()})


async def events(
    id: str, model: str, question: Question, responses: Responses, answer: Answer
) -> AsyncGenerator[bytes, None]:
    """The answer as server-sent events; what fails on the way is the last of them."""
    is_chat = question.path == CHAT
    head = _head(id, model, "chat.completion.chunk" if is_chat else "text_completion")

    def event(text: str, reason: str | None = None, role: str | None = None) -> bytes:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": reason}
        if is_chat:
            said = {} if reason and not text else {"content": text}
            choice["delta"] = {"role": role, **said} if role else said
        else:
            choice["text"] = text
        return b"data: %b\n\n" % _encode(head | {"choices": [choice]})

    if is_chat:
        yield event("", role="assistant")
    elif question.echo:
        yield event(question.prompt)
    try:
        async for response in responses:
            if response.outputs or response.error is not None:
                text = answer.take(piece(response))
                if text:
                    yield event(text)
                if answer.is_cut:
                    break
    except ServingError as error:
        failure = {"message": error.message, "type": "server_error", "param": None, "code": error.code}
        yield b"data: %b\n\n" % _encode({"error": failure})
        return
    yield event(answer.rest(), answer.finish_reason)
    if question.includes_usage:
        yield b"data: %b\n\n" % _encode(head | {"choices": [], "usage": answer.usage()})
    yield b"data: [DONE]\n\n"


def _head(id: str, model: str, kind: str) -> dict[str, Any]:
    return {"id": id, "object": kind, "created": int(time.time()), "model": model}


def _refuse(fields: Mapping[str, Any]) -> None:
    """What a remote Triton cannot do, and without which the answer would be another one."""
    lacking = {
        "n": (fields.get("n") or 1) != 1,
        "tools": bool(fields.get("tools")) and fields.get("tool_choice") != "none",
        "response_format": (fields.get("response_format") or {}).get("type", "text") != "text",
        "logprobs": bool(fields.get("logprobs")),
        "suffix": bool(fields.get("suffix")),
    }
    for name, is_asked in lacking.items():
        if is_asked:
            raise InvalidRequest(f"A remote Triton server offers no '{name}'.", param=name)


def _messages(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Messages whose content is text, as templates expect it. Raises `InvalidRequest`."""
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise InvalidRequest("messages must be a list of messages that is not empty.", param="messages")
    plain = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            if any(not isinstance(part, dict) or part.get("type") != "text" for part in content):
                raise InvalidRequest("Only text can be sent to a remote Triton server.", param="messages")
            content = "".join(str(part.get("text", "")) for part in content)
        plain.append({**message, "content": content})
    return plain


def _prompt(fields: Mapping[str, Any]) -> str:
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        (prompt,) = prompt
    if not isinstance(prompt, str):
        raise InvalidRequest("A remote Triton server takes one prompt a request, as text.", param="prompt")
    return prompt


def _stop(given: Any) -> list[str]:
    stops = [given] if isinstance(given, str) else given or []
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise InvalidRequest("stop must be a text or a list of texts.", param="stop")
    return [stop for stop in stops if stop]


def _tensor(declared: Input, value: Any, *, is_batched: bool) -> Tensor:
    values: Sequence[Any] = value if isinstance(value, list) else [value]
    datatype = DATATYPE_OF_TYPE[declared.data_type]
    lead = (1,) if is_batched else ()
    if datatype == "BYTES":
        return Tensor(declared.name, datatype, (*lead, len(values)), join(str(one).encode() for one in values))
    form = _FORMATS.get(datatype, "")
    convert: Callable[[Any], Any] = float if form in {"f", "d"} else int
    try:
        data = struct.pack(f"<{len(values)}{form}", *map(convert, values))
    except (struct.error, TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(f"{declared.name} must be {datatype}, not {value!r}.", param=declared.name) from error
    return Tensor(declared.name, datatype, (*lead, len(values)), data)


def _text(tensor: Tensor | None) -> str:
    if tensor is None:
        return ""
    return b"".join(elements(tensor.data)[:1]).decode("utf-8", "replace")


def _count(tensor: Tensor | None) -> int | None:
    form = None if tensor is None else _FORMATS.get(tensor.datatype)
    if tensor is None or form is None or not tensor.size_bytes:
        return None
    return int(struct.unpack_from(f"<{form}", tensor.data)[0])


def _overlap(text: str, stop: str) -> int:
    """How much of the end of a text may be the beginning of a stop string."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
