"""Real documents, from OpenAI's SDK alone: a PDF, a web page and a Word file are put in, found, cited and deleted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.clients import crane
from tests.conftest import DEMO_MODEL
from tests.servers import ROOT, Tritium, unavailable

pytestmark = pytest.mark.engine

DOCUMENTS = ROOT / "build" / "documents"
PDF, PAGE, WORD = "debian-faq.en.pdf", "pkg-basics.en.html", crane.FILENAME
CREATED = "Who created the Debian project, and when?"
PRONOUNCED = "How does one pronounce Debian?"
CONFFILE = "What is a Debian conffile?"
GEARBOX = "Which oil does the gearbox of the hoist take?"
BRAKES = "What do the brakes do when the current fails?"
DRIVER = "Who drives the crane, with which licence?"
# A model this small does not say everything in words that can be told to be its source's.
QUESTIONS = [((CREATED, PRONOUNCED), PDF), ((BRAKES, DRIVER), WORD)]
SEARCHING = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.file_search_call.in_progress",
    "response.file_search_call.searching",
    "response.file_search_call.completed",
    "response.output_item.done",
    "response.output_item.added",
    "response.content_part.added",
]
ANSWERED = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]


@pytest.fixture(scope="module")
def client(tritium_server: Tritium) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{tritium_server.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def store_id(client: openai.OpenAI) -> str:
    """The vector store of all three. The web page is a chapter of what the PDF has whole."""
    if not (DOCUMENTS / PDF).exists():
        unavailable(f"{PDF} is not fetched: run deploy/test-services.sh")
    store = client.vector_stores.create(name="documents")
    put(client, store.id, PDF, (DOCUMENTS / PDF).read_bytes(), format="pdf", year=2022)
    put(client, store.id, PAGE, (DOCUMENTS / PAGE).read_bytes(), format="html", year=2022)
    put(client, store.id, WORD, crane.handbook(), format="docx", year=2026)
    return store.id


def put(client: openai.OpenAI, store_id: str, filename: str, data: bytes, **attributes: str | float) -> str:
    uploaded = client.files.create(file=(filename, data), purpose="assistants")
    file = client.vector_stores.files.create_and_poll(uploaded.id, vector_store_id=store_id, attributes=attributes)
    assert (file.status, file.last_error) == ("completed", None)
    return uploaded.id


def tool(store_id: str, **fields: Any) -> Any:
    return {"type": "file_search", "vector_store_ids": [store_id], "max_num_results": 1, **fields}


@pytest.mark.parametrize(
    ("question", "filename", "words"),
    [
        ("How often does the slewing ring take grease?", WORD, "| Slewing ring | lithium grease LX-40 |"),
        (GEARBOX, WORD, "mineral oil of grade VG 220"),
        ("At what wind speed is nothing lifted any more?", WORD, "14 metres a second"),
        ("How is the load let down when the current fails?", WORD, "hand wheel behind the cabin"),
        (PRONOUNCED, PDF, "emphasis on the first syllable"),
        ("Where does the name Buzz come from?", PDF, "spaceman Buzz Lightyear"),
        ("Can I sell Debian CDs?", PDF, "Can I make and sell Debian CDs?"),
    ],
)
def test_a_question_finds_first_what_answers_it(
    client: openai.OpenAI, store_id: str, question: str, filename: str, words: str
) -> None:
    best = client.vector_stores.search(store_id, query=question).data[0]
    assert best.filename == filename
    assert words in best.content[0].text


@pytest.mark.parametrize(
    ("filters", "filename"),
    [
        ({"type": "eq", "key": "format", "value": "html"}, PAGE),
        ({"type": "eq", "key": "format", "value": "pdf"}, PDF),
        ({"type": "gt", "key": "year", "value": 2022}, WORD),
    ],
)
def test_filters_choose_among_the_documents(client: openai.OpenAI, store_id: str, filters: Any, filename: str) -> None:
    found = client.vector_stores.search(store_id, query=CONFFILE, filters=filters).data
    assert {result.filename for result in found} == {filename}
    assert filename == WORD or "Conffiles is a list of configuration files" in found[0].content[0].text


@pytest.mark.parametrize(
    ("question", "filename", "has_page", "heading"),
    [
        (PRONOUNCED, PDF, True, "How does one pronounce Debian and what does this word mean?"),
        (CONFFILE, PAGE, False, "Basics of the Debian package management system > 7.5. What is a Debian conffile?"),
        (GEARBOX, WORD, True, "Oil and grease"),
    ],
)
def test_passages_tell_their_page_and_headings(
    client: openai.OpenAI, store_id: str, question: str, filename: str, has_page: bool, heading: str
) -> None:
    filters = {"type": "eq", "key": "format", "value": filename.rpartition(".")[2]}
    body = {"model": "handbook", "query": question, "vector_store_ids": [store_id], "filters": filters}
    told: Any = client.post("/rag/query", body=body, cast_to=object)
    best = told["passages"][0]
    assert best["filename"] == filename
    assert best["heading"].endswith(heading)
    assert (best["page"] is not None and best["page"] > 1) is has_page


def test_chunks_have_the_text_and_nothing_around_it(client: openai.OpenAI, store_id: str) -> None:
    texts = {}
    for file in client.vector_stores.files.list(store_id):
        filename = client.files.retrieve(file.id).filename
        texts[filename] = [
            part.text or "" for part in client.vector_stores.files.content(file.id, vector_store_id=store_id)
        ]
    whole = {filename: "\n".join(parts) for filename, parts in texts.items()}
    assert not any(mark in whole[PDF] for mark in ("*CHAPTER", "*CONTENTS", ". . ."))
    assert not any(mark in whole[PAGE] for mark in ("Prev", "Table of Contents", ".html", ".png"))
    assert not any(mark in whole[WORD] for mark in ("Harbour works", "For use on the quay"))
    assert "| Part | What it takes | How often |" in whole[WORD]


@pytest.mark.parametrize(("questions", "filename"), QUESTIONS)
def test_streamed_responses_cite_their_source(
    client: openai.OpenAI, store_id: str, questions: tuple[str, ...], filename: str
) -> None:
    responses = [responded(client, store_id, question) for question in questions]
    for question, response in zip(questions, responses, strict=True):
        search: Any = response.output[0]
        (result,) = search.results
        assert (search.queries, result.filename) == ([question], filename)
        assert result.attributes["format"] == filename.rpartition(".")[2]
    parts: list[Any] = [message.content[0] for response in responses for message in response.output[1:]]
    citations = [(annotation, part) for part in parts for annotation in part.annotations]
    assert citations
    for annotation, part in citations:
        assert annotation.filename == filename
        assert 0 <= annotation.index < len(part.text)


def responded(client: openai.OpenAI, store_id: str, question: str) -> Any:
    """What a stream of events comes to, after a look at their order."""
    events: list[Any] = list(
        client.responses.create(
            model=DEMO_MODEL,
            input=question,
            tools=[tool(store_id)],
            include=["file_search_call.results"],
            temperature=0,
            max_output_tokens=48,
            stream=True,
        )
    )
    types = [event.type for event in events]
    begin, end = len(SEARCHING), len(events) - len(ANSWERED) - 1
    assert types[:begin] == SEARCHING
    assert set(types[begin:end]) <= {"response.output_text.delta", "response.output_text.annotation.added"}
    assert types[end:-1] == ANSWERED
    assert types[-1] in {"response.completed", "response.incomplete"}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    added = [event.annotation.index for event in events if event.type == "response.output_text.annotation.added"]
    response = events[-1].response
    assert added == [annotation.index for annotation in response.output[1].content[0].annotations]
    return response


@pytest.mark.parametrize(("questions", "filename"), QUESTIONS)
def test_streamed_chats_cite_their_source(
    client: openai.OpenAI, store_id: str, questions: tuple[str, ...], filename: str
) -> None:
    cited = 0
    for question in questions:
        stream = client.chat.completions.create(
            model="handbook",
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_tokens=48,
            stream=True,
            extra_body={"rag": {"vector_store_ids": [store_id], "max_num_results": 1}},
        )
        deltas: list[Any] = [chunk.choices[0].delta for chunk in stream if chunk.choices]
        text = "".join(delta.content or "" for delta in deltas)
        citations = [each["url_citation"] for delta in deltas for each in getattr(delta, "annotations", None) or []]
        for citation in citations:
            assert citation["title"].startswith(f"{filename}, page ")
            assert 0 <= citation["start_index"] < citation["end_index"] <= len(text)
        cited += len(citations)
    assert cited


def test_a_document_that_is_deleted_is_found_no_more(client: openai.OpenAI) -> None:
    store = client.vector_stores.create(name="of a time")
    file_id = put(client, store.id, WORD, crane.handbook())
    assert client.vector_stores.search(store.id, query=GEARBOX).data
    client.files.delete(file_id)
    assert client.vector_stores.search(store.id, query=GEARBOX).data == []
    assert client.vector_stores.retrieve(store.id).file_counts.total == 0
    response = client.responses.create(
        model=DEMO_MODEL,
        input=GEARBOX,
        tools=[tool(store.id)],
        include=["file_search_call.results"],
        max_output_tokens=8,
    )
    search: Any = response.output[0]
    assert search.results == []
