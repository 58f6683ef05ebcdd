"""Starts `transformers serve` on a Unix socket, under a name of our choice. Run by the interpreter of its environment.

Imports nothing of this project: that interpreter does not know it.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from pathlib import Path

# Requests under way when SIGTERM comes; without a limit it waits for the last of them.
_GRACE_SECONDS = 2


def main() -> None:
    """`transformers_server.py SOCKET NAME MODEL [option of transformers serve]…`."""
    socket, name, model, *options = sys.argv[1:]
    import uvicorn
    from transformers.cli.transformers import main as transformers  # type: ignore[import-not-found]  # in its own environment

    if not Path(model).is_dir():
        from huggingface_hub import snapshot_download

        model = snapshot_download(model)
    # The command has no option for a socket: it makes its uvicorn.Config from a host and a port only.
    uvicorn.Config = functools.partial(  # type: ignore[misc, assignment]  # a class made from it is never asked for
        uvicorn.Config, uds=socket, timeout_graceful_shutdown=_GRACE_SECONDS, access_log=False
    )
    with tempfile.TemporaryDirectory(prefix="transformers-") as folder:
        # The model's name is its path, as given: a link of that name in the working directory is both.
        (Path(folder) / name).symlink_to(model)
        os.chdir(folder)
        sys.argv = ["transformers", "serve", name, *options]
        transformers()


if __name__ == "__main__":
    main()
