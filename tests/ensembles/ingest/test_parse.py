"""Documents as text: what is read of each format, and what is said of those that cannot be."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from ensembles.ingest import encodings, formats, tabular
from ensembles.ingest.document import Document
from ensembles.ingest.faults import DocumentError
from ensembles.ingest.parse import parse
from tests.ensembles.ingest import documents

RANDOM = random.Random(3).randbytes(3000)


@pytest.fixture
def read(tmp_path: Path):
    """Parse bytes under a name; `text` and `last_error` of OpenAI's files come from it."""

    def parse_bytes(data: bytes, filename: str, **options: bool) -> Document:
        path = tmp_path / "blob"
        path.write_bytes(data)
        return parse(path, filename, **options)

    return parse_bytes


@pytest.fixture
def refused(read):
    def code_and_message(data: bytes, filename: str) -> tuple[str, str]:
        with pytest.raises(DocumentError) as caught:
            read(data, filename)
        return caught.value.code, caught.value.message

    return code_and_message


def test_a_pdf_keeps_its_headings_and_pages(read):
    document = read(documents.pdf(("Rotor", documents.TURBINE * 5), ("Stator", "It stands still. " * 5)), "a.pdf")
    assert document.is_markdown
    assert "# Rotor" in document.text
    (first, one), (second, two) = document.pages
    assert (first, one, two) == (0, 1, 2)
    assert document.text[second:].startswith("# Stator")


def test_a_pdf_that_crashed_a_library_is_read_by_another(read):
    data = documents.pdf(("Rotor", documents.TURBINE), ("Stator", "It stands still."))
    document = read(data, "a.pdf", is_careful=True)
    assert documents.TURBINE.strip() in document.text
    assert [number for _, number in document.pages] == [1, 2]


def test_word_files_keep_headings_and_tables(read):
    document = read(documents.word(("Rotor", documents.TURBINE)), "a.docx")
    assert document.text.startswith(f"# Rotor\n\n{documents.TURBINE.strip()}")
    assert "| rotor | nine tons |" in document.text
    assert document.pages == []


def test_word_files_keep_pages_where_they_tell_them(read):
    document = read(documents.word(("Rotor", documents.TURBINE), is_paged=True), "a.docx")
    assert [number for _, number in document.pages] == [1, 2]


def test_html_is_read_without_its_scripts_in_the_encoding_that_it_has(read):
    document = read(documents.HTML.encode(), "page.html")
    assert "Naïve engines turn." in document.text
    assert "## Diesel" in document.text
    assert "var x" not in document.text


def test_html_is_read_without_what_leads_elsewhere(read):
    document = read(documents.SITE.encode(), "page.html")
    assert document.text == (
        "# Engines\n\nAn engine turns **fast** while it\nhas [fuel](https://example.org/fuel); see Oil.\n\n"
        "```\nturn\n  left\n```"
    )


def test_html_that_only_leads_elsewhere_is_read_with_it(read):
    page = '<html><body><h1>Manual</h1><nav><a href="a.html">Engines</a></nav></body></html>'
    assert "Engines" in read(page.encode(), "index.html").text


def test_html_is_known_by_its_content(read):
    assert "## Diesel" in read(documents.HTML.encode(), "page").text


