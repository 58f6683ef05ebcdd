"""The demo's tensor models, served: embeddings, rerank and score through OpenAI's client, an image's labels."""

from __future__ import annotations

import json
import math
import subprocess
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from tritonclient import grpc as tritonclient

from backends.errors import ServingError
from backends.weights import missing, pull
from tests.servers import ROOT, TRITIUM, Tritium, serving, unavailable

pytestmark = pytest.mark.slow

EMBEDDER, RERANKER, CLASSIFIER = "all-minilm-l6-v2", "minilm-maxsim", "densenet_onnx"
REPOSITORY = ROOT / "model_repository"
IMAGES = ROOT / "tests" / "images"
TEXTS = ["A man is eating food.", "Someone eats a meal.", "The stock market fell sharply."]
# What sentence-transformers makes of the first text with this model in float32; int8 weights differ in the third place.
GOLDEN = [0.0332, 0.0044, -0.0063, 0.0484, -0.1387, -0.0336, 0.1011, -0.0544]


@pytest.fixture(scope="module")
def server() -> Iterator[Tritium]:
    for name in (EMBEDDER, RERANKER, CLASSIFIER):
        if missing(REPOSITORY / name):
            try:
                pull(REPOSITORY / name, lambda *_: None)
            except ServingError as error:
                unavailable(f"{name} cannot be fetched: {error.message}")
    loads = [flag for name in (EMBEDDER, RERANKER, CLASSIFIER) for flag in ("--load-model", name)]
    with serving(REPOSITORY, "--model-control-mode", "explicit", *loads) as served:
        yield served


@pytest.fixture
def client(server: Tritium) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def embed(client: openai.OpenAI, given: Any, **options: Any) -> np.ndarray:
    answer = client.embeddings.create(model=EMBEDDER, input=given, **options)
    return np.array([each.embedding for each in answer.data])


def reference(texts: list[str]) -> np.ndarray:
    """The same by onnxruntime and the tokenizer alone: one text at a time, the mean of its tokens, of length one."""
    import onnxruntime
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(REPOSITORY / EMBEDDER / "1" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    session = onnxruntime.InferenceSession(str(REPOSITORY / EMBEDDER / "1" / "model.onnx"))
    vectors = []
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids])
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        mean = session.run(None, feeds)[0][0].mean(axis=0)
        vectors.append(mean / np.linalg.norm(mean))
    return np.array(vectors)


def test_vectors_are_those_of_sentence_transformers(client):
    (found,) = embed(client, TEXTS[0])
    assert found[: len(GOLDEN)] == pytest.approx(GOLDEN, abs=5e-3)
    assert math.isclose(np.linalg.norm(found), 1, abs_tol=1e-5)


def test_vectors_do_not_depend_on_what_is_batched_with_them(client):
    texts = [*TEXTS, "word " * 400, "a", "Zürich, 東京 and Москва"]
    assert np.abs(embed(client, texts) - reference(texts)).max() < 1e-4


def test_any_number_of_texts_is_taken(client):
    texts = [f"{TEXTS[number % 3]} {number}" for number in range(150)]
    found = embed(client, texts)
    assert found.shape == (150, 384)
    assert np.abs(found[[0, 149]] - reference([texts[0], texts[149]])).max() < 1e-4


def test_base64_and_numbers_are_the_same_vector(client):
    assert np.abs(embed(client, TEXTS) - embed(client, TEXTS, encoding_format="float")).max() < 1e-6


def test_fewer_dimensions_are_asked_for(client):
    whole, part = embed(client, TEXTS[0])[0], embed(client, TEXTS[0], dimensions=64)[0]
    assert part == pytest.approx(whole[:64] / np.linalg.norm(whole[:64]), abs=1e-5)
    with pytest.raises(openai.BadRequestError) as refused:
        embed(client, TEXTS[0], dimensions=385)
    assert refused.value.param == "dimensions"


