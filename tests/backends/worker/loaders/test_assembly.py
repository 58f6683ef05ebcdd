from __future__ import annotations

from array import array

import pytest

from backends.config import BatchInput, BatchOutput
from backends.errors import InferenceError
from backends.worker.loaders.assembly import batch_inputs, parts

MEMBERS = [{"A": (1, 3)}, {"A": (2, 2)}, {"A": (1, 1)}]


@pytest.mark.parametrize(
    ("kind", "shape", "values"),
    [
        ("BATCH_ELEMENT_COUNT", (3,), [3, 4, 1]),
        ("BATCH_ACCUMULATED_ELEMENT_COUNT", (3,), [3, 7, 8]),
        ("BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO", (4,), [0, 3, 7, 8]),
        ("BATCH_MAX_ELEMENT_COUNT_AS_SHAPE", (4,), [0, 0, 0, 0]),
        ("BATCH_ITEM_SHAPE", (4, 1), [3, 2, 2, 1]),
        ("BATCH_ITEM_SHAPE_FLATTEN", (4,), [3, 2, 2, 1]),
    ],
)
@pytest.mark.parametrize(("data_type", "form"), [("TYPE_INT32", "i"), ("TYPE_FP32", "f")])
def test_a_batch_tells_its_model_of_the_shapes_of_its_members(kind, shape, values, data_type, form):
    (made,) = batch_inputs([BatchInput(kind, ("N",), data_type, ("A",))], MEMBERS)
    assert (made.name, made.shape, list(array(form, made.data))) == ("N", shape, values)


def test_items_of_several_dimensions_are_told_row_by_row():
    wanted = BatchInput("BATCH_ITEM_SHAPE", ("N",), "TYPE_INT32", ("A",))
    (made,) = batch_inputs([wanted], [{"A": (2, 3, 4)}, {"A": (1, 5, 6)}])
    assert (made.shape, list(array("i", made.data))) == ((3, 2), [3, 4, 3, 4, 5, 6])


def test_each_member_has_its_own_part_of_an_output():
    output = BatchOutput(("O",), source_input=("A",))
    assert parts(output, MEMBERS) == [(0, 3, (1, 3)), (3, 7, (2, 2)), (7, 8, (1, 1))]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (BatchInput("BATCH_WEIGHT", ("N",), "TYPE_INT32", ("A",)), "unexpected batch input BATCH_WEIGHT"),
        (BatchInput("BATCH_ELEMENT_COUNT", ("N",), "TYPE_INT64", ("A",)), "unexpected type TYPE_INT64"),
        (BatchInput("BATCH_ELEMENT_COUNT", ("N",), "TYPE_INT32", ("B",)), "input 'B' is wanted"),
    ],
)
def test_what_cannot_be_told_is_refused(wanted, message):
    with pytest.raises(InferenceError, match=message):
        batch_inputs([wanted], MEMBERS)
