"""Classes are the best elements, each with its index and label."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from backends.config import ModelConfig, Output
from backends.errors import InferenceError
from backends.tensors import Tensor
from gateway.kserve.classification import Labels, classify
from gateway.kserve.elements import texts


def test_the_best_come_first_with_their_labels() -> None:
    tensor = Tensor("O", "FP32", (2, 3), struct.pack("<6f", 0.5, 2, 1, 3, 3, -1))
    found = classify(tensor, 2, ["cat", "dog"], is_batched=True)
    assert (found.datatype, found.shape) == ("BYTES", (2, 2))
    assert texts(found.data) == ["2.000000:1:dog", "1.000000:2", "3.000000:0:cat", "3.000000:1:dog"]


def test_without_a_batch_all_elements_are_one_row_and_no_more_than_there_are() -> None:
    found = classify(Tensor("O", "INT32", (2, 2), struct.pack("<4i", 1, 4, 3, 2)), 9, [], is_batched=False)
    assert (found.shape, texts(found.data)) == ((4,), ["4:1", "3:2", "2:3", "1:0"])
    assert classify(Tensor("O", "INT32", (0, 3), b""), 2, [], is_batched=True).shape == (0, 0)


@pytest.mark.parametrize("datatype", ["BOOL", "BYTES", "FP16", "BF16"])
def test_what_has_no_order_is_refused(datatype: str) -> None:
    with pytest.raises(InferenceError, match=f"unsupported type '{datatype}'"):
        classify(Tensor("O", datatype, (1,), b"\0\0"), 1, [], is_batched=False)


def test_labels_lie_in_the_models_folder(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    outputs = (Output("O", label_filename="labels.txt"), Output("P", label_filename="nothing.txt"), Output("Q"))
    labels = Labels.read(ModelConfig("m", "python", output=outputs, path=str(tmp_path / "1")))
    assert [labels.of(name) for name in "OPQ"] == [["cat", "dog"], [], []]


def test_a_label_file_that_begins_with_a_slash_is_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "labels.txt").write_text("secret\n")
    outputs = (Output("O", label_filename=str(tmp_path / "labels.txt")),)
    labels = Labels.read(ModelConfig("m", "python", output=outputs, path=str(tmp_path / "model" / "1")))
    assert labels.of("O") == []


def test_labels_that_are_no_unicode_are_labels(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes("Pferd\nKüken\n".encode("latin-1"))
    outputs = (Output("O", label_filename="labels.txt"),)
    labels = Labels.read(ModelConfig("m", "python", output=outputs, path=str(tmp_path / "1")))
    assert labels.of("O") == ["Pferd", "K\ufffdken"]
