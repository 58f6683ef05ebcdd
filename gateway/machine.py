"""The machine as Triton's metrics tell of it: CPU, memory, and GPUs through NVML where there are any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import Metric

_STAT, _MEMINFO = Path("/proc/stat"), Path("/proc/meminfo")
_IDLE, _WAITING = 3, 4
"""Fields of the first line of /proc/stat (proc_stat(5)) that are no work."""


class Machine:
    """Asked at each scrape. GPUs need the package `nvidia-ml-py` and NVIDIA's driver; without either there are none."""

    def __init__(self, *, has_cpus: bool = True, has_gpus: bool = True) -> None:
        self._has_cpus = has_cpus
        self._busy = self._total = 0
        self._gpus: list[_Gpu] | None = None if has_gpus else []

    def families(self) -> Iterator[Metric]:
        """What there is to say now. NVML may take milliseconds: not for an event loop."""
        if self._gpus is None:
            self._gpus = _gpus()
        if self._has_cpus:
            yield from self._cpus()
        # Triton's dashboards ask for them; nothing here copies through pinned memory.
        yield _gauge("nv_pinned_memory_pool_total_bytes", "Pinned memory pool total memory size, in bytes", 0)
        yield _gauge("nv_pinned_memory_pool_used_bytes", "Pinned memory pool used memory size, in bytes", 0)
        for name, kind, description, read in _GPU_FAMILIES:
            family = Metric(name, description, kind)
            for gpu in self._gpus:
                value = gpu.read(read)
                if value is not None:
                    family.add_sample(name, {"gpu_uuid": gpu.uuid}, value)
            if family.samples:
                yield family

    def _cpus(self) -> Iterator[Metric]:
        utilization = self._utilization()
        memory = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in _MEMINFO.read_text().splitlines()}
        yield _gauge("nv_cpu_utilization", "CPU utilization rate [0.0 - 1.0]", utilization)
        yield _gauge("nv_cpu_memory_total_bytes", "CPU total memory (RAM), in bytes", memory["MemTotal"])
        used = memory["MemTotal"] - memory["MemAvailable"]
        yield _gauge("nv_cpu_memory_used_bytes", "CPU used memory (RAM), in bytes", used)

    def _utilization(self) -> float:
        """The share of time that the CPUs have worked since the last look, since the machine's start at the first."""
        times = [int(field) for field in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
        total = sum(times)
        busy = total - times[_IDLE] - times[_WAITING]
        spent, self._total = total - self._total, total
        worked, self._busy = busy - self._busy, busy
        return worked / spent if spent else 0.0


class _Gpu:
    """One GPU. `nvml` is the module; what the driver cannot tell is not told."""

    def __init__(self, nvml: Any, index: int) -> None:
        self._nvml = nvml
        self._handle = nvml.nvmlDeviceGetHandleByIndex(index)
        self.uuid: str = nvml.nvmlDeviceGetUUID(self._handle)

    def read(self, read: Callable[[Any, Any], float]) -> float | None:
        try:
            return read(self._nvml, self._handle)
        except self._nvml.NVMLError:
            return None


def _gpus() -> list[_Gpu]:
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        return [_Gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


_GPU_FAMILIES: tuple[tuple[str, str, str, Callable[[Any, Any], float]], ...] = (
    (
        "nv_gpu_utilization",
        "gauge",
        "GPU utilization rate [0.0 - 1.0)",
        lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
    ),
    (
        "nv_gpu_memory_total_bytes",
        "gauge",
        "GPU total memory, in bytes",
        lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).total,
    ),
    (
        "nv_gpu_memory_used_bytes",
        "gauge",
        "GPU used memory, in bytes",
        lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
    ),
    (
        "nv_gpu_power_usage",
        "gauge",
        "GPU power usage in watts",
        lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
    ),
    (
        "nv_gpu_power_limit",
        "gauge",
        "GPU power management limit in watts",
        lambda nvml, gpu: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000,
    ),
    (
        "nv_energy_consumption",
        "counter",
        "GPU energy consumption in joules since the driver was loaded",
        lambda nvml, gpu: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000,
    ),
)


def _gauge(name: str, description: str, value: float) -> Metric:
    family = Metric(name, description, "gauge")
    family.add_sample(name, {}, value)
    return family
