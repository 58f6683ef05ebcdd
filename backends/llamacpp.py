"""llama.cpp, embedded: a GGUF file served by xllamacpp in a process of its own. The default where there is no GPU."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from backends.config import ModelConfig
from backends.engine.command import Command
from backends.engine.instances import instances, replica_count, starts_processes
from backends.engine.llamacpp_dialect import Adapter
from backends.engine.llamacpp_server import Arguments
from backends.engine.replicas import EngineModel
from backends.errors import InvalidRequest
from backends.model import Capability, Endpoints, Models, OpenAIRequest, OpenAIResponse

_TOKENS = {Capability.TOKENIZE, Capability.DETOKENIZE}
_GENERATE = frozenset(
    {
        Capability.CHAT,
        Capability.COMPLETIONS,
        Capability.RESPONSES,
        Capability.MESSAGES,
        Capability.COUNT_TOKENS,
        *_TOKENS,
    }
)
_EMBED = frozenset({Capability.EMBEDDINGS, *_TOKENS})
_POOLINGS = ("", "mean", "cls", "last")


def launch(config: ModelConfig, *, runtime_dir: str) -> Sequence[Command]:
    """One llama.cpp server an instance. Raises `InvalidRequest` that names the argument at fault."""
    arguments = _arguments(config)
    if not starts_processes(config):
        return []
    folder = Path(config.path)
    for key in ("model", "chat_template"):
        value = getattr(arguments, key)
        if value and not (folder / value).is_file():
            raise InvalidRequest(f"Model {config.name!r}: {key} {str(folder / value)!r} is no file.", param=key)
    template = str(folder / arguments.chat_template) if arguments.chat_template else ""
    resolved = msgspec.structs.replace(arguments, model=str(folder / arguments.model), chat_template=template)
    argv = (sys.executable, "-m", "backends.engine.llamacpp_server", "--name", config.name)
    options = ("--arguments", msgspec.json.encode(resolved).decode())
    return [
        Command(
            argv=(*argv, "--socket", instance.socket, *options),
            address=f"unix:{instance.socket}",
            env=instance.env,
            context_length=arguments.n_ctx,
        )
        for instance in instances(config, runtime_dir)
    ]


def connect(config: ModelConfig, endpoints: Endpoints, models: Models) -> EngineModel:  # noqa: ARG001  # every kind's
    """A model that llama.cpp serves."""
    arguments = _arguments(config)
    return _LlamaCppModel(
        config,
        endpoints,
        capabilities=_EMBED if arguments.embedding else _GENERATE,
        parallelism=arguments.n_parallel * replica_count(config, endpoints),
        adapter=Adapter(max_tokens=arguments.max_tokens, context_length=arguments.n_ctx),
    )


class _Messages(msgspec.Struct):
    messages: msgspec.Raw = msgspec.Raw(b"")
    return_token_strs: bool | None = None


_decode_messages = msgspec.json.Decoder(_Messages).decode
_decode_prompt = msgspec.json.Decoder(dict[str, str]).decode


class _LlamaCppModel(EngineModel):
    """Messages are tokenized in two steps, as llama.cpp has them: the chat template, then the tokenizer."""

    async def respond(self, request: OpenAIRequest) -> OpenAIResponse:
        if request.path == "/tokenize":
            asked = _decode_messages(request.body)
            if asked.messages:
                templated = await super().respond(replace(request, path="/apply-template"))
                if templated.status >= 400:
                    return templated
                try:
                    prompt = _decode_prompt(b"".join([part async for part in templated.body]))["prompt"]
                finally:
                    await templated.body.aclose()
                text = {"prompt": prompt, "return_token_strs": asked.return_token_strs}
                request = replace(request, body=msgspec.json.encode(text))
        return await super().respond(request)


def _arguments(config: ModelConfig) -> Arguments:
    given = config.arguments if starts_processes(config) else {"model": "", **config.arguments}
    try:
        arguments = msgspec.convert(given, Arguments)
    except msgspec.ValidationError as error:
        known = ", ".join(Arguments.__struct_fields__)
        raise InvalidRequest(
            f"Model {config.name!r}: the engine arguments are wrong: {error}. llama.cpp takes {known}."
        ) from error
    for key in ("n_parallel", "n_ctx", "n_batch", "max_tokens"):
        if getattr(arguments, key) < 1:
            raise InvalidRequest(f"Model {config.name!r}: {key!r} is less than 1.", param=key)
    if arguments.pooling not in _POOLINGS:
        raise InvalidRequest(f"Model {config.name!r}: 'pooling' is none of mean, cls and last.", param="pooling")
    return arguments
