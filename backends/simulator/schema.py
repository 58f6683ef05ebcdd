"""The smallest value that a simple JSON schema accepts: what a request for structured output is answered with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_DEPTH_LIMIT = 32


def instance(schema: Mapping[str, Any]) -> object:
    """A minimal valid value: required properties only, lowest bounds, first of `enum` and of `anyOf`.

    Knows `$ref` within the document, `const`, `default`, `enum`, `anyOf`, `oneOf`, `allOf` and the simple types;
    what it does not know (patterns, formats) it ignores.
    """
    return _value(schema, schema, 0)


def _value(schema: Any, root: Mapping[str, Any], depth: int) -> object:
    if not isinstance(schema, Mapping) or depth > _DEPTH_LIMIT:
        return None
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return _value(_resolve(reference, root), root, depth + 1)
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return _value(schema[key][0], root, depth + 1)
    if schema.get("allOf"):
        merged: dict[str, Any] = {}
        for part in schema["allOf"]:
            merged |= _resolve(part["$ref"], root) if "$ref" in part else part
        return _value(merged, root, depth + 1)
    return _typed(schema, root, depth)


def _typed(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> object:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    match kind:
        case "string":
            return "x" * int(schema.get("minLength", 0))
        case "integer":
            return _lowest(schema)
        case "number":
            return float(_lowest(schema))
        case "boolean":
            return False
        case "array":
            return [_value(schema.get("items", {}), root, depth + 1) for _ in range(int(schema.get("minItems", 0)))]
        case "object" | None if kind or "properties" in schema:
            properties = schema.get("properties", {})
            return {name: _value(properties.get(name, {}), root, depth + 1) for name in schema.get("required", ())}
    return None


def _lowest(schema: Mapping[str, Any]) -> int:
    """The whole number nearest to zero within the bounds."""
    low, high = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + 1
    if "exclusiveMaximum" in schema:
        high = schema["exclusiveMaximum"] - 1
    if low is not None and low > 0:
        return int(-(-low // 1))
    if high is not None and high < 0:
        return int(high // 1)
    return 0


def _resolve(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    node: Any = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        if part:
            node = node.get(part.replace("~1", "/").replace("~0", "~"), {})
    return node if isinstance(node, Mapping) else {}
