"""What the machine's metrics say."""

from __future__ import annotations

from gateway.machine import Machine


def _values(machine: Machine) -> dict[str, float]:
    return {family.name: family.samples[0].value for family in machine.families()}


def test_the_machine_tells_of_its_cpus_and_its_memory() -> None:
    machine = Machine()
    for _ in range(2):
        values = _values(machine)
        assert 0 <= values["nv_cpu_utilization"] <= 1
        assert 0 < values["nv_cpu_memory_used_bytes"] < values["nv_cpu_memory_total_bytes"]


def test_what_is_not_wanted_is_not_told() -> None:
    names = {family.name for family in Machine(has_cpus=False, has_gpus=False).families()}
    assert not any(name.startswith(("nv_cpu", "nv_gpu")) for name in names)
