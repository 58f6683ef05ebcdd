"""The names of Triton's extension module, for a `model.py` that imports it directly."""

from backends.worker.loaders.python.calls import ResponseIterator
from backends.worker.loaders.python.control import is_model_ready, load_model, unload_model
from backends.worker.loaders.python.errors import TritonError, TritonModelException
from backends.worker.loaders.python.logger import Logger
from backends.worker.loaders.python.metrics import Metric, MetricFamily, MetricKind
from backends.worker.loaders.python.request import InferenceRequest, InferenceTrace, MemoryType, PreferredMemory
from backends.worker.loaders.python.response import InferenceResponse
from backends.worker.loaders.python.sender import InferenceResponseSender
from backends.worker.loaders.python.tensor import Tensor

COUNTER, GAUGE, HISTOGRAM = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM
TRITONSERVER_MEMORY_CPU = MemoryType.TRITONSERVER_MEMORY_CPU
TRITONSERVER_MEMORY_GPU = MemoryType.TRITONSERVER_MEMORY_GPU

__all__ = [
    "COUNTER",
    "GAUGE",
    "HISTOGRAM",
    "TRITONSERVER_MEMORY_CPU",
    "TRITONSERVER_MEMORY_GPU",
    "InferenceRequest",
    "InferenceResponse",
    "InferenceResponseSender",
    "InferenceTrace",
    "Logger",
    "MemoryType",
    "Metric",
    "MetricFamily",
    "MetricKind",
    "PreferredMemory",
    "ResponseIterator",
    "Tensor",
    "TritonError",
    "TritonModelException",
    "is_model_ready",
    "load_model",
    "unload_model",
]
