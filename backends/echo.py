"""The `echo` kind: our deterministic engine, for tests and for trying a set-up out without a model."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from backends.config import ModelConfig
from backends.engine.command import Command
from backends.engine.continuation import Fields, by_flag, continued, limited
from backends.engine.instances import instances, replica_count
from backends.engine.replicas import EngineModel
from backends.errors import InvalidRequest
from backends.model import ENGINE_CAPABILITIES, Endpoints, Models, OpenAIRequest, OpenAIResponse
from backends.simulator.options import Options, flags, read

_START_SECONDS = 30.0


def launch(config: ModelConfig, *, runtime_dir: str) -> Sequence[Command]:
    """One process for each instance of `instance_group`, on a Unix socket; `model.json` has the options.

    Raises `InvalidRequest` naming the key that is not an option or has a wrong value.
    """
    options = _options(config)
    start_timeout = _START_SECONDS + options.start_delay_ms / 1000
    return [
        Command(
            argv=(
                *(sys.executable, "-m", "backends.echo"),
                *("--uds", instance.socket, "--model", config.name, *flags(options)),
            ),
            address=f"unix:{instance.socket}",
            env=instance.env,
            start_timeout_seconds=start_timeout,
        )
        for instance in instances(config, runtime_dir)
    ]


def connect(config: ModelConfig, endpoints: Endpoints, models: Models) -> EngineModel:  # noqa: ARG001  # every kind's
    """The model in front of its processes; it offers every operation."""
    parallelism = _options(config).slots * replica_count(config, endpoints)
    return EngineModel(config, endpoints, capabilities=ENGINE_CAPABILITIES, parallelism=parallelism, adapter=_Adapter())


class _Adapter:
    """It speaks as vLLM does, and nothing is to be bridged."""

    def request(self, request: OpenAIRequest) -> OpenAIRequest:
        return request

    def response(self, request: OpenAIRequest, response: OpenAIResponse) -> OpenAIResponse:  # noqa: ARG002  # the protocol
        return response

    def limited(self, fields: Fields, path: str) -> Fields:
        return limited(fields, path)

    def continuation(self, fields: Fields, path: str, text: str) -> Fields | None:
        return continued(fields, path, text, chat=by_flag)


def _options(config: ModelConfig) -> Options:
    for key in config.arguments:
        if key not in Options.__struct_fields__:
            known = ", ".join(Options.__struct_fields__)
            raise InvalidRequest(f"Model {config.name!r}: model.json has no option {key!r}; it has {known}.", param=key)
    try:
        return read(config.arguments)
    except ValueError as error:
        raise InvalidRequest(f"Model {config.name!r}: model.json: {error}") from error


if __name__ == "__main__":
    from backends.simulator.app import main

    sys.exit(main())
