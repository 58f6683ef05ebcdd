"""What the supervisor tells the person at the terminal: where it serves, what, how to ask, and what failed."""

from __future__ import annotations

import ipaddress
import json
import shlex
from collections.abc import Iterable, Sequence

from backends.model import State
from gateway.snapshot import ModelStatus

_QUESTION = "Name three colours."


def base_url(host: str, port: int) -> str:
    """Where a client on this machine reaches a socket that is bound to `host`."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"http://[{address}]:{port}" if address.version == 6 else f"http://{address}:{port}"


def announcement(
    url: str,
    metrics_url: str | None,
    models: Sequence[ModelStatus],
    *,
    chat_model: str | None,
    has_keys: bool,
    grpc_address: str | None = None,
) -> str:
    """One line an address and one a model, then two examples that work as pasted if a model can chat."""
    width = max((len(status.config.name) for status in models), default=0)
    lines = [
        "",
        f"OpenAI API  {url}/v1",
        f"KServe v2   {url}/v2" + ("" if grpc_address is None else f", gRPC at {grpc_address}"),
        f"Docs        {url}/docs",
        *([] if metrics_url is None else [f"Metrics     {metrics_url}/metrics"]),
        "",
        *(f"{status.config.name:<{width}}  {status.state.value}{_because(status)}" for status in models),
        *([] if models else ["No model is loaded."]),
        "",
    ]
    if chat_model is not None:
        lines += [*_examples(url, chat_model, has_keys=has_keys), ""]
    return "\n".join(lines)


def failures(models: Iterable[ModelStatus]) -> str:
    """Every model that failed, with its reason; empty when none did."""
    return "".join(
        f"{status.config.name} failed: {status.reason}\n" for status in models if status.state is State.FAILED
    )


def _because(status: ModelStatus) -> str:
    return f": {status.reason}" if status.reason else ""


def _examples(url: str, model: str, *, has_keys: bool) -> list[str]:
    """A streamed chat by curl, then by the OpenAI SDK. The key, where one is needed, is taken from TRITIUM_API_KEY."""
    messages = [{"role": "user", "content": _QUESTION}]
    body = json.dumps({"model": model, "stream": True, "messages": messages}, ensure_ascii=False)
    authorization = ['  -H "Authorization: Bearer $TRITIUM_API_KEY" \\'] if has_keys else []
    key = 'os.environ["TRITIUM_API_KEY"]' if has_keys else '"none"'
    return [
        f"curl -N {url}/v1/chat/completions \\",
        *authorization,
        "  -H 'Content-Type: application/json' \\",
        f"  -d {shlex.quote(body)}",
        "",
        *(["import os"] if has_keys else []),
        "from openai import OpenAI",
        f'client = OpenAI(base_url="{url}/v1", api_key={key})',
        "stream = client.chat.completions.create(",
        f"    model={json.dumps(model)}, messages={json.dumps(messages)}, stream=True",
        ")",
        "for chunk in stream:",
        '    print(chunk.choices[0].delta.content or "", end="", flush=True)',
    ]
