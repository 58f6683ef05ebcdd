"""Texts through a model, in its instance: token ids become batches of like length, token vectors what was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from backends.config import ModelConfig
from backends.errors import Code, InferenceError, InvalidRequest
from backends.tensors import elements
from backends.worker.exchange import Answer, Request
from backends.worker.frames import heads
from backends.worker.instance import LoadError
from backends.worker.loaders.array_model import Session, run_together
from backends.worker.loaders.arrays import DTYPES, Array, to_tensor
from backends.worker.loaders.completion import Signature, dynamic_batching, input_document, output_document
from backends.worker.loaders.late_interaction import LateInteraction, Tell, normalized
from backends.worker.messages import Respond
from backends.worker.text import USAGE, Text, read

DEFAULT_MAX_BATCH_SIZE = 64
_DTYPES = {f"TYPE_{name}": dtype for name, dtype in DTYPES.items()}
_OUTPUT_NAMES = {"embed": "embedding", "rerank": "score", "maxsim": "score", "classify": "scores"}
_POOLED = "sentence_embedding"
# What a run costs beside its tokens, in tokens; shorter rows are padded rather than run by themselves below it.
_RUN_TOKENS = 48
# Fewer tokens than these are not worth a run of their own beside another.
_LEAST_TOKENS = 32


def declared(config: ModelConfig) -> Text | None:
    """What the configuration declares of texts. Raises `LoadError`."""
    try:
        return read(config)
    except InvalidRequest as error:
        raise LoadError(error.message) from error


def completed(config: ModelConfig, text: Text, outputs: Sequence[Signature]) -> str:
    """Triton's JSON of the configuration with the texts that go in and what comes out."""
    document: dict[str, Any] = json.loads(config.document)
    if not config.max_batch_size:
        document["max_batch_size"] = DEFAULT_MAX_BATCH_SIZE
    if document["max_batch_size"] > 1 and config.dynamic_batching is None:
        document["dynamic_batching"] = dynamic_batching()
    if not config.input:
        document["input"] = [input_document(name, "TYPE_STRING", (1,), None) for name in text.inputs]
    if not config.output:
        width = (_chosen(config, text, outputs).shape or (-1,))[-1]
        dims = [1] if _OUTPUT_NAMES[text.task] == "score" else [width]
        if text.pooling == "none":
            dims = [-1, width]
        document["output"] = [output_document(_OUTPUT_NAMES[text.task], "TYPE_FP32", dims, None)]
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


class TextSession(Session, Protocol):
    """A `Session` that so many threads may use at once."""

    parallel: int


