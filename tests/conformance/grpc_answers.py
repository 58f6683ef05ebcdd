"""Answers that were recorded, and how far others are equal to them."""

from __future__ import annotations

import base64
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from tritonclient.grpc import service_pb2 as messages

from tests.conformance.grpc_calls import Answer, Call

_FOLDER = re.compile(r"/\S*?(?=/[\w.-]+/\d+/model\.py)")
_SERVICE = messages.DESCRIPTOR.services_by_name["GRPCInferenceService"]


def recorded(file: Path) -> Iterator[tuple[Call, Answer]]:
    """The calls of a file and what was answered to them."""
    for case in json.loads(file.read_text()):
        call = Call(case["name"], case["rpc"], [base64.b64decode(each) for each in case["requests"]], case["metadata"])
        yield call, Answer(case["code"], case["details"], [base64.b64decode(each) for each in case["responses"]])


def readable(rpc: str, answer: Answer) -> Any:
    """An answer in which nothing is left that may differ: JSON of its messages by their requests' ids."""
    by_id: dict[str, list[Any]] = defaultdict(list)
    kind = _SERVICE.methods_by_name[rpc].output_type._concrete_class
    for body in answer.messages:
        fields = json_format.MessageToDict(kind.FromString(body), preserving_proto_field_name=True)
        _settle(rpc, fields)
        by_id[fields.get("infer_response", {}).get("id", "")].append(fields)
    return answer.code, _FOLDER.sub("", answer.details), dict(by_id)


def _settle(rpc: str, fields: dict[str, Any]) -> None:
    for inference in (fields, fields.get("infer_response", {})):
        outputs, raw = inference.get("outputs", []), inference.pop("raw_output_contents", [])
        for output, contents in zip(outputs, raw, strict=False):
            output["contents"] = contents
        outputs.sort(key=lambda output: output["name"])
    if rpc == "ServerMetadata":
        fields.clear()
    for model in fields.get("models", []):
        if "reason" in model:
            model["reason"] = _FOLDER.sub("", model["reason"])
