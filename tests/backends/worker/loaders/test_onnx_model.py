from __future__ import annotations

import json

import numpy as np
import pytest

from backends.config import read
from backends.errors import Code
from backends.worker.instance import LoadError
from backends.worker.loaders import onnx_model
from backends.worker.messages import Completed, Failed, Loaded
from tests.backends.worker.executing import CPU, arrays, executed, request
from tests.backends.worker.instances import document, instance, tensor
from tests.backends.worker.onnx_files import Node, write

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'tritium[onnxruntime]'")

FLOATS = {"X": ("float", ["n", 2])}


def config(folder, name="m", **fields):
    told = document(name, **{"backend": "onnxruntime", "input": [], "output": []} | fields)
    return read(told, version=1, path=str(folder / "1"), arguments={})


def described(name, data_type, *dims):
    return {"name": name, "data_type": data_type, "dims": list(dims)}


@pytest.fixture
def doubling(tmp_path):
    """Y = X + X, for any number of rows of two."""
    write(tmp_path / "1" / "model.onnx", [Node("Add", ["X", "X"], ["Y"])], FLOATS, {"Y": ("float", ["n", 2])})
    return tmp_path


def test_a_batch_of_several_requests_is_run_and_split(doubling):
    told = config(
        doubling, input=[described("X", "TYPE_FP32", 2)], output=[described("Y", "TYPE_FP32", 2)], max_batch_size=4
    )
    model = onnx_model.load(told, CPU, None)
    one, two = np.array([[1, 2]], np.float32), np.array([[3, 4], [5, 6]], np.float32)
    answers = executed(model, request(tensor("X", one)), request(tensor("X", two)))
    assert [arrays(answer)["Y"].tolist() for answer in answers] == [[[2, 4]], [[6, 8], [10, 12]]]
    model.finalize()


def test_a_configuration_of_nothing_is_completed_from_the_model(doubling):
    with instance() as host:
        answer = host.load(config(doubling, max_batch_size=0), completes=True)
        assert isinstance(answer, Completed)
        completed = json.loads(answer.document)
        assert host.link.receive()[0] == Loaded()
        respond, outputs = host.ask(tensor("X", np.array([[1, 2]], np.float32)))
    assert not respond.error
    assert outputs["Y"].tolist() == [[2, 4]]
    assert completed["max_batch_size"] == 4
    assert completed["dynamic_batching"]["preserve_ordering"] is False
    assert [(entry["name"], entry["data_type"], entry["dims"]) for entry in completed["input"]] == [
        ("X", "TYPE_FP32", [2])
    ]
    assert [(entry["name"], entry["data_type"], entry["dims"]) for entry in completed["output"]] == [
        ("Y", "TYPE_FP32", [2])
    ]


def test_a_model_of_one_size_takes_no_batches(tmp_path):
    write(tmp_path / "1" / "model.onnx", [Node("Add", ["X", "X"], ["Y"])], {"X": ("int64", [3])}, {"Y": ("int64", [3])})
    completed = json.loads(onnx_model.complete(config(tmp_path, max_batch_size=0)))
    assert completed["max_batch_size"] == 0
    assert "dynamic_batching" not in completed
    assert completed["input"][0]["dims"] == [3]


def test_what_is_configured_already_stays(doubling):
    told = config(doubling, input=[described("X", "TYPE_FP32", -1)], sequence_batching={}, max_batch_size=8)
    completed = json.loads(onnx_model.complete(told))
    assert completed["input"][0]["dims"] == [-1]
    assert completed["output"][0]["dims"] == [2]
    assert "dynamic_batching" not in completed
    whole = config(doubling, input=[described("X", "TYPE_FP32", 2)], output=[described("Y", "TYPE_FP32", 2)])
    assert onnx_model.complete(whole) == whole.document


def test_a_scalar_of_each_row_is_one_element(tmp_path):
    write(
        tmp_path / "1" / "model.onnx",
        [Node("ReduceMax", ["X"], ["Y"], {"axes": [1], "keepdims": 0})],
        FLOATS,
        {"Y": ("float", ["n"])},
    )
    told = config(tmp_path, max_batch_size=0)
    completed = read(onnx_model.complete(told), version=1, path=told.path, arguments={})
    assert (completed.output[0].dims, completed.output[0].reshape.shape) == ((1,), ())
    model = onnx_model.load(completed, CPU, None)
    (answer,) = executed(model, request(tensor("X", np.array([[1, 7], [3, 2]], np.float32))))
    assert arrays(answer)["Y"].tolist() == [7, 3]


