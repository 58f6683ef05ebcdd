"""Shared memory that clients register is known to all server processes, and bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.errors import Code, InferenceError
from backends.tensors import Tensor
from gateway.kserve.shared_memory import Regions
from gateway.kserve.shared_state import SharedState

PAGE = 4096


def refusal(code: Code, *arguments: object) -> str:
    call, *rest = arguments
    with pytest.raises(InferenceError) as raised:
        call(*rest)  # type: ignore[operator]
    assert raised.value.status is code
    return raised.value.message


def test_a_region_is_read_and_written_where_it_says(key: str) -> None:
    regions = Regions()
    regions.register("r", key, PAGE, 512)
    assert bytes(regions.read("r", 2, 3)) == b"\x02\x03\x04"
    regions.write("r", 256, 4, Tensor("O", "INT32", (1,), b"done"))
    assert Path(f"/dev/shm{key}").read_bytes()[PAGE + 256 : PAGE + 260] == b"done"
    regions.close()


def test_what_does_not_fit_is_refused(key: str) -> None:
    regions = Regions()
    regions.register("r", key, 0, 512)
    assert "already in manager" in refusal(Code.ALREADY_EXISTS, regions.register, "r", key, 0, 512)
    assert refusal(Code.INVALID_ARG, regions.register, "s", key, 0, 8193).endswith("'s': invalid args")
    assert "address space" in refusal(Code.INVALID_ARG, regions.register, "s", key, 64, 64)
    assert "address space" in refusal(Code.INVALID_ARG, regions.register, "s", key, 0, 0)
    for wrong in ("/tritium-nothing", "/../etc/passwd", "/..", "", "a\0b"):
        assert "Unable to open" in refusal(Code.INTERNAL, regions.register, "s", wrong, 0, 1)
    assert refusal(Code.INVALID_ARG, regions.read, "r", 512, 1) == "Invalid offset for shared memory region: 'r'"
    assert "offset + byte size" in refusal(Code.INVALID_ARG, regions.read, "r", 500, 13)
    assert "Unable to find shared memory region" in refusal(Code.NOT_FOUND, regions.read, "s", 0, 1)
    assert "should be at least 4 bytes" in refusal(
        Code.INTERNAL, regions.write, "r", 0, 3, Tensor("O", "INT32", (1,), b"done")
    )
    regions.close()


def test_the_list_knows_all_and_each(key: str) -> None:
    regions = Regions()
    regions.register("b", key, 0, 512)
    regions.register("a", key, PAGE, 1)
    assert [(region.name, region.offset) for region in regions.list()] == [("a", PAGE), ("b", 0)]
    assert [region.name for region in regions.list("b")] == ["b"]
    assert "Unable to find system shared memory" in refusal(Code.NOT_FOUND, regions.list, "c")
    assert "registered as system shared memory" in refusal(Code.NOT_FOUND, regions.check_cuda, "a")
    assert "Unable to find cuda shared memory" in refusal(Code.NOT_FOUND, regions.check_cuda, "c")
    regions.check_cuda("")
    regions.unregister("a")
    regions.unregister("a")
    assert [region.name for region in regions.list()] == ["b"]
    regions.unregister_all()
    assert regions.list() == []


def test_another_process_sees_what_is_registered_and_what_no_longer_is(key: str, tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    one, other = Regions(SharedState(file)), Regions(SharedState(file))
    one.register("r", key, 0, 512)
    held = other.read("r", 0, 2)
    one.unregister("r")
    assert "Unable to find" in refusal(Code.NOT_FOUND, other.read, "r", 0, 2)
    assert bytes(held) == b"\x00\x01"  # a request under way goes on
    one.register("r", key, PAGE, 4)
    assert len(other.read("r", 0, 4)) == 4
    one.close()
    other.close()


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    def change(state: SharedState) -> None:
        with state.changing() as document:
            document.traces["m"] = {"trace_rate": "1"}
            raise ZeroDivisionError

    for state in (SharedState(), SharedState(tmp_path / "state.json")):
        with pytest.raises(ZeroDivisionError):
            change(state)
        assert state.read().traces == {}
