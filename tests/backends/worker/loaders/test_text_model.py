from __future__ import annotations

import json
from array import array
from threading import Barrier

import numpy as np
import pytest

from backends.config import read
from backends.errors import Code, InferenceError
from backends.tensors import Tensor, join
from backends.worker.instance import LoadError
from backends.worker.loaders.completion import Signature
from backends.worker.loaders.text_model import TextModel, completed, declared, groups
from backends.worker.messages import Metrics
from tests.backends.worker.executing import arrays, executed, request
from tests.backends.worker.texts import config, folder

WIDTH = 2
IDS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
TOKENS = Signature("last_hidden_state", "TYPE_FP32", (-1, -1, WIDTH))
POOLED = Signature("sentence_embedding", "TYPE_FP32", (-1, WIDTH))
LOGITS = Signature("logits", "TYPE_FP32", (-1, 1))


class Session:
    """A token's vector is its id and its place; a pair's logit is the sum of its ids; ids over 90 fail."""

    def __init__(self, parallel=1):
        self.parallel = parallel
        self.runs: list[dict[str, np.ndarray]] = []
        self.together = Barrier(parallel, timeout=10)

    def run(self, feeds, wanted):
        self.runs.append(dict(feeds))
        self.together.wait()
        ids = feeds["input_ids"]
        if ids.max() > 90:
            raise InferenceError("over 90", Code.INTERNAL)
        tokens = np.stack([ids, np.broadcast_to(np.arange(ids.shape[1]), ids.shape)], axis=2).astype(np.float32)
        found = {
            "last_hidden_state": tokens,
            "sentence_embedding": tokens[:, 0] + 50,
            "logits": (ids * feeds.get("attention_mask", 1)).sum(axis=1, keepdims=True).astype(np.float32),
            "wide": tokens[:, :2].reshape(len(ids), -1),
        }
        return [found[name] for name in wanted]

    def close(self):
        self.runs.clear()


@pytest.fixture
def make(tmp_path):
    version = folder(tmp_path, {"config.json": {"pad_token_id": 7}})
    metrics: list[Metrics] = []

    def made(outputs=(TOKENS,), inputs=IDS, parallel=1, **parameters):
        told = config(version, {"normalize": "false"} | parameters)
        text = declared(told)
        told = read(completed(told, text, outputs), version=1, path=told.path, arguments={})
        session = Session(parallel)
        signatures = [Signature(name, "TYPE_INT64", (-1, -1)) for name in inputs]
        return TextModel(told, text, session, signatures, outputs, metrics.append), session

    return made


def column(name, *rows):
    return Tensor(name, "BYTES", (len(rows), 1), join([array("i", row).tobytes() for row in rows]))


def asked(*rows, **fields):
    return request(column("text", *rows), **fields)


def vectors(answer):
    return arrays(answer)["embedding"].tolist()


def test_rows_of_several_requests_run_together_padded_and_masked(make):
    model, session = make()
    answers = executed(model, asked([4, 6]), asked([8], [2, 2]))
    assert [vectors(answer) for answer in answers] == [[[5, 0.5]], [[8, 0], [2, 0.5]]]
    assert [respond.parameters["prompt_tokens"] for respond, _ in answers] == [2, 3]
    (feeds,) = session.runs
    assert {name: (feed.shape, feed.dtype) for name, feed in feeds.items()} == dict.fromkeys(IDS, ((3, 2), np.int64))
    assert sorted(feeds["input_ids"].tolist()) == [[2, 2], [4, 6], [8, 7]]
    assert feeds["attention_mask"].sum() == 5
    assert feeds["position_ids"].tolist() == [[0, 1]] * 3
    assert not feeds["token_type_ids"].any()


@pytest.mark.parametrize(
    ("pooling", "vector"),
    [("mean", [3, 1]), ("cls", [1, 0]), ("last", [2, 2]), ("max", [6, 2])],
)
def test_each_way_of_pooling_leaves_padding_out(make, pooling, vector):
    model, _ = make(pooling=pooling)
    answers = executed(model, asked([1, 6, 2]), asked([9, 9, 9, 9]))
    assert vectors(answers[0]) == [vector]


