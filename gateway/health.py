"""Health: live is the process, ready is what it can serve now."""

from __future__ import annotations

from typing import Any

from backends.model import State
from gateway.plane import Plane


def readiness(plane: Plane) -> tuple[bool, dict[str, Any]]:
    """Whether work should be sent here, and why (not).

    Ready: not draining, every model was loaded or has failed once, and one is ready now; with
    `--strict-readiness` all of them are. An empty repository is ready.
    """
    states = {name: entry.status.state.value for name, entry in plane.registry.entries().items()}
    ready = [state == State.READY.value for state in states.values()]
    enough = all(ready) if plane.settings.strict_readiness else any(ready) or not ready
    ok = not plane.draining and plane.registry.settled and enough
    status = "draining" if plane.draining else "ready" if ok else "not ready"
    return ok, {"status": status, "models": states}
