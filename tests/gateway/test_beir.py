import pytest

from backends.errors import InvalidRequest
from gateway.beir import read

CORPUS = """\
{"_id": "d1", "title": " On\\n wings ", "text": " Lift. ", "metadata": {}}
{"_id": "d2", "title": "", "text": "Drag."}
{"_id": "d3", "title": null, "text": "Heat."}

{"_id": "d4", "title": "", "text": " "}
"""
QUERIES = """\
{"_id": "q1", "text": "lift?"}
{"_id": "q2", "text": "nobody judged this"}
{"_id": "q3", "text": "nothing is right"}
"""
JUDGEMENTS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq3\td2\t0\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text(CORPUS)
    (tmp_path / "queries.jsonl").write_text(QUERIES)
    (tmp_path / "qrels" / "test.tsv").write_text(JUDGEMENTS)
    return tmp_path


def test_titles_are_headings_and_empty_documents_are_left_out(folder):
    assert read(folder, "test").documents == {"d1": "# On wings\n\nLift.", "d2": "Drag.", "d3": "Heat."}


def test_only_queries_that_something_answers_are_asked(folder):
    found = read(folder, "test")
    assert found.queries == {"q1": "lift?"}
    assert found.grades == {"q1": {"d1": 2, "d2": 0}}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("corpus.jsonl", CORPUS + "{", r"corpus.jsonl, line 6 is no object with '_id' and 'text'"),
        ("queries.jsonl", '{"_id": "q1"}', r"queries.jsonl, line 1 is no object with '_id' and 'text'"),
        ("qrels/test.tsv", JUDGEMENTS + "q1\td1\tgood\n", r"test.tsv, line 5 is no query, document and grade"),
        ("qrels/test.tsv", JUDGEMENTS + "q1\td1\n", r"test.tsv, line 5 is no query, document and grade"),
        (
            "qrels/test.tsv",
            "query-id\tcorpus-id\tscore\nq9\td1\t1\n",
            r"queries.jsonl has no query that test.tsv judges",
        ),
    ],
)
def test_what_is_wrong_is_named_by_file_and_line(folder, file, text, message):
    (folder / file).write_text(text)
    with pytest.raises(InvalidRequest, match=message):
        read(folder, "test")


def test_a_split_that_is_not_there_is_named(folder):
    with pytest.raises(InvalidRequest, match=r"dev.tsv cannot be read: No such file"):
        read(folder, "dev")