def test_vectors_get_the_length_one_where_they_are_to(make):
    model, _ = make(normalize="true", pooling="cls")
    (answer,) = executed(model, asked([4, 1]))
    assert vectors(answer) == [[1, 0]]


def test_without_pooling_every_token_has_its_vector(make):
    model, _ = make(pooling="none")
    answers = executed(model, asked([4, 6]), asked([8], [1, 2]))
    assert vectors(answers[0]) == [[[4, 0], [6, 1]]]
    assert vectors(answers[1]) == [[[8, 0], [0, 0]], [[1, 0], [2, 1]]]


def test_a_model_that_pools_by_itself_is_left_to_it_unless_told_otherwise(make):
    model, _ = make(outputs=(TOKENS, POOLED))
    assert vectors(executed(model, asked([4, 6]))[0]) == [[54, 50]]
    model, _ = make(outputs=(TOKENS, POOLED), pooling="cls")
    assert vectors(executed(model, asked([4, 6]))[0]) == [[4, 0]]
    model, _ = make(outputs=(TOKENS, POOLED), output="sentence_embedding", pooling="cls")
    assert vectors(executed(model, asked([4, 6]))[0]) == [[54, 50]]


def test_equal_texts_of_a_batch_run_once(make):
    model, session = make()
    answers = executed(model, asked([4, 6], [4, 6]), asked([4, 6]))
    assert [vectors(answer) for answer in answers] == [[[5, 0.5]] * 2, [[5, 0.5]]]
    assert session.runs[0]["input_ids"].shape == (1, 2)


def test_a_pairs_score_goes_through_the_activation(make):
    pair = (column("query", [1, 2, 3]), column("document", [0, 0, 1]))
    model, session = make(outputs=(LOGITS,), task="rerank")
    (answer,) = executed(model, request(*pair))
    assert arrays(answer)["score"] == pytest.approx(1 / (1 + np.exp(-6)))
    assert answer[0].parameters["prompt_tokens"] == 3
    assert session.runs[0]["token_type_ids"].tolist() == [[0, 0, 1]]
    model, _ = make(outputs=(LOGITS,), task="rerank", activation="none")
    assert arrays(executed(model, request(*pair))[0])["score"].tolist() == [[6]]


def test_a_reranker_of_several_scores_is_refused(make):
    model, _ = make(outputs=(Signature("wide", "TYPE_FP32", (-1, 4)),), task="rerank")
    (answer,) = executed(model, request(column("query", [1, 2]), column("document", [0, 0])))
    assert "one score for a pair, not [4]" in answer[0].message


def test_late_interaction_is_the_mean_of_the_best_cosines_where_long_vectors_count_more(make):
    model, session = make(task="maxsim")
    query, near, far = [1, 1], [1, 1], [0, 0]
    (answer,) = executed(model, request(column("query", query, query), column("document", near, far)))
    # Vectors (1, 0) and (1, 1) against themselves, and against (0, 0) and (0, 1).
    assert arrays(answer)["score"][:, 0] == pytest.approx([1.0, (1 * 0 + 2 * np.sqrt(0.5)) / 3], abs=2e-4)
    assert len(session.runs[0]["input_ids"]) == 2
    assert answer[0].parameters["prompt_tokens"] == 8


def test_passages_that_were_scored_once_are_not_run_for_the_next_question(make):
    model, session = make(task="maxsim")
    executed(model, request(column("query", [1, 1], [1, 1]), column("document", [3, 4], [5, 6])))
    executed(model, request(column("query", [2, 1], [2, 1]), column("document", [5, 6], [3, 4])))
    assert session.runs[1]["input_ids"].tolist() == [[2, 1]]


def test_labels_get_probabilities(make):
    model, _ = make(outputs=(Signature("wide", "TYPE_FP32", (-1, 4)),), task="classify")
    (answer,) = executed(model, asked([1, 1]))
    assert arrays(answer)["scores"].sum() == pytest.approx(1)
    assert arrays(answer)["scores"].shape == (1, 4)


def test_one_bad_member_fails_alone(make):
    model, _ = make()
    answers = executed(model, asked([99]), asked([4, 6]))
    assert (answers[0][0].error, answers[0][0].message) == (Code.INTERNAL, "over 90")
    assert vectors(answers[1]) == [[5, 0.5]]


