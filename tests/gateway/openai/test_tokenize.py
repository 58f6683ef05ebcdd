"""Tokenize and detokenize: there and back."""

from __future__ import annotations

import httpx


def test_tokens_are_told_with_their_count(http: httpx.Client) -> None:
    answer = http.post("/tokenize", json={"model": "echo", "prompt": "hello world"}).json()
    assert answer["count"] == len(answer["tokens"]) == 2
    assert answer["max_model_len"] == 32768


def test_tokens_become_text(http: httpx.Client) -> None:
    assert isinstance(http.post("/detokenize", json={"model": "echo", "tokens": [1, 2]}).json()["prompt"], str)
