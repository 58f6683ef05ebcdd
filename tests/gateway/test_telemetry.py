import asyncio
import threading
from bisect import bisect_left

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import Overloaded, UpstreamProtocolError, UpstreamTimeout
from backends.model import Route
from gateway.access_log import NoLog
from gateway.telemetry import (
    CLIENT_CLOSED_REQUEST,
    TTFT_BOUNDS,
    UNKNOWN,
    Exchange,
    Histogram,
    Payload,
    Telemetry,
    error_kind,
)


def telemetry(connections: dict[str, tuple[int, int]] | None = None) -> Telemetry:
    made = Telemetry(lambda: connections or {}, NoLog())
    made.know(["alpha", "beta"])
    return made


def begin(counting: Telemetry, model: str = "alpha", stream: bool = False) -> Exchange:
    exchange = counting.begin("chat_completions", "POST", "/v1/chat/completions", "127.0.0.1", None)
    exchange.route(model, stream)
    return exchange


@given(st.lists(st.floats(0, 200)))
def test_a_histogram_has_every_observation_in_the_first_bucket_that_holds_it(values: list[float]) -> None:
    histogram = Histogram.empty(TTFT_BOUNDS)
    for value in values:
        histogram.observe(value)
    assert sum(histogram.counts) == len(values)
    assert histogram.sum == pytest.approx(sum(values))
    for index, bound in enumerate(histogram.bounds):
        assert sum(histogram.counts[: index + 1]) == sum(value <= bound for value in values)


def test_a_bound_belongs_to_its_own_bucket() -> None:
    histogram = Histogram.empty((1.0, 2.0))
    for value in (1.0, 2.0, 2.5):
        histogram.observe(value)
    assert histogram.counts == [1, 1, 1]
    assert bisect_left(histogram.bounds, 1.0) == 0


def test_a_finished_stream_is_counted_once_with_all_its_times_and_tokens() -> None:
    counting = telemetry()
    exchange = begin(counting, stream=True)
    metrics = counting.model("alpha")
    assert (metrics.in_flight, counting.model(UNKNOWN).in_flight) == (1, 0)
    exchange.received()
    exchange.queue()
    assert metrics.queued == 1
    exchange.admit()
    assert metrics.queued == 0
    exchange.sent()
    for _ in range(4):
        exchange.chunk()
    exchange.answered()
    exchange.prompt_tokens, exchange.completion_tokens = 7, 4
    exchange.done(200)
    exchange.done(200)
    exchange.disconnect()
    assert metrics.requests == {("chat_completions", 200): 1}
    assert (metrics.in_flight, metrics.prompt_tokens, metrics.completion_tokens) == (0, 7, 4)
    assert sum(metrics.queue_wait.counts) == sum(metrics.ttft.counts) == sum(metrics.overhead.counts) == 1
    assert sum(metrics.inter_token.counts) == 3
    assert metrics.disconnects == metrics.errors == {}


def test_overhead_leaves_out_the_queue_the_engine_and_the_upload() -> None:
    counting = telemetry()
    exchange = begin(counting)
    exchange.received_at = exchange.started_at + 10  # the upload took ten seconds
    exchange.sent_at = exchange.received_at + 3.25
    exchange._waited_seconds = 3.0
    exchange.answered()
    exchange.done(200)
    expected = 0.25 + exchange.finished_at - exchange.answered_at
    assert counting.model("alpha").overhead.sum == pytest.approx(expected)


def test_inter_token_times_add_up_to_the_length_of_the_stream() -> None:
    counting = telemetry()
    exchange = begin(counting, stream=True)
    for _ in range(100):
        exchange.chunk()
    metrics = counting.model("alpha")
    assert metrics.inter_token.sum == pytest.approx(exchange.last_chunk_at - exchange.first_chunk_at)
    assert metrics.ttft.sum == pytest.approx(exchange.first_chunk_at - exchange.started_at)


def test_unknown_models_share_one_label() -> None:
    counting = telemetry()
    for name in ("nobody", 'a"} 1\nfake', "x" * 1000):
        begin(counting, model=name).done(404)
    assert counting.model(UNKNOWN).requests == {("chat_completions", 404): 3}
    decoded = msgspec.msgpack.decode(counting.payload(), type=Payload)
    assert [model.name for model in decoded.models] == [UNKNOWN, "alpha", "beta"]


def test_knowing_a_model_again_keeps_its_counters() -> None:
    counting = telemetry()
    begin(counting).done(200)
    counting.know(["beta"])
    counting.know(["alpha", "gamma"])
    assert counting.model("alpha").requests == {("chat_completions", 200): 1}
    assert counting.model("gamma").name == "gamma"


def test_leaving_is_counted_by_phase_and_frees_the_gauges() -> None:
    counting = telemetry()
    metrics = counting.model("alpha")
    in_queue = begin(counting)
    in_queue.queue()
    in_queue.disconnect()
    before = begin(counting)
    before.admit()
    before.sent()
    before.disconnect()
    streaming = begin(counting, stream=True)
    streaming.admit()
    streaming.sent()
    streaming.chunk()
    streaming.disconnect(200)
    assert metrics.disconnects == {"queued": 1, "before_first_byte": 1, "streaming": 1}
    assert metrics.requests == {("chat_completions", CLIENT_CLOSED_REQUEST): 2, ("chat_completions", 200): 1}
    assert (metrics.in_flight, metrics.queued) == (0, 0)


