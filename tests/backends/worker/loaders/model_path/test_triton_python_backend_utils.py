from __future__ import annotations

import numpy as np
import pytest

from backends.worker.loaders.model_path import c_python_backend_utils
from backends.worker.loaders.model_path import triton_python_backend_utils as pb_utils

# The names of Triton 2.51's modules, imported ones and dunders aside.
NAMES = """InferenceRequest InferenceResponse Logger MetricFamily ModelConfig PreferredMemory TRITONSERVER_MEMORY_CPU
    TRITONSERVER_MEMORY_GPU TRITONSERVER_REQUEST_FLAG_SEQUENCE_END TRITONSERVER_REQUEST_FLAG_SEQUENCE_START
    TRITONSERVER_REQUEST_RELEASE_ALL TRITONSERVER_REQUEST_RELEASE_RESCHEDULE TRITONSERVER_RESPONSE_COMPLETE_FINAL
    TRITON_STRING_TO_NUMPY Tensor TritonError TritonModelException deserialize_bytes_tensor get_input_config_by_name
    get_input_tensor_by_name get_model_dir get_output_config_by_name get_output_tensor_by_name is_model_ready load_model
    numpy_to_triton_type serialize_byte_tensor triton_string_to_numpy triton_to_numpy_type unload_model
    using_decoupled_model_transaction_policy"""
C_NAMES = """COUNTER GAUGE HISTOGRAM InferenceRequest InferenceResponse InferenceResponseSender InferenceTrace Logger
    MemoryType Metric MetricFamily MetricKind PreferredMemory ResponseIterator TRITONSERVER_MEMORY_CPU
    TRITONSERVER_MEMORY_GPU Tensor TritonError TritonModelException is_model_ready load_model unload_model"""


@pytest.mark.parametrize(("module", "names"), [(pb_utils, NAMES), (c_python_backend_utils, C_NAMES)])
def test_the_modules_have_tritons_names(module, names):
    assert set(names.split()) <= set(dir(module))


def test_a_model_that_imports_all_names_has_those_that_tritons_module_imports():
    names: dict[str, object] = {}
    exec("from backends.worker.loaders.model_path.triton_python_backend_utils import *", names)
    assert {"np", "json", "struct"} | set(NAMES.split()) <= set(names)


def test_tensors_are_found_by_name():
    x = pb_utils.Tensor("X", np.zeros(1))
    request = pb_utils.InferenceRequest(model_name="m", requested_output_names=["Y"], inputs=[x])
    response = pb_utils.InferenceResponse([x])
    assert pb_utils.get_input_tensor_by_name(request, "X") is x
    assert pb_utils.get_input_tensor_by_name(request, "Y") is None
    assert pb_utils.get_output_tensor_by_name(response, "X") is x
    assert pb_utils.get_output_tensor_by_name(response, "Y") is None


def test_types_are_translated_as_triton_translates_them():
    numbers = [pb_utils.numpy_to_triton_type(each) for each in pb_utils.TRITON_STRING_TO_NUMPY.values()]
    # Python's own bool, which TYPE_BOOL is, has no number in Triton's module either.
    assert numbers == [None, *range(2, 14)]
    assert pb_utils.triton_string_to_numpy("TYPE_FP16") is np.float16
    assert [pb_utils.triton_to_numpy_type(number) for number in (0, 1, 11, 13, 14)] == [
        None,
        np.bool_,
        np.float32,
        np.object_,
        None,
    ]
    known = (np.bool_, np.float32, np.dtype("f4"), np.object_, np.bytes_, np.complex64)
    assert [pb_utils.numpy_to_triton_type(each) for each in known] == [1, 11, 11, 13, 13, None]
    with pytest.raises(KeyError):
        pb_utils.triton_string_to_numpy("TYPE_BF16")


def test_arrays_of_bytes_are_serialized_behind_their_lengths():
    array = np.array([b"a", "é", 3], dtype=object)
    encoded = b"\1\0\0\0a\2\0\0\0\xc3\xa9\1\0\0\x003"
    assert pb_utils.serialize_byte_tensor(array) == encoded
    assert pb_utils.deserialize_bytes_tensor(encoded).tolist() == [b"a", "é".encode(), b"3"]
    assert pb_utils.serialize_byte_tensor(np.array([], dtype=object)) == ()
    assert pb_utils.serialize_byte_tensor(np.array([1])) is None
