"""Forms with files (RFC 7578) read as they come: part after part, nothing of a file kept in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backends.errors import InvalidRequest

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks, MultipartParser

_FIELD_BYTES = 1 << 16
_PARTS = 64


@dataclass(slots=True)
class Part:
    """One part. `filename` is None where it is a field; `content` is to be read before the next part is asked for."""

    name: str
    filename: str | None
    content: AsyncIterator[bytes]

    async def text(self) -> str:
        """A field's value. Raises `InvalidRequest` for one that is no text, or too long."""
        value = b""
        async for piece in self.content:
            value += piece
            if len(value) > _FIELD_BYTES:
                raise InvalidRequest(f"The field is longer than {_FIELD_BYTES} bytes.", param=self.name)
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest("The field is not UTF-8.", param=self.name) from error


@dataclass(slots=True)
class _Head:
    """The header fields of a part."""

    fields: dict[bytes, bytes]


class _End:
    """The end of a part."""


class Form:
    """A form that comes in `stream`. Raises `InvalidRequest` where it is none, or ends before its end."""

    def __init__(self, content_type: str, stream: AsyncIterator[bytes]) -> None:
        self._stream = stream
        self._events: deque[_Head | bytes | _End] = deque()
        self._is_whole = False
        self._parser = _parser(content_type, self)

    async def parts(self) -> AsyncIterator[Part]:
        """Every part, in order. What is left of a part's content is skipped."""
        count = 0
        while (event := await self._next()) is not None:
            if not isinstance(event, _Head):
                continue
            count += 1
            if count > _PARTS:
                raise InvalidRequest(f"The form has more than {_PARTS} parts.")
            name, filename = _names(event.fields)
            yield Part(name, filename, self._content())

    async def _content(self) -> AsyncIterator[bytes]:
        while (event := await self._next()) is not None and not isinstance(event, _End):
            assert isinstance(event, bytes)
            yield event

    async def _next(self) -> _Head | bytes | _End | None:
        """What comes next in the form, None at its end."""
        from python_multipart.exceptions import MultipartParseError

        while not self._events:
            data = await anext(self._stream, b"")
            if self._is_whole and not data:
                return None
            if not data:
                raise InvalidRequest("The form ends before its last boundary.")
            try:
                self._parser.write(data)
            except MultipartParseError as error:
                raise InvalidRequest(f"The form cannot be read: {error}") from error
        return self._events.popleft()

    def begun(self, fields: dict[bytes, bytes]) -> None:
        self._events.append(_Head(fields))

    def came(self, data: bytes) -> None:
        self._events.append(data)

    def ended(self) -> None:
        self._events.append(_End())

    def whole(self) -> None:
        self._is_whole = True


def _parser(content_type: str, form: Form) -> MultipartParser:
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise InvalidRequest("A file is sent as multipart/form-data, with a boundary.", param="file")
    fields: dict[bytes, bytes] = {}
    header = [b"", b""]

    def on_header_end() -> None:
        fields[header[0].lower()] = header[1]
        header[:] = [b"", b""]

    def on_name(data: bytes, start: int, end: int) -> None:
        header[0] += data[start:end]

    def on_value(data: bytes, start: int, end: int) -> None:
        header[1] += data[start:end]

    def on_headers_finished() -> None:
        form.begun(dict(fields))
        fields.clear()

    callbacks: MultipartCallbacks = {
        "on_header_field": on_name,
        "on_header_value": on_value,
        "on_header_end": on_header_end,
        "on_headers_finished": on_headers_finished,
        "on_part_data": lambda data, start, end: form.came(bytes(data[start:end])),
        "on_part_end": form.ended,
        "on_end": form.whole,
    }
    try:
        return MultipartParser(options[b"boundary"], callbacks)
    except FormParserError as error:
        raise InvalidRequest(f"The form cannot be read: {error}") from error


def _names(fields: dict[bytes, bytes]) -> tuple[str, str | None]:
    """The part's name, and its file's where it is one."""
    from python_multipart.multipart import parse_options_header

    disposition: tuple[bytes, dict[bytes, bytes]] = parse_options_header(fields.get(b"content-disposition"))
    options: dict[bytes, Any] = disposition[1]
    filename = options.get(b"filename")
    name = options.get(b"name", b"").decode("utf-8", "replace")
    return name, None if filename is None else filename.decode("utf-8", "replace")
