"""Tritium's lines in the gateway benchmark's table (`BENCH_GATEWAYS`): one server process, without and with tenants."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent
_SERVE = [str(_HERE / "serve.sh"), "{port}", "{port2}", "{up}", "{work}"]

GATEWAYS = {
    "tritium": {"group": "ours", "cmd": _SERVE, "ready": "/health/ready"},
    "tritium-tenants": {
        "group": "ours",
        "cmd": [*_SERVE, "--api-key-file", str(_HERE / "tenants.toml")],
        "ready": "/health/ready",
        "headers": ["authorization: Bearer sk-bench"],
    },
}
