"""Triton's GPU metrics, on a machine that has one."""

from __future__ import annotations

import pytest

from gateway.machine import Machine

pytestmark = pytest.mark.gpu


def test_each_gpu_tells_of_its_use_its_memory_and_its_power() -> None:
    pytest.importorskip("pynvml")
    families = {family.name: family.samples for family in Machine().families()}
    for name in ("nv_gpu_utilization", "nv_gpu_memory_total_bytes", "nv_gpu_memory_used_bytes", "nv_gpu_power_usage"):
        assert all(sample.labels["gpu_uuid"].startswith("GPU-") for sample in families[name])
    total, used = (families[f"nv_gpu_memory_{what}_bytes"][0].value for what in ("total", "used"))
    assert 0 <= used < total