def test_token_ids_are_an_input(client):
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(REPOSITORY / EMBEDDER / "1" / "tokenizer.json"))
    tokenizer.no_padding()
    ids = [tokenizer.encode(text).ids for text in TEXTS]
    assert embed(client, ids) == pytest.approx(embed(client, TEXTS), abs=1e-5)
    assert embed(client, ids[0]) == pytest.approx(embed(client, TEXTS[0]), abs=1e-5)
    answer = client.embeddings.create(model=EMBEDDER, input=TEXTS)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, ids))
    with pytest.raises(openai.BadRequestError, match="not among the 30522 of the vocabulary"):
        embed(client, [999_999])


def test_nothing_empty_is_taken(client):
    for given in ("", [], [""]):
        with pytest.raises(openai.BadRequestError) as refused:
            embed(client, given)
        assert refused.value.param == "input"


def test_requests_of_different_clients_share_batches(client, server):
    def statistics() -> tuple[int, int]:
        with urllib.request.urlopen(f"{server.url}/v2/models/{EMBEDDER}/stats", timeout=5) as answer:
            (told,) = json.load(answer)["model_stats"]
        return told["inference_count"], told["execution_count"]

    before = statistics()
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda number: embed(client, f"{TEXTS[0]} {number}")[0], range(64)))
    after = statistics()
    assert len(found) == after[0] - before[0] == 64
    assert after[1] - before[1] < 40


def post(server: Tritium, path: str, **body: Any) -> Any:
    request = urllib.request.Request(f"{server.url}{path}", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_documents_are_ordered_by_relevance(server):
    answer = post(server, "/v1/rerank", model=RERANKER, query="a meal", documents=TEXTS[::-1], top_n=2)
    assert [result["index"] for result in answer["results"]] == [1, 2]
    scores = post(server, "/v1/score", model=RERANKER, text_1="a meal", text_2=TEXTS[::-1])["data"]
    best = max(scores, key=lambda score: score["score"])
    assert (best["index"], best["score"]) == (1, pytest.approx(answer["results"][0]["relevance_score"], abs=1e-4))


def test_a_passage_of_an_earlier_question_is_scored_as_before_and_counted(server):
    def kept() -> float:
        lines = httpx.get(f"{server.metrics_url}/metrics").text.splitlines()
        found = [line for line in lines if line.startswith("tritium_passage_cache_hits_total{")]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    asked = {"model": RERANKER, "text_1": "who eats?", "text_2": TEXTS}
    first = post(server, "/v1/score", **asked)["data"]
    before = kept()
    again = post(server, "/v1/score", **asked)["data"]
    # Eight bits a weight: a text's vectors depend a little on what it runs with, as the question's do.
    assert [one["score"] for one in again] == pytest.approx([one["score"] for one in first], abs=0.02)
    assert kept() == before + len(TEXTS)


def test_texts_go_through_kserves_protocol_too(client, server):
    with tritonclient.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as triton:
        given = tritonclient.InferInput("text", [len(TEXTS), 1], "BYTES")
        given.set_data_from_numpy(np.array([[text] for text in TEXTS], dtype=object))
        found = triton.infer(EMBEDDER, [given]).as_numpy("embedding")
    assert found == pytest.approx(embed(client, TEXTS), abs=1e-5)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_image_is_classified_as_in_tritons_quick_start(server, protocol):
    try:
        pull(IMAGES, lambda *_: None)
    except ServingError as error:
        unavailable(f"the image cannot be fetched: {error.message}")
    url = server.url if protocol == "http" else f"127.0.0.1:{server.grpc_port}"
    argv = [TRITIUM, "classify", "-m", CLASSIFIER, "-c", "3", "-s", "INCEPTION", "-i", protocol, "--url", url]
    ended = subprocess.run([*argv, str(IMAGES / "coffee.png")], capture_output=True, text=True, check=True)
    head, *labels, tail = ended.stdout.splitlines()
    assert (head, tail) == ("Request 1, batch size 1", "PASS")
    assert [label.partition("(")[2] for label in labels] == ["967) = ESPRESSO", "968) = CUP", "504) = COFFEE MUG"]
    scores = [float(label.split()[0]) for label in labels]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(10.77, abs=0.01)
