"""Tritium's line in the gateway benchmark's table (`BENCH_GATEWAYS`): one server process, every feature on."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parents[1]

GATEWAYS = {
    "tritium": {
        "group": "ours",
        "cmd": [str(_HERE / "serve.sh"), "{port}", "{port2}", "{up}", "{work}"],
        "env": {"PATH": f"{_ROOT}/.venv/bin:/usr/bin:/bin"},
        "ready": "/health/ready",
    }
}
