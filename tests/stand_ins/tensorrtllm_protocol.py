"""Requests as `trtllm-serve` 1.2 takes them: unknown fields forbidden, and what it says of the others."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class StreamOptions(Strict):
    include_usage: bool | None = True
    continuous_usage_stats: bool | None = False


class ResponseFormat(Strict):
    type: Literal["text", "json", "json_object", "regex", "ebnf", "structural_tag"]
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    regex: str | None = None
    ebnf: str | None = None
    format: dict[str, Any] | None = None

    @model_validator(mode="after")
    def check(self) -> ResponseFormat:
        for kind, value in (("json", self.schema_), ("regex", self.regex), ("ebnf", self.ebnf)):
            if self.type == kind and value is None:
                name = "schema" if kind == "json" else kind
                raise ValueError(
                    f"response_format.{name} is required for response_format.type == {kind!r}, but got None."
                )
        return self


class Function(Strict):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Strict):
    type: Literal["function"] = "function"
    function: Function


class FunctionName(Strict):
    name: str


class NamedTool(Strict):
    type: Literal["function"] = "function"
    function: FunctionName


class Generation(Strict):
    """The fields that chat and text completions share."""

    model: str
    n: int = 1
    best_of: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = []
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    user: str | None = None
    frequency_penalty: float | None = 0.0
    presence_penalty: float | None = 0.0
    logit_bias: dict[str, float] | None = None
    response_format: ResponseFormat | None = None
    lora_request: dict[str, Any] | None = None
    use_beam_search: bool = False
    top_k: int = Field(default=0, ge=0)
    top_p_min: float = 0.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    early_stopping: bool = False
    stop_token_ids: list[int] | None = []
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None
    prompt_ignore_length: int | None = 0
    add_special_tokens: bool = False
    disaggregated_params: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def check_stream_options(cls, data: dict[str, Any]) -> dict[str, Any]:
        if data.get("stream_options") is not None and not data.get("stream"):
            raise ValueError("stream_options can only be set if stream is true")
        return data

    @model_validator(mode="before")
    @classmethod
    def check_suffix(cls, data: dict[str, Any]) -> dict[str, Any]:
        if data.get("suffix"):
            raise ValueError("suffix is not supported")
        return data


class ChatRequest(Generation):
    messages: list[dict[str, Any]]
    prompt_token_ids: list[int] | None = None
    max_completion_tokens: int | None = Field(default=None, validation_alias="max_tokens")
    logprobs: bool | None = False
    top_logprobs: int | None = 0
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto"] | NamedTool | None = "none"
    reasoning_effort: Literal["low", "medium", "high"] | None = "low"
    echo: bool = False
    add_generation_prompt: bool = True
    documents: list[dict[str, str]] | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    media_io_kwargs: dict[str, Any] | None = None
    cache_salt: str | None = None

    @model_validator(mode="before")
    @classmethod
    def check_tool_choice(cls, data: dict[str, Any]) -> dict[str, Any]:
        if "tool_choice" not in data and data.get("tools"):
            data["tool_choice"] = "auto"
        if data.get("tool_choice", "none") != "none" and data.get("tools") is None:
            raise ValueError("When using `tool_choice`, `tools` must be set.")
        return data

    @model_validator(mode="before")
    @classmethod
    def check_logprobs(cls, data: dict[str, Any]) -> dict[str, Any]:
        if data.get("top_logprobs") and not data.get("logprobs"):
            raise ValueError("logprobs must be true when using top_logprobs")
        return data


class CompletionRequest(Generation):
    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = None
    logprobs: int | None = None
    echo: bool | None = False
    suffix: str | None = None
    return_context_logits: bool = False
    detokenize: bool = True

    @model_validator(mode="before")
    @classmethod
    def check_logprobs(cls, data: dict[str, Any]) -> dict[str, Any]:
        if data.get("logprobs") is not None:
            raise ValueError("logprobs is not supported")
        return data
