"""The control plane: model repository → running endpoints → snapshots for the server processes."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from backends.errors import ModelNotFound, ServingError
from backends.model import Capability, Endpoints, ModelControl, OpenAIModel, State, TensorModel
from ensembles.kinds import find_kind
from gateway.admin_keys import AdminKeys
from gateway.announcement import announcement, base_url, failures
from gateway.auth import Keys
from gateway.cache_salt import CacheSalt
from gateway.children import SERVER_ARGV, ServerChild
from gateway.choice import is_composed
from gateway.control import Control, burden
from gateway.fleet import Fleet
from gateway.ingestion import Ingestion
from gateway.kserve.tls import tls_context
from gateway.loads import LoadWatch
from gateway.metrics import Ledger, MetricsServer
from gateway.repository_watch import RepositoryWatch
from gateway.settings import Settings
from gateway.snapshot import Loads, ModelStatus, Snapshot

_BACKLOG = 4096
_SCRAPE_SECONDS = 1.0
# A server process cuts what is left after its time to drain, and says farewell to its clients.
_DRAIN_SLACK_SECONDS = 15.0


async def supervise(settings: Settings, *, server_argv: Sequence[str] = SERVER_ARGV) -> int:
    """Serve until SIGTERM or SIGINT; the exit status.

    0 after a drain; 1 when nothing could be served: a port that is taken, no repository, every model failed, the
    server processes do not start. A second SIGINT ends everything at once. No process is left when it returns.
    """
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    try:
        Keys.read(settings)  # each server process reads them too
        AdminKeys(settings)
        CacheSalt.read(settings.cache_salt_file)
        tls_context(settings)
        with (
            _runtime_dir(settings) as runtime_dir,
            _listening(settings.host, settings.http_port, settings.workers) as listeners,
            _listening(
                settings.grpc_address or settings.host,
                settings.grpc_port,
                settings.workers if settings.allow_grpc else 0,
            ) as grpc_listeners,
        ):
            return await _Supervisor(settings, runtime_dir, listeners, grpc_listeners, server_argv).run()
    except ServingError as error:
        return _refuse(error.message)
    except OSError as error:
        return _refuse(str(error))


class _Supervisor:
    def __init__(
        self,
        settings: Settings,
        runtime_dir: str,
        listeners: list[socket.socket],
        grpc_listeners: list[socket.socket],
        server_argv: Sequence[str],
    ) -> None:
        self._settings = settings
        self._runtime_dir = runtime_dir
        self._listeners = listeners
        self._grpc_listeners = grpc_listeners
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._hurrying = asyncio.Event()
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()
        self._snapshot = Snapshot((), settled=False)
        self._ledger = Ledger()
        self._fleet = Fleet(settings, runtime_dir, self._changed, lambda: burden(self._children))
        self._repository = RepositoryWatch(settings, self._fleet)
        self._loads = LoadWatch(lambda: self._snapshot.models, self._tell, settings.load_interval)
        settings_json = settings.model_copy(update={"runtime_dir": Path(runtime_dir)}).model_dump_json()
        self._children: list[ServerChild] = []
        self._control = Control(
            settings, self._fleet, self._repository, self._children, lambda: self._loads.last, self._counters
        )
        self._children += [
            ServerChild(
                index,
                listener,
                lambda: self._snapshot,
                self._ledger,
                settings_json=settings_json,
                argv=server_argv,
                answer=self._control.answer,
                grpc_listener=grpc_listeners[index] if grpc_listeners else None,
            )
            for index, listener in enumerate(listeners)
        ]
        self._ingestion = Ingestion(settings, settings_json, lambda: self._snapshot)
        self._metrics = MetricsServer(
            settings,
            self._counters,
            lambda: self._snapshot.models,
            version("tritium"),
            lambda: self._ingestion.families(_SCRAPE_SECONDS),
        )

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._leave, 0)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        loop.add_signal_handler(signal.SIGHUP, self._control.reload_soon)
        servers: list[asyncio.Task[None]] = []
        watching: list[asyncio.Task[None]] = []
        ingesting: list[asyncio.Task[None]] = []
        try:
            if self._settings.allow_metrics:
                await self._metrics.start()
            await self._fleet.open()
            works = [self._publish(), self._welcome(), self._fleet.watch_files(), self._loads.run()]
            if self._settings.model_control_mode == "poll":
                works.append(self._repository.poll())
            watching = [asyncio.create_task(work) for work in works]
            servers = [asyncio.create_task(child.run(), name=f"server {child.index}") for child in self._children]
            ingesting = [asyncio.create_task(self._ingestion.run())]
            # Only a server process that is given up, or a fault of ours, ends one of the others.
            ends: list[asyncio.Future[int] | asyncio.Future[None]] = [self._exit, *servers, *watching, *ingesting]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in (*servers, *watching, *ingesting):
                if task.done():
                    task.result()
            await self._drain([*servers, *ingesting])
            return self._exit.result() if self._exit.done() else 1
        finally:
            await self._end([*servers, *ingesting, *self._control.tasks()])
            await self._end(self._fleet.tasks())
            await self._end(watching)
            sys.stderr.write(failures(self._fleet.statuses()))
            self._fleet.close()
            await self._metrics.stop()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _leave(self, status: int) -> None:
        if not self._exit.done():
            self._exit.set_result(status)

    def _interrupt(self) -> None:
        """The first SIGINT drains, the second ends everything at once."""
        if self._exit.done():
            self._hurrying.set()
        self._leave(0)

    async def _publish(self) -> None:
        """Give each change to every server process, several within one turn of the loop as one."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            settled = self._snapshot.settled or self._fleet.settled
            past = {name: tuple(versions) for name, versions in self._fleet.past.items()}
            self._snapshot = Snapshot(self._fleet.statuses(), settled, past, self._snapshot.number + 1)
            self._fleet.snapshot_number = self._snapshot.number
            for child in self._children:
                child.notify()
            self._ingestion.child.notify()
            self._fleet.notice()
            if settled:
                self._settled.set()

    async def _welcome(self) -> None:
        """Once every model is ready or has failed: say what is served, or leave when nothing is."""
        await self._settled.wait()
        models = self._snapshot.models
        failed = [status for status in models if status.state is State.FAILED]
        # In poll mode they may be mended.
        if failed and len(failed) == len(models) and self._settings.model_control_mode != "poll":
            sys.stderr.write("No model could be loaded.\n")
            self._leave(1)
            return
        if failed and self._settings.exit_on_error:
            sys.stderr.write("A model could not be loaded, and --exit-on-error is on.\n")
            self._leave(1)
            return
        for child in self._children:
            await child.serving.wait()
        settings = self._settings
        text = announcement(
            base_url(settings.host, self._listeners[0].getsockname()[1]),
            base_url(self._metrics.host, self._metrics.port) if settings.allow_metrics else None,
            models,
            grpc_address=self._grpc_address(),
            chat_model=_chat_model(models),
            has_keys=settings.api_key_file is not None or settings.jwt_jwks_url is not None,
        )
        sys.stdout.write(text)
        sys.stdout.flush()
        await asyncio.wait((self._exit,))

    def _grpc_address(self) -> str | None:
        if not self._grpc_listeners:
            return None
        settings = self._settings
        host = settings.grpc_address or settings.host
        return base_url(host, self._grpc_listeners[0].getsockname()[1]).removeprefix("http://")

    def _tell(self, loads: Loads) -> None:
        for child in self._children:
            child.tell(loads)
        self._ingestion.child.tell(loads)

    async def _counters(self) -> list[tuple[str, bytes]]:
        await asyncio.gather(*(child.collect(_SCRAPE_SECONDS) for child in self._children))
        return self._ledger.entries()

    async def _drain(self, servers: Sequence[asyncio.Task[None]]) -> None:
        """Let the server processes finish what they have accepted: the engines serve them until then."""
        for listener in (*self._listeners, *self._grpc_listeners):
            listener.close()
        for child in self._children:
            child.drain(self._settings.exit_timeout_secs)
        self._ingestion.drain()
        await self._wait(servers, self._settings.exit_timeout_secs + _DRAIN_SLACK_SECONDS)

    async def _end(self, tasks: Sequence[asyncio.Task[Any]]) -> None:
        """Cancel them and wait; cancel them again, which makes them give up their patience, in a hurry."""
        for task in tasks:
            task.cancel()
        await self._wait(tasks)
        while not all(task.done() for task in tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _wait(self, tasks: Sequence[asyncio.Task[Any]], seconds: float | None = None) -> None:
        """Until all are done, the time is over or there is a hurry."""
        if not tasks:
            return
        hurrying = asyncio.create_task(self._hurrying.wait())
        waiting = asyncio.create_task(asyncio.wait(tasks))
        await asyncio.wait((hurrying, waiting), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in (hurrying, waiting):
            task.cancel()
        await asyncio.wait((hurrying, waiting))


def _chat_model(models: Sequence[ModelStatus]) -> str | None:
    """The one to show an example with: a pipeline answers of its documents alone."""
    able = [status.config for status in models if _can_chat(status)]
    return min(able, key=is_composed).name if able else None


def _can_chat(status: ModelStatus) -> bool:
    if status.state is not State.READY:
        return False
    try:
        model = find_kind(status.config.backend).connect(status.config, Endpoints(), _Nobody())
    except ServingError:
        return False
    return Capability.CHAT in model.capabilities


class _Nobody:
    """The models that a model may call, where none is called."""

    control: ModelControl | None = None

    def openai(self, name: str) -> OpenAIModel:
        raise ModelNotFound(f"The model '{name}' does not exist.")

    def tensor(self, name: str, version: int = 0) -> TensorModel:  # noqa: ARG002  # the protocol
        raise ModelNotFound(f"The model '{name}' does not exist.")


@contextmanager
def _runtime_dir(settings: Settings) -> Iterator[str]:
    """The folder of the Unix sockets: the one of the settings, else a temporary one of our own."""
    if settings.runtime_dir is not None:
        settings.runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # What clients have set there (`kserve/shared_state.py`) lives as long as the server.
        (settings.runtime_dir / "kserve.json").unlink(missing_ok=True)
        yield str(settings.runtime_dir.absolute())
    else:
        with tempfile.TemporaryDirectory(prefix="tritium-", ignore_cleanup_errors=True) as folder:
            yield folder


@contextmanager
def _listening(host: str, port: int, count: int) -> Iterator[list[socket.socket]]:
    """One listening socket a server process, all on the same port, among which the kernel divides connections."""
    if not count:
        yield []
        return
    address = host, port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as stack:
        # Alone first: with SO_REUSEPORT, a second gateway would get half of the first one's connections.
        listener = stack.enter_context(socket.create_server(address, family=family, backlog=_BACKLOG))
        if count == 1:
            yield [listener]
            return
        address = listener.getsockname()[:2]
        listener.close()
        yield [
            stack.enter_context(socket.create_server(address, family=family, backlog=_BACKLOG, reuse_port=True))
            for _ in range(count)
        ]


def _refuse(reason: str) -> int:
    sys.stderr.write(f"tritium: {reason}\n")
    return 1
