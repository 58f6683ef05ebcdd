"""A generator's chat answer with its citations: chunks in which nothing changes pass as they came."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import msgspec

from backends.engine.rewriting import BORDER
from ensembles.answering.answer import Cited
from ensembles.answering.citations import Citation

_DATA = b"data: "
_decode_any = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.encode


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: object = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


class _Text:
    """One choice's text. It is kept only as long as it may have to be looked at again."""

    def __init__(self, cited: Cited) -> None:
        self._cited = cited
        self._markers = cited.markers()
        self._kept: list[str] | None = [] if cited.matches_words else None
        self._told = 0

    def feed(self, text: str) -> tuple[str, list[Citation]]:
        return self._took(*self._markers.feed(text))

    def end(self) -> tuple[str, list[Citation]]:
        """What was held back, and the citations by words where there was none by a marker."""
        text, citations = self._took(*self._markers.end())
        if self._kept is not None:
            citations = list(self._cited.by_words("".join(self._kept)))
        self._cited.ended(self._markers)
        return text, citations

    def deltas(self, citations: list[Citation]) -> list[dict[str, Any]]:
        """Citations for a delta: OpenAI's clients put lists of several deltas together by their members' `index`."""
        first, self._told = self._told, self._told + len(citations)
        return [{"index": index, **self._cited.url_citation(each)} for index, each in enumerate(citations, first)]

    def _took(self, text: str, citations: list[Citation]) -> tuple[str, list[Citation]]:
        if citations:
            self._kept = None
        if self._kept is not None:
            self._kept.append(text)
        return text, citations


class CitedChunks:
    """A `Converter` of a chat's stream. `report`: the usage chunk tells of the turn."""

    def __init__(self, cited: Cited, *, report: bool) -> None:
        self._cited = cited
        self._report = report
        self._texts: dict[int, _Text] = {}

    def convert(self, events: bytes) -> bytes:
        return b"".join(map(self._event, events.split(BORDER)[:-1]))

    def end(self) -> bytes:
        return b""

    def _event(self, event: bytes) -> bytes:
        if not event.startswith(b"data: {"):
            return event + BORDER
        chunk = _decode_chunk(event[len(_DATA) :])
        if not chunk.choices:
            if chunk.usage is None:
                return event + BORDER
            self._cited.generated()
            return self._usage(event) if self._report else event + BORDER
        changes = {choice.index: self._take(choice) for choice in chunk.choices}
        if all(changes[choice.index] == (_content(choice), []) for choice in chunk.choices):
            return event + BORDER
        return self._rewritten(event, changes)

    def _text(self, index: int) -> _Text:
        text = self._texts.get(index)
        if text is None:
            text = self._texts[index] = _Text(self._cited)
        return text

    def _take(self, choice: _Choice) -> tuple[str, list[Citation]]:
        """All that a choice says by now, the rest included where it ends."""
        text = self._text(choice.index)
        said, citations = text.feed(_content(choice))
        if choice.finish_reason is not None:
            rest, more = text.end()
            return said + rest, citations + more
        return said, citations

    def _rewritten(self, event: bytes, changes: dict[int, tuple[str, list[Citation]]]) -> bytes:
        """The event with other texts. What a choice says last goes out before the chunk that ends it."""
        fields = _decode_any(event[len(_DATA) :])
        first: list[dict[str, Any]] = []
        then: list[dict[str, Any]] = []
        for choice in fields["choices"]:
            index = choice.get("index", 0)
            text, citations = changes[index]
            delta = choice.get("delta") or {}
            had = delta.pop("content", None)
            said: dict[str, Any] = {} if not text and (had or citations) else {"content": text or had}
            if citations:
                said["annotations"] = self._text(index).deltas(citations)
            is_last = choice.get("finish_reason") is not None
            if is_last and (text or citations):
                first.append({**choice, "delta": said, "finish_reason": None})
                then.append(choice)
            elif is_last or delta or said:
                then.append({**choice, "delta": {**delta, **said}})
        return b"".join(_event({**fields, "choices": choices}) for choices in (first, then) if choices)

    def _usage(self, event: bytes) -> bytes:
        return _event({**_decode_any(event[len(_DATA) :]), "rag": self._cited.report()})


def _content(choice: _Choice) -> str:
    return (choice.delta and choice.delta.content) or ""


def whole(cited: Cited, *, report: bool) -> Callable[[bytes], bytes]:
    """Makes of a generator's whole answer one with citations."""

    def convert(body: bytes) -> bytes:
        fields = _decode_any(body)
        for choice in fields["choices"]:
            message = choice["message"]
            if isinstance(content := message.get("content"), str):
                text = _Text(cited)
                said, citations = text.feed(content)
                rest, more = text.end()
                message["content"] = said + rest
                message["annotations"] = [cited.url_citation(citation) for citation in citations + more]
        cited.generated()
        if report:
            fields["rag"] = cited.report()
        return _encode(fields)

    return convert


def fixed(text: str, model: str, cited: Cited, *, stream: bool, usage: bool, report: bool) -> bytes:
    """A text as a whole chat answer that nobody had to generate."""
    about = {"id": f"chatcmpl-{uuid4().hex}", "created": int(time.time()), "model": model}
    told: dict[str, Any] = {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}
    if report:
        told["rag"] = cited.report()
    if not stream:
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return _encode({**about, "object": "chat.completion", "choices": [choice], **told})
    about["object"] = "chat.completion.chunk"
    said = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    ended = {"index": 0, "delta": {}, "finish_reason": "stop"}
    events = [_event({**about, "choices": [said]}), _event({**about, "choices": [ended]})]
    if usage:
        events.append(_event({**about, "choices": [], **told}))
    return b"".join([*events, b"data: [DONE]\n\n"])


def _event(fields: dict[str, Any]) -> bytes:
    return _DATA + _encode(fields) + BORDER
