"""A turn answered by a response of the Responses API: streamed as its events, or whole."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec

from backends.engine.answer import Collected, whole_of
from backends.engine.composed import Composed
from backends.engine.rewriting import BORDER, DONE, Rewritten
from backends.errors import InvalidRequest, ServingError, UpstreamError, UpstreamProtocolError
from backends.model import Body, OpenAIRequest, OpenAIResponse
from ensembles.answering.answer import Cited
from ensembles.answering.chain import Chain
from ensembles.answering.response_events import Response
from ensembles.answering.response_request import ResponseRequest, read
from ensembles.step import Turn

_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
_WITH_USAGE = msgspec.Raw(b'{"include_usage":true}')
_TRUE = msgspec.Raw(b"true")
_FALSE = msgspec.Raw(b"false")
_decode = msgspec.json.Decoder(dict[str, Any]).decode


async def respond(chain: Chain, request: OpenAIRequest) -> OpenAIResponse:
    """Answer a Responses request. What is wrong with the request is raised before the first event.

    A stream begins before the search does, so that what fails after that is told by `response.failed`.
    """
    model, stream = request.model, request.stream
    asked = read(request.body)
    turn = await chain.turn(request, asked.messages, asked.query, asked.search)
    response = Response(asked, model)
    if stream:
        return OpenAIResponse(200, [_EVENTS], Composed(_events(chain, turn, asked, response)))
    cited = await chain.retrieve(turn)
    response.begin()
    response.searched(cited)
    if chain.abstains(cited):
        _abstain(chain, response)
        return _whole(response, cited)
    answer = await chain.answer(cited, asked.fields | {"stream": _FALSE}, stream=False)
    try:
        body = await whole_of(answer.body)
    finally:
        await answer.body.aclose()
    if answer.status >= 400:
        return OpenAIResponse(answer.status, answer.headers, Collected(body))
    cited.generated()
    _fill(response, body)
    return _whole(response, cited)


def _whole(response: Response, cited: Cited) -> OpenAIResponse:
    return OpenAIResponse(200, [_JSON, *cited.headers()], Collected(msgspec.json.encode(response.object)))


def _abstain(chain: Chain, response: Response) -> bytes:
    return b"".join((response.say(chain.recipe.abstention), response.close("stop"), response.end(None)))


def _fill(response: Response, body: bytes) -> None:
    try:
        fields = _decode(body)
        choice = fields["choices"][0]
        message = choice["message"]
        text, calls = message.get("content") or "", message.get("tool_calls") or ()
    except (msgspec.DecodeError, LookupError, TypeError, AttributeError) as error:
        raise UpstreamProtocolError(f"The generator's answer is no chat completion: {error}") from error
    response.say(text)
    response.call(calls)
    response.close(choice.get("finish_reason") or "stop")
    response.end(fields.get("usage"))


async def _events(chain: Chain, turn: Turn, asked: ResponseRequest, response: Response) -> AsyncGenerator[bytes, None]:
    yield response.begin()
    try:
        cited = await chain.retrieve(turn)
        yield response.searched(cited)
        if chain.abstains(cited):
            yield _abstain(chain, response)
            return
        fields = asked.fields | {"stream": _TRUE, "stream_options": _WITH_USAGE}
        answer = await chain.answer(cited, fields, stream=True)
        try:
            if answer.status >= 400:
                raise _refusal(answer.status, await whole_of(answer.body))
            async for part in _generated(answer.body, response, cited):
                yield part
        finally:
            await answer.body.aclose()
    except ServingError as error:
        yield response.fail(error)


async def _generated(body: Body, response: Response, cited: Cited) -> AsyncIterator[bytes]:
    """The events of the message, as its chunks come. Raises `UpstreamError` for a stream that is broken."""
    finish = ""
    usage = None
    async for data in Rewritten(body, _Whole()):
        said = b""
        for event in data.split(BORDER):
            if event == DONE or not event.startswith(b"data:"):
                continue
            fields = _decoded(event[len(b"data:") :])
            usage = fields.get("usage") or usage
            for choice in fields.get("choices") or ():
                delta = choice.get("delta") or {}
                said += response.say(delta.get("content") or "") + response.call(delta.get("tool_calls") or ())
                finish = choice.get("finish_reason") or finish
        if said:
            yield said
    if not finish:
        raise UpstreamProtocolError("The generator ended its stream before the answer was complete.")
    cited.generated()
    yield response.close(finish)
    yield response.end(usage)


class _Whole:
    """A `Converter` that changes nothing: whole events are what it is for."""

    def convert(self, events: bytes) -> bytes:
        return events

    def end(self) -> bytes:
        return b""


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        fields = _decode(data)
    except msgspec.DecodeError as error:
        raise UpstreamProtocolError(f"The generator sent an event that is no JSON object: {error}") from error
    if fields.get("error"):
        raise UpstreamError(f"The generator failed: {_message(fields['error'])}")
    return fields


def _refusal(status: int, body: bytes) -> ServingError:
    try:
        error = _decode(body).get("error")
    except msgspec.DecodeError:
        error = None
    kind = InvalidRequest if status == 400 else UpstreamError
    return kind(f"The generator answered {status}: {_message(error)}")


def _message(error: object) -> str:
    return str(error.get("message") if isinstance(error, dict) else error)
