"""Tokens for a model that takes texts, made in its host before requests are batched: batches are bounded by them.

Tokens travel to the instance in the place of the texts: the same tensors and shapes, each element the ids of its row
(int32) instead of its characters.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

from backends.config import ModelConfig
from backends.errors import Code, InferenceError, InvalidRequest
from backends.tensors import Tensor, elements, join
from backends.worker.frames import heads
from backends.worker.messages import Infer
from backends.worker.scheduling.scheduler import Entry
from backends.worker.text import PROMPT_NAME, TOKENIZED, Text, read

if TYPE_CHECKING:
    import tokenizers

# What takes longer than a turn of the event loop may last: tokenizing costs some 20 µs for each 100 bytes.
_LONG_BYTES = 8192


def tokenization_of(config: ModelConfig) -> Tokenization | None:
    """The tokenizer that a model declares, None where it takes no texts. Raises `InvalidRequest`."""
    text = read(config)
    return None if text is None else Tokenization(text)


class Tokenization:
    """The tokenizer of a model, in its host. The library for it is imported here, where a model declares one."""

    def __init__(self, text: Text) -> None:
        """Raises `InvalidRequest` without the library, or for a file that it cannot read."""
        # One core is the host's; its threads would also outlive a fork.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            import tokenizers
        except ImportError as error:
            raise InvalidRequest("the library tokenizers is not installed: pip install 'tritium[text]'") from error
        self._text = text
        try:
            tokenizer = tokenizers.Tokenizer.from_file(text.tokenizer)
        except Exception as error:  # the library raises nothing more exact
            raise InvalidRequest(f"{text.tokenizer} is no tokenizer: {error}", param="tokenizer") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if text.truncate:
            tokenizer.enable_truncation(text.max_length)
        self._encode_all = tokenizer.encode_batch_fast
        self._vocabulary_size = tokenizer.get_vocab_size(with_added_tokens=True)

    def is_long(self, tensors: Sequence[Tensor]) -> bool:
        """Whether `replace` should be called in a thread: it lets go of the interpreter."""
        return sum(tensor.size_bytes for tensor in tensors) > _LONG_BYTES

    def replace(self, entry: Entry) -> None:
        """Put tokens in the place of an entry's texts; its cost is the length of its longest row.

        Raises `InferenceError` for a text that is not UTF-8 or, unless it may be cut, too long.
        """
        infer = entry.infer
        by_name = {tensor.name: tensor for tensor in entry.tensors}
        columns = [_column(by_name[name]) for name in self._text.inputs if name in by_name]
        if len(columns) != len(self._text.inputs):
            raise InferenceError(f"the inputs {', '.join(self._text.inputs)} are wanted", Code.INVALID_ARG)
        if infer.parameters.get(TOKENIZED):
            encoded = [[self._checked(element) for element in column] for column in columns]
        elif self._text.task == "rerank":
            encoded = self._pairs(columns)
        else:
            encoded = [
                self._singles(column, self._prompt(infer, name))
                for column, name in zip(columns, self._text.inputs, strict=True)
            ]
        entry.tensors = [
            Tensor(name, "BYTES", by_name[name].shape, join(column))
            for name, column in zip(self._text.inputs, encoded, strict=True)
        ]
        infer.inputs = heads(entry.tensors)
        entry.cost = max((len(element) for column in encoded for element in column), default=0) // 4

    def _prompt(self, infer: Infer, input_name: str) -> str:
        """What goes before a text: the prompt that the request names, that of the input's name, the default one."""
        prompts = self._text.prompts
        wanted = infer.parameters.get(PROMPT_NAME)
        if wanted is None:
            return prompts.get(input_name, prompts.get("", ""))
        if wanted not in prompts:
            known = ", ".join(name for name in prompts if name) or "none"
            raise InferenceError(f"there is no prompt named {wanted!r}; the model has {known}", Code.INVALID_ARG)
        return prompts[str(wanted)]

    def _singles(self, column: Sequence[bytes], prompt: str) -> list[bytes]:
        # A query stands beside each of its documents: it is tokenized once.
        texts = list(dict.fromkeys(column))
        found = dict(zip(texts, self._encoded([prompt + _decoded(text) for text in texts]), strict=True))
        return [found[text] for text in column]

    def _pairs(self, columns: Sequence[Sequence[bytes]]) -> list[list[bytes]]:
        """Pairs as the tokenizer joins them: their ids in the place of the first texts, their types of the second."""
        pairs = [(_decoded(first), _decoded(second)) for first, second in zip(*columns, strict=True)]
        encodings = self._encode(pairs)
        ids = [self._packed(encoding.ids) for encoding in encodings]
        return [ids, [array("i", encoding.type_ids).tobytes() for encoding in encodings]]

    def _encode(self, texts: list[str] | list[tuple[str, str]]) -> list[tokenizers.Encoding]:
        try:
            return self._encode_all(texts)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of the library is no Exception; a host outlives it
            raise InferenceError(f"the texts could not be made tokens of: {error}", Code.INVALID_ARG) from error

    def _encoded(self, texts: list[str]) -> list[bytes]:
        return [self._packed(encoding.ids) for encoding in self._encode(texts)]

    def _packed(self, ids: list[int]) -> bytes:
        if len(ids) > self._text.max_length:
            raise InferenceError(
                f"a text has {len(ids)} tokens, the model takes {self._text.max_length}", Code.INVALID_ARG
            )
        return array("i", ids).tobytes()

    def _checked(self, element: bytes) -> bytes:
        """Token ids as they came, held to the vocabulary: the model would read beyond its table."""
        if len(element) % 4 or not element:
            raise InferenceError("a row of token ids is some int32 values", Code.INVALID_ARG)
        ids = array("i", element)
        if min(ids) < 0 or max(ids) >= self._vocabulary_size:
            raise InferenceError(
                f"a token id is not among the {self._vocabulary_size} of the vocabulary", Code.INVALID_ARG
            )
        if self._text.truncate:
            ids = ids[: self._text.max_length]
        return self._packed(ids.tolist())


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise InferenceError(f"a text is not UTF-8: {error}", Code.INVALID_ARG) from error


def _column(tensor: Tensor) -> list[bytes]:
    try:
        return elements(tensor.data)
    except ValueError as error:
        raise InferenceError(f"{error} for inference input '{tensor.name}'", Code.INVALID_ARG) from error
