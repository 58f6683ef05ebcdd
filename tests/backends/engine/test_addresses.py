"""Endpoints by URL: how they are written, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.config import ModelConfig
from backends.engine.addresses import Address, addresses, endpoints_file
from backends.errors import InvalidRequest


def configured(path: str = "/models/m/1", **parameters: str) -> ModelConfig:
    return ModelConfig("m", "echo", path=path, parameters=parameters)


def stored(folder: Path, text: str) -> ModelConfig:
    """A model in `folder` with this file of endpoints."""
    (folder / "endpoints.txt").write_text(text)
    return configured(str(folder / "1"), endpoints_file="endpoints.txt")


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        ("http://host:8000", ["http://host:8000"]),
        ("https://host/v1", ["https://host"]),
        ("https://host/v1/", ["https://host"]),
        ("https://host/gateway/v1", ["https://host/gateway"]),
        (" http://a:1 , http://[::1]:2/v1 ", ["http://a:1", "http://[::1]:2"]),
    ],
)
def test_addresses_are_base_urls(endpoints: str, expected: list[str]) -> None:
    assert [address.url for address in addresses(configured(endpoints=endpoints))] == expected


def test_a_weight_may_follow_a_url() -> None:
    found = addresses(configured(endpoints="http://a:8000 weight=9, http://b:8000"))
    assert found == [Address("http://a:8000", 9.0), Address("http://b:8000", 1.0)]


def test_a_model_without_the_parameters_has_none() -> None:
    assert addresses(configured()) == []
    assert endpoints_file(configured()) is None


@pytest.mark.parametrize(
    ("endpoints", "words"),
    [
        ("", "URLs"),
        ("host:8000", "host:8000"),
        ("ftp://host", "ftp://host"),
        ("http://host:port", "http://host:port"),
        ("http://host,,", "URLs"),
        ("http://user:secret@host", "URLs"),
        ("http://host?x=1", "URLs"),
        ("http://host weight=-1", "weight=-1"),
        ("http://host weight=heavy", "weight=heavy"),
        ("http://host weight=nan", "weight=nan"),
        ("http://host 9", "'9'"),
        ("http://host:1, http://host:1/v1", "http://host:1 twice"),
        ("http://host:1, https://host:1", "https://host:1 twice"),
    ],
)
def test_a_wrong_list_is_refused_with_what_is_wrong_in_it(endpoints: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as raised:
        addresses(configured(endpoints=endpoints))
    assert raised.value.param == "endpoints"


def test_a_file_has_one_endpoint_a_line_and_comments(tmp_path: Path) -> None:
    config = stored(tmp_path, "# ours\nhttp://a:1/v1 weight=2  # the big one\n\n  http://b:1\n")
    assert addresses(config) == [Address("http://a:1", 2.0), Address("http://b:1", 1.0)]
    assert endpoints_file(config) == tmp_path / "endpoints.txt"


def test_both_parameters_may_be_mixed(tmp_path: Path) -> None:
    config = stored(tmp_path, "http://b:1")
    config.parameters["endpoints"] = "http://a:1"
    assert [address.url for address in addresses(config)] == ["http://a:1", "http://b:1"]


@pytest.mark.parametrize(("text", "words"), [("", "no endpoint"), ("# none\n", "no endpoint"), ("b:1", "'b:1'")])
def test_a_file_that_names_no_endpoint_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        addresses(stored(tmp_path, text))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"'endpoints_file' cannot be read.*gone\.txt"):
        addresses(configured(str(tmp_path / "1"), endpoints_file="gone.txt"))
