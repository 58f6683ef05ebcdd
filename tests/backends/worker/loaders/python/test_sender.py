from __future__ import annotations

import threading

import numpy as np
import pytest

from backends.worker.loaders.python.errors import TritonError, TritonModelException
from backends.worker.loaders.python.metrics import MetricFamily
from backends.worker.loaders.python.response import InferenceResponse
from backends.worker.loaders.python.sender import InferenceResponseSender
from backends.worker.loaders.python.session import current
from backends.worker.loaders.python.tensor import Tensor
from backends.worker.messages import Cancel, Execute, Infer, Pace, Respond

FINAL = 1


def response(value: int = 1) -> InferenceResponse:
    return InferenceResponse([Tensor("Y", np.array([value], np.int32)), Tensor("unasked", np.zeros(1))])


def sender(host, *, decoupled: bool) -> InferenceResponseSender:
    """The sender of request 5, which the exchange has received."""
    host.send(Execute([Infer(5, "m", 1, "", [], [])]))
    (request,) = host.exchange.work()
    current().is_decoupled = decoupled
    return InferenceResponseSender(current(), request, frozenset({"Y"}))


def test_a_decoupled_model_sends_any_number_of_responses(host):
    sends = sender(host, decoupled=True)
    sends.send(response(1))
    sends.send(response(2))
    sends.send(InferenceResponse(error=TritonError("e", TritonError.NOT_FOUND)))
    sends.send(flags=FINAL)
    got = [host.receive() for _ in range(4)]
    assert [bytes(payload) for _, payload in got] == [b"\1\0\0\0", b"\2\0\0\0", b"", b""]
    assert [[head.name for head in respond.outputs] for respond, _ in got] == [["Y"], ["Y"], [], []]
    assert [respond.final for respond, _ in got] == [False, False, False, True]
    assert (got[2][0].error, got[2][0].message) == ("NOT_FOUND", "e")


def test_the_last_response_may_carry_the_final_flag(host):
    sender(host, decoupled=True).send(response(), FINAL)
    respond, payload = host.receive()
    assert respond.final
    assert bytes(payload) == b"\1\0\0\0"


def test_nothing_is_sent_after_the_final_flag(host):
    sends = sender(host, decoupled=True)
    sends.send(flags=FINAL)
    for arguments in ((response(),), (None, FINAL)):
        with pytest.raises(
            TritonModelException, match=r"^Unable to send response\. Response sender has been closed\.$"
        ):
            sends.send(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Inference Response object must be provided when the response flags is set to zero."),
        ((None, 2), "Unable to send response. Unsupported flag provided."),
        (
            (None, FINAL),
            "Unable to send response. Non-decoupled model cannot send complete final before sending a response.",
        ),
    ],
)
def test_sends_are_refused_in_tritons_words(host, arguments, message):
    sends = sender(host, decoupled=False)
    with pytest.raises(TritonModelException) as caught:
        sends.send(*arguments)
    assert str(caught.value) == message
    sends.close()


def test_only_responses_are_sent(host):
    sends = sender(host, decoupled=True)
    with pytest.raises(TypeError):
        sends.send("response")
    sends.close()


def test_a_model_that_is_not_decoupled_sends_one_response(host):
    sends = sender(host, decoupled=False)
    sends.send(response())
    with pytest.raises(TritonModelException, match="Non-decoupled model cannot send more than one response"):
        sends.send(response())
    sends.send(flags=FINAL)
    assert not host.receive()[0].final
    assert host.receive()[0].final


def test_a_sender_that_is_dropped_fails_its_request(host):
    sends = sender(host, decoupled=True)
    sends.send(response())
    del sends
    host.receive()
    respond, _ = host.receive()
    assert respond == Respond(
        5,
        error="INTERNAL",
        message="the model dropped the response sender of this request without a final response",
    )


def test_many_threads_send_whole_responses(host, threads):
    sends = sender(host, decoupled=True)
    large = InferenceResponse([Tensor("Y", np.full(100_000, 7, np.int32))])
    sent = [threads.submit(sends.send, each) for each in (response(), large) * 40]
    sizes = sorted(host.receive()[1].nbytes for _ in range(80))
    assert sizes == [4] * 40 + [400_000] * 40
    for each in sent:
        each.result()
    sends.close()


def test_leaving_is_seen_at_the_next_question(host):
    sends = sender(host, decoupled=True)
    assert not sends.is_cancelled()
    host.send(Cancel(5))
    assert sends.is_cancelled()
    sends.close()


@pytest.mark.parametrize("then", [Pace(5, paused=False), Cancel(5)])
def test_a_slow_reader_holds_the_sender_until_it_reads_on_or_leaves(host, threads, then):
    sends = sender(host, decoupled=True)
    host.send(Pace(5, paused=True))
    begun = threading.Event()

    def send() -> None:
        begun.set()
        sends.send(response())

    sending = threads.submit(send)
    begun.wait()
    host.send(Cancel(99))  # of no request here: read, and of no effect
    assert not sending.done()
    host.send(then)
    sending.result(10)
    assert bytes(host.receive()[1]) == b"\1\0\0\0"
    sends.close()


def test_metrics_that_a_thread_has_changed_are_told_with_its_last_response(host):
    sends = sender(host, decoupled=True)
    family = MetricFamily("n", "d", MetricFamily.COUNTER)
    family.Metric().increment(3)
    sends.send(flags=FINAL)
    told, _ = host.receive()
    assert [metric.value for metric in told.metrics] == [3]
    assert host.receive()[0].final
