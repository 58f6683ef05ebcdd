from collections.abc import Iterable

from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gateway.exposition import DEAD, engine_families, fold, gateway_families
from gateway.histogram import Histogram
from gateway.telemetry import LAG_BOUNDS, REROUTINGS, ModelMetrics, Payload

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Families:
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> list[Metric]:
        return self._families


def exposed(answers: list[tuple[str, str, bytes | None]]) -> tuple[str, Series]:
    return read(engine_families(answers))


def read(found: Iterable[Metric]) -> tuple[str, Series]:
    text = generate_latest(Families(found)).decode()
    types = [line for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len({line.split()[2] for line in types}) == len(types), "a family is told once"
    series: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in series
            series[key] = sample.value
    return text, series


def labels(**own: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(own.items()))


VLLM = b"""# HELP vllm:num_requests_running Running.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="smol"} 2.0
# HELP vllm:prompt_tokens_total Prefill tokens.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0"} 41.0
# HELP vllm:prompt_tokens_created Prefill tokens.
# TYPE vllm:prompt_tokens_created gauge
vllm:prompt_tokens_created{engine="0"} 1.7e+09
# HELP vllm:ttft_seconds Time.
# TYPE vllm:ttft_seconds histogram
vllm:ttft_seconds_bucket{le="0.1"} 1.0
vllm:ttft_seconds_bucket{le="+Inf"} 3.0
vllm:ttft_seconds_count 3.0
vllm:ttft_seconds_sum 1.5
"""


def test_every_sample_of_an_engine_gets_the_model_and_the_replica() -> None:
    text, series = exposed([("smol", "a", VLLM), ("large", "b", VLLM)])
    for model, replica in (("smol", "a"), ("large", "b")):
        own = {"model": model, "replica": replica}
        assert series["tritium_engine_scrape_up", labels(**own)] == 1
        assert series["vllm:num_requests_running", labels(engine="0", model_name="smol", **own)] == 2
        assert series["vllm:prompt_tokens_total", labels(engine="0", **own)] == 41
        assert series["vllm:prompt_tokens_created", labels(engine="0", **own)] == 1.7e9
        assert series["vllm:ttft_seconds_bucket", labels(le="+Inf", **own)] == 3
        assert series["vllm:ttft_seconds_sum", labels(**own)] == 1.5
    assert "# TYPE vllm:ttft_seconds histogram" in text
    assert "# HELP vllm:prompt_tokens_total Prefill tokens." in text


def test_labels_of_the_same_name_become_exported_ones() -> None:
    body = b'x{model="m",replica="r"} 1\ny{model="m",exported_model="e"} 2\n'
    _, series = exposed([("smol", "a", body)])
    assert series["x", labels(model="smol", replica="a", exported_model="m", exported_replica="r")] == 1
    twice = labels(model="smol", replica="a", exported_model="e", exported_exported_model="m")
    assert series["y", twice] == 2


def test_an_engine_without_readable_metrics_is_down_and_hides_no_other() -> None:
    answers = [("smol", "a", VLLM), ("silent", "b", None), ("json", "c", b'[{"iter": 1}]'), ("binary", "d", b"\xff")]
    _, series = exposed(answers)
    ups = {dict(key)["model"]: value for (name, key), value in series.items() if name == "tritium_engine_scrape_up"}
    assert ups == {"smol": 1, "silent": 0, "json": 0, "binary": 0}
    assert any(name == "vllm:num_requests_running" for name, _ in series)


def test_engines_that_disagree_on_a_type_do_not_break_the_text() -> None:
    gauges = (
        b"# TYPE load gauge\nload 1\n# TYPE wait_count gauge\nwait_count 2\n# TYPE seen_total gauge\nseen_total 3\n"
    )
    others = (
        b"# TYPE load counter\nload 4\n"
        b'# TYPE wait histogram\nwait_bucket{le="+Inf"} 5\nwait_count 5\nwait_sum 5\n'
        b"# TYPE seen_total counter\nseen_total 6\n# TYPE fine gauge\nfine 7\n"
    )
    _, series = exposed([("smol", "a", gauges), ("large", "b", others)])
    small, large = labels(model="smol", replica="a"), labels(model="large", replica="b")
    assert series["load", small] == 1
    assert series["wait_count", small] == 2
    assert series["seen_total", small] == 3
    assert series["fine", large] == 7
    assert not any(name == "wait_bucket" for name, _ in series)
    assert ("seen_total", large) not in series


def test_awkward_text_stays_valid() -> None:
    body = (
        b"# TYPE made counter\nmade_total 1\n"  # OpenMetrics' way in the text format
        b'# HELP odd A \\\\ and a \\n.\n# TYPE odd gauge\nodd{path="C:\\\\x \\"y\\" \\n"} NaN 1700000000000\n'
        b"# a comment\nlone +Inf\n"
    )
    _, series = exposed([("smol", "a", body), ("smol", "b", body)])
    for replica in "ab":
        own = {"model": "smol", "replica": replica}
        assert series["made_total", labels(**own)] == 1
        assert series["lone", labels(**own)] == float("inf")
        assert ("odd", labels(path='C:\\x "y" \n', **own)) in series


def payload(*models: ModelMetrics) -> Payload:
    return Payload(
        list(models), connections={}, lag=Histogram.empty(LAG_BOUNDS), lag_max_seconds=0.0, log_lines_dropped=0
    )


def counted(parts: list[tuple[str, Payload]]) -> Series:
    return read(gateway_families(parts, (), "1"))[1]


def test_reroutings_are_the_sum_over_all_processes_there_have_been() -> None:
    first = payload(ModelMetrics("alpha", rerouted={"retries": 2, "hedges": 1, "resumes": 3, "ejections": 4}))
    second = payload(ModelMetrics("alpha", rerouted={"retries": 5}), ModelMetrics("beta", rerouted={"resumes": 1}))
    dead = payload(ModelMetrics("alpha", rerouted={"ejections": 10}))
    series = counted([("0", first), ("1", second), (DEAD + "0", dead)])
    alpha, beta = labels(model="alpha"), labels(model="beta")
    assert [series[f"tritium_{kind}_total", alpha] for kind in REROUTINGS] == [7, 1, 3, 14]
    assert [series[f"tritium_{kind}_total", beta] for kind in REROUTINGS] == [0, 0, 1, 0]


def test_a_model_that_was_never_rerouted_shows_zeros() -> None:
    series = counted([("0", payload(ModelMetrics("alpha")))])
    for kind in REROUTINGS:
        assert series[f"tritium_{kind}_total", labels(model="alpha")] == 0


def test_fallbacks_are_told_by_the_model_that_failed_and_the_one_that_was_asked() -> None:
    first = payload(ModelMetrics("alpha", fallbacks={"beta": 2, "gamma": 1}), ModelMetrics("beta"))
    second = payload(ModelMetrics("alpha", fallbacks={"beta": 3}))
    series = counted([("0", first), (DEAD + "1", second)])
    found = {key: value for (name, key), value in series.items() if name == "tritium_fallbacks_total"}
    assert found == {labels(model="alpha", to="beta"): 5, labels(model="alpha", to="gamma"): 1}


def test_what_ended_processes_rerouted_is_kept_when_they_are_folded() -> None:
    parts = [
        payload(ModelMetrics("alpha", rerouted={"resumes": 1}, fallbacks={"beta": 1})),
        payload(ModelMetrics("alpha", rerouted={"resumes": 2, "hedges": 5}, fallbacks={"beta": 1})),
    ]
    series = counted([(DEAD + "all", fold(*parts))])
    assert series["tritium_resumes_total", labels(model="alpha")] == 3
    assert series["tritium_hedges_total", labels(model="alpha")] == 5
    assert series["tritium_fallbacks_total", labels(model="alpha", to="beta")] == 2
