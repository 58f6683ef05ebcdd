"""Makes a question of a conversation one that can be searched for by itself, by asking the generator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from backends.errors import UpstreamProtocolError
from backends.model import Capability
from ensembles.asking import ask
from ensembles.options import read
from ensembles.step import Surroundings, Turn
from ensembles.texts import text_of

_LONGEST_QUERY_CHARACTERS = 2000
_INSTRUCTIONS = (
    "Rewrite the last question of this conversation so that it can be understood without the rest of it. "
    "Answer with the question alone, in its language."
)


class Options(msgspec.Struct, frozen=True):
    """`model` is asked with the last `messages` of the conversation."""

    model: str
    messages: Annotated[int, Meta(ge=2, le=100)] = 6
    max_tokens: Annotated[int, Meta(ge=1)] = 64
    instructions: str = _INSTRUCTIONS


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Completion(msgspec.Struct):
    choices: list[_Choice]


def load(options: Mapping[str, Any], surroundings: Surroundings) -> Rewrite:
    return Rewrite(read(options, Options, "The step 'rewrite'"), surroundings)


class Rewrite:
    """Changes `query` where there is a conversation before it."""

    def __init__(self, options: Options, surroundings: Surroundings) -> None:
        self._options = options
        self._surroundings = surroundings

    async def run(self, turn: Turn) -> None:
        said = [
            f"{message['role']}: {text_of(message.get('content'))}"
            for message in turn.messages
            if message.get("role") in {"user", "assistant"}
        ]
        if len(said) < 2:
            return
        options = self._options
        conversation = "\n\n".join(said[-options.messages :])
        fields = {
            "model": options.model,
            "messages": [{"role": "user", "content": f"{options.instructions}\n\n{conversation}\n\nquestion:"}],
            "max_tokens": options.max_tokens,
            "temperature": 0,
        }
        path = "/v1/chat/completions"
        answer = await ask(self._surroundings, Capability.CHAT, path, fields, _Completion, turn.request)
        query = (answer.choices[0].message.content or "").strip().strip('"') if answer.choices else ""
        if not query:
            raise UpstreamProtocolError(f"The model '{options.model}' has rewritten the question into nothing.")
        turn.query = query[:_LONGEST_QUERY_CHARACTERS]