def test_strings_pass(tmp_path):
    told = {"S": ("string", ["n", 1])}
    write(tmp_path / "1" / "model.onnx", [Node("Identity", ["S"], ["T"])], told, {"T": ("string", ["n", 1])})
    completed = onnx_model.complete(config(tmp_path, max_batch_size=0))
    model = onnx_model.load(read(completed, version=1, path=str(tmp_path / "1"), arguments={}), CPU, None)
    words, broken = np.array([["é".encode()], [b""]], dtype=object), np.array([[b"\xff"]], dtype=object)
    answers = executed(model, request(tensor("S", words)), request(tensor("S", broken)))
    assert arrays(answers[0])["T"].tolist() == words.tolist()
    assert (answers[1][0].error, "not UTF-8" in answers[1][0].message) == (Code.INVALID_ARG, True)


def test_a_run_that_fails_says_what_onnxruntime_says(tmp_path):
    nodes = [Node("Gather", ["table", "I"], ["Y"])]
    table = {"table": np.arange(3, dtype=np.float32)}
    write(tmp_path / "1" / "model.onnx", nodes, {"I": ("int64", ["n", 1])}, {"Y": ("float", ["n", 1])}, table)
    told = config(
        tmp_path, input=[described("I", "TYPE_INT64", 1)], output=[described("Y", "TYPE_FP32", 1)], max_batch_size=4
    )
    model = onnx_model.load(told, CPU, None)
    good, bad = tensor("I", np.array([[2]])), tensor("I", np.array([[99]]))
    answers = executed(model, request(bad), request(good))
    assert answers[0][0].error == Code.INTERNAL
    assert answers[0][0].message.startswith("onnx runtime error")
    assert arrays(answers[1])["Y"].tolist() == [[2]]


def test_a_default_filename_is_found_and_so_is_a_folder_of_that_name(tmp_path):
    for place in ("onnx/other.onnx", "model.onnx/model.onnx"):
        write(tmp_path / "1" / place, [Node("Add", ["X", "X"], ["Y"])], FLOATS, {"Y": ("float", ["n", 2])})
    for name in ("onnx/other.onnx", ""):
        assert json.loads(onnx_model.complete(config(tmp_path, default_model_filename=name)))["input"][0]["name"] == "X"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"input": [described("Q", "TYPE_FP32", 2)]},
            "unexpected inference input 'Q', allowed inputs are: X",
        ),
        (
            {"input": [described("X", "TYPE_INT8", 2)]},
            "unable to load model 'm', unexpected datatype TYPE_INT8 for inference input 'X', expecting TYPE_FP32",
        ),
        (
            {"input": [described("X", "TYPE_FP32", 3)]},
            "the model expects 2 dimensions (shape [-1,2]) but the model configuration specifies 2 dimensions (an",
        ),
        (
            {"input": [described("X", "TYPE_FP32", 3)]},
            "because max_batch_size > 0 followed by the explicit tensor shape, making complete shape [-1,3])",
        ),
        (
            {"input": [described("X", "TYPE_FP32", 2)], "max_batch_size": 0},
            "2 dimensions (shape [-1,2]) but the model configuration specifies 1 dimensions (shape [2])",
        ),
        (
            {"input": [described("X", "TYPE_FP32", 2), described("Z", "TYPE_FP32", 2)]},
            "unable to load model 'm', configuration expects 2 inputs, model provides 1",
        ),
        ({"parameters": {"intra_op_thread_count": {"string_value": "two"}}}, "intra_op_thread_count is no number"),
        ({"default_model_filename": "gone.onnx"}, "unable to find '"),
    ],
)
def test_a_configuration_that_is_wrong_is_refused_in_tritons_words(doubling, fields, words):
    base = {"input": [described("X", "TYPE_FP32", 2)], "output": [described("Y", "TYPE_FP32", 2)]}
    with pytest.raises(LoadError) as refused:
        onnx_model.load(config(doubling, **base | fields), CPU, None)
    assert words in str(refused.value)


def test_a_file_that_is_no_model_fails_the_load(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx").write_bytes(b"nothing of the kind")
    with instance() as host:
        answer = host.load(config(tmp_path), completes=True)
    assert isinstance(answer, Failed)
    assert answer.message.startswith("onnx runtime error")
