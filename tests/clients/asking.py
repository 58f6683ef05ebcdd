"""What the clients ask for: questions, a tool and a schema, in the forms of both official clients."""

from __future__ import annotations

from typing import Any

COUNT: list[Any] = [{"role": "user", "content": "Count from one to twenty, in words."}]
WEATHER: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
PERSON: list[Any] = [{"role": "user", "content": "Invent a person."}]
STORY: list[Any] = [{"role": "user", "content": "Write a long story about a dragon."}]

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 40}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "strict": True,
        "parameters": CITY,
    },
}
OTHER_TOOL: Any = {
    "type": "function",
    "function": {"name": "tell_joke", "parameters": {"type": "object", "properties": {}}},
}
RESPONSES_TOOL: Any = {"type": "function", **TOOL["function"]}
MESSAGES_TOOL: Any = {
    "name": "get_weather",
    "description": "The weather in a city",
    "input_schema": CITY,
    "strict": True,
}

PERSON_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
