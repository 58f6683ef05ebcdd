"""Which requests of a model may share a batch: those with the same inputs of the same shapes, as Triton has it."""

from __future__ import annotations

from typing import Any

from backends.config import ModelConfig
from backends.worker.scheduling.scheduler import Entry


class Kinship:
    """What requests must have in common to run together: the set of inputs, and the shapes of those not ragged."""

    __slots__ = ("_ragged",)

    def __init__(self, ragged: frozenset[str]) -> None:
        self._ragged = ragged

    def of(self, entry: Entry) -> Any:
        """Equal for two entries that are kin."""
        ragged = self._ragged
        shapes = [(tensor.name, () if tensor.name in ragged else tensor.shape[1:]) for tensor in entry.tensors]
        shapes.sort()
        return shapes


def kinship_of(config: ModelConfig) -> Kinship | None:
    """How to tell which requests of a model may share a batch; None where all of them may."""
    ragged = frozenset(tensor.name for tensor in config.input if tensor.allow_ragged_batch)
    fixed = [tensor for tensor in config.input if tensor.name not in ragged]
    is_uniform = not any(-1 in tensor.dims or tensor.is_shape_tensor for tensor in fixed)
    if is_uniform and config.input and not any(tensor.optional for tensor in config.input):
        return None
    return Kinship(ragged)


def are_kin(kinship: Kinship, first: Entry, entry: Entry) -> bool:
    """Whether two entries may share a batch."""
    if first.kinship is None:
        first.kinship = kinship.of(first)
    if entry.kinship is None:
        entry.kinship = kinship.of(entry)
    return bool(first.kinship == entry.kinship)
