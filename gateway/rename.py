"""Another model name in a request's body, and not another byte changed."""

from __future__ import annotations

import re

import msgspec


class _Named(msgspec.Struct):
    model: msgspec.Raw = msgspec.Raw(b"")


_decode_name = msgspec.json.Decoder(_Named).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def renamed(body: bytes, name: str) -> bytes:
    """A JSON object with `name` as its field `model`.

    Where that key stands once in the body, its value is replaced in place; elsewhere a `model` may be nested, or
    twice, and the fields are written anew with their values as they were. Cheap: a search, and two looks at the name.
    """
    new = msgspec.json.encode(name)
    old = bytes(_decode_name(body).model)
    found = [*re.finditer(rb'"model"\s*:\s*' + re.escape(old), body)] if old else []
    if len(found) == 1:
        end = found[0].end()
        spliced = b"".join((body[: end - len(old)], new, body[end:]))
        if bytes(_decode_name(spliced).model) == new:
            return spliced
    return msgspec.json.encode(_decode_fields(body) | {"model": msgspec.Raw(new)})
