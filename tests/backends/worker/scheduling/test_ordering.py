from __future__ import annotations

from backends.worker.scheduling.ordering import ArrivalOrder
from tests.backends.worker.scheduled import entry


def test_answers_leave_in_the_order_in_which_their_requests_came():
    order = ArrivalOrder()
    a, b, c, d = entries = [entry(name) for name in "abcd"]
    for admitted in entries:
        order.admit(admitted)
    assert order.release(b, 1, False) == []
    assert order.release(c, 2, True) == []
    assert order.release(a, 3, False) == [(a, 3)]
    assert order.release(a, 4, True) == [(a, 4), (b, 1)]
    assert order.release(b, 5, False) == [(b, 5)]
    assert order.release(b, 6, True) == [(b, 6), (c, 2)]
    assert order.release(d, 7, True) == [(d, 7)]
