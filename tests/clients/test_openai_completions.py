"""Text completions, tokens and back through OpenAI's client on real engines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.clients.asking import COUNT
from tests.clients.served import EMBEDDER, Served

pytestmark = pytest.mark.engine

PROMPT = "One, two, three,"
TEXT = "A naïve café: 你好 \n\t 🙂"


@pytest.fixture
def served(completer: Served) -> Served:
    return completer


@pytest.fixture
def writer(generator: Served) -> Iterator[openai.OpenAI]:
    with generator.openai() as client:
        yield client


def test_a_text_goes_on(generator: Served, writer: openai.OpenAI) -> None:
    asked: Any = {"model": generator.model, "prompt": PROMPT, "max_tokens": 5, "temperature": 0}
    answer = writer.completions.create(**asked)
    assert (answer.object, answer.model) == ("text_completion", generator.model)
    assert answer.choices[0].finish_reason == "length"
    with writer.completions.create(**asked, stream=True, stream_options={"include_usage": True}) as stream:
        *chunks, last = stream
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
    assert last.choices == []
    assert last.usage is not None
    assert answer.usage is not None
    assert last.usage.completion_tokens == answer.usage.completion_tokens == 5
    assert last.usage.prompt_tokens == answer.usage.prompt_tokens


def test_several_prompts_and_choices_are_counted_as_they_are(served: Served, client: openai.OpenAI) -> None:
    prompts = [PROMPT, "A, b,"]
    answer = client.completions.create(
        model=served.model, prompt=prompts, n=2, max_tokens=3, extra_body={"ignore_eos": True}
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.prompt_tokens == sum(served.prompt_tokens(prompt=each) for each in prompts)


def test_several_prompts_stream_side_by_side(served: Served, client: openai.OpenAI) -> None:
    with client.completions.create(
        model=served.model, prompt=[PROMPT, "A, b,"], max_tokens=3, stream=True, extra_body={"ignore_eos": True}
    ) as stream:
        choices: list[Any] = [choice for chunk in stream for choice in chunk.choices]
    assert sorted(choice.index for choice in choices if choice.finish_reason) == [0, 1]
    assert all("".join(choice.text for choice in choices if choice.index == index) for index in (0, 1))


def test_token_ids_are_a_prompt(served: Served, client: openai.OpenAI) -> None:
    if served.kind == "tensorrtllm":  # without a tokenizer to ask, ids are whatever the client makes them
        answer = client.completions.create(model=served.model, prompt=[5, 6, 7], max_tokens=2)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == 3
        return
    tokens = served.post("/tokenize", prompt=PROMPT)["tokens"]
    asked: Any = {"model": served.model, "max_tokens": 5, "temperature": 0}
    said = [client.completions.create(**asked, prompt=prompt) for prompt in (PROMPT, tokens)]
    assert said[0].choices[0].text == said[1].choices[0].text
    assert said[1].usage is not None
    assert said[1].usage.prompt_tokens == len(tokens)


def test_logprobs_have_their_offsets(served: Served, client: openai.OpenAI) -> None:
    if served.kind == "tensorrtllm":
        served.refuses("/v1/completions", prompt=PROMPT, max_tokens=4, logprobs=2)
        return
    answer = client.completions.create(model=served.model, prompt=PROMPT, max_tokens=4, logprobs=2, temperature=0)
    logprobs: Any = answer.choices[0].logprobs
    assert "".join(logprobs.tokens) == answer.choices[0].text
    lengths = [len(token) for token in logprobs.tokens]
    assert logprobs.text_offset == [sum(lengths[:index]) for index in range(4)]
    assert [len(top) for top in logprobs.top_logprobs] == [2] * 4
    assert all(probability <= 0 for probability in logprobs.token_logprobs)


def test_a_stop_sequence_ends_a_text(served: Served, client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=served.model, prompt="1, 2, 3, 4,", stop=["7"], max_tokens=60, temperature=0
    )
    assert "7" not in answer.choices[0].text
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("model", ["", EMBEDDER])
def test_tokens_become_the_text_again(vllm: Served, model: str) -> None:
    tokens = vllm.post("/tokenize", model, prompt="hello, wonderful world", return_token_strs=True)
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"])
    assert tokens["max_model_len"] == (256 if model else 2048)
    assert "hello, wonderful world" in vllm.post("/detokenize", model, tokens=tokens["tokens"])["prompt"]


def test_any_text_survives_its_tokens(served: Served) -> None:
    if served.kind == "tensorrtllm":
        served.refuses("/detokenize", tokens=[1])
        return
    tokens = served.post("/tokenize", prompt=TEXT)["tokens"]
    assert served.post("/detokenize", tokens=tokens)["prompt"] == TEXT


def test_messages_are_tokenized_as_chat_counts_them(served: Served, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=served.model, messages=COUNT, max_tokens=1)
    assert answer.usage is not None
    assert served.prompt_tokens(messages=COUNT) == answer.usage.prompt_tokens


def test_an_echo_that_an_engine_lacks_is_refused(llamacpp: Served) -> None:
    with llamacpp.openai() as client, pytest.raises(openai.BadRequestError) as raised:
        client.completions.create(model=llamacpp.model, prompt=PROMPT, max_tokens=1, echo=True)
    assert (raised.value.code, raised.value.param) == ("unsupported_operation", "echo")
