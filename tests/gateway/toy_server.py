"""A process that looks like a server process to the supervisor: it greets on its socket and keeps what it is told.

What it receives goes, one line each, to the file that TRITIUM_SERVER_SETTINGS names.
"""

import argparse
import asyncio
import os
import socket
from pathlib import Path

from gateway.access_log import NoLog
from gateway.channel import Channel
from gateway.snapshot import Counters, Drain, Scrape, Serving, Snapshot
from gateway.telemetry import Telemetry


async def main(listen_fd: int, control_fd: int) -> None:
    journal = Path(os.environ["TRITIUM_SERVER_SETTINGS"])
    telemetry = Telemetry(dict, NoLog())
    telemetry.know(["toy"])
    telemetry.begin("chat_completions", "POST", "/", "", None).done(200)

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(str(os.getpid()).encode())
        writer.close()

    await asyncio.start_server(greet, sock=socket.socket(fileno=listen_fd))
    channel = await Channel.open(socket.socket(fileno=control_fd))
    await channel.send(Serving(os.getpid()))
    while True:
        message = await channel.receive()
        if isinstance(message, Scrape):
            await channel.send(Counters(message.id, telemetry.payload()))
            continue
        if isinstance(message, Snapshot):
            note(journal, ",".join(status.config.name for status in message.models))
        elif isinstance(message, Drain):
            note(journal, f"drain {message.seconds}")
            return


def note(journal: Path, text: str) -> None:
    with journal.open("a") as file:
        file.write(f"{os.getpid()} {text}\n")


parser = argparse.ArgumentParser()
parser.add_argument("--listen-fd", type=int)
parser.add_argument("--control-fd", type=int)
parser.add_argument("--index")
options = parser.parse_args()
asyncio.run(main(options.listen_fd, options.control_fd))
