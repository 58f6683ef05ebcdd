"""Requests that meet in a queue, and what their model sees of it: the answers of real Triton are kept beside this.

`python -m tests.conformance.scheduling_cases HOST:PORT FILE` asks a server over the repository that
`python -m tests.conformance.scheduling_cases FOLDER` writes, and writes what it answers.
"""

from __future__ import annotations

import http.client
import json
import shutil
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROBE = Path(__file__).with_name("probe") / "model.py"
GAP_SECONDS = 0.06
"""Between two requests of a case: much more than one takes to come to the queue."""

_HOLD_MS = 700
_X = '{ name: "X" data_type: TYPE_FP32 dims: [ -1 ] }'
_CONTROLS = """control_input [
    { name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] },
    { name: "READY" control [ { kind: CONTROL_SEQUENCE_READY fp32_false_true: [ 0, 1 ] } ] },
    { name: "END" control [ { kind: CONTROL_SEQUENCE_END bool_false_true: [ false, true ] } ] },
    { name: "CORRID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] }
]"""
_SHAPES = (("a", (1,)), ("b", (2,)), ("c", (1, 2)), ("d", (3,)))
_PRIORITIES = "priority_levels: 3 default_priority_level: 2"
_REJECT = "default_queue_policy { default_timeout_microseconds: 300000 allow_timeout_override: true }"
_DELAY = "default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 300000 }"


@dataclass(frozen=True)
class Call:
    """A request: its id, how long its execution takes, its rows, its other input, its parameters, a pause before it."""

    id: str
    hold_ms: int = 0
    rows: int = 1
    x: tuple[float, ...] | None = None
    parameters: tuple[tuple[str, Any], ...] = ()
    pause_seconds: float = GAP_SECONDS


@dataclass(frozen=True)
class Case:
    """A model and what it is asked: by how its batches are made, of how many rows, with which input beside HOLD_MS."""

    scheduling: str
    calls: tuple[Call, ...]
    max_batch_size: int = 4
    inputs: str = ""


def _simple(ids: str, **how: Any) -> tuple[Call, ...]:
    return tuple(Call(one, **how) for one in ids)


def _held(*calls: Call) -> tuple[Call, ...]:
    """These calls come while another one is executed."""
    return (Call("held", _HOLD_MS), *calls)


def _with(one: str, **parameters: Any) -> Call:
    return Call(one, parameters=tuple(parameters.items()))


def _sequence(*names: str, hold: str = "") -> tuple[Call, ...]:
    """Requests of sequences: `a1` is of the sequence 1; `!` begins it, `.` ends it."""
    calls = []
    for name in names:
        parameters = {
            "sequence_id": ord(name[0]) - ord("a") + 1,
            "sequence_start": "!" in name,
            "sequence_end": "." in name,
        }
        calls.append(Call(name, _HOLD_MS if name == hold else 0, parameters=tuple(parameters.items())))
    return tuple(calls)


CASES = {
    "no_batcher": Case("", _held(*_simple("abc"))),
    "what_has_arrived": Case("dynamic_batching { }", _held(*_simple("abcdef"))),
    "never_too_large": Case("dynamic_batching { }", _held(Call("a", rows=3), Call("b", rows=2), *_simple("cd"))),
    "preferred": Case("dynamic_batching { preferred_batch_size: [ 4 ] }", _held(*_simple("abcdefg")), max_batch_size=8),
    "delayed": Case(
        "dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 500000 }",
        (*_simple("abcdef"), Call("g", pause_seconds=0.8)),
        max_batch_size=8,
    ),
    "shapes": Case(
        "dynamic_batching { }",
        (Call("held", _HOLD_MS, x=(0,)), *(Call(one, x=x) for one, x in _SHAPES)),
        inputs=_X,
    ),
    "optional": Case(
        "dynamic_batching { }",
        _held(Call("a"), Call("b"), Call("c", x=(1,)), Call("d", x=(2,)), Call("e")),
        inputs=_X.replace("}", "optional: true }"),
    ),
    "ragged": Case(
        "dynamic_batching { }",
        (Call("held", _HOLD_MS, x=(0,)), Call("a", x=(1,)), Call("b", x=(1, 2)), Call("c", x=(1, 2, 3))),
        inputs=_X.replace("}", "allow_ragged_batch: true }"),
    ),
    "priorities": Case(
        f"dynamic_batching {{ {_PRIORITIES} }}",
        _held(
            _with("a", priority=3), _with("b"), _with("c", priority=1), _with("d", priority=2), _with("e", priority=9)
        ),
        max_batch_size=1,
    ),
    "levels_share_batches": Case(
        f"dynamic_batching {{ {_PRIORITIES} }}",
        _held(_with("a", priority=3), _with("b", priority=2), _with("c", priority=1), *_simple("de")),
    ),
    "queue_size": Case(
        "dynamic_batching { default_queue_policy { max_queue_size: 2 } }", _held(*_simple("abcd")), max_batch_size=1
    ),
    "queue_size_by_level": Case(
        f"dynamic_batching {{ {_PRIORITIES} priority_queue_policy [ {{ key: 1 value {{ max_queue_size: 1 }} }} ] }}",
        _held(_with("a", priority=1), _with("b", priority=1), *_simple("cd")),
        max_batch_size=1,
    ),
    "timeouts": Case(
        f"dynamic_batching {{ {_REJECT} }}",
        _held(
            Call("a"),
            _with("b", timeout=100_000),
            _with("c", timeout=9_000_000),
            Call("d", pause_seconds=0.4),
            Call("e"),
        ),
        max_batch_size=2,
    ),
    "late_ones_last": Case(
        f"dynamic_batching {{ {_DELAY} }}",
        _held(*_simple("ab"), Call("c", pause_seconds=0.4), Call("d")),
        max_batch_size=1,
    ),
    "no_override": Case(
        "dynamic_batching { default_queue_policy { allow_timeout_override: true } }",
        _held(_with("a", timeout=1000)),
    ),
    "slots": Case(
        f"sequence_batching {{ {_CONTROLS} }}",
        _sequence("a!", "b!", "c!", "b1", "c1", "a1", "a2", "c2.", "b2", "a3.", "b3.", hold="c1"),
    ),
    "backlog": Case(
        f"sequence_batching {{ {_CONTROLS} }}",
        _sequence("a!", "b!", "c!", "c1", "d!.", "a1.", "c2.", "b1.", hold="b!"),
        max_batch_size=2,
    ),
    "no_batch_dimension": Case(
        f"sequence_batching {{ {_CONTROLS} }}", _sequence("a!", "b!", "a1", "a2.", "b1.", hold="a1"), max_batch_size=0
    ),
    "not_begun": Case(
        f"sequence_batching {{ {_CONTROLS} }}",
        (*_sequence("a", "b!", "b1.", "b2"), Call("none"), Call("rows", rows=2, parameters=(("sequence_id", 5),))),
    ),
    "idle": Case(
        f"sequence_batching {{ max_sequence_idle_microseconds: 300000 {_CONTROLS} }}",
        (*_sequence("a!", "a1"), Call("late", parameters=(("sequence_id", 1),), pause_seconds=1.5)),
    ),
    "utilization": Case(
        "sequence_batching { direct { minimum_slot_utilization: 0.75 max_queue_delay_microseconds: 500000 }"
        f" {_CONTROLS} }}",
        _sequence("a!", "b!", "c!", "a1", "c1", "b1", "d!"),
    ),
    "oldest": Case(
        f"sequence_batching {{ oldest {{ max_candidate_sequences: 4 }} {_CONTROLS} }}",
        _sequence("a!", "b!", "c!", "d!.", "a1.", hold="b!"),
    ),
    "candidates": Case(
        f"sequence_batching {{ oldest {{ max_candidate_sequences: 2 }} {_CONTROLS} }}",
        _sequence("a!", "b!", "c!.", "a1.", hold="b!"),
    ),
}

