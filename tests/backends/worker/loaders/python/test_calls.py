from __future__ import annotations

import asyncio
import gc

import numpy as np

from backends.worker.frames import heads, tensors
from backends.worker.loaders.python.request import InferenceRequest
from backends.worker.loaders.python.session import current
from backends.worker.loaders.python.tensor import Tensor
from backends.worker.messages import Cancel, Infer, Respond


def request(value: int = 0, **fields) -> InferenceRequest:
    return InferenceRequest(
        model_name="other",
        requested_output_names=["Y"],
        inputs=[Tensor("X", np.array([value], np.int32))],
        **fields,
    )


def answer(host, question: Infer, value: int, *, final: bool = True) -> None:
    outputs = [Tensor("Y", np.array([value], np.int32)).wire()]
    host.send(Respond(question.id, heads(outputs), final=final), outputs)


def asked(host) -> tuple[Infer, int]:
    """The next question and the value of its input."""
    question, payload = host.receive()
    (x,) = tensors(question.inputs, payload)
    return question, int.from_bytes(x.data, "little")


def value_of(response) -> int:
    return int(response.output_tensors()[0].as_numpy()[0])


def test_a_question_says_what_it_asks_and_in_whose_course(host, threads):
    current().parent = 9
    asking = threads.submit(request(3, model_version=2, request_id="i", correlation_id="s", flags=1, timeout=8).exec)
    question, value = asked(host)
    assert value == 3
    assert (question.model, question.version, question.request_id, question.outputs) == ("other", 2, "i", ["Y"])
    assert (question.sequence_id, question.sequence_start, question.sequence_end) == ("s", True, False)
    assert (question.timeout_us, question.parent) == (8, 9)
    answer(host, question, 4)
    assert value_of(asking.result(10)) == 4


def test_a_request_can_be_asked_again(host, threads):
    twice = request()
    for value in (1, 2):
        asking = threads.submit(twice.exec)
        answer(host, asked(host)[0], value)
        assert value_of(asking.result(10)) == value


def test_errors_are_responses(host, threads):
    asking = threads.submit(request().exec)
    host.send(Respond(asked(host)[0].id, error="UNAVAILABLE", message="why"))
    response = asking.result(10)
    assert response.has_error()
    assert response.error().message() == "why"
    assert response.output_tensors() == []


def test_thirty_two_threads_get_their_own_answers_in_any_order(host, threads):
    asking = [threads.submit(request(value).exec) for value in range(32)]
    for question, value in reversed([asked(host) for _ in asking]):
        answer(host, question, value + 100)
    assert [value_of(each.result(10)) for each in asking] == [value + 100 for value in range(32)]


def test_a_decoupled_models_responses_come_one_by_one_with_its_empty_end(host, threads):
    responses = request().exec(decoupled=True)
    question, _ = asked(host)
    answer(host, question, 1, final=False)
    assert value_of(next(responses)) == 1
    answer(host, question, 2, final=False)
    host.send(Respond(question.id))
    rest = threads.submit(list, responses).result(10)
    assert [len(response.output_tensors()) for response in rest] == [1, 0]
    assert [len(response.output_tensors()) for response in responses] == [1, 1, 0]
    assert [len(response.output_tensors()) for response in responses] == [1, 1, 0]


def test_a_question_says_whether_one_response_is_taken_or_many(host, threads):
    asking = threads.submit(request().exec)
    question, _ = asked(host)
    assert question.single
    answer(host, question, 1)
    asking.result(10)
    responses = request().exec(decoupled=True)
    question, _ = asked(host)
    assert not question.single
    answer(host, question, 1)
    assert value_of(next(responses)) == 1


def test_an_only_response_may_be_followed_by_an_empty_end(host, threads):
    asking = threads.submit(request().exec)
    question, _ = asked(host)
    answer(host, question, 1, final=False)
    host.send(Respond(question.id))
    assert value_of(asking.result(10)) == 1


def test_dropping_or_cancelling_an_iterator_cancels_its_request(host):
    responses = request().exec(decoupled=True)
    first, _ = asked(host)
    del responses
    gc.collect()
    assert host.receive()[0] == Cancel(first.id)
    kept = request().exec(decoupled=True)
    second, _ = asked(host)
    kept.cancel()
    assert host.receive()[0] == Cancel(second.id)
    host.send(Respond(second.id, error="CANCELLED", message="gone"))
    assert next(kept).error().message() == "gone"


async def test_questions_are_gathered_in_an_event_loop(host, threads):
    asking = asyncio.gather(*(request(value).async_exec() for value in range(32)))

    def serve() -> None:
        for question, value in reversed([asked(host) for _ in range(32)]):
            answer(host, question, value + 100)

    threads.submit(serve).result(10)
    assert [value_of(response) for response in await asking] == [value + 100 for value in range(32)]


async def test_a_decoupled_model_is_asked_in_an_event_loop(host):
    future = request().async_exec(decoupled=True)
    question, _ = asked(host)
    answer(host, question, 1, final=False)
    responses = await future
    answer(host, question, 2)
    assert [value_of(each) for each in await asyncio.to_thread(list, responses)] == [1, 2]


async def test_threads_and_event_loops_ask_at_once(host, threads):
    coroutine = asyncio.ensure_future(request(1).async_exec())
    thread = threads.submit(request(2).exec)
    for question, value in [asked(host), asked(host)]:
        answer(host, question, value * 10)
    assert value_of(await coroutine) == 10
    assert value_of(thread.result(10)) == 20


def test_a_host_that_is_gone_ends_every_wait(host, threads):
    asking = [threads.submit(request().exec) for _ in range(8)]
    for _ in asking:
        asked(host)
    host._socket.close()
    failures = [each.exception(10) or each.result() for each in asking]
    assert all(isinstance(failure, EOFError) or failure.has_error() for failure in failures)
