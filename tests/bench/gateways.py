"""Tritium beside others in the gateway benchmark (`BENCH_GATEWAYS`): one server process, tenants and replicas too.

Lines that end with `-4` have four replicas behind, the peers with their cache-aware policy on.
"""

from pathlib import Path

_HERE = Path(__file__).resolve().parent
_SERVE = [str(_HERE / "serve.sh"), "{port}", "{port2}", "{up}", "{work}"]
# One engine under four names: four replicas to whoever balances them.
_FOUR = [f"http://{host}:{{upport}}" for host in ("127.0.0.1", "localhost", "127.1", "127.0.1")]
_SERVE_FOUR = [str(_HERE / "serve.sh"), "{port}", "{port2}", ",".join(_FOUR), "{work}"]
_TENANTS = ["--api-key-file", str(_HERE / "tenants.toml")]
_KEY = ["authorization: Bearer sk-bench"]
_ROUTER = [
    *("--host", "127.0.0.1", "--port", "{port}", "--worker-urls", *_FOUR, "--policy", "cache_aware"),
    *("--log-level", "error", "--max-concurrent-requests", "8192"),
    *("--prometheus-host", "127.0.0.1", "--prometheus-port", "{port2}"),
]

GATEWAYS = {
    "tritium": {"group": "ours", "cmd": _SERVE, "ready": "/health/ready"},
    "tritium-tenants": {"group": "ours", "cmd": [*_SERVE, *_TENANTS], "ready": "/health/ready", "headers": _KEY},
    "tritium-4": {"group": "ours", "cmd": _SERVE_FOUR, "ready": "/health/ready"},
    "tritium-tenants-4": {
        "group": "ours",
        "cmd": [*_SERVE_FOUR, *_TENANTS],
        "ready": "/health/ready",
        "headers": _KEY,
    },
    "vllm-router-4": {"group": "rust", "cmd": ["{venvs}/vllmrouter/bin/vllm-router", *_ROUTER]},
    "sglang-router-4": {
        "group": "rust",
        "cmd": ["{venvs}/sglrouter/bin/python", "-m", "sglang_router.launch_router", *_ROUTER],
    },
}
