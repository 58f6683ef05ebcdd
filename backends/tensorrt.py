"""TensorRT plans in workers, on NVIDIA GPUs."""

from __future__ import annotations

from backends.worker.libraries import connect, launch

__all__ = ["connect", "launch"]
