"""Files through OpenAI's client, at a server of two processes and two tenants."""

from __future__ import annotations

import http.client
import io
import json
import os
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.clients.files_served import FilesServed, serving_files

LIMIT_BYTES = 5_000_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FilesServed]:
    with serving_files(tmp_path_factory.mktemp("files"), "--max-file-bytes", str(LIMIT_BYTES)) as served:
        yield served


@pytest.fixture
def client(served: FilesServed) -> openai.OpenAI:
    """Alice, who has no files when a test begins."""
    for file in served.alice.files.list():
        served.alice.files.delete(file.id)
    return served.alice


def test_a_file_is_uploaded_shown_and_given_back(client: openai.OpenAI):
    data = os.urandom(3_000_000)
    file = client.files.create(file=("report.pdf", io.BytesIO(data)), purpose="assistants")
    assert (file.filename, file.bytes, file.purpose, file.status) == (
        "report.pdf",
        len(data),
        "assistants",
        "processed",
    )
    assert file.id.startswith("file-")
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == data
    assert client.files.wait_for_processing(file.id) == file


def test_a_file_may_expire(client: openai.OpenAI):
    file = client.files.create(file=b"text", purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600})
    assert file.expires_at == file.created_at + 3600


def test_lists_are_paged_both_ways(client: openai.OpenAI):
    ids = [client.files.create(file=(f"{number}.txt", b"text"), purpose="user_data").id for number in range(5)]
    assert [file.id for file in client.files.list(limit=2, order="asc")] == ids
    assert [file.id for file in client.files.list(limit=2)] == ids[::-1]
    page = client.files.list(limit=2, order="asc", after=ids[1])
    assert ([file.id for file in page.data], page.has_more, page.first_id, page.last_id) == (
        ids[2:4],
        True,
        ids[2],
        ids[3],
    )


def test_all_files_are_deleted_while_they_are_listed(client: openai.OpenAI):
    for number in range(5):
        client.files.create(file=(f"{number}.txt", b"text"), purpose="user_data")
    for file in client.files.list(limit=2):
        assert client.files.delete(file.id).deleted
    assert client.files.list().data == []


def test_lists_are_by_purpose(client: openai.OpenAI):
    wanted = client.files.create(file=b"text", purpose="vision")
    client.files.create(file=b"text", purpose="user_data")
    assert [file.id for file in client.files.list(purpose="vision")] == [wanted.id]


def test_a_deleted_file_is_gone(client: openai.OpenAI):
    file = client.files.create(file=b"text", purpose="user_data")
    deleted = client.files.delete(file.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (file.id, True, "file")
    for ask in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            ask(file.id)
        assert caught.value.param == "id"


def test_another_tenants_file_does_not_exist(client: openai.OpenAI, served: FilesServed):
    file = client.files.create(file=b"text", purpose="user_data")
    for ask in (served.bob.files.retrieve, served.bob.files.content, served.bob.files.delete):
        with pytest.raises(openai.NotFoundError):
            ask(file.id)
    assert served.bob.files.list().data == []
    assert client.files.retrieve(file.id) == file


@pytest.mark.parametrize("path", ["/v1/files", "/v1/files/file-x", "/v1/vector_stores"])
def test_without_a_key_nothing_is_shown_or_taken(served: FilesServed, path: str):
    assert httpx.get(served.server.url + path).status_code == 401
    assert httpx.post(served.server.url + path.removesuffix("/file-x"), content=b"{}").status_code == 401


def test_a_file_over_the_limit_is_refused_with_413(client: openai.OpenAI, served: FilesServed):
    with pytest.raises(openai.APIStatusError) as caught:
        client.files.create(file=b"x" * (LIMIT_BYTES + 1), purpose="user_data")
    assert (caught.value.status_code, caught.value.param) == (413, "file")
    assert str(LIMIT_BYTES) in caught.value.message
    assert list((served.data_dir / "files" / "drafts").iterdir()) == []


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\a.txt", "a.txt"),
        ("naïve – 文.txt", "naïve – 文.txt"),
        ('a"b.txt', 'a"b.txt'),
        ("x" * 300 + ".txt", "x" * 251 + ".txt"),
        ("..", ".."),
        ("/", "file"),
    ],
)
def test_a_filename_is_a_name_and_no_path(client: openai.OpenAI, filename: str, expected: str):
    file = client.files.create(file=(filename, b"text"), purpose="user_data")
    assert file.filename == expected
    assert client.files.content(file.id).read() == b"text"


