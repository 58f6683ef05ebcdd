"""Calls of a model to other models: from an instance to a server process, and the answers back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from backends.errors import Code
from backends.worker.hosting.executor import Request
from backends.worker.link import Link
from backends.worker.messages import Cancel, Control, Infer, Pace, Respond


class Caller(Protocol):
    """An instance. `calls` are its calls under way, by its ids."""

    link: Link
    running: dict[int, Request]
    calls: dict[int, Call]


class Callee(Protocol):
    """A connection to a server process. `calls` are those that it is asked to answer, by ids of this process."""

    link: Link
    requests: dict[int, Request]
    calls: dict[int, Call]


class Call:
    """A call under way, and the ids by which its two ends know it."""

    __slots__ = ("callee", "callee_id", "caller", "caller_id")

    def __init__(self, caller: Caller, caller_id: int, callee: Callee, callee_id: int) -> None:
        self.caller, self.caller_id = caller, caller_id
        self.callee, self.callee_id = callee, callee_id


class Calls:
    """Passes calls on to the server process whose request they belong to, else to any that is there."""

    def __init__(self, callees: Iterable[Callee]) -> None:
        self._callees = callees
        self._next_id = 1

    def ask(self, caller: Caller, question: Infer | Control, payload: memoryview) -> None:
        """An instance asks; where nobody is there to answer it is told so."""
        parent = 0
        callee: Callee | None = None
        if type(question) is Infer and question.parent:
            request = caller.running.get(question.parent)
            if request is not None:
                callee = next((one for one in self._callees if one.requests.get(request.id) is request), None)
                parent = request.id if callee is not None else 0
        if callee is None:
            callee = next(iter(self._callees), None)
        if callee is None:
            text = "no server process is connected that could answer"
            caller.link.send(Respond(question.id, error=Code.UNAVAILABLE, message=text))
            return
        call = Call(caller, question.id, callee, self._next_id)
        self._next_id += 1
        caller.calls[call.caller_id] = callee.calls[call.callee_id] = call
        question.id = call.callee_id
        if type(question) is Infer:
            question.parent = parent
        callee.link.send_on(question, payload)

    def answered(self, callee: Callee, respond: Respond, payload: memoryview) -> None:
        """A server process answers."""
        calls = callee.calls
        call = calls.pop(respond.id, None) if respond.final else calls.get(respond.id)
        if call is None:
            return
        if respond.final:
            call.caller.calls.pop(call.caller_id, None)
        respond.id = call.caller_id
        call.caller.link.send_on(respond, payload)

    def pass_on(self, caller: Caller, message: Cancel | Pace) -> None:
        """An instance wants no more of its call, or no more for now."""
        call = caller.calls.get(message.id)
        if call is not None:
            message.id = call.callee_id
            call.callee.link.send(message)

    def ended(self, caller: Caller) -> None:
        """An instance is gone: nobody wants its calls any more."""
        for call in caller.calls.values():
            call.callee.calls.pop(call.callee_id, None)
            call.callee.link.send(Cancel(call.callee_id))
        caller.calls.clear()

    def left(self, callee: Callee) -> None:
        """A server process is gone: its calls fail."""
        text = "the server process that answered is gone"
        for call in callee.calls.values():
            call.caller.calls.pop(call.caller_id, None)
            call.caller.link.send(Respond(call.caller_id, error=Code.UNAVAILABLE, message=text))
        callee.calls.clear()
