"""The text of a `config.pbtxt` as Triton's JSON of it: the one place that knows the protobuf definitions."""

from __future__ import annotations

import json
from typing import Any

# Triton tells 64-bit numbers as numbers, with these exceptions.
_AS_TEXT = frozenset(
    {
        "inference.ModelSequenceBatching.InitialState.dims",
        "inference.ModelInstanceGroup.SecondaryDevice.device_id",
    }
)
_TRUTHS = dict.fromkeys(("true", "t", "yes", "y", "1"), True) | dict.fromkeys(("false", "f", "no", "n", "0"), False)


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
    """The same from JSON, as a client sends it to load a model under another configuration. Raises `PbtxtError`.

    As protobuf's C++ reads it, which Triton has: more is taken than its Python takes (`_plain`).
    """
    from google.protobuf import json_format

    from backends.protobuf import model_config_pb2

    message = model_config_pb2.ModelConfig()
    try:
        return _fields(json_format.ParseDict(_plain(json.loads(text), message.DESCRIPTOR), message))
    except (ValueError, RecursionError, json_format.ParseError) as error:
        raise PbtxtError(str(error)) from error


def _plain(value: Any, kind: Any) -> dict[str, Any]:
    """An object for a message of this kind without what only C++ takes. Raises `PbtxtError` for anything else.

    Cases: one element where there may be several, null among them, words for truth, names of values in small letters.
    """
    if not isinstance(value, dict):
        raise PbtxtError(f"{kind.full_name} is no object")
    found = {}
    for name, part in value.items():
        field = kind.fields_by_name.get(name) or kind.fields_by_camelcase_name.get(name)
        if field is None or part is None:
            found[name] = part
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["value"]
            found[name] = {key: _settled(each, inner) for key, each in part.items()} if isinstance(part, dict) else part
        elif field.default_value == []:
            several = part if isinstance(part, list) else [part]
            found[name] = [_settled(each, field) for each in several if each is not None]
        else:
            found[name] = _settled(part, field)
    return found


def _settled(value: Any, field: Any) -> Any:
    if field.message_type is not None:
        return _plain(value, field.message_type)
    if isinstance(value, str) and field.cpp_type == field.CPPTYPE_BOOL:
        return _TRUTHS.get(value.lower(), value)
    if isinstance(value, str) and field.cpp_type == field.CPPTYPE_ENUM:
        return value.upper()
    return value


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
        elif field.cpp_type in {field.CPPTYPE_INT64, field.CPPTYPE_UINT64} and field.full_name not in _AS_TEXT:
            value = _each(value, is_map=False, convert=int)
        ordered[field.name] = value
    return ordered


def _each(value: Any, *, is_map: bool, convert: Any) -> Any:
    """Cases: a map to messages, a repeated field, a single one."""
    if is_map:
        return {key: convert(part) for key, part in value.items()}
    return [convert(part) for part in value] if isinstance(value, list) else convert(value)