def test_markdown_is_taken_as_it_is(read):
    document = read(b"# A\n\ntext\n", "a.md")
    assert (document.text, document.is_markdown) == ("# A\n\ntext\n", True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_text_is_read_in_any_encoding(read, encoding):
    text = "Grüße aus Köln: schöne Straßen, süße Äpfel und ähnliches.\n" * 5
    assert read(text.encode(encoding), "a.txt").text == text


def test_a_declared_encoding_counts_where_it_is_not_utf_8(read):
    page = '<html><head><meta charset="koi8-r"></head><body><p>Привет, мир</p></body></html>'
    assert "Привет, мир" in read(page.encode("koi8-r"), "a.html").text


def test_an_unknown_declared_encoding_is_guessed():
    assert encodings.detect('<meta charset="klingon-7">Grüße, schöne Straße'.encode("cp1252"))


def test_each_row_of_a_table_names_its_columns(read):
    assert read(b'name;"the age"\nBob;3\nEve;\n', "a.csv").text == "name: Bob\nthe age: 3\n\nname: Eve"


def test_a_table_without_names_has_its_values(read):
    assert read(b"1\t2\n3\t4\n", "a.tsv").text == "1\n2\n\n3\n4"


def test_a_table_of_names_alone_is_these(read):
    assert read(b"name,age\n", "a.csv").text == "name, age"


def test_json_is_read_record_by_record(read):
    records = [{"name": "Bob", "tags": ["a", 1], "at": {"city": "Köln"}}, {"parts": [{"id": 1}, {"id": 2}], "x": None}]
    text = read(json.dumps(records).encode(), "a.json").text
    assert text == "name: Bob\ntags: a, 1\nat.city: Köln\n\nparts.id: 1\nparts.id: 2\nx: null"


def test_lines_of_json_are_records(read):
    assert read(b'{"a": 1}\n\n{"a": "b"}\n', "a.jsonl").text == "a: 1\n\na: b"


@pytest.mark.parametrize(
    ("data", "filename", "what"),
    [
        (b"", "a.txt", "is empty"),
        (b" \n" * 5000, "a.txt", "has no text"),
        (documents.blank_pdf(), "a.pdf", "images are not read"),
        (b"plain words", "a.pdf", "named .pdf, but its content is a text file"),
        (RANDOM, "a.docx", "not what its name says"),
        (documents.word(("a", "b")), "a.pdf", "named .pdf, but its content is a DOCX file"),
        (documents.pdf(("Rotor", documents.TURBINE * 50))[:1000], "a.pdf", "is cut off"),
        (
            documents.word(("a", "b")).replace(b"PK\x03\x04", b"PK\x03\x04", 1)[:-30] + bytes(30),
            "a.docx",
            "damaged or cut off",
        ),
        (b"%PDF-1.7 and no more\n%%EOF", "a.pdf", "is damaged"),
        (b"%PDF-1.7\n<< /Linearized 1 /L 90000 >> %%EOF", "a.pdf", "is cut off"),
        (documents.word(("Rotor", documents.TURBINE))[:4000], "a.docx", "damaged or cut off"),
        (documents.packed(["[Content_Types].xml", "word/document.xml"]), "a.docx", "has no text"),
        (documents.locked_pdf(), "a.pdf", "protected by a password"),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1500) + "EncryptedPackage".encode("utf-16-le"),
            "a.docx",
            "password",
        ),
        (documents.packed(["[Content_Types].xml", "word/document.xml"], 150 << 20), "a.docx", "unpacks to 300 MB"),
        (documents.packed(["[Content_Types].xml", *map(str, range(10_001))]), "a.docx", "10002 parts"),
        (b'{"a": ', "a.json", "The file is no JSON"),
        (b"[" * 100_000, "a.json", "nested too deep"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "a.json", "nested deeper than 200"),
        (b'{"a": 1}\nnone\n', "a.jsonl", "Line 2 is no JSON"),
        (b"a,b\n" + b"1," * 3000, "a.csv", "3001 fields"),
        (b"a,b\n" + b"x" * 200_000, "a.csv", "field larger than field limit"),
    ],
)
def test_a_document_that_is_broken_is_invalid(refused, data, filename, what):
    code, message = refused(data, filename)
    assert code == "invalid_file"
    assert what in message


@pytest.mark.parametrize(
    ("data", "filename"),
    [(RANDOM, "a.bin"), (RANDOM, "README"), (documents.packed(["a.txt"]), "a.zip"), (b"\x7fELF\x00\x01\x02", "a")],
)
def test_what_is_not_read_here_is_unsupported(refused, data, filename):
    code, message = refused(data, filename)
    assert code == "unsupported_file"
    assert "PDF, DOCX" in message


@pytest.mark.slow
def test_spaces_take_no_memory(tmp_path):
    path = tmp_path / "spaces"
    with path.open("wb") as file:
        file.truncate(0)
        for _ in range(64):
            file.write(b" " * (1 << 20))
        file.write(b"end")
    assert encodings.read_text(path).split() == ["end"]


@pytest.mark.slow
def test_too_much_text_is_refused(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"word " * (encodings.TEXT_CHARACTERS // 5 + 1))
    with pytest.raises(DocumentError, match="over the limit of 32 million characters"):
        encodings.read_text(path)


@pytest.mark.slow
def test_too_many_records_are_refused(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(b"name\n" + (b"x" * 99_000 + b"\n") * 340)
    with pytest.raises(DocumentError, match="over the limit"):
        tabular.read_csv(path)


@pytest.mark.slow
def test_a_line_without_end_is_refused(tmp_path):
    path = tmp_path / "line"
    path.write_bytes(b"x" * (encodings.TEXT_CHARACTERS + (2 << 20)))
    with pytest.raises(DocumentError, match="over the limit"):
        tabular.read_jsonl(path)


def test_a_large_file_that_must_be_in_memory_whole_is_refused_unread(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.write(b"%PDF-1.7")
        os.ftruncate(file.fileno(), formats.WHOLE_BYTES + (1 << 20))
    with pytest.raises(DocumentError, match="129 MB, over the limit of 128 MB for PDF"):
        parse(path, "a.pdf")
