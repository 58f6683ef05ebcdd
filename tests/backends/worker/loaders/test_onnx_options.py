from __future__ import annotations

import os

import pytest

from backends.config import read
from backends.worker.instance import LoadError
from backends.worker.loaders.onnx_options import parallel_runs, providers, session_options
from tests.backends.worker.instances import document

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
ALL = [TENSORRT, CUDA, "OpenVINOExecutionProvider", CPU]


def config(parameters=(), accelerators=None, **fields):
    if accelerators is not None:
        fields["optimization"] = {"execution_accelerators": accelerators}
    given = {key: {"string_value": value} for key, value in dict(parameters).items()}
    return read(document(parameters=given, **fields), version=1, path="", arguments={})


def options(*arguments, **fields):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    return session_options(config(*arguments, **fields), onnxruntime), onnxruntime


def test_instances_divide_the_cores_and_do_not_spin():
    cores = len(os.sched_getaffinity(0))
    alone, _ = options()
    assert alone.intra_op_num_threads == cores
    assert alone.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    crowded, _ = options(instance_group=[{"count": 4 * cores}])
    assert crowded.intra_op_num_threads == 1


def test_runs_of_few_threads_stand_side_by_side_until_the_cores_are_busy():
    cores = len(os.sched_getaffinity(0))
    assert parallel_runs(config({"intra_op_thread_count": "1"})) == cores
    assert parallel_runs(config({"intra_op_thread_count": "1"}, instance_group=[{"count": cores}])) == 1
    assert parallel_runs(config({"intra_op_thread_count": str(2 * cores)})) == 1
    assert parallel_runs(config({"intra_op_thread_count": "0"})) == 1
    assert parallel_runs(config()) == 1


def test_the_parameters_of_tritons_backend_are_heeded():
    given = {
        "intra_op_thread_count": "3",
        "inter_op_thread_count": "2",
        "execution_mode": "1",
        "enable_mem_arena": "0",
        "enable_mem_pattern": "0",
        "session.intra_op.allow_spinning": "1",
        "optimization.disable_specified_optimizers": "GeluFusionL1",
    }
    made, ort = options(given, optimization={"graph": {"level": 1}})
    assert (made.intra_op_num_threads, made.inter_op_num_threads) == (3, 2)
    assert made.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert (made.enable_cpu_mem_arena, made.enable_mem_pattern) == (False, False)
    assert made.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert made.get_session_config_entry("optimization.disable_specified_optimizers") == "GeluFusionL1"
    assert made.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    basic, _ = options(optimization={"graph": {"level": -1}})
    assert basic.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_BASIC


def test_a_cpu_instance_runs_on_the_cpu_and_a_gpu_one_on_its_gpu():
    assert providers(config(), -1, ALL) == [(CPU, {})]
    chosen = providers(config({"gpu_mem_limit": "1024"}), 1, ALL)
    assert chosen == [(CUDA, {"device_id": "1", "gpu_mem_limit": "1024"}), (CPU, {})]


def test_accelerators_stand_before_cuda():
    given = {"precision_mode": "FP16", "max_workspace_size_bytes": "99", "trt_engine_cache_enable": "1"}
    chosen = providers(
        config(accelerators={"gpu_execution_accelerator": [{"name": "tensorrt", "parameters": given}]}), 0, ALL
    )
    assert [name for name, _ in chosen] == [TENSORRT, CUDA, CPU]
    assert chosen[0][1] == {
        "device_id": "0",
        "trt_fp16_enable": "1",
        "trt_max_workspace_size": "99",
        "trt_engine_cache_enable": "1",
    }
    cuda = {"gpu_execution_accelerator": [{"name": "cuda", "parameters": {"cudnn_conv_algo_search": "1"}}]}
    assert providers(config(accelerators=cuda), 0, ALL)[0][1]["cudnn_conv_algo_search"] == "1"
    openvino = {"cpu_execution_accelerator": [{"name": "openvino"}]}
    assert [name for name, _ in providers(config(accelerators=openvino), -1, ALL)] == [ALL[2], CPU]


@pytest.mark.parametrize(
    ("accelerator", "device", "words"),
    [
        ({"gpu_execution_accelerator": [{"name": "magic"}]}, 0, "unknown Execution Accelerator 'magic' is requested"),
        ({"gpu_execution_accelerator": [{"name": "tensorrt", "parameters": {"precision_mode": "FP3"}}]}, 0, "'FP3'"),
        ({}, 0, "wants CUDAExecutionProvider, which this onnxruntime has not"),
    ],
)
def test_what_cannot_be_had_is_refused(accelerator, device, words):
    with pytest.raises(LoadError, match=words):
        providers(config(accelerators=accelerator), device, [CPU])
