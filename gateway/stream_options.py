"""Usage in every stream: `stream_options.include_usage` is forced upstream, for the accounting."""

from __future__ import annotations

import msgspec

from gateway.dialect import Call, Peek, decode, named

_FORCED = b'"stream_options":{"include_usage":true},'


class _Options(msgspec.Struct):
    include_usage: bool | None = None


class _Peek(Peek):
    stream_options: _Options | msgspec.UnsetType | None = msgspec.UNSET


_decode_peek = msgspec.json.Decoder(_Peek).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def read_generation(body: bytes) -> Call:
    """`model` and `stream` of a chat or completion request, made to report its usage when it streams.

    Cases: not streamed, or usage asked for: the client's bytes; no `stream_options`: spliced in front, nothing
    else touched; `stream_options` without usage: that one field rebuilt. Raises `InvalidRequest`.
    """
    peek = decode(_decode_peek, body)
    call = Call(
        named(peek.model),
        body,
        bool(peek.stream),
        output_tokens=peek.output_tokens(),
        cache_salt=peek.cache_salt,
    )
    options = peek.stream_options
    if not call.stream or (isinstance(options, _Options) and options.include_usage):
        return call
    call.strip_usage = True
    if options is msgspec.UNSET:
        start = body.index(b"{") + 1
        call.body = b"%b%b%b" % (body[:start], _FORCED, body[start:])
        return call
    fields = _decode_fields(body)
    kept = _decode_fields(fields["stream_options"]) if options is not None else {}
    kept["include_usage"] = msgspec.Raw(b"true")
    fields["stream_options"] = msgspec.Raw(msgspec.json.encode(kept))
    call.body = msgspec.json.encode(fields)
    return call