def test_errors_are_counted_by_the_name_of_their_class() -> None:
    counting = telemetry()
    begin(counting).fail(Overloaded("full"), 429)
    begin(counting).fail(UpstreamTimeout("silent"), 504)
    begin(counting).fail(RuntimeError("a bug"), 500)
    assert counting.model("alpha").errors == {"overloaded": 1, "upstream_timeout": 1, "internal_error": 1}
    assert error_kind(UpstreamProtocolError("x")) == "upstream_protocol_error"


def test_the_payload_carries_everything() -> None:
    counting = telemetry({"alpha": (3, 2)})
    begin(counting).done(200)
    decoded = msgspec.msgpack.decode(counting.payload(), type=Payload)
    assert decoded.models[1] == counting.model("alpha")
    assert decoded.connections == {"alpha": (3, 2)}
    assert decoded.log_lines_dropped == 0


@pytest.mark.parametrize("offered", [b"a", b"req-1:2/3", b"~" * 128])
def test_a_sane_request_id_is_kept(offered: bytes) -> None:
    assert telemetry().request_id(offered) == offered


@pytest.mark.parametrize(
    "offered", [None, b"", b"a" * 129, b"a b", b"a\nb", b"a\r\nSet-Cookie: x", b"\x1b[31m", b"caf\xc3\xa9", b"a\x7f"]
)
def test_any_other_request_id_is_replaced(offered: bytes | None) -> None:
    made = telemetry().request_id(offered)
    assert made != offered
    assert telemetry().request_id(made) == made


def test_made_request_ids_do_not_repeat_in_a_process_nor_across() -> None:
    processes = [telemetry() for _ in range(4)]
    made = {process.request_id(None) for process in processes for _ in range(2000)}
    assert len(made) == 8000
    assert {len(each) for each in made} == {32}


async def test_a_blocked_event_loop_shows_as_lag() -> None:
    counting = telemetry()
    counting.start()
    try:
        await asyncio.sleep(0)
        threading.Event().wait(0.65)  # blocks the loop over its next sample
        await asyncio.sleep(0.001)  # timers run in the order of their times: the sample is before this one
    finally:
        counting.stop()
    decoded = msgspec.msgpack.decode(counting.payload(), type=Payload)
    assert decoded.lag_max_seconds >= 0.1
    assert decoded.lag.sum == pytest.approx(decoded.lag_max_seconds)


def test_a_fallback_is_counted_for_the_model_that_failed_and_the_rest_for_the_other() -> None:
    counting = telemetry()
    exchange = begin(counting)
    exchange.took(Route(retries=1, failures=["alpha-0: gone"]))
    exchange.queue()
    exchange.fall_back("beta")
    alpha, beta = counting.model("alpha"), counting.model("beta")
    assert (alpha.in_flight, alpha.queued, alpha.fallbacks, alpha.rerouted) == (0, 0, {"beta": 1}, {"retries": 1})
    exchange.took(Route())
    exchange.admit()
    exchange.done(200)
    assert (beta.in_flight, beta.requests, beta.rerouted) == (0, {("chat_completions", 200): 1}, {})
    assert alpha.requests == {}


def test_what_was_done_for_a_request_is_counted_once_when_it_ends() -> None:
    counting = telemetry()
    rerouted = counting.model("alpha").rerouted
    for end in ("done", "disconnect", "fail"):
        exchange = begin(counting)
        route = Route()
        exchange.took(route)
        route.failures += ["alpha-0: gone", "alpha-1: gone"]
        route.retries, route.resumes, route.ejections = 2, 1, 1
        assert "hedges" not in rerouted
        if end == "done":
            exchange.done(200)
        elif end == "disconnect":
            exchange.disconnect()
        else:
            exchange.fail(UpstreamTimeout("silent"), 504)
        exchange.done(200)
    assert rerouted == {"retries": 6, "resumes": 3, "ejections": 3}


def test_hedges_are_counted_though_nothing_failed() -> None:
    counting = telemetry()
    exchange = begin(counting)
    exchange.took(Route(hedges=1))
    exchange.done(200)
    assert counting.model("alpha").rerouted == {"hedges": 1}


def test_a_request_that_found_its_engine_at_once_counts_nothing() -> None:
    counting = telemetry()
    exchange = begin(counting)
    exchange.took(Route(policy="prefix", reason="cached", endpoint="alpha-0"))
    exchange.done(200)
    begin(counting).done(404)  # and one that went to no model
    assert counting.model("alpha").rerouted == {}


def test_a_request_that_goes_to_its_model_twice_counts_both_ways() -> None:
    counting = telemetry()
    exchange = begin(counting)
    exchange.took(Route(retries=1, failures=["alpha-0: gone"]))
    exchange.took(Route(retries=2, hedges=1, failures=["alpha-0: gone"]))
    assert counting.model("alpha").rerouted == {"retries": 1}
    exchange.done(200)
    assert counting.model("alpha").rerouted == {"retries": 3, "hedges": 1}


def test_reroutings_travel_with_the_payload() -> None:
    counting = telemetry()
    exchange = begin(counting)
    exchange.took(Route(resumes=2, failures=["alpha-0: gone"]))
    exchange.done(200)
    decoded = msgspec.msgpack.decode(counting.payload(), type=Payload)
    assert decoded.models[1].rerouted == {"resumes": 2}
