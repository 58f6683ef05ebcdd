"""llama.cpp's HTTP server in a process of its own, on a Unix socket: `python -m backends.engine.llamacpp_server`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

import msgspec

# Idle connections of the gateway hold a thread each, beside the requests under way and the health checks.
_SPARE_HTTP_THREADS = 64


class Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Engine arguments, named as llama.cpp names its parameters; `model` and `chat_template` are paths.

    `n_ctx` is the context of one request, in tokens, prompt and completion together; `max_tokens` caps the
    completion of every request and is the default of those that name none. `n_batch` is how many tokens of prompts
    are computed at once: before they are, nobody else gets a token and nobody's leaving is noticed. Multiples of 64
    are computed best: of a small model in Q8_0, 64 cost a processor 11% over llama.cpp's own 2048, and 128, in twice
    the time, 1%; a GPU wants more. `n_threads` None means half of the processors, `n_threads_batch` (of prompts, and
    of steps for several requests) None all, or `n_threads` where that is given: a prompt of 630 tokens takes the demo
    1.1 s on two idle processors, 1.6 on one; 2.1 to 4.7 where somebody else uses one of two.
    `cache_ram_mib` bounds what is kept of prompts for later requests. With `embedding` the model embeds, with the
    `pooling` of its GGUF unless told (`mean`, `cls`, `last`); a text is then one batch, of llama.cpp's own size.
    """

    model: str
    chat_template: str = ""
    n_parallel: int = 8
    n_ctx: int = 4096
    max_tokens: int = 1024
    n_batch: int = 64
    n_threads: int | None = None
    n_threads_batch: int | None = None
    n_gpu_layers: int = -1
    cache_ram_mib: int = 256
    embedding: bool = False
    pooling: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--name", required=True, help="what the engine calls its model")
    parser.add_argument("--arguments", required=True, help="the engine arguments as a JSON object")
    options = parser.parse_args()
    # Nothing is to be saved, and a server that stops by itself waits up to 30 s for its open streams.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    try:
        server = _serve(msgspec.json.decode(options.arguments, type=Arguments), options.socket, options.name)
    except (RuntimeError, ImportError, OSError) as error:
        sys.exit(f"llama.cpp did not start: {error}")
    while server:
        signal.pause()


def _serve(arguments: Arguments, socket: str, name: str) -> object:
    """The server, loaded and listening; it runs in threads of its own until the process ends."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = arguments.model
    parameters.model_alias = {name}
    parameters.offline = True
    parameters.hostnames = [socket]
    parameters.n_parallel = arguments.n_parallel
    parameters.n_ctx = arguments.n_ctx * arguments.n_parallel
    # Only the default: a request that names more gets more. The adapter is what enforces the cap.
    parameters.n_predict = arguments.max_tokens
    processors = len(os.sched_getaffinity(0))
    parameters.cpuparams.n_threads = arguments.n_threads or max(1, processors // 2)
    parameters.cpuparams_batch.n_threads = arguments.n_threads_batch or arguments.n_threads or processors
    parameters.n_threads_http = arguments.n_parallel + _SPARE_HTTP_THREADS
    parameters.n_gpu_layers = arguments.n_gpu_layers
    parameters.cache_ram_mib = arguments.cache_ram_mib
    if arguments.chat_template:
        parameters.chat_template = Path(arguments.chat_template).read_text(encoding="utf-8")
    parameters.use_jinja = True
    parameters.endpoint_metrics = True
    parameters.endpoint_slots = False
    parameters.ui = False
    # The gateway keeps its clients' connections alive, and must see when the engine is silent.
    parameters.sse_ping_interval = -1
    # Errors and warnings.
    parameters.verbosity = 2
    if arguments.embedding:
        parameters.embedding = True
        if arguments.pooling:
            pooling = xllamacpp.llama_pooling_type
            parameters.pooling_type = getattr(pooling, f"LLAMA_POOLING_TYPE_{arguments.pooling.upper()}")
    else:
        parameters.n_batch = max(arguments.n_batch, arguments.n_parallel)
    return xllamacpp.Server(parameters)


if __name__ == "__main__":
    main()
