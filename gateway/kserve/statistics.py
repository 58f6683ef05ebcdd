"""Triton's statistics extension: what models have done, as its JSON has it."""

from __future__ import annotations

from typing import Any

import msgspec

from backends.statistics import ModelStatistics


def document(found: list[tuple[str, int, ModelStatistics]]) -> dict[str, Any]:
    """The answer of the statistics endpoints for these versions of models."""
    return {"model_stats": [_of_version(name, version, statistics) for name, version, statistics in found]}


def _of_version(name: str, version: int, statistics: ModelStatistics) -> dict[str, Any]:
    return {
        "name": name,
        "version": str(version),
        "last_inference": statistics.last_inference_ms,
        "inference_count": statistics.inference_count,
        "execution_count": statistics.execution_count,
        "inference_stats": _durations(statistics.inference_stats),
        "response_stats": {str(index): _durations(one) for index, one in sorted(statistics.response_stats.items())},
        "batch_stats": [
            {"batch_size": size, **_durations(one)} for size, one in sorted(statistics.batch_stats.items())
        ],
        "memory_usage": [],
    }


def _durations(struct: msgspec.Struct) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(struct)
    return found
