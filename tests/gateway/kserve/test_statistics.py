"""Statistics have the members that Triton's have."""

from __future__ import annotations

from backends.statistics import BatchStatistics, Duration, ModelStatistics, ResponseStatistics
from gateway.kserve.statistics import document


def test_each_version_is_told_with_its_batches_and_responses_in_order() -> None:
    statistics = ModelStatistics(last_inference_ms=9, inference_count=5, execution_count=2)
    statistics.inference_stats.success.add(7)
    statistics.batch_stats = {4: BatchStatistics(), 1: BatchStatistics(compute_infer=Duration(1, 3))}
    statistics.response_stats = {1: ResponseStatistics(), 0: ResponseStatistics()}
    (told,) = document([("m", 3, statistics)])["model_stats"]
    assert list(told) == [
        "name",
        "version",
        "last_inference",
        "inference_count",
        "execution_count",
        "inference_stats",
        "response_stats",
        "batch_stats",
        "memory_usage",
    ]
    assert (told["name"], told["version"], told["last_inference"]) == ("m", "3", 9)
    assert told["inference_stats"]["success"] == {"count": 1, "ns": 7}
    assert [batch["batch_size"] for batch in told["batch_stats"]] == [1, 4]
    assert told["batch_stats"][0]["compute_infer"] == {"count": 1, "ns": 3}
    assert list(told["response_stats"]) == ["0", "1"]
    assert "cancel" in told["response_stats"]["0"]