_AT_A_TIME = 6
_WARMING = Call("warming", x=(1,), parameters=(("sequence_id", 99), ("sequence_start", True), ("sequence_end", True)))
"""Before each case: the first request of a process takes longer than others. It is a whole sequence."""


def write(folder: Path) -> None:
    """A repository with a model for each case."""
    for name, case in CASES.items():
        version = folder / name / "1"
        version.mkdir(parents=True)
        shutil.copy(PROBE, version)
        inputs = '{ name: "HOLD_MS" data_type: TYPE_INT32 dims: [ 1 ] }' + (f", {case.inputs}" if case.inputs else "")
        (folder / name / "config.pbtxt").write_text(
            f'backend: "python" max_batch_size: {case.max_batch_size} input [ {inputs} ]\n'
            'output [ { name: "TOLD" data_type: TYPE_STRING dims: [ 1 ] } ]\n'
            f"instance_group [ {{ kind: KIND_CPU }} ]\n{case.scheduling}\n"
        )


def answers(host: str, port: int, names: Iterable[str] = CASES) -> dict[str, list[Any]]:
    """What each case's calls are answered; some cases at a time, as none uses the model of another."""
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        futures = {name: pool.submit(_answers, host, port, name) for name in names}
        return {name: future.result() for name, future in futures.items()}


def _answers(host: str, port: int, name: str) -> list[Any]:
    case = CASES[name]
    _ask(host, port, name, case, _WARMING)
    futures = []
    with ThreadPoolExecutor(len(case.calls)) as pool:
        for call in case.calls:
            time.sleep(call.pause_seconds)
            futures.append(pool.submit(_ask, host, port, name, case, call))
        return _numbered([future.result() for future in futures])


def _numbered(found: list[Any]) -> list[Any]:
    """The same answers, executions numbered from 0: the model may have run before."""
    told = [answer[2] for answer in found if answer[1] == 200]
    numbers = sorted({one["execution"] for one in told})
    for one in told:
        one["execution"] = numbers.index(one["execution"])
    return found


def _ask(host: str, port: int, name: str, case: Case, call: Call) -> Any:
    shape = [call.rows, 1] if case.max_batch_size else [1]
    inputs = [{"name": "HOLD_MS", "datatype": "INT32", "shape": shape, "data": [call.hold_ms] * call.rows}]
    if call.x is not None and case.inputs:
        shape = [call.rows, len(call.x)]
        inputs.append({"name": "X", "datatype": "FP32", "shape": shape, "data": list(call.x) * call.rows})
    body = {"id": call.id, "inputs": inputs, "parameters": dict(call.parameters)}
    connection = http.client.HTTPConnection(host, port, timeout=30)
    try:
        connection.request("POST", f"/v2/models/{name}/infer", json.dumps(body))
        answer = connection.getresponse()
        told = json.loads(answer.read())
    finally:
        connection.close()
    if answer.status != 200:
        return [call.id, answer.status, told]
    return [call.id, answer.status, json.loads(told["outputs"][0]["data"][0])]


def main() -> None:
    if len(sys.argv) == 2:
        write(Path(sys.argv[1]))
        return
    host, port = sys.argv[1].split(":")
    found = answers(host, int(port))
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(told)}" for name, told in found.items())
    Path(sys.argv[2]).write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