def test_contents_are_given_back_as_something_to_keep(client: openai.OpenAI):
    page = b"<script>alert(1)</script>"
    file = client.files.create(file=("naïve.html", page, "text/html"), purpose="user_data")
    answer = client.files.with_raw_response.content(file.id)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].startswith("attachment;")
    assert "na%C3%AFve.html" in answer.headers["content-disposition"]


def send(served: FilesServed, body: bytes, content_type: str = "multipart/form-data; boundary=b") -> tuple[int, Any]:
    headers = {"Authorization": "Bearer alice-key", "Content-Type": content_type}
    answer = httpx.post(f"{served.server.url}/v1/files", content=body, headers=headers)
    return answer.status_code, answer.json()


def form(*parts: tuple[str, bytes]) -> bytes:
    return (
        b"".join(
            b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
            % (name.encode(), b'; filename="a.txt"' if name == "file" else b"", value)
            for name, value in parts
        )
        + b"--b--\r\n"
    )


def test_the_order_of_a_forms_parts_is_the_clients(served: FilesServed):
    for parts in ([("purpose", b"batch"), ("file", b"text")], [("file", b"text"), ("purpose", b"batch")]):
        status, file = send(served, form(*parts))
        assert (status, file["purpose"], file["bytes"]) == (200, "batch", 4)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (form(("purpose", b"batch")), "file"),
        (form(("file", b"text")), "purpose"),
        (form(("file", b"text"), ("purpose", b"anything")), "purpose"),
        (form(("file", b"text"), ("purpose", b"\xff")), "purpose"),
        (form(("file", b"text"), ("file", b"text"), ("purpose", b"batch")), "file"),
        (form(("file", b"text"), ("purpose", b"batch"), ("expires_after[anchor]", b"now")), "expires_after"),
        (form(("file", b"text"), ("purpose", b"batch"), ("expires_after[anchor]", b"created_at")), "expires_after"),
        (
            form(
                ("file", b"text"),
                ("purpose", b"batch"),
                ("expires_after[anchor]", b"created_at"),
                ("expires_after[seconds]", b"60"),
            ),
            "expires_after",
        ),
        (form(("purpose", b"x" * 70_000), ("file", b"text")), "purpose"),
        (form(("file", b"text"), ("purpose", b"batch"))[:-8], None),
        (b"nothing of the kind", None),
        (form(*((f"field{number}", b"x") for number in range(70))), None),
    ],
)
def test_a_form_that_is_wrong_is_refused_and_nothing_is_kept(served: FilesServed, body: bytes, param: str | None):
    status, answer = send(served, body)
    assert (status, answer["error"]["param"]) == (400, param)
    drafts = served.data_dir / "files" / "drafts"
    assert not drafts.exists() or list(drafts.iterdir()) == []


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data", ""])
def test_what_is_no_form_is_refused(served: FilesServed, content_type: str):
    status, answer = send(served, b"{}", content_type)
    assert (status, answer["error"]["param"]) == (400, "file")


def test_an_upload_that_is_broken_off_leaves_nothing(client: openai.OpenAI, served: FilesServed):
    from tests.waiting import eventually

    drafts = served.data_dir / "files" / "drafts"
    connection = http.client.HTTPConnection("127.0.0.1", served.server.http_port)
    connection.putrequest("POST", "/v1/files")
    for name, value in (
        ("Authorization", "Bearer alice-key"),
        ("Content-Type", "multipart/form-data; boundary=b"),
        ("Content-Length", "3000000"),
    ):
        connection.putheader(name, value)
    connection.endheaders(form(("file", b"x" * 2_000_000))[:-8])
    eventually(lambda: drafts.exists() and list(drafts.iterdir()), what="a draft")
    connection.close()
    eventually(lambda: not list(drafts.iterdir()), what="its end")
    assert client.files.list().data == []


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "order=up", "after=%00"])
def test_a_list_that_is_asked_for_wrongly_is_refused(served: FilesServed, query: str):
    headers = {"Authorization": "Bearer alice-key"}
    answer = httpx.get(f"{served.server.url}/v1/files?{query}", headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, query.partition("=")[0])


def test_an_error_has_openais_envelope(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError) as caught:
        client.files.retrieve("file-nothing")
    body = json.loads(caught.value.response.text)
    assert body["error"]["message"] == "No such File object: file-nothing"
    assert body["error"]["type"] == "invalid_request_error"
