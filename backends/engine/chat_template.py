"""A model's own chat template and tokenizer, from the files that models come with.

`chat_template.jinja` or `tokenizer_config.json` have the template, `tokenizer.json` the tokenizer. Templates come from
whoever made the model: they run in Jinja's sandbox, with the names that Hugging Face's libraries give them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from backends.errors import InvalidRequest, Unavailable

_INSTALL = "install it with: pip install 'tritium[kserve]'"
_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


class ChatTemplate:
    """Messages to the prompt that the model was trained on. Raises `InvalidRequest` for a template that is none."""

    def __init__(self, source: str, tokens: dict[str, str]) -> None:
        try:
            from jinja2 import TemplateError
            from jinja2.ext import loopcontrols
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            raise Unavailable(f"Chat templates need jinja2; {_INSTALL}") from error
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _json
        environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
        self._error = TemplateError
        self._tokens = tokens
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise InvalidRequest(f"The chat template cannot be read: {error}") from error

    def render(self, messages: Sequence[dict[str, Any]], **variables: Any) -> str:
        """The prompt, up to where the answer begins. Raises `InvalidRequest` in the template's words."""
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=True, **{"tools": None, **self._tokens, **variables}
            )
        except (self._error, TypeError, ValueError) as error:
            raise InvalidRequest(
                f"The model's chat template refuses these messages: {error}", param="messages"
            ) from error


def read_template(directory: Path) -> ChatTemplate | None:
    """The template of the files in a directory; None where there is none. Raises `InvalidRequest`."""
    told = _read_json(directory / "tokenizer_config.json")
    file = directory / "chat_template.jinja"
    source = file.read_text("utf-8") if file.is_file() else told.get("chat_template")
    if isinstance(source, list):  # several, by name
        named = {one["name"]: one["template"] for one in source}
        source = named.get("default") or next(iter(named.values()), None)
    if not source:
        return None
    tokens = {}
    for name in _TOKENS:
        token = told.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            tokens[name] = text
    return ChatTemplate(source, tokens)


def read_counter(directory: Path) -> Callable[[str], int] | None:
    """How many tokens a text has, by the model's tokenizer; None where that, or the library for it, is not there."""
    file = directory / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    tokenizer = Tokenizer.from_file(str(file))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_bytes())
    except ValueError as error:
        raise InvalidRequest(f"{file} cannot be read: {error}") from error
    return found if isinstance(found, dict) else {}


def _json(value: Any, indent: int | None = None) -> str:
    """As the templates expect it: without the escapes that Jinja's own filter has for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
