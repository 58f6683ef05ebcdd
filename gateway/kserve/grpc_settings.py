"""Triton's trace and logging extensions over gRPC: settings as protobuf has them, errors as Triton words them there."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from backends.errors import Code, InferenceError
from backends.protobuf import service_pb2 as pb
from gateway.kserve import log_settings, trace_settings
from gateway.kserve.dataplane import DataPlane
from gateway.tenants import Tenant

_LOG_KINDS = {
    "log_info": ("bool_param", "boolean"),
    "log_warning": ("bool_param", "boolean"),
    "log_error": ("bool_param", "boolean"),
    "log_verbose_level": ("uint32_param", "int32"),
    "log_format": ("string_param", "string"),
}
"""The field that holds a setting, and what Triton calls it."""

_LOG_FORMATS = ("default", "ISO8601")
_TRACE_NUMBERS = ("trace_rate", "trace_count", "log_frequency")


def logs(dataplane: DataPlane, request: Any) -> Any:
    """Change what the request names, tell all. Raises `InferenceError`."""
    given = request.settings
    if given:
        wanted = {"log_file": ""} if "log_file" in given else _log_values(given)
        with dataplane.state.changing() as document:
            log_settings.apply(document.logs, wanted)
    answer = pb.LogSettingsResponse()
    for name, value in msgspec.structs.asdict(dataplane.state.read().logs).items():
        told = answer.settings[name]
        setattr(told, _LOG_KINDS.get(name, ("string_param", ""))[0], value)
    return answer


def traces(dataplane: DataPlane, request: Any, tenant: Tenant) -> Any:
    """The same of a model's settings, the server's without a name."""
    name = request.model_name
    if name and not dataplane.is_known(name, tenant):
        raise InferenceError(f"Request for unknown model : {name}", Code.INVALID_ARG)
    if request.settings:
        trace_settings.apply(dataplane.state, name, _trace_values(request.settings))
    answer = pb.TraceSettingResponse()
    for key, value in trace_settings.settings_of(dataplane.state, name).items():
        answer.settings[key].value.extend(value if isinstance(value, list) else [value])
    return answer


def _log_values(given: Any) -> dict[str, Any]:
    values = {}
    for key, (field, word) in _LOG_KINDS.items():
        if key not in given:
            continue
        if given[key].WhichOneof("parameter_choice") != field:
            raise InferenceError(f"expect {word} for '{key}'", Code.INVALID_ARG)
        values[key] = getattr(given[key], field)
    if values.get("log_format", "default") not in _LOG_FORMATS:
        raise InferenceError(f"invalid argument for log_format, got: {values['log_format']}", Code.INVALID_ARG)
    return values


def _trace_values(given: Any) -> dict[str, Any]:
    if "trace_file" in given:
        return {"trace_file": ""}
    values: dict[str, Any] = {}
    if "trace_level" in given:
        values["trace_level"] = list(given["trace_level"].value) or None
    for key in _TRACE_NUMBERS:
        if key not in given:
            continue
        texts = given[key].value
        if len(texts) > 1:
            raise InferenceError(f"expect only 1 value for '{key}'", Code.INVALID_ARG)
        values[key] = texts[0] if texts else None
        if key == "trace_count" and texts and re.fullmatch(r"-[2-9]|-\d{2,}", texts[0]):  # HTTP's text lacks a space
            raise InferenceError(f"Unable to parse '{key}'. Expecting value >= -1, got: {texts[0]}", Code.INVALID_ARG)
    return values
