"""Tritium's line in the gateway benchmark's table (`BENCH_GATEWAYS`): one server process, every feature on."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent

GATEWAYS = {
    "tritium": {
        "group": "ours",
        "cmd": [str(_HERE / "serve.sh"), "{port}", "{port2}", "{up}", "{work}"],
        "ready": "/health/ready",
    }
}
