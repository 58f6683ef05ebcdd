"""OpenAI's embeddings over a tensor model that takes texts."""

from __future__ import annotations

from array import array
from binascii import b2a_base64
from collections.abc import Sequence
from math import sqrt
from typing import Literal, cast

import msgspec

from backends.errors import InvalidRequest, ServingError
from backends.model import Begun, InferResponse, Listenable, OpenAIRequest, Scalar, TensorModel
from backends.worker.openai import rows
from backends.worker.openai.asking import decode, failing_at
from backends.worker.text import PROMPT_NAME, TOKENIZED, Text

Item = str | int | list[int]


class Asked(msgspec.Struct):
    """The body of a request. `prompt_name` is ours: which of the model's prompts goes before each text."""

    input: str | list[Item]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    prompt_name: str | None = None


async def embed(model: TensorModel, text: Text, request: OpenAIRequest) -> bytes:
    """The whole answer, as JSON. Raises `InvalidRequest` naming the field at fault."""
    job = _Job(model, text, request)
    with failing_at("input"):
        found = await rows.run(model, {text.inputs[0]: job.items}, job.parameters, request)
    return job.answer(found)


def begin(model: TensorModel, text: Text, request: OpenAIRequest) -> Begun | None:
    """Begin what one inference of a `Listenable` answers; None where it takes several. Raises `ServingError`."""
    job = _Job(model, text, request)
    count = len(job.items)
    if count > max(1, model.config.max_batch_size):
        return None

    def word(answer: InferResponse | ServingError) -> tuple[bytes, int]:
        found = rows.empty(count)
        with failing_at("input"):
            if isinstance(answer, ServingError):
                raise answer
            rows.put(answer, range(count), found, request.model)
        return job.answer(found), found.tokens

    asked = rows.inference(model, {text.inputs[0]: job.items}, job.parameters, request, range(count))
    return Begun(cast("Listenable", model.infer(asked)), word)


class _Job:
    """A request that has been read."""

    def __init__(self, model: TensorModel, text: Text, request: OpenAIRequest) -> None:
        """Raises `InvalidRequest`."""
        asked = decode(request.body, Asked)
        is_tokenized, self.items = _items(asked.input)
        self._text = text
        self._model = request.model
        self._width = width = model.config.output[0].dims[-1]
        self._size = width if asked.dimensions is None else asked.dimensions
        if not 1 <= self._size <= (width if width > 0 else self._size):
            raise InvalidRequest(
                f"'dimensions' is {self._size}, and the model '{request.model}' has embeddings of {width}.",
                param="dimensions",
            )
        self._write = _base64 if asked.encoding_format == "base64" else _floats
        self.parameters: dict[str, Scalar] = {}
        if is_tokenized:
            self.parameters[TOKENIZED] = True
        if asked.prompt_name is not None:
            self.parameters[PROMPT_NAME] = asked.prompt_name

    def answer(self, found: rows.Rows) -> bytes:
        """The answer, as JSON."""
        size, write = self._size, self._write
        vectors = found.outputs
        if size != self._width:
            vectors = [_cut(vector, size, self._text) for vector in vectors]
        data = b",".join(
            [
                b'{"object":"embedding","index":%d,"embedding":%b}' % (i, write(vector))
                for i, vector in enumerate(vectors)
            ]
        )
        tail = {"model": self._model, "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens}}
        return b'{"object":"list","data":[%b],%b' % (data, msgspec.json.encode(tail)[1:])


def _items(given: str | list[Item]) -> tuple[bool, Sequence[bytes]]:
    """Whether tokens were given, and each text, or each text's tokens, as bytes.

    Cases: a text, texts, the tokens of one text, those of several. OpenAI takes nothing empty.
    """
    if isinstance(given, str):
        given = [given]
    if not given:
        raise InvalidRequest("'input' is an empty list.", param="input")
    if isinstance(given[0], int):
        given = [given]  # type: ignore[list-item]  # `_ids` looks at each token
    if isinstance(given[0], str):
        return False, [_characters(item) for item in given]
    return True, [_ids(item) for item in given]


def _characters(item: Item) -> bytes:
    if not isinstance(item, str):
        raise InvalidRequest("'input' mixes texts with tokens.", param="input")
    if not item:
        raise InvalidRequest("'input' has an empty text.", param="input")
    return item.encode()


def _ids(item: Item) -> bytes:
    if not isinstance(item, list):
        raise InvalidRequest("'input' mixes texts with tokens.", param="input")
    if not item:
        raise InvalidRequest("'input' has an empty list of tokens.", param="input")
    try:
        return array("i", item).tobytes()
    except (OverflowError, TypeError) as error:
        raise InvalidRequest(f"'input' has what is no token: {error}.", param="input") from error


def _cut(vector: memoryview, size: int, text: Text) -> memoryview:
    """The first dimensions of an embedding, of length 1 again where the model's are."""
    part = vector.cast("f")[:size]
    if not text.normalize:
        return part.cast("B")
    values = part.tolist()
    norm = sqrt(sum(value * value for value in values)) or 1.0
    return memoryview(array("f", [value / norm for value in values])).cast("B")


def _base64(vector: memoryview) -> bytes:
    """Little-endian float32, as OpenAI's SDK asks by default."""
    return b'"%b"' % b2a_base64(vector, newline=False)


def _floats(vector: memoryview) -> bytes:
    return msgspec.json.encode(vector.cast("f").tolist())
