"""The processes of a model's `instance_group`: how many, each with a socket and the GPUs of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from backends.config import ModelConfig
from backends.engine.addresses import PARAMETERS as REMOTE_PARAMETERS
from backends.engine.environment import socket_path
from backends.errors import InvalidRequest
from backends.model import Endpoints

_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Instance:
    """Where one engine process listens, and what its environment has beside that of the others."""

    socket: str
    env: Mapping[str, str]


def instances(config: ModelConfig, runtime_dir: str) -> list[Instance]:
    """The processes to start: `count` for each group, or for each of its `gpus`, as Triton counts them.

    Each sees the one GPU it is for; those of a group of `KIND_MODEL` see all of the group's, to divide a model among
    them. Without an `instance_group` it is one process, none where the model has endpoints by URL. Raises
    `InvalidRequest` for a GPU that this machine's `CUDA_VISIBLE_DEVICES` does not show.
    """
    return [
        Instance(socket_path(config, runtime_dir, number), _environment(config, gpus))
        for number, gpus in enumerate(_shares(config))
    ]


def starts_processes(config: ModelConfig) -> bool:
    """Whether any engine of the model is ours to start."""
    return any(True for _ in _shares(config))


def replica_count(config: ModelConfig, endpoints: Endpoints) -> int:
    """How many engines serve the model: those of the last snapshot, before the first those of the configuration."""
    return len(endpoints.current) or sum(1 for _ in _shares(config)) or 1


def _shares(config: ModelConfig) -> Iterator[tuple[int, ...]]:
    """The GPUs of each process; an empty share sees whatever the supervisor sees."""
    if not config.instance_group and not REMOTE_PARAMETERS & config.parameters.keys():
        yield ()
    for group in config.instance_group:
        is_whole = group.kind == "KIND_MODEL" or not group.gpus
        for share in [group.gpus] if is_whole else [(gpu,) for gpu in group.gpus]:
            for _ in range(group.count):
                yield share


def _environment(config: ModelConfig, gpus: tuple[int, ...]) -> Mapping[str, str]:
    """GPUs are numbered among those that the supervisor itself may see."""
    if not gpus:
        return {}
    visible = [name.strip() for name in os.environ.get(_VISIBLE, "").split(",") if name.strip()]
    if not visible:
        return {_VISIBLE: ",".join(map(str, gpus))}
    if max(gpus) >= len(visible):
        raise InvalidRequest(
            f"Model {config.name!r}: instance_group names GPU {max(gpus)}, and {_VISIBLE} shows {len(visible)}.",
            param="instance_group",
        )
    return {_VISIBLE: ",".join(visible[gpu] for gpu in gpus)}
