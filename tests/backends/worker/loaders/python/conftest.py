from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from backends.worker.exchange import Exchange
from backends.worker.frames import BlockingLink
from backends.worker.loaders.python.metrics import Metrics
from backends.worker.loaders.python.session import Session, begin


class Link(BlockingLink):
    """The host's end of a session's link; `exchange` is the model's."""

    exchange: Exchange


@pytest.fixture
def host() -> Iterator[Link]:
    """What a host sees of a model in this process, whose name is m_0_0 and whose outputs are Y and Z."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(20)
        link = Link(ours)
        link.exchange = Exchange(BlockingLink(theirs))
        begin(Session(link.exchange, "m_0_0", "/models/m/1", Metrics(), frozenset({"Y", "Z"}), is_decoupled=False))
        yield link


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as executor:
        yield executor
