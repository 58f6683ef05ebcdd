"""Requests that meet in a queue run together, wait and are refused as they are in real Triton."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conformance.scheduling_cases import CASES, answers, write
from tests.servers import serving

RECORDED = json.loads(Path(__file__).with_name("scheduling_cases.json").read_text())
# A busy machine may let requests come later than a case means them to.
TRIES = 3


def test_each_case_has_answers_for_its_calls():
    assert {name: [call.id for call in case.calls] for name, case in CASES.items()} == {
        name: [answer[0] for answer in found] for name, found in RECORDED.items()
    }


@pytest.mark.slow
def test_the_whole_server_schedules_as_triton_does(tmp_path):
    write(tmp_path)
    with serving(tmp_path, "--no-access-log") as server:
        host, port = server.url.removeprefix("http://").split(":")
        different = dict(RECORDED)
        for _ in range(TRIES):
            found = answers(host, int(port), list(different))
            different = {name: told for name, told in found.items() if told != RECORDED[name]}
    assert different == {}
