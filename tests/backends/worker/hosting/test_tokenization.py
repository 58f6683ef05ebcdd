from __future__ import annotations

import json
import subprocess
import sys
from array import array

import pytest

from backends.errors import Code, InferenceError, InvalidRequest
from backends.tensors import Tensor, elements, join
from backends.worker.frames import heads
from backends.worker.hosting.tokenization import tokenization_of
from backends.worker.messages import Infer
from backends.worker.scheduling.batcher import Entry
from tests.backends.worker.texts import IDS, config, folder
from tests.servers import ROOT

CLS, SEP, A, B, C = (IDS[word] for word in ("[CLS]", "[SEP]", "a", "b", "c"))


def entry(columns, **parameters):
    tensors = [Tensor(name, "BYTES", (len(texts), 1), join(texts)) for name, texts in columns.items()]
    return Entry(Infer(1, "m", 1, "", heads(tensors), [], parameters), tensors, 1, 0)


def tokenized(tokenization, columns, **parameters):
    """Each column's rows of ids, and the entry's cost."""
    made = entry(columns, **parameters)
    tokenization.replace(made)
    assert made.infer.inputs == heads(made.tensors)
    return [[array("i", element).tolist() for element in elements(tensor.data)] for tensor in made.tensors], made.cost


@pytest.fixture
def make(tmp_path):
    version = folder(tmp_path)
    return lambda **parameters: tokenization_of(config(version, parameters))


def test_a_text_becomes_its_tokens_without_padding(make):
    assert tokenized(make(), {"text": [b"a b", b"c"]}) == ([[[CLS, A, B, SEP], [CLS, C, SEP]]], 4)


def test_what_is_too_long_is_cut_or_refused(make):
    assert tokenized(make(max_length="3"), {"text": [b"a b c"]}) == ([[[CLS, A, SEP]]], 3)
    with pytest.raises(InferenceError, match="a text has 5 tokens, the model takes 3") as refused:
        tokenized(make(max_length="3", truncate="false"), {"text": [b"a b c"]})
    assert refused.value.status is Code.INVALID_ARG


def test_a_pair_is_one_sequence_with_its_types(make):
    (ids, types), cost = tokenized(make(task="rerank"), {"query": [b"a"], "document": [b"b c"]})
    assert (ids, types, cost) == ([[CLS, A, SEP, B, C, SEP]], [[0, 0, 0, 1, 1, 1]], 6)


def test_late_interaction_has_two_sequences(make):
    found, cost = tokenized(make(task="maxsim"), {"query": [b"a", b"a"], "document": [b"b c", b"c"]})
    assert found == [[[CLS, A, SEP], [CLS, A, SEP]], [[CLS, B, C, SEP], [CLS, C, SEP]]]
    assert cost == 4


def test_prompts_go_before_texts_as_the_model_or_the_request_says(make):
    model = make(**{"prompt.query": "query: ", "prompt": "b "})
    assert tokenized(model, {"text": [b"a"]})[0] == [[[CLS, B, A, SEP]]]
    assert tokenized(model, {"text": [b"a"]}, prompt_name="query")[0] == [[[CLS, IDS["query:"], A, SEP]]]
    with pytest.raises(InferenceError, match="no prompt named 'passage'; the model has query"):
        tokenized(model, {"text": [b"a"]}, prompt_name="passage")


def test_each_side_of_a_pair_has_the_prompt_of_its_name(make):
    found, _ = tokenized(make(**{"task": "maxsim", "prompt.query": "query: "}), {"query": [b"a"], "document": [b"a"]})
    assert found == [[[CLS, IDS["query:"], A, SEP]], [[CLS, A, SEP]]]


def test_token_ids_pass_as_they_are_within_the_vocabulary(make):
    given = [array("i", [A, B]).tobytes()]
    assert tokenized(make(), {"text": given}, tokenized=True) == ([[[A, B]]], 2)
    assert tokenized(make(max_length="1"), {"text": given}, tokenized=True) == ([[[A]]], 1)
    with pytest.raises(InferenceError, match="a text has 2 tokens"):
        tokenized(make(max_length="1", truncate="false"), {"text": given}, tokenized=True)
    for wrong in ([len(IDS)], [-1]):
        with pytest.raises(InferenceError, match=f"not among the {len(IDS)} of the vocabulary"):
            tokenized(make(), {"text": [array("i", wrong).tobytes()]}, tokenized=True)
    for broken in (b"", b"abc"):
        with pytest.raises(InferenceError, match="some int32 values"):
            tokenized(make(), {"text": [broken]}, tokenized=True)


def test_what_is_not_utf_8_is_refused(make):
    with pytest.raises(InferenceError, match="not UTF-8"):
        tokenized(make(), {"text": [b"\xff"]})


def test_a_missing_input_and_a_broken_one_are_refused(make):
    with pytest.raises(InferenceError, match="the inputs query, document are wanted"):
        tokenized(make(task="rerank"), {"query": [b"a"]})
    broken = entry({"text": [b"a"]})
    broken.tensors[0].data = b"\x09\x00\x00\x00a"
    with pytest.raises(InferenceError, match="incomplete string data for inference input 'text'"):
        make().replace(broken)


def test_long_texts_are_known_by_their_bytes(make):
    assert not make().is_long(entry({"text": [b"a" * 4000]}).tensors)
    assert make().is_long(entry({"text": [b"a" * 4000] * 3}).tensors)


def test_a_model_without_a_task_has_no_tokenizer(tmp_path):
    assert tokenization_of(config(tmp_path, {"task": ""})) is None


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    version = folder(tmp_path, {"tokenizer.json": {"version": "1.0"}})
    with pytest.raises(InvalidRequest, match="is no tokenizer") as refused:
        tokenization_of(config(version))
    assert refused.value.param == "tokenizer"


def test_without_the_library_the_install_line_is_said():
    code = (
        "import sys; sys.modules['tokenizers'] = None\n"
        "from backends.worker.hosting.tokenization import Text, Tokenization\n"
        "Tokenization(Text('embed', ('text',), 'tokenizer.json'))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "InvalidRequest: the library tokenizers is not installed: pip install 'tritium[text]'" in ended.stderr


def test_what_the_library_cannot_do_is_the_requests_error(tmp_path):
    version = folder(tmp_path)
    told = json.loads((version / "tokenizer.json").read_text())
    del told["model"]["vocab"]["[UNK]"]
    (version / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(InferenceError, match="could not be made tokens of"):
        tokenized(tokenization_of(config(version)), {"text": [b"unknown"]})
