from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import pytest

from backends.errors import Code
from backends.tensors import Tensor
from backends.worker.exchange import Answer, Exchange
from backends.worker.frames import BlockingLink, FrameError
from backends.worker.messages import Cancel, Execute, Executed, Infer, Respond, TensorHead


class Ends:
    """An exchange, and the host's end of its link."""

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        self.socket = ours
        self.link = BlockingLink(ours)
        self.exchange = Exchange(BlockingLink(theirs))


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.settimeout(20)
            both = Ends(ours, theirs)
            yield both
        if (attendant := both.exchange._attendant) is not None:
            attendant.join(20)  # it reads from what is closed next


def head(number: int, *inputs: TensorHead) -> Infer:
    return Infer(number, "m", 1, "", list(inputs), [])


def ask(exchange: Exchange) -> Respond:
    box: SimpleQueue[Answer | None] = SimpleQueue()
    exchange.ask(head(0), [], box)
    return exchange.wait(box)[0]


def test_a_batch_and_its_members_inputs_come_as_they_were_sent(ends):
    x = [Tensor("X", "INT8", (2,), b"\1\2"), Tensor("Y", "INT8", (1,), b"\3"), Tensor("X", "INT8", (1,), b"\4")]
    heads = [TensorHead(each.name, each.datatype, each.shape, each.size_bytes) for each in x]
    ends.link.send(Execute([head(1, heads[0], heads[1]), head(2), head(3, heads[2])]), x)
    batch = ends.exchange.work()
    assert [request.head.id for request in batch] == [1, 2, 3]
    assert [[bytes(each.data) for each in request.inputs] for request in batch] == [[b"\1\2", b"\3"], [], [b"\4"]]


def test_inputs_beyond_what_came_are_no_frame(ends):
    ends.link.send(Execute([head(1, TensorHead("X", "INT8", (2,), 2))]))
    with pytest.raises(FrameError, match="tensors of 2 bytes in a payload of 0"):
        ends.exchange.work()


def test_answers_and_the_end_of_their_batch_leave_together(ends):
    ends.link.send(Execute([head(1), head(2)]))
    first, second = ends.exchange.work()
    assert ends.exchange.is_running(first)
    outputs = [Tensor("Y", "INT8", (100_000,), bytes(100_000))]
    large = Respond(1, [TensorHead("Y", "INT8", (100_000,), 100_000)])
    ends.exchange.finish([(large, outputs), (Respond(2, final=False), ())], Executed(0, 5, 0))
    got = [ends.link.receive() for _ in range(3)]
    assert [type(message) for message, _ in got] == [Respond, Respond, Executed]
    assert got[0][1].nbytes == 100_000
    assert not ends.exchange.is_running(first)
    assert ends.exchange.is_running(second)


def test_no_thread_waits_for_ever_whoever_reads(ends):
    """Sixteen threads ask while batches come and are executed: everybody gets what is theirs."""
    rounds, askers = 60, 16
    questions = rounds * askers
    chance = random.Random(7)

    def serve() -> None:
        left, executed, waiting = questions, 0, []
        ends.link.send(Execute([head(1000)]))
        while left or executed < rounds:
            message, _ = ends.link.receive()
            if type(message) is Executed:
                executed += 1
                if executed < rounds:
                    ends.link.send(Execute([head(1000 + executed)]))
            else:
                left -= 1
                waiting.append(message.id)
            # Once no batch is under way, nobody sends anything who still waits for an answer.
            while waiting and (not left or executed == rounds or chance.random() < 0.7):
                ends.link.send(Respond(waiting.pop(chance.randrange(len(waiting))), message="yours"))

    def converse() -> int:
        return sum(ask(ends.exchange).message == "yours" for _ in range(rounds))

    with ThreadPoolExecutor(askers + 1) as threads:
        serving = threads.submit(serve)
        asking = [threads.submit(converse) for _ in range(askers)]
        for _ in range(rounds):
            (request,) = ends.exchange.work()
            assert not request.is_cancelled()
            ends.exchange.finish([], Executed())
        assert [each.result(20) for each in asking] == [rounds] * askers
        serving.result(20)


def test_a_cancellation_that_comes_before_its_batch_is_looked_at_is_not_lost(ends):
    ends.link.send(Execute([head(1), head(2)]))
    ends.link.send(Cancel(2))
    first, second = ends.exchange.work()
    assert not first.is_cancelled()
    assert second.is_cancelled()


def test_an_attendant_reads_for_boxes_that_nobody_waits_at(ends):
    class Flag:
        def __init__(self) -> None:
            self.came = threading.Event()

        def put(self, answer: Answer | None) -> None:
            del answer
            self.came.set()

    ends.exchange.attend()
    flag = Flag()
    number = ends.exchange.ask(head(0), [], flag)
    ends.link.send(Respond(number))
    assert flag.came.wait(10)
    ends.link.send(Execute([head(1)]))
    assert len(ends.exchange.work()) == 1


def test_leaving_is_told_once_and_only_while_an_answer_is_due(ends):
    box: SimpleQueue[Answer | None] = SimpleQueue()
    number = ends.exchange.ask(head(0), [], box)
    ends.link.receive()
    ends.exchange.leave(number)
    assert ends.link.receive()[0] == Cancel(number)
    ends.link.send(Respond(number))
    ends.exchange.wait(box)
    ends.exchange.leave(number)
    ends.exchange.send(Executed())
    assert ends.link.receive()[0] == Executed()


def test_the_end_of_the_host_ends_the_loop_and_answers_every_question(ends):
    boxes: list[SimpleQueue[Answer | None]] = [SimpleQueue() for _ in range(3)]
    for box in boxes:
        ends.exchange.ask(head(0), [], box)
    ends.socket.close()
    with pytest.raises(EOFError):
        ends.exchange.work()
    assert [ends.exchange.wait(box)[0].error for box in boxes] == [Code.UNAVAILABLE] * 3
    ends.exchange.poll()
    with pytest.raises(EOFError):
        ends.exchange.wait(SimpleQueue())


class _Dropped:
    """Sends when it is collected, which may be in the middle of anything."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange

    def __del__(self) -> None:
        self.exchange.send_soon(Cancel(7))


def test_what_a_finalizer_sends_waits_for_nobody(ends):
    ends.exchange._sending.acquire()
    dropped = _Dropped(ends.exchange)
    del dropped
    ends.exchange._sending.release()
    ends.exchange.send(Executed())
    assert [ends.link.receive()[0] for _ in range(2)] == [Executed(), Cancel(7)]
    ends.exchange.send_soon(Cancel(8))
    assert ends.link.receive()[0] == Cancel(8)