def test_what_is_no_row_of_ids_fails_alone(make):
    model, _ = make()
    raw = Tensor("text", "BYTES", (1, 1), join([b"abc"]))
    other = Tensor("other", "BYTES", (1, 1), join([b"abcd"]))
    answers = executed(model, request(raw), request(other), asked([4, 6]))
    assert [respond.error for respond, _ in answers] == [Code.INVALID_ARG, Code.INVALID_ARG, ""]


def test_a_model_is_given_only_the_inputs_that_it_has(make):
    model, session = make(inputs=("input_ids",))
    executed(model, asked([4]))
    assert session.runs[0].keys() == {"input_ids"}


def test_inputs_that_no_text_gives_are_refused(make):
    with pytest.raises(LoadError, match="wants inputs that texts do not give: pixel_values"):
        make(inputs=("input_ids", "pixel_values"))


def test_an_output_that_there_is_not_is_refused(make):
    with pytest.raises(LoadError, match="model 'm' has no output 'gone', it has last_hidden_state"):
        make(output="gone")


def test_one_output_is_wanted(tmp_path):
    told = config(folder(tmp_path))
    with pytest.raises(LoadError, match="gives one output of its texts, and has 0"):
        TextModel(told, declared(told), Session(), [], [TOKENS], [].append)


def test_what_is_wrong_about_texts_fails_the_load(tmp_path):
    with pytest.raises(LoadError, match="is no file"):
        declared(config(tmp_path))


@pytest.mark.parametrize(
    ("parameters", "output", "names", "dims"),
    [
        ({}, TOKENS, ["text"], [WIDTH]),
        ({"pooling": "none"}, TOKENS, ["text"], [-1, WIDTH]),
        ({"task": "rerank"}, LOGITS, ["query", "document"], [1]),
    ],
)
def test_a_configuration_is_completed_with_texts(tmp_path, parameters, output, names, dims):
    told = config(folder(tmp_path), parameters, max_batch_size=0)
    document = json.loads(completed(told, declared(told), [output]))
    assert [(entry["name"], entry["data_type"], entry["dims"]) for entry in document["input"]] == [
        (name, "TYPE_STRING", [1]) for name in names
    ]
    assert [(entry["data_type"], entry["dims"]) for entry in document["output"]] == [("TYPE_FP32", dims)]
    assert document["max_batch_size"] > 1
    assert "dynamic_batching" in document


@pytest.mark.parametrize(
    ("lengths", "most", "expected"),
    [
        ([5, 5, 5], 100, [[0, 1, 2]]),
        ([5, 60, 5, 61], 1000, [[3, 1], [0, 2]]),
        ([5, 5, 5], 10, [[0, 1], [2]]),
        ([300], 10, [[0]]),
        ([20] * 4 + [10], 1000, [[0, 1, 2, 3, 4]]),
    ],
)
def test_rows_are_padded_only_where_that_costs_less_than_another_run(lengths, most, expected):
    assert [group.tolist() for group in groups(np.array(lengths), most)] == expected


@pytest.mark.parametrize(
    ("lengths", "parallel", "expected"),
    [
        ([16] * 4, 2, [[0, 1], [2, 3]]),
        ([16] * 3, 2, [[0, 1, 2]]),
        ([16] * 5, 2, [[0, 1, 2], [3, 4]]),
        ([40, 20, 20], 2, [[0], [1, 2]]),
        ([16] * 3, 4, [[0, 1, 2]]),
        ([32] * 3, 4, [[0], [1], [2]]),
    ],
)
def test_rows_are_divided_among_runs_where_there_are_tokens_for_them(lengths, parallel, expected):
    assert [group.tolist() for group in groups(np.array(lengths), 1000, parallel)] == expected


def test_rows_run_side_by_side_and_come_back_in_order(make):
    model, session = make(parallel=2, pooling="cls")
    rows = [[number] * 16 for number in (1, 2, 3, 4)]
    found = arrays(executed(model, asked(*rows))[0])["embedding"]
    assert found[:, 0].tolist() == [1, 2, 3, 4]
    assert sorted(len(run["input_ids"]) for run in session.runs) == [2, 2]
    model.finalize()
