"""What every kind of engine must show through the gateway when it streams; official clients are the judges."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from backends.weights import missing
from tests.conftest import DEMO_MODEL
from tests.faults.looking import at_rest, count, samples
from tests.faults.talking import CHAT, MESSAGES, RESPONSES, ask, asking, data_of, error_of, events_of, question
from tests.servers import ROOT, Tritium, echo_repository, serving, unavailable
from tests.stand_ins.served import MODEL, serving_stand_in
from tests.waiting import eventually

TURNS: list[Any] = [{"role": "user", "content": "Count from one to twenty."}]
FEW: dict[str, Any] = {"max_tokens": 12, "temperature": 0}

# What each kind calls the requests that run now; without one the gateway's own count must do.
RUNNING = {
    "echo": "vllm:num_requests_running",
    "tensorrtllm": "trtllm_num_requests_running",
    "vllm": "vllm:num_requests_running",
}
# How long an engine may take to see that its client left: TensorRT-LLM looks each second.
FREED_SECONDS = {"tensorrtllm": 2.5}


@dataclass(frozen=True, slots=True)
class Served:
    kind: str
    model: str
    server: Tritium
    client: openai.OpenAI

    def capabilities(self) -> set[str]:
        return set(httpx.get(f"{self.server.url}/v1/models/{self.model}").json()["capabilities"])

    def running(self) -> float:
        """How many requests the engine runs now."""
        name = RUNNING.get(self.kind)
        if name is None:
            return count(self.server, "upstream_connections", model=self.model, state="active")
        return sum(value for (found, _), value in samples(self.server, "/metrics/engines").items() if found == name)


@contextmanager
def serving_echo(folder: Path) -> Iterator[tuple[Tritium, str]]:
    with serving(echo_repository(folder, {"echo": {"itl_ms": 5}})) as server:
        yield server, "echo"


@contextmanager
def serving_tensorrtllm(folder: Path) -> Iterator[tuple[Tritium, str]]:
    """Its stand-in; what is said of the real one needs a GPU."""
    with serving_stand_in(folder) as (server, _):
        yield server, MODEL


@contextmanager
def serving_demo(kind: str) -> Iterator[tuple[Tritium, str]]:
    if lacking := missing(ROOT / "model_repository" / DEMO_MODEL):
        unavailable(f"{lacking[0]} of {DEMO_MODEL} is not fetched: run `tritium models pull {DEMO_MODEL}`")
    if kind != "llamacpp" and not (ROOT / ".engines" / kind / "bin" / "python").exists():
        unavailable(f"the environment of {kind} is not there: make it with deploy/engines/{kind}.sh")
    flags = () if kind == "llamacpp" else ("--model-config-name", kind)
    with serving(ROOT / "model_repository", *flags) as server:
        yield server, DEMO_MODEL


@pytest.fixture(
    scope="module",
    params=[
        "echo",
        pytest.param("tensorrtllm", marks=pytest.mark.slow),
        *(pytest.param(kind, marks=pytest.mark.engine) for kind in ("llamacpp", "vllm", "transformers")),
    ],
)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    kind: str = request.param
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("models")
        match kind:
            case "echo":
                way = serving_echo(folder)
            case "tensorrtllm":
                way = serving_tensorrtllm(folder)
            case _:
                way = serving_demo(kind)
        server, model = stack.enter_context(way)
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        yield Served(kind, model, server, stack.enter_context(client))


def test_a_chat_stream_is_a_role_then_text_then_one_finish_reason(served: Served) -> None:
    asked = {"model": served.model, "messages": TURNS, **FEW}
    chunks = list(served.client.chat.completions.create(**asked, stream=True))
    choices = [chunk.choices[0] for chunk in chunks]
    assert choices[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for choice in choices)
    assert [choice.finish_reason for choice in choices if choice.finish_reason] in (["stop"], ["length"])
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_stream_ends_with_done_and_has_the_headers_of_one(served: Served) -> None:
    answer, body = await ask(served.server.url, question(model=served.model, stream=True, **FEW))
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert events_of(body)[-1] == b"data: [DONE]"
    assert body.endswith(b"\n\n")


def test_usage_comes_only_where_it_is_asked_for_and_is_counted_all_the_same(served: Served) -> None:
    def tokens() -> tuple[float, float]:
        at_rest(served.server)
        return tuple(count(served.server, f"{side}_tokens_total") for side in ("prompt", "completion"))  # type: ignore[return-value]  # of two

    asked: dict[str, Any] = {"model": served.model, "messages": TURNS, "stream": True, "seed": 7, **FEW}
    before = tokens()
    plain = list(served.client.chat.completions.create(**asked))
    between = tokens()
    counted = list(served.client.chat.completions.create(**asked, stream_options={"include_usage": True}))
    after = tokens()
    assert not any(chunk.usage for chunk in plain)
    assert all(chunk.choices for chunk in plain)
    (usage,) = [chunk.usage for chunk in counted if chunk.usage]
    assert not counted[-1].choices
    assert after[0] - between[0] == between[0] - before[0] == usage.prompt_tokens
    assert after[1] - between[1] == usage.completion_tokens
    assert between[1] - before[1] == usage.completion_tokens


def test_a_stream_says_what_the_whole_answer_says(served: Served) -> None:
    asked: dict[str, Any] = {"model": served.model, "messages": TURNS, "seed": 7, **FEW}
    whole = served.client.chat.completions.create(**asked)
    parts = list(served.client.chat.completions.create(**asked, stream=True))
    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole.choices[0].message.content


def test_text_completions_stream(served: Served) -> None:
    asked = {"model": served.model, "prompt": "One, two,", **FEW}
    parts = list(served.client.completions.create(**asked, stream=True))
    assert "".join(part.choices[0].text for part in parts)
    assert [part.choices[0].finish_reason for part in parts if part.choices[0].finish_reason] in (["stop"], ["length"])


def test_responses_stream_to_their_completion(served: Served) -> None:
    if "responses" not in served.capabilities():
        pytest.skip("this kind offers no responses")
    asked: dict[str, Any] = {"model": served.model, "input": "Count to three.", "max_output_tokens": 12}
    events = list(served.client.responses.create(**asked, stream=True))
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert any(event.type == "response.output_text.delta" for event in events)


def test_messages_stream_to_their_stop(served: Served) -> None:
    if "messages" not in served.capabilities():
        pytest.skip("this kind offers no messages")
    with (
        anthropic.Anthropic(base_url=served.server.url, api_key="none", max_retries=0) as client,
        client.messages.stream(model=served.model, messages=TURNS, max_tokens=12) as stream,
    ):
        assert "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.stop_reason in ("end_turn", "max_tokens")
    assert final.usage.output_tokens > 0


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
async def test_the_engines_refusal_comes_as_a_status_in_the_envelope(served: Served, path: str) -> None:
    wrong = {"model": served.model, "stream": True, "messages": 5, "input": {"no": "such"}, "max_tokens": "few"}
    answer, body = await ask(served.server.url, wrong, path)
    assert 400 <= answer.status < 600
    error = error_of(b"data: " + body) if body.startswith(b'{"error"') else data_of(b"data: " + body)["error"]
    assert error["message"]


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_frees_the_engine_at_once(served: Served, stream: bool) -> None:
    await asyncio.to_thread(at_rest, served.server)
    endless: dict[str, Any] = {"echo": {"echo": {"itl_ms": 50}}, "transformers": {}}.get(
        served.kind, {"ignore_eos": True}
    )
    long = question(model=served.model, words="Tell a long story. " * 40, stream=stream, max_tokens=1000, **endless)
    async with asking(served.server.url, long) as answer:
        if stream:
            await answer.head()
            await answer.event()
        await asyncio.to_thread(eventually, lambda: served.running() == 1)
    await asyncio.to_thread(eventually, lambda: served.running() == 0, seconds=FREED_SECONDS.get(served.kind, 1.0))
    assert count(served.server, "requests_in_flight") == 0


async def test_streams_at_once_do_not_mix(served: Served) -> None:
    async def one(number: int) -> tuple[set[str], bytes]:
        asked = question(model=served.model, words=f"Say {number}.", stream=True, **FEW)
        answer, body = await ask(served.server.url, asked, CHAT, f"x-request-id: stream-{number}")
        assert answer.headers["x-request-id"] == f"stream-{number}"
        events = events_of(body)
        return {data_of(event)["id"] for event in events[:-1]}, events[-1]

    streams = await asyncio.gather(*map(one, range(4)))
    assert {last for _, last in streams} == {b"data: [DONE]"}
    assert len(set.union(*(ids for ids, _ in streams))) == 4
