"""PyTorch models in workers: TorchScript and `torch.export`."""

from __future__ import annotations

from backends.worker.libraries import connect, launch

__all__ = ["connect", "launch"]
