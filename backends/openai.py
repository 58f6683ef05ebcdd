"""A server that someone else runs and that speaks the OpenAI API, by its URL."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from backends.config import ModelConfig
from backends.engine import addresses, naming, routing
from backends.engine.command import Command
from backends.engine.continuation import Fields, continued
from backends.engine.replicas import EngineModel
from backends.errors import InvalidRequest
from backends.model import Capability, Endpoints, Headers, Models, OpenAIRequest, OpenAIResponse

_OWN_PARAMETERS = ("api_key_env", "model", "capabilities", "max_inflight_requests")
_PARAMETERS = (*_OWN_PARAMETERS, *sorted(addresses.PARAMETERS | naming.PARAMETERS | routing.PARAMETERS))


def launch(config: ModelConfig, *, runtime_dir: str) -> Sequence[Command]:  # noqa: ARG001  # every kind's
    """Nothing: somebody else starts it. Raises `InvalidRequest` that names the parameter at fault."""
    for key in config.parameters:
        if key not in _PARAMETERS:
            raise _wrong(config, key, f"is unknown; there are {', '.join(_PARAMETERS)}")
    if not addresses.PARAMETERS & config.parameters.keys():
        raise _wrong(config, "endpoints", "is missing: it lists URLs, separated by commas")
    _capabilities(config)
    _parallelism(config)
    _authorization(config)
    return []


def connect(config: ModelConfig, endpoints: Endpoints, models: Models) -> EngineModel:  # noqa: ARG001  # every kind's
    """A model of a remote server.

    `api_key_env` names the environment variable whose value goes out as the bearer token. `model` is the
    remote's own name for the model. `capabilities` (all of them unless told) is a list by comma.
    """
    name = config.parameters.get("model", "")
    return EngineModel(
        config,
        endpoints,
        capabilities=_capabilities(config),
        parallelism=_parallelism(config),
        adapter=_Adapter(name if name != config.name else ""),
        headers=_authorization(config),
    )


_decode_fields = msgspec.json.Decoder(Fields).decode


class _Adapter:
    """Puts the remote's own name, where it has one, into a request; the other fields stay as the client wrote them."""

    def __init__(self, name: str) -> None:
        self._name = msgspec.Raw(msgspec.json.encode(name)) if name else None

    def request(self, request: OpenAIRequest) -> OpenAIRequest:
        if self._name is None or not request.body:
            return request
        fields = _decode_fields(request.body)
        fields["model"] = self._name
        return replace(request, body=msgspec.json.encode(fields))

    def response(self, request: OpenAIRequest, response: OpenAIResponse) -> OpenAIResponse:  # noqa: ARG002  # the protocol
        return response

    def continuation(self, fields: Fields, path: str, text: str) -> Fields | None:
        return continued(fields, path, text, chat=None)


def _authorization(config: ModelConfig) -> Headers:
    variable = config.parameters.get("api_key_env", "")
    if not variable:
        return ()
    key = os.environ.get(variable, "")
    if not key or not key.isprintable() or not key.isascii():
        raise _wrong(config, "api_key_env", f"names the environment variable {variable!r}, which holds no key")
    return ((b"authorization", b"Bearer " + key.encode()),)


def _capabilities(config: ModelConfig) -> frozenset[Capability]:
    names = config.parameters.get("capabilities", "")
    if not names:
        return frozenset(Capability)
    try:
        return frozenset(Capability(name.strip()) for name in names.split(","))
    except ValueError as error:
        known = ", ".join(capability.value for capability in Capability)
        raise _wrong(config, "capabilities", f"holds an unknown one ({error}); there are {known}") from error


def _parallelism(config: ModelConfig) -> int | None:
    text = config.parameters.get("max_inflight_requests", "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise _wrong(config, "max_inflight_requests", f"is not a positive number: {text!r}")
    return int(text)


def _wrong(config: ModelConfig, key: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"Model {config.name!r}: the parameter {key!r} {why}.", param=key)
