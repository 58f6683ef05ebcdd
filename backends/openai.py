"""A server that someone else runs and that speaks the OpenAI API, by its URL."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import msgspec

from backends.config import ModelConfig
from backends.engine import (
    addresses,
    llamacpp_dialect,
    naming,
    routing,
    sglang_dialect,
    tensorrtllm_dialect,
    vllm_dialect,
)
from backends.engine.command import Command
from backends.engine.continuation import Fields, continued
from backends.engine.instances import replica_count
from backends.engine.llamacpp_server import Arguments
from backends.engine.replicas import Adapter, EngineModel
from backends.errors import InvalidRequest
from backends.model import ENGINE_CAPABILITIES, Capability, Endpoints, Headers, Models, OpenAIRequest, OpenAIResponse

_OWN_PARAMETERS = (
    *("api_key_env", "model", "capabilities", "max_inflight_requests"),
    *("engine", "context_length", "max_tokens"),
)
_PARAMETERS = (*_OWN_PARAMETERS, *sorted(addresses.PARAMETERS | naming.PARAMETERS | routing.PARAMETERS))


def launch(config: ModelConfig, *, runtime_dir: str) -> Sequence[Command]:  # noqa: ARG001  # every kind's
    """Nothing: somebody else starts it. Raises `InvalidRequest` that names the parameter at fault."""
    addresses.check_remote(config, _PARAMETERS)
    _capabilities(config)
    _parallelism(config, Endpoints())
    _dialect(config)
    _authorization(config)
    return []


def connect(config: ModelConfig, endpoints: Endpoints, models: Models) -> EngineModel:  # noqa: ARG001  # every kind's
    """A model of a remote server.

    `api_key_env` names the environment variable whose value goes out as the bearer token. `model` is the
    remote's own name for the model. `capabilities` (all of them unless told) is a list by comma. `engine` says what
    runs there, and so what is bridged, where its load is read and how its broken streams go on; `context_length` is
    what it cannot tell, `max_tokens` the cap of an answer where llama.cpp runs.
    """
    return EngineModel(
        config,
        endpoints,
        capabilities=_capabilities(config),
        parallelism=_parallelism(config, endpoints),
        adapter=_adapter(config),
        headers=_authorization(config),
    )


_decode_fields = msgspec.json.Decoder(Fields).decode


class _Plain:
    """Of a remote of unknown make: nothing is bridged, and only a text completion can be gone on with."""

    def request(self, request: OpenAIRequest) -> OpenAIRequest:
        return request

    def response(self, request: OpenAIRequest, response: OpenAIResponse) -> OpenAIResponse:  # noqa: ARG002  # the protocol
        return response

    def limited(self, fields: Fields, path: str) -> Fields:  # noqa: ARG002  # the protocol
        return fields

    def continuation(self, fields: Fields, path: str, text: str) -> Fields | None:
        return continued(fields, path, text, chat=None)


class _Renaming:
    """Puts the remote's own name, where it has one, into a request; the rest is its dialect's."""

    def __init__(self, name: str, dialect: Adapter) -> None:
        self._name = msgspec.Raw(msgspec.json.encode(name)) if name else None
        self._dialect = dialect
        self.response = dialect.response
        self.limited = dialect.limited
        self.continuation = dialect.continuation

    def request(self, request: OpenAIRequest) -> OpenAIRequest:
        if self._name is not None and request.body:
            fields = _decode_fields(request.body)
            fields["model"] = self._name
            request = replace(request, body=msgspec.json.encode(fields))
        return self._dialect.request(request)


_DIALECTS: Mapping[str, Callable[[ModelConfig], Adapter]] = {
    "llamacpp": lambda config: llamacpp_dialect.Adapter(
        max_tokens=_number(config, "max_tokens") or Arguments.max_tokens,
        context_length=_number(config, "context_length") or Arguments.n_ctx,
    ),
    "sglang": lambda _: sglang_dialect.Adapter(),
    "tensorrtllm": lambda config: tensorrtllm_dialect.Adapter(context_length=_number(config, "context_length")),
    "vllm": lambda _: vllm_dialect.Adapter(),
}


def _adapter(config: ModelConfig) -> Adapter:
    name = config.parameters.get("model", "")
    return _Renaming(name if name != config.name else "", _dialect(config))


def _dialect(config: ModelConfig) -> Adapter:
    engine = config.parameters.get("engine", "").strip()
    if not engine:
        return _Plain()
    if engine not in _DIALECTS:
        raise _wrong(config, "engine", f"names none that is known; there are {', '.join(_DIALECTS)}")
    return _DIALECTS[engine](config)


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
        return ENGINE_CAPABILITIES
    try:
        return frozenset(Capability(name.strip()) for name in names.split(","))
    except ValueError as error:
        known = ", ".join(capability.value for capability in Capability)
        raise _wrong(config, "capabilities", f"holds an unknown one ({error}); there are {known}") from error


def _parallelism(config: ModelConfig, endpoints: Endpoints) -> int | None:
    """What each endpoint runs at once, over all of them."""
    each = _number(config, "max_inflight_requests")
    return None if each is None else each * replica_count(config, endpoints)


def _number(config: ModelConfig, parameter: str) -> int | None:
    text = config.parameters.get(parameter, "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise _wrong(config, parameter, f"is not a positive number: {text!r}")
    return int(text)


def _wrong(config: ModelConfig, key: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"Model {config.name!r}: the parameter {key!r} {why}.", param=key)
