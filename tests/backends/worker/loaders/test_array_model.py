from __future__ import annotations

import numpy as np
import pytest

from backends.config import read
from backends.errors import Code, InferenceError
from backends.worker.loaders.array_model import ArrayModel
from tests.backends.worker.executing import arrays, executed, request
from tests.backends.worker.instances import document, tensor


class Session:
    """Adds one, remembers what it was given, fails on 13."""

    def __init__(self, give=lambda feeds: {"Y": feeds["X"] + 1, "Z": feeds["X"] * 2}):
        self.give = give
        self.runs: list[tuple[dict[str, np.ndarray], tuple[str, ...]]] = []
        self.closed = False

    def run(self, feeds, wanted):
        self.runs.append((dict(feeds), tuple(wanted)))
        if any(13 in array for array in feeds.values()):
            raise InferenceError("unlucky", Code.INTERNAL)
        found = self.give(feeds)
        return [found[name] for name in wanted]

    def close(self):
        self.closed = True


TWO = [{"name": name, "data_type": "TYPE_INT32", "dims": [-1]} for name in ("Y", "Z")]


def model(session, **fields):
    return ArrayModel(read(document(**{"output": TWO} | fields), version=1, path="", arguments={}), session)


def rows(*values):
    return tensor("X", np.array(values, np.int32).reshape(len(values), 1))


def test_a_batch_is_one_run_and_each_gets_its_own_rows():
    session = Session()
    answers = executed(model(session), request(rows(1, 2)), request(rows(3)))
    assert [arrays(answer)["Y"].tolist() for answer in answers] == [[[2], [3]], [[4]]]
    assert len(session.runs) == 1


def test_one_members_input_is_not_copied():
    given = rows(1, 2)
    given.data = bytearray(given.data)
    session = Session()
    executed(model(session), request(given))
    given.data[0] = 9
    assert session.runs[0][0]["X"].tolist() == [[9], [2]]


def test_only_outputs_that_somebody_wants_are_asked_for():
    session = Session()
    answers = executed(model(session), request(rows(1), outputs=["Z"]), request(rows(2), outputs=["Z"]))
    assert session.runs[0][1] == ("Z",)
    assert arrays(answers[0]).keys() == {"Z"}
    both = executed(model(session), request(rows(1), outputs=["Z"]), request(rows(2)))
    assert [set(arrays(answer)) for answer in both] == [{"Z"}, {"Y", "Z"}]


def test_one_bad_member_fails_alone():
    answers = executed(model(Session()), request(rows(1)), request(rows(13)), request(rows(3)))
    assert arrays(answers[0])["Y"].tolist() == [[2]]
    assert (answers[1][0].error, answers[1][0].message) == (Code.INTERNAL, "unlucky")
    assert arrays(answers[2])["Y"].tolist() == [[4]]


def test_a_model_without_batches_gets_the_shape_as_it_came():
    session = Session()
    (answer,) = executed(model(session, max_batch_size=0), request(tensor("X", np.arange(3, dtype=np.int32))))
    assert arrays(answer)["Y"].tolist() == [1, 2, 3]


def test_inputs_that_do_not_fit_together_are_refused():
    wide = tensor("X", np.zeros((1, 2), np.int32))
    bad = rows(1)
    bad.shape = (1, 7)
    (answer,) = executed(model(Session()), request(bad))
    assert answer[0].error == Code.INVALID_ARG
    apart = executed(model(Session()), request(rows(1)), request(wide))
    assert [len(arrays(answer)["Y"][0]) for answer in apart] == [1, 2]


def test_ragged_inputs_are_laid_end_to_end():
    session = Session(lambda _: {"Y": np.array([[1], [2]], np.int32)})
    ragged = [{"name": "X", "data_type": "TYPE_INT32", "dims": [-1], "allow_ragged_batch": True}]
    first, second = tensor("X", np.array([[1, 2]], np.int32)), tensor("X", np.array([[3]], np.int32))
    executed(model(session, input=ragged, output=TWO[:1]), request(first), request(second))
    assert session.runs[0][0]["X"].tolist() == [1, 2, 3]


def test_states_are_answered_whatever_outputs_are_asked_for():
    sequence = {"state": [{"input_name": "X", "output_name": "Z", "data_type": "TYPE_INT32", "dims": [1]}]}
    made = model(Session(), sequence_batching=sequence, output=TWO[:1])
    (answer,) = executed(made, request(rows(5), outputs=["Y"]))
    assert {name: array.tolist() for name, array in arrays(answer).items()} == {"Y": [[6]], "Z": [[10]]}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((1, 1), np.int32), "of shape [1, 1] for a batch of 2"),
        (np.zeros((2, 1), np.float32), "of float32 instead of int32"),
    ],
)
def test_an_output_that_is_not_as_configured_fails(given, words):
    made = model(Session(lambda _: {"Y": given}), output=TWO[:1])
    (answer,) = executed(made, request(rows(1, 2)))
    assert answer[0].error == Code.INTERNAL
    assert words in answer[0].message


def test_the_session_is_closed_at_the_end():
    session = Session()
    model(session).finalize()
    assert session.closed


RAGGED = {
    "input": [{"name": "X", "data_type": "TYPE_INT32", "dims": [-1], "allow_ragged_batch": True}],
    "batch_input": [
        {
            "kind": "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO",
            "target_name": ["AT"],
            "data_type": "TYPE_INT32",
            "source_input": ["X"],
        }
    ],
    "batch_output": [{"target_name": ["Y"], "source_input": ["X"]}],
}


def ragged(*values):
    return request(tensor("X", np.array([values], np.int32)))


def test_ragged_inputs_stand_end_to_end_and_outputs_go_back_in_their_shapes():
    session = Session(lambda feeds: {"Y": feeds["X"] + 1, "Z": np.diff(feeds["AT"]).reshape(2, 1)})
    answers = executed(model(session, **RAGGED), ragged(1, 2, 3), ragged(4))
    ((feeds, _),) = session.runs
    assert (feeds["X"].tolist(), feeds["AT"].tolist()) == ([1, 2, 3, 4], [0, 3, 4])
    assert [arrays(answer)["Y"].tolist() for answer in answers] == [[[2, 3, 4]], [[5]]]
    assert [arrays(answer)["Z"].tolist() for answer in answers] == [[[3]], [[1]]]


def test_an_output_that_cannot_be_told_apart_fails():
    session = Session(lambda feeds: {"Y": feeds["X"][:-1], "Z": feeds["AT"][1:]})
    (answer,) = executed(model(session, **RAGGED), ragged(1, 2, 3))
    assert answer[0].message.endswith("gave output 'Y' of 2 elements for a batch of 3")
