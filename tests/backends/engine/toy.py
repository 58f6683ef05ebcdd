"""A process that looks like an engine: `/health` and `/v1/models` on a Unix socket, with faults on demand.

`toy.py SOCKET FOLDER [fault…]`; it writes the pids of its processes into FOLDER. Faults: `deaf` ignores SIGTERM,
`family` has a child that leaves its session and a grandchild, which `orphan` makes one; `crash` exits at once; `late`
answers 503 until FOLDER/go exists. While FOLDER/sick exists it answers 503, while FOLDER/hang exists nothing. As a
worker it answers what FOLDER/config holds at `/config`, 503 without it, and 500 with what FOLDER/failure holds.
"""

import http.server
import json
import os
import signal
import socketserver
import sys
import time
from pathlib import Path


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status = 200
        if FOLDER.joinpath("sick").exists() or ("late" in FAULTS and not FOLDER.joinpath("go").exists()):
            status = 503
        while FOLDER.joinpath("hang").exists():
            time.sleep(0.02)
        body = json.dumps({"data": [{"id": "toy", "max_model_len": 2048}]}).encode()
        if FOLDER.joinpath("failure").exists():
            status, body = 500, FOLDER.joinpath("failure").read_bytes()
        elif self.path == "/config":
            status = 200 if FOLDER.joinpath("config").exists() else 503
            body = FOLDER.joinpath("config").read_bytes() if status == 200 else b""
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass

    def address_string(self) -> str:
        return "unix"


def note(name: str) -> None:
    FOLDER.joinpath(f"{name}.tmp").write_text(str(os.getpid()))
    FOLDER.joinpath(f"{name}.tmp").rename(FOLDER / f"{name}.pid")


def have_family() -> None:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            note("grandchild")
        else:
            note("child")
            if "orphan" in FAULTS:
                os._exit(0)
        while True:
            signal.pause()


SOCKET, FOLDER, FAULTS = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
if "deaf" in FAULTS:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "crash" in FAULTS:
    print("loading weights")
    sys.exit("no such file: weights.gguf")
if "family" in FAULTS:
    have_family()
    while not FOLDER.joinpath("grandchild.pid").exists():
        time.sleep(0.01)
server = Server(SOCKET, Handler)
note("engine")
print("toy engine ready", flush=True)
server.serve_forever()
