"""Triton's URLs: which operation a path means. Names are taken as they stand in the path, without URL-decoding."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MODEL = re.compile(
    r"/v2/models/([^/]+)(?:/versions/([0-9]+))?(?:/(infer|generate|generate_stream|ready|config|stats))?"
)
_TRACE = re.compile(r"/v2(?:/models/([^/]+))?/trace/setting")
_MEMORY = re.compile(r"/v2/(system|cuda)sharedmemory(?:/region/([^/]+))?/(status|register|unregister)")
_REPOSITORY = re.compile(r"/v2/repository(?:/([^/]+))?/(?:index|models/([^/]+)/(load|unload))")
_PLAIN = {
    "/v2": "server",
    "/v2/health/live": "live",
    "/v2/health/ready": "ready",
    "/v2/models/stats": "stats",
    "/v2/logging": "logging",
}

WORK = frozenset({"infer", "generate", "generate_stream"})
"""What a model is asked to do, again and again by the same paths."""

_MOST_REMEMBERED = 4096

METHODS = {
    "infer": ("POST",),
    "generate": ("POST",),
    "generate_stream": ("POST",),
    "logging": ("GET", "POST"),
    "trace": ("GET", "POST"),
    "memory_register": ("POST",),
    "memory_unregister": ("POST",),
    "index": ("POST",),
    "load": ("POST",),
    "unload": ("POST",),
}
"""By operation; GET alone where it has no entry."""


@dataclass(frozen=True, slots=True)
class Route:
    """`model` and `version` are empty where the path has none; `kind` and `region` are of shared memory."""

    operation: str
    model: str = ""
    version: str = ""
    kind: str = ""
    region: str = ""
    repository: str = ""

    @property
    def methods(self) -> tuple[str, ...]:
        return METHODS.get(self.operation, ("GET",))


def find_route(path: str) -> Route | None:
    """The operation at a path (without its query); None where there is none."""
    operation = _PLAIN.get(path)
    if operation is not None:
        return Route(operation)
    if match := _TRACE.fullmatch(path):
        return Route("trace", match[1] or "")
    if match := _MODEL.fullmatch(path):
        return Route(match[3] if match[3] and match[3] != "ready" else _OF_MODEL[match[3]], match[1], match[2] or "")
    if match := _MEMORY.fullmatch(path):
        return Route(f"memory_{match[3]}", kind=match[1], region=match[2] or "")
    if match := _REPOSITORY.fullmatch(path):
        return Route(match[3] or "index", match[2] or "", repository=match[1] or "")
    return None


class Routes:
    """Routes by raw path; those of work are remembered."""

    def __init__(self) -> None:
        self._known: dict[bytes, Route] = {}

    def find(self, path: bytes) -> Route | None:
        """As `find_route`."""
        route = self._known.get(path)
        if route is None:
            route = find_route(path.decode("latin-1"))
            if route is not None and route.operation in WORK and len(self._known) < _MOST_REMEMBERED:
                self._known[path] = route
        return route


_OF_MODEL = {None: "model", "ready": "model_ready"}
