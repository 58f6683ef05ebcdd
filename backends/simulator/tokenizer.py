"""`/tokenize` and `/detokenize`."""

from __future__ import annotations

from backends.simulator import prompt, text
from backends.simulator.engine import Call, ModelRequest
from backends.simulator.faults import RequestError
from backends.simulator.prompt import Message


class TokenizeRequest(ModelRequest, kw_only=True):
    """A text, or messages to lay out as a prompt first."""

    prompt: str | None = None
    messages: list[Message] | None = None
    return_token_strs: bool | None = False


class DetokenizeRequest(ModelRequest, kw_only=True):
    """Token ids to turn back into text."""

    tokens: list[int]


async def tokenize(call: Call) -> None:
    """Answer with the token ids of a text."""
    asked, _ = call.decode(TokenizeRequest)
    if asked.prompt is None and asked.messages is None:
        raise RequestError(400, "The request needs `prompt` or `messages`.", param="prompt")
    whole = asked.prompt if asked.prompt is not None else prompt.render(asked.messages or ())
    tokens = call.engine.vocabulary.encode(whole)
    call.reply(
        {
            "count": len(tokens),
            "max_model_len": call.engine.options.max_model_len,
            "tokens": tokens,
            "token_strs": text.split(whole) if asked.return_token_strs else None,
        }
    )


async def detokenize(call: Call) -> None:
    """Answer with the text of token ids."""
    asked, _ = call.decode(DetokenizeRequest)
    call.reply({"prompt": call.engine.vocabulary.decode(asked.tokens)})
