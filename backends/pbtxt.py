"""The text of a `config.pbtxt` as Triton's JSON of it: the one place that knows the protobuf definitions."""

from __future__ import annotations

from typing import Any

# Triton tells 64-bit numbers as numbers, with this one exception.
_AS_TEXT = "inference.ModelSequenceBatching.InitialState.dims"


class PbtxtError(Exception):
    """What is wrong with the text."""


def read_text(text: str) -> dict[str, Any]:
    """The fields of a configuration in protobuf's text format, unset scalars included. Raises `PbtxtError`."""
    # Imported here because only the supervisor reads configurations.
    from google.protobuf import text_format

    from backends.protobuf import model_config_pb2

    try:
        return _fields(text_format.Parse(text, model_config_pb2.ModelConfig()))
    except text_format.ParseError as error:
        raise PbtxtError(str(error)) from error


def read_json(text: str) -> dict[str, Any]:
    """The same from JSON, as a client sends it to load a model under another configuration. Raises `PbtxtError`."""
    from google.protobuf import json_format

    from backends.protobuf import model_config_pb2

    try:
        return _fields(json_format.Parse(text, model_config_pb2.ModelConfig()))
    except json_format.ParseError as error:
        raise PbtxtError(str(error)) from error


def _fields(message: Any) -> dict[str, Any]:
    from google.protobuf import json_format

    fields: dict[str, Any] = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return _with_numbers(fields, message.DESCRIPTOR)


def _with_numbers(fields: dict[str, Any], descriptor: Any) -> dict[str, Any]:
    """Protobuf's JSON has 64-bit integers as text; fields come in the order of their numbers."""
    ordered = {}
    for field in descriptor.fields:
        if field.name not in fields:
            continue
        value = fields[field.name]
        kind, is_map = field.message_type, False
        if kind is not None and kind.GetOptions().map_entry:
            kind, is_map = kind.fields_by_name["value"].message_type, True
        if kind is not None:
            value = _each(value, is_map=is_map, convert=lambda part, kind=kind: _with_numbers(part, kind))
        elif field.cpp_type in {field.CPPTYPE_INT64, field.CPPTYPE_UINT64} and field.full_name != _AS_TEXT:
            value = _each(value, is_map=False, convert=int)
        ordered[field.name] = value
    return ordered


def _each(value: Any, *, is_map: bool, convert: Any) -> Any:
    """Cases: a map to messages, a repeated field, a single one."""
    if is_map:
        return {key: convert(part) for key, part in value.items()}
    return [convert(part) for part in value] if isinstance(value, list) else convert(value)
