"""`tritium chat`: a conversation in the terminal, streamed as it comes, with its speed after each answer."""

from __future__ import annotations

import sys
import time
from typing import Any
from urllib.parse import quote

from rich.console import Console

from gateway.client import Server, ServerError


class Conversation:
    """The turns so far with one model. Answers go to stdout as they come, everything else to `notes`."""

    def __init__(self, server: Server, model: str, notes: Console, *, system: str = "", max_tokens: int = 0) -> None:
        self._server = server
        self._model = model
        self._notes = notes
        self._messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
        self._limits = {"max_tokens": max_tokens} if max_tokens else {}

    def talk(self) -> int:
        """Ask for questions until the end of input. Ctrl-C stops an answer, Ctrl-D ends. Returns an exit status."""
        self._server.get(f"/v1/models/{quote(self._model, safe='')}")
        import readline  # noqa: F401  (its import gives `input` line editing and a history)

        self._notes.print(f"{self._model} at {self._server.url}. Ctrl-C stops an answer, Ctrl-D ends.", style="dim")
        while True:
            try:
                question = input("> ").strip()
            except KeyboardInterrupt:
                print()
                continue
            except EOFError:
                print()
                return 0
            if not question:
                continue
            try:
                self.ask(question)
            except KeyboardInterrupt:
                self._notes.print("\n(stopped)", style="dim")
            except ServerError as error:
                self._notes.print(f"\n{error}", style="red", markup=False, soft_wrap=True)

    def ask(self, question: str) -> None:
        """Send one question and print its answer. What was said is kept, even of an answer that was stopped."""
        self._messages.append({"role": "user", "content": question})
        said: list[str] = []
        try:
            self._stream(said)
        finally:
            if said:
                self._messages.append({"role": "assistant", "content": "".join(said)})
            else:
                self._messages.pop()

    def _stream(self, said: list[str]) -> None:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": self._messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._limits,
        }
        started = time.perf_counter()
        first = last = started
        pieces = tokens = 0
        events = self._server.events("/v1/chat/completions", body)
        try:
            for event in events:
                usage = event.get("usage") or {}
                tokens = usage.get("completion_tokens") or tokens
                text = _text(event)
                if not text:
                    continue
                last = time.perf_counter()
                first = last if not pieces else first
                pieces += 1
                said.append(text)
                print(text, end="", flush=True)
        finally:
            # A generator that is left half-way keeps its connection until it is collected: close it now.
            events.close()
        print()
        self._notes.print(_speed(tokens or pieces, first - started, last - first), style="dim")


def _text(event: dict[str, Any]) -> str:
    choices = event.get("choices") or [{}]
    return choices[0].get("delta", {}).get("content") or ""


def _speed(tokens: int, first_seconds: float, rest_seconds: float) -> str:
    """The rate counts the tokens after the first over the time after it: prefill is told apart."""
    rate = (tokens - 1) / rest_seconds if tokens > 1 and rest_seconds > 0 else 0.0
    return f"{tokens} tokens, {rate:.1f} tokens/s, the first after {first_seconds:.3f} s"


def hold(server: Server, model: str, *, system: str = "", max_tokens: int = 0) -> int:
    """A conversation in a terminal; one question and its answer where stdin is a file or a pipe."""
    notes = Console(stderr=True, highlight=False)
    conversation = Conversation(server, model, notes, system=system, max_tokens=max_tokens)
    if sys.stdin.isatty():
        return conversation.talk()
    question = sys.stdin.read().strip()
    if not question:
        raise ServerError("there is no question on stdin")
    conversation.ask(question)
    return 0
