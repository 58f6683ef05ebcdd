from __future__ import annotations

import msgspec
import pytest

from backends.errors import InvalidRequest
from backends.worker.text import Text, read
from tests.backends.worker.texts import config, folder

TRANSFORMER = {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
NORMALIZE = {"idx": 2, "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}


def test_a_model_without_a_task_takes_no_texts(tmp_path):
    assert read(config(tmp_path, {"task": ""})) is None


def test_a_task_and_a_tokenizer_are_enough(tmp_path):
    version = folder(tmp_path)
    assert read(config(version)) == Text("embed", ("text",), str(version / "tokenizer.json"))


def test_the_files_of_sentence_transformers_say_how_vectors_are_made(tmp_path):
    files = {
        "modules.json": [TRANSFORMER, POOLING],
        "1_Pooling/config.json": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
        "sentence_bert_config.json": {"max_seq_length": 77},
        "config.json": {"max_position_embeddings": 512, "pad_token_id": 1},
        "config_sentence_transformers.json": {"prompts": {"query": "q: ", "no": None}, "default_prompt_name": "query"},
    }
    text = read(config(folder(tmp_path, files)))
    assert (text.pooling, text.normalize, text.max_length, text.pad_id) == ("cls", False, 77, 1)
    assert text.prompts == {"query": "q: ", "": "q: "}


@pytest.mark.parametrize(
    ("said", "pooling"),
    [
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode_max_tokens": True, "word_embedding_dimension": 4}, "max"),
    ],
)
def test_older_and_newer_words_for_pooling_are_known(tmp_path, said, pooling):
    files = {"modules.json": [TRANSFORMER, POOLING, NORMALIZE], "1_Pooling/config.json": said}
    text = read(config(folder(tmp_path, files)))
    assert (text.pooling, text.normalize) == (pooling, True)


def test_parameters_stand_over_files(tmp_path):
    files = {
        "modules.json": [TRANSFORMER, POOLING],
        "1_Pooling/config.json": {"pooling_mode": "cls"},
        "tokenizer_config.json": {"model_max_length": 99},
        "config_sentence_transformers.json": {"prompts": {"query": "q: "}},
    }
    given = {
        "pooling": "last",
        "normalize": "true",
        "max_length": "5",
        "truncate": "false",
        "max_batch_tokens": "64",
        "prompt": "text: ",
        "prompt.query": "question: ",
        "output": "vectors",
    }
    text = read(config(folder(tmp_path, files), given))
    assert msgspec.structs.replace(text, tokenizer="", inputs=()) == Text(
        task="embed",
        inputs=(),
        tokenizer="",
        max_length=5,
        truncate=False,
        pooling="last",
        prompts={"query": "question: ", "": "text: "},
        output="vectors",
        max_batch_tokens=64,
    )


@pytest.mark.parametrize(
    ("said", "length"),
    [
        ({"tokenizer_config.json": {"model_max_length": 1e30}, "config.json": {"max_position_embeddings": 130}}, 130),
        ({}, 512),
    ],
)
def test_the_longest_text_is_what_the_first_file_says_that_says_it(tmp_path, said, length):
    assert read(config(folder(tmp_path, said))).max_length == length


@pytest.mark.parametrize(
    ("task", "said", "activation"),
    [
        ("rerank", {}, "sigmoid"),
        ("rerank", {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, "none"),
        ("classify", {}, "softmax"),
        ("classify", {"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}, "sigmoid"),
        ("maxsim", {}, "none"),
    ],
)
def test_logits_go_through_what_the_models_configuration_says(tmp_path, task, said, activation):
    text = read(config(folder(tmp_path, {"config.json": said}), {"task": task}))
    assert text.activation == activation
    assert text.inputs == (("text",) if task == "classify" else ("query", "document"))


def test_inputs_have_the_names_of_the_configuration(tmp_path):
    inputs = [{"name": name, "data_type": "TYPE_STRING", "dims": [1]} for name in ("Q", "D")]
    assert read(config(folder(tmp_path), {"task": "rerank"}, input=inputs)).inputs == ("Q", "D")


@pytest.mark.parametrize(
    ("files", "parameters", "words"),
    [
        ({}, {"task": "dream"}, "the parameter task is 'dream', and one of embed, rerank, maxsim, classify is wanted"),
        ({}, {"tokenizer": "gone.json"}, "gone.json' is no file"),
        ({}, {"pooling": "median"}, "the parameter pooling is 'median'"),
        ({}, {"max_length": "0"}, "the parameter max_length is no positive number: '0'"),
        ({}, {"passage_cache_bytes": "-1"}, "the parameter passage_cache_bytes is no number: '-1'"),
        ({}, {"normalize": "maybe"}, "the parameter normalize is 'maybe'"),
        ({}, {"activation": "gelu"}, "the parameter activation is 'gelu'"),
        ({"modules.json": [TRANSFORMER, {"type": "sentence_transformers.models.Dense"}]}, {}, "has a module Dense"),
        (
            {"modules.json": [POOLING], "1_Pooling/config.json": {"pooling_mode_weightedmean_tokens": True}},
            {},
            "pools by pooling_mode_weightedmean_tokens",
        ),
        ({"modules.json": [POOLING]}, {}, "pools by nothing"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, files, parameters, words):
    with pytest.raises(InvalidRequest) as refused:
        read(config(folder(tmp_path, files), parameters))
    assert words in refused.value.message


def test_a_file_that_is_not_json_is_named(tmp_path):
    version = folder(tmp_path)
    (version / "config.json").write_text("{")
    with pytest.raises(InvalidRequest, match=r"config\.json cannot be read"):
        read(config(version, {"task": "rerank"}))


def test_as_many_inputs_as_the_task_takes_are_wanted(tmp_path):
    one = [{"name": "text", "data_type": "TYPE_STRING", "dims": [1]}]
    with pytest.raises(InvalidRequest, match="takes query and document, and 1 inputs are configured"):
        read(config(folder(tmp_path), {"task": "maxsim"}, input=one))