class TextModel:
    """An `Executable` that takes tokens in the place of texts (`tokenization.py`), over a `Session`.

    What it counts itself it says by `tell`.
    """

    def __init__(
        self,
        config: ModelConfig,
        text: Text,
        session: TextSession,
        inputs: Sequence[Signature],
        outputs: Sequence[Signature],
        tell: Tell,
    ) -> None:
        if len(config.output) != 1:
            raise LoadError(f"model '{config.name}' gives one output of its texts, and has {len(config.output)}")
        self._session = session
        self._threads = ThreadPoolExecutor(session.parallel, "run") if session.parallel > 1 else None
        self._text = text
        self._output = config.output[0].name
        self._inputs = {signature.name: _DTYPES[signature.data_type] for signature in inputs}
        chosen = _chosen(config, text, outputs)
        self._wanted = (chosen.name,)
        self._pool = _pooling(text, chosen)
        self._late = LateInteraction(config, text.passage_cache_bytes, tell) if text.task == "maxsim" else None
        unknown = self._inputs.keys() - {"input_ids", "attention_mask", "token_type_ids", "position_ids"}
        if unknown:
            raise LoadError(f"model '{config.name}' wants inputs that texts do not give: {', '.join(sorted(unknown))}")

    def execute(self, requests: Sequence[Request]) -> Sequence[Answer]:
        return run_together(self._run, requests)

    def finalize(self) -> None:
        if self._threads is not None:
            self._threads.shutdown()
        self._session.close()

    def _run(self, requests: Sequence[Request]) -> list[Answer]:
        members = [[_column(request, name) for name in self._text.inputs] for request in requests]
        joined = [[element for member in members for element in member[i]] for i in range(len(self._text.inputs))]
        results = self._results(joined)
        answers: list[Answer] = []
        start = 0
        for request, member in zip(requests, members, strict=True):
            end = start + len(member[0])
            rows = results[start:end]
            outputs = [to_tensor(self._output, "FP32", rows if isinstance(rows, np.ndarray) else _padded(rows))]
            counted = member[:1] if self._text.task == "rerank" else member
            count = sum(len(element) for column in counted for element in column) // 4
            answers.append((Respond(request.head.id, heads(outputs), {USAGE: count}), outputs))
            start = end
        return answers

    def _results(self, columns: Sequence[Sequence[bytes]]) -> Array | list[Array]:
        """A row of the output for each row of the input; a list where rows differ in size."""
        text = self._text
        if text.task == "rerank":
            logits = np.stack(self._vectors(list(zip(*columns, strict=True))))
            if logits.shape[1:] != (1,):
                raise InferenceError(
                    f"a reranker gives one score for a pair, not {list(logits.shape[1:])}", Code.INTERNAL
                )
            return _activated(logits, text)
        if self._late is not None:
            queries, passages = columns
            return self._late.scores(queries, passages, self._singles)
        # Batches repeat texts: each runs once.
        texts = list(dict.fromkeys(columns[0]))
        vectors = self._singles(texts)
        if text.task == "classify":
            vectors = list(_activated(np.stack(vectors), text))
        elif text.normalize:
            vectors = [normalized(vector) for vector in vectors]
        found = dict(zip(texts, vectors, strict=True))
        rows = [found[element] for element in columns[0]]
        return rows if text.pooling == "none" else np.stack(rows)

    def _singles(self, texts: Sequence[bytes]) -> list[Array]:
        return self._vectors([(ids, b"") for ids in texts])

    def _vectors(self, sequences: Sequence[tuple[bytes, bytes]]) -> list[Array]:
        """What the model makes of each sequence (its ids, its token types or nothing), pooled if they are to be."""
        lengths = np.array([len(ids) // 4 for ids, _ in sequences])
        runs = groups(lengths, self._text.max_batch_tokens, self._session.parallel)

        def run(group: Array) -> Sequence[Array]:
            feeds = self._feeds([sequences[i] for i in group], lengths[group])
            (hidden,) = self._session.run(feeds, self._wanted)
            return self._pool(hidden, lengths[group])

        each = map(run, runs) if self._threads is None or len(runs) == 1 else self._threads.map(run, runs)
        found: list[Array] = [np.empty(0)] * len(sequences)
        for group, vectors in zip(runs, each, strict=True):
            for i, vector in zip(group, vectors, strict=True):
                found[i] = vector
        return found

    def _feeds(self, sequences: Sequence[tuple[bytes, bytes]], lengths: Array) -> dict[str, Array]:
        """The inputs that the model has, as rows of the longest one's length."""
        width = int(lengths.max())
        shape = (len(sequences), width)
        mask = np.arange(width) < lengths[:, None]
        feeds: dict[str, Array] = {}
        for name, dtype in self._inputs.items():
            match name:
                case "input_ids":
                    made = _matrix([ids for ids, _ in sequences], mask, self._text.pad_id)
                case "attention_mask":
                    made = mask
                case "token_type_ids":
                    types = [types or bytes(len(ids)) for ids, types in sequences]
                    made = _matrix(types, mask, 0)
                case _:
                    made = np.broadcast_to(np.arange(width), shape)
            feeds[name] = np.ascontiguousarray(made, dtype)
        return feeds


def groups(lengths: Array, most_tokens: int, parallel: int = 1) -> list[Array]:
    """Rows that run together, longest first: a new run begins where the padding of all the shorter ones costs more.

    So many runs are under way at once: where there are tokens for them, each gets its part.
    """
    total = int(lengths.sum())
    parallel = min(parallel, max(1, total // _LEAST_TOKENS))
    if parallel > 1:
        most_tokens = min(most_tokens, total // parallel + int(lengths.max()) - 1)
    order = np.argsort(-lengths, kind="stable")
    found: list[Array] = []
    start = 0
    for i in range(1, len(order)):
        longest = int(lengths[order[start]])
        is_full = (i - start + 1) * longest > most_tokens
        if is_full or (longest - int(lengths[order[i]])) * (len(order) - i) > _RUN_TOKENS:
            found.append(order[start:i])
            start = i
    found.append(order[start:])
    return found


def _matrix(rows: Sequence[bytes], mask: Array, fill: int) -> Array:
    """Rows of int32 of different lengths, padded."""
    flat = np.frombuffer(b"".join(rows), np.int32)
    if flat.size == mask.size:
        return flat.reshape(mask.shape)
    made = np.full(mask.shape, fill, np.int32)
    made[mask] = flat
    return made


def _column(request: Request, name: str) -> list[bytes]:
    for tensor in request.inputs:
        if tensor.name == name:
            found = elements(tensor.data)
            if all(element and not len(element) % 4 for element in found):
                return found
            raise InferenceError(f"the input '{name}' is no row of token ids", Code.INVALID_ARG)
    raise InferenceError(f"the input '{name}' is missing", Code.INVALID_ARG)


def _chosen(config: ModelConfig, text: Text, outputs: Sequence[Signature]) -> Signature:
    """The model's output that is read: the one that is named, else the fitting one. Raises `LoadError`.

    Cases: a score or labels (`logits`, or the first); an embedding that is pooled by the model itself, unless the
    configuration pools; the token vectors, which have three dimensions.
    """
    by_name = {output.name: output for output in outputs}
    if text.output:
        if text.output not in by_name:
            raise LoadError(f"model '{config.name}' has no output '{text.output}', it has {', '.join(by_name)}")
        return by_name[text.output]
    if text.task in {"rerank", "classify"}:
        return by_name.get("logits", outputs[0])
    tokens = [output for output in outputs if output.shape is None or len(output.shape) == 3]
    if text.task == "embed" and text.pooling is None and _POOLED in by_name:
        return by_name[_POOLED]
    return tokens[0] if tokens else outputs[0]


Pool = Callable[[Array, Array], Sequence[Array]]
"""Rows of what the model gave and how many tokens of each count: one vector a row, or its token vectors."""


def _pooling(text: Text, output: Signature) -> Pool:
    if text.task in {"rerank", "classify"} or (output.shape is not None and len(output.shape) == 2):
        return _as_it_is
    return _POOLS["none" if text.task == "maxsim" else text.pooling or "mean"]


def _as_it_is(hidden: Array, lengths: Array) -> Sequence[Array]:
    del lengths
    return list(hidden.astype(np.float32, copy=False))


def _mean(hidden: Array, lengths: Array) -> Sequence[Array]:
    weights = (np.arange(hidden.shape[1]) < lengths[:, None]) / lengths[:, None]
    return list(np.matmul(weights[:, None, :].astype(np.float32), hidden.astype(np.float32, copy=False))[:, 0])


def _cls(hidden: Array, lengths: Array) -> Sequence[Array]:
    return _as_it_is(hidden[:, 0], lengths)


def _last(hidden: Array, lengths: Array) -> Sequence[Array]:
    return _as_it_is(hidden[np.arange(len(lengths)), lengths - 1], lengths)


def _max(hidden: Array, lengths: Array) -> Sequence[Array]:
    return [row[:length].max(axis=0) for row, length in zip(_as_it_is(hidden, lengths), lengths, strict=True)]


def _none(hidden: Array, lengths: Array) -> Sequence[Array]:
    return [row[:length] for row, length in zip(_as_it_is(hidden, lengths), lengths, strict=True)]


_POOLS: dict[str, Pool] = {"mean": _mean, "cls": _cls, "last": _last, "max": _max, "none": _none}


def _activated(logits: Array, text: Text) -> Array:
    if text.activation == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-logits)), np.float32)
    if text.activation == "softmax":
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)
    return logits


def _padded(rows: Sequence[Array]) -> Array:
    """Token vectors of several rows as one array, zeros after the shorter ones."""
    made = np.zeros((len(rows), max(len(row) for row in rows), rows[0].shape[1]), np.float32)
    for i, row in enumerate(rows):
        made[i, : len(row)] = row
    return made
