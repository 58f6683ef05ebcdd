"""JSON as Triton reads it: with NaN and infinities, text of any bytes, and errors in the words of its parser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, NoReturn

import msgspec

from backends.errors import Code, InferenceError

_decode_strictly = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

_SCANNED_BYTES = 1 << 16  # beyond it an error's place is the standard library's: the scan is in Python
_DEPTH = 200
_MARK = "\ufeff"
_SPACE = re.compile(r"[ \t\r\n]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_FRACTION = re.compile(r"\.[0-9]+")
_EXPONENT = re.compile(r"[eE][+-]?[0-9]+")
_HEX = re.compile(r"[0-9a-fA-F]{4}")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_WORDS = (("true", True), ("false", False), ("null", None))
_INFINITY = float("inf")


def decode(data: bytes | bytearray | memoryview) -> Any:
    """The value of a JSON document. Bytes that are no UTF-8 come as surrogates, as file names do (PEP 383).

    Raises `InferenceError` for what is no JSON.
    """
    try:
        return _decode_strictly(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    text = bytes(data).decode("utf-8", "surrogateescape")
    if len(text) > _SCANNED_BYTES:
        try:
            return json.loads(text.removeprefix(_MARK))
        except json.JSONDecodeError as error:
            raise _unreadable("Invalid value.", error.pos) from error
        except RecursionError as error:
            raise _unreadable("Nested too deeply.", 0) from error
    return _Scanner(text).document()


def encode(value: Any) -> bytes:
    """A JSON document of plain values, floats that are no numbers included, surrogates back as the bytes they were."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return encode_loosely(value)


def encode_loosely(value: Any) -> bytes:
    """As `encode`, with NaN and infinities as such."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a pair, escaped in what a client sent
        return text.encode("utf-8", "surrogatepass")


def _unreadable(what: str, position: int) -> InferenceError:
    return InferenceError(f"failed to parse the request JSON buffer: {what} at {position}", Code.INTERNAL)


class _Scanner:
    """Reads a text that a strict parser refuses, to its value or to where it goes wrong.

    Places are counted in bytes.
    """

    def __init__(self, text: str) -> None:
        end = text.find("\0")  # it ends the text for the parser whose words these are
        self._text = text if end < 0 else text[:end]
        self._at = len(_MARK) if text.startswith(_MARK) else 0
        self._depth = 0

    def document(self) -> Any:
        self._skip()
        if self._at == len(self._text):
            self._fail("The document is empty.")
        value = self._value()
        self._skip()
        if self._at < len(self._text):
            self._fail("The document root must not be followed by other values.")
        return value

    def _fail(self, what: str, at: int | None = None) -> NoReturn:
        before = self._text[: self._at if at is None else at]
        raise _unreadable(what, len(before.encode("utf-8", "surrogateescape")))

    def _skip(self) -> None:
        match = _SPACE.match(self._text, self._at)
        assert match is not None
        self._at = match.end()

    def _take(self, character: str) -> bool:
        taken = self._text.startswith(character, self._at)
        self._at += taken
        return taken

    def _value(self) -> Any:
        """Cases: an object, an array, a string, a word, a number or one of the words for what is none."""
        value: Any
        character = self._text[self._at : self._at + 1]
        if character in {"{", "["}:
            self._depth += 1
            if self._depth > _DEPTH:
                self._fail("Nested too deeply.")
            self._at += 1
            value = self._object() if character == "{" else self._array()
            self._depth -= 1
            return value
        if character == '"':
            return self._string()
        for word, value in _WORDS:
            if character == word[0]:
                return self._word(word, value)
        return self._number()

    def _object(self) -> dict[str, Any]:
        members: dict[str, Any] = {}
        self._skip()
        if self._take("}"):
            return members
        while True:
            if not self._text.startswith('"', self._at):
                self._fail("Missing a name for object member.")
            name = self._string()
            self._skip()
            if not self._take(":"):
                self._fail("Missing a colon after a name of object member.")
            self._skip()
            value = self._value()
            members.setdefault(name, value)
            self._skip()
            if self._take("}"):
                return members
            if not self._take(","):
                self._fail("Missing a comma or '}' after an object member.")
            self._skip()

    def _array(self) -> list[Any]:
        elements: list[Any] = []
        self._skip()
        if self._take("]"):
            return elements
        while True:
            elements.append(self._value())
            self._skip()
            if self._take("]"):
                return elements
            if not self._take(","):
                self._fail("Missing a comma or ']' after an array element.")
            self._skip()

    def _word(self, word: str, value: Any) -> Any:
        """A word; where it breaks off is where it is wrong."""
        for character in word:
            if not self._take(character):
                self._fail("Invalid value.")
        return value

    def _number(self) -> int | float:
        start = self._at
        negative = self._take("-")
        for word, value in (("NaN", float("nan")), ("Inf", _INFINITY)):
            if self._text.startswith(word[0], self._at):
                self._word(word, value)
                if word == "Inf" and self._text.startswith("i", self._at):
                    self._word("inity", value)
                return -value if negative else value
        match = _NUMBER.match(self._text, start)
        if match is None:
            self._fail("Invalid value.")
        self._at = match.end()
        is_whole = True
        for mark, part, what in (
            (".", _FRACTION, "Miss fraction part in number."),
            ("eE", _EXPONENT, "Miss exponent in number."),
        ):
            if self._text[self._at : self._at + 1] not in (*mark, ""):
                continue
            if self._at < len(self._text):
                match = part.match(self._text, self._at)
                if match is None:
                    self._at += 1
                    self._at += mark == "eE" and self._text[self._at : self._at + 1] in {"+", "-"}
                    self._fail(what)
                self._at = match.end()
                is_whole = False
        digits = self._text[start : self._at]
        if is_whole and len(digits) < _DEPTH:
            return int(digits)
        number = float(digits)
        if number in {_INFINITY, -_INFINITY}:
            self._fail("Number too big to be stored in double.", start)
        return number

    def _string(self) -> str:
        self._at += 1
        parts: list[str] = []
        while True:
            match = _PLAIN.match(self._text, self._at)
            assert match is not None
            parts.append(match.group())
            self._at = match.end()
            if self._at == len(self._text):
                self._fail("Missing a closing quotation mark in string.")
            if self._take('"'):
                return "".join(parts)
            parts.append(self._escaped())

    def _escaped(self) -> str:
        start = self._at
        if not self._take("\\"):  # a control character
            self._fail("Invalid escape character in string.")
        mark = self._text[self._at : self._at + 1]
        self._at += 1
        if mark in _ESCAPES:
            return _ESCAPES[mark]
        if mark != "u":
            self._fail("Invalid escape character in string.", start)
        code = self._hex(start)
        if 0xD800 <= code < 0xDC00:
            low = self._hex(start) if self._text.startswith("\\u", self._at) and self._skip_mark() else 0
            if not 0xDC00 <= low < 0xE000:
                self._fail("The surrogate pair in string is invalid.", start)
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
        return chr(code)

    def _skip_mark(self) -> bool:
        self._at += 2
        return True

    def _hex(self, start: int) -> int:
        match = _HEX.match(self._text, self._at)
        if match is None:
            self._fail("Incorrect hex digit after \\u escape in string.", start)
        self._at = match.end()
        return int(match.group(), 16)


def is_finite(numbers: Iterable[float]) -> bool:
    """Whether JSON proper has words for all of them."""
    total = sum(numbers)
    return total - total == 0
