"""What becomes of a request's fields on the way to one engine: a table in each dialect, and how tables are read.

So that one request works on all engines. What a table does not name passes as the client wrote it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from backends.errors import UnsupportedOperation
from backends.model import OpenAIRequest, OpenAIResponse

Fields = dict[str, msgspec.Raw]

_CONSTRAINTS = ("json", "regex", "choice", "grammar")
CONSTRAINTS = frozenset({"structured_outputs", *(f"guided_{name}" for name in _CONSTRAINTS)})
"""vLLM's words for constrained output: see `take_constraint`."""

DROPPED = b"x-tritium-dropped-params"
"""Header of an answer: the fields of its request that the engine has no word for, which were left out, by comma."""

_NULL = b"null"
_ABSENT = msgspec.Raw(b"")
_log = logging.getLogger(__name__)
_decode_fields = msgspec.json.Decoder(Fields).decode
_decode_choices = msgspec.json.Decoder(list[str]).decode
_decode_text = msgspec.json.Decoder(str).decode


@dataclass(frozen=True, slots=True)
class Parameters:
    """The table of one engine and one path, or several.

    `refused`: the answer would not be what was asked for, unless the value is one that asks for nothing (JSON without
    blanks; `null` always). `dropped`: left out, and named to the client. `known`: where it is told, the engine itself
    refuses any other field, so all others are dropped. `renamed`: to its own word, unless that is there already.
    """

    engine: str
    refused: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    renamed: Mapping[str, str] = field(default_factory=dict)
    known: frozenset[str] | None = None

    def refuse(self, fields: Mapping[str, msgspec.Raw], model: str) -> None:
        """Raise `UnsupportedOperation` for a field that asks for what the engine has not."""
        for name, neutral in self.refused.items():
            value = bytes(fields.get(name, _ABSENT))
            if value not in {b"", _NULL} and b"".join(value.split()) not in neutral:
                raise UnsupportedOperation(
                    f"The model {model!r} is served by {self.engine}, which has no {name!r}.", param=name
                )

    def apply(self, fields: Fields, model: str) -> list[str]:
        """Change `fields` as the table says; the names that were left out. Raises as `refuse`."""
        self.refuse(fields, model)
        for name in self.refused.keys() & fields.keys():
            del fields[name]
        for name in self.renamed.keys() & fields.keys():
            value = fields.pop(name)
            if bytes(value) != _NULL:
                fields.setdefault(self.renamed[name], value)
        known, dropped = self.known, self.dropped
        unwanted = [name for name in fields if (name in dropped if known is None else name not in known)]
        values = {name: fields.pop(name) for name in unwanted}
        return [name for name, value in values.items() if bytes(value) != _NULL]


def changed(request: OpenAIRequest, fields: Fields, dropped: Sequence[str], engine: str) -> OpenAIRequest:
    """The request with these fields instead; what was left out goes with it, for the answer to tell."""
    headers = request.headers
    if dropped:
        names = ", ".join(sorted(dropped))
        _log.debug("%s: %s has no word for %s; left out.", request.model, engine, names)
        headers = [*headers, (DROPPED, names.encode("ascii", "backslashreplace"))]
    return replace(request, body=msgspec.json.encode(fields), headers=headers)


def tell_dropped(request: OpenAIRequest, response: OpenAIResponse) -> None:
    """Name to the client what `changed` left out."""
    if dropped := [each for each in request.headers if each[0] == DROPPED]:
        response.headers = [*response.headers, *dropped]


def take_constraint(fields: Fields) -> tuple[str, msgspec.Raw] | None:
    """Take vLLM's words for constrained output out of a request: (`json`, a schema), (`regex` or `grammar`, a text).

    Both forms: `structured_outputs` and the older `guided_json` and kin. None where there is none, or where it
    cannot be read, and then it stays.
    """
    asked = {}
    try:
        if "structured_outputs" in fields:
            asked = _decode_fields(fields["structured_outputs"])
        asked |= {name: fields[f"guided_{name}"] for name in _CONSTRAINTS if f"guided_{name}" in fields}
        for name, value in asked.items():
            if name in _CONSTRAINTS and bytes(value) != _NULL:
                constraint = _constraint(name, value)
                for each in CONSTRAINTS:
                    fields.pop(each, None)
                return constraint
    except msgspec.DecodeError:
        pass
    return None


def _constraint(name: str, value: msgspec.Raw) -> tuple[str, msgspec.Raw]:
    if name == "choice":
        pattern = "|".join(map(re.escape, _decode_choices(value)))
        return "regex", msgspec.Raw(msgspec.json.encode(f"({pattern})"))
    if name == "json" and bytes(value)[:1] == b'"':
        return name, msgspec.Raw(_decode_text(value).encode())
    return name, value
