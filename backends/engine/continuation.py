"""How an engine is asked to go on with an answer that another one began: one function a way.

All take the client's own fields, before an adapter has changed them, and the text that was sent so far. They return
the fields of the request for the rest, whose answer does not repeat that text; None where it cannot be asked for.
The text becomes tokens again: where it ends within one of the first engine's tokens, the model may go on otherwise.
Left to the caller: the tokens left, stop strings across the seam, and whether it is safe at all (several choices,
tool calls, constrained output).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

Fields = dict[str, msgspec.Raw]
Way = Callable[[Fields, str], Fields | None]

_CHAT = "/v1/chat/completions"
_COMPLETIONS = "/v1/completions"
_TRUE = msgspec.Raw(b"true")
_FALSE = msgspec.Raw(b"false")
_OPENAI_COMPLETION_TOKENS = msgspec.Raw(b"16")


class _Message(msgspec.Struct):
    role: str
    content: msgspec.Raw = msgspec.Raw(b"null")
    tool_calls: msgspec.Raw = msgspec.Raw(b"null")


_decode_messages = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_message = msgspec.json.Decoder(_Message).decode
_decode_fields = msgspec.json.Decoder(Fields).decode
_decode_prompt = msgspec.json.Decoder(str | list[str]).decode
_decode_text = msgspec.json.Decoder(str).decode


def continued(fields: Fields, path: str, text: str, *, chat: Way | None) -> Fields | None:
    """The request for what follows `text`: a completion by its prompt, a chat in the way of the engine, if it has one.

    Cases: nothing was sent yet; a chat; a text completion; another path, which is never continued.
    """
    try:
        if not text:
            return fields
        if path == _CHAT and chat is not None:
            return chat(fields, text)
        return by_prompt(fields, text) if path == _COMPLETIONS else None
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError):
        return None


def limited(fields: Fields, path: str) -> Fields:
    """As OpenAI has it: a text completion is short where nobody says how long it shall be."""
    is_told = any(bytes(fields.get(name, b"null")) != b"null" for name in ("max_tokens", "max_completion_tokens"))
    return fields if is_told or path != _COMPLETIONS else fields | {"max_tokens": _OPENAI_COMPLETION_TOKENS}


def by_flag(fields: Fields, text: str) -> Fields | None:
    """As vLLM and SGLang have it: the answer so far is the last message, and `continue_final_message` says so.

    A chat template that trims its messages loses the blanks at the end of `text`.
    """
    messages = _decode_messages(fields["messages"])
    is_continued = bytes(fields.get("continue_final_message", b"")) == b"true"
    turns = _with_answer(messages, text, merge=is_continued)
    if turns is None:
        return None
    return fields | {"messages": turns, "add_generation_prompt": _FALSE, "continue_final_message": _TRUE}


def by_prefill(fields: Fields, text: str) -> Fields | None:
    """llama.cpp: a last message of the assistant is always continued. It takes only one such message."""
    turns = _with_answer(_decode_messages(fields["messages"]), text, merge=True)
    return None if turns is None else fields | {"messages": turns}


def by_prompt(fields: Fields, text: str) -> Fields | None:
    """Any engine's text completions: the text is more of the one prompt. Not where the answer begins with that."""
    if bytes(fields.get("echo", b"false")) not in {b"false", b"null"}:
        return None
    prompt = _decode_prompt(fields["prompt"])
    if isinstance(prompt, list):
        if len(prompt) != 1:
            return None
        prompt = prompt[0]
    return fields | {"prompt": msgspec.Raw(msgspec.json.encode(prompt + text))}


def _with_answer(messages: list[msgspec.Raw], text: str, *, merge: bool) -> msgspec.Raw | None:
    """The messages with the text as the last one, or at the end of the client's last one, where `merge` allows it.

    None where that one has parts or calls instead of a text.
    """
    last = _decode_message(messages[-1])
    answer: Fields = {"role": msgspec.Raw(b'"assistant"')}
    if merge and last.role == "assistant":
        if bytes(last.content)[:1] != b'"' or bytes(last.tool_calls) not in {b"null", b"[]"}:
            return None
        text = _decode_text(last.content) + text
        answer = _decode_fields(messages.pop())
    answer["content"] = msgspec.Raw(msgspec.json.encode(text))
    return msgspec.Raw(msgspec.json.encode([*messages, answer]))
