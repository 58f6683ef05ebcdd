"""The `python` kind: a Triton `model.py`, unchanged, in a worker."""

from __future__ import annotations

from backends.config import ModelConfig
from backends.model import Endpoints, Models
from backends.worker.client import WorkerModel
from backends.worker.launching import launch

__all__ = ["connect", "launch"]


def connect(config: ModelConfig, endpoints: Endpoints, models: Models) -> WorkerModel:
    """A model that takes tensors and has no OpenAI operation."""
    return WorkerModel(config, endpoints, models)
