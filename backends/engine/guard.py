"""The parent of one engine: no descendant of the engine outlives the engine, this process or the supervisor.

`python guard.py [--lifeline-fd N] [--grace SECONDS] -- argv…` starts argv and ends as it ends. An engine may start
processes of its own in sessions of their own (vLLM's EngineCore), which survive a SIGKILL of their parent. So the
guard is a child subreaper (prctl(2)): what loses its parent below it becomes its child, and is killed. It stands
as two processes, an outer and an inner one, each of which cleans up when the other is killed.

What ends the engine: SIGTERM here (passed on; SIGKILL after the grace), SIGQUIT here (SIGKILL at once), the end of
file on the lifeline (the supervisor, which holds the other end, is gone: as SIGTERM), and the engine's own exit.
`guard.py --exec -- argv…` becomes argv itself, which is killed as soon as its parent dies: enough for a
process that has no children.

Only the standard library, and little of it: run with `-I -S` it starts in 20 ms.
"""

import ctypes
import os
import select
import signal
import sys
import time

DEFAULT_GRACE_SECONDS = 10.0
CANNOT_START_STATUS = 127
"""The exit status when argv cannot be executed, as shells have it."""

# <linux/prctl.h>
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# The outer process waits longer than the inner one, which ends by itself.
_OUTER_SLACK_SECONDS = 2.0
_TRACKER_SECONDS = 2.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD)


def main(argv: list[str]) -> int:
    """Guard the command in `argv`; the exit status is the command's, 128 + the signal's number if one killed it."""
    lifeline: int | None = None
    grace_seconds = DEFAULT_GRACE_SECONDS
    becomes = False
    while argv and argv[0] != "--":
        option = argv.pop(0)
        if option == "--exec":
            becomes = True
        elif option == "--lifeline-fd" and argv:
            lifeline = int(argv.pop(0))
        elif option == "--grace" and argv:
            grace_seconds = float(argv.pop(0))
        else:
            return _usage()
    command = argv[1:]
    if not command:
        return _usage()
    if becomes:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setpgid(0, 0)  # the terminal's Ctrl-C is the supervisor's alone
        return _execute(command)
    os.setpgid(0, 0)
    return _guard(command, lifeline, grace_seconds)


def _usage() -> int:
    sys.stderr.write("usage: guard.py [--exec] [--lifeline-fd N] [--grace SECONDS] -- command [argument …]\n")
    return 2


def _guard(command: list[str], lifeline: int | None, grace_seconds: float) -> int:
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    inner_lifeline, held = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until each of the two listens
    inner = os.fork()
    wakeup = _listen()
    if inner:
        os.close(inner_lifeline)
        _close_output()
        return _watch(inner, wakeup, lifeline, grace_seconds + _OUTER_SLACK_SECONDS)
    os.close(held)
    if lifeline is not None:
        os.close(lifeline)
    # A group of its own: a signal to the outer one's group must not end both.
    os.setpgid(0, 0)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    engine = _start(command)
    _close_output()
    return _watch(engine, wakeup, inner_lifeline, grace_seconds, orphan_grace_seconds=0.0)


def _close_output() -> None:
    """Leave the output to the engine: its end of file then says that the last of its processes is gone."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)


def _start(command: list[str]) -> int:
    guard = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # the child must not take one for us, nor lose its own
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return child
    os.setpgid(0, 0)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:  # it died before the line above
        os._exit(128 + signal.SIGKILL)
    signal.set_wakeup_fd(-1)
    # Python ignores the last two, and what is ignored stays so across exec.
    for number in (*_SIGNALS, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    os._exit(_execute(command))


def _execute(command: list[str]) -> int:
    try:
        os.execvp(command[0], command)  # noqa: S606  # argv comes from the supervisor
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        sys.stderr.flush()
    return CANNOT_START_STATUS


def _watch(
    child: int, wakeup: int, lifeline: int | None, grace_seconds: float, orphan_grace_seconds: float | None = None
) -> int:
    """Wait for the child, passing on what ends it; kill every descendant that is left then or after the grace.

    `orphan_grace_seconds` is the grace when the lifeline ended, where it differs.
    """
    if orphan_grace_seconds is None:
        orphan_grace_seconds = grace_seconds
    deadline: float | None = None
    watched = [wakeup] if lifeline is None else [wakeup, lifeline]
    while (status := _reaped(child)) is None:
        timeout = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        readable, _, _ = select.select(watched, [], [], timeout)
        received = os.read(wakeup, 4096) if wakeup in readable else b""
        orphaned = lifeline in readable
        if orphaned:
            watched = [wakeup]  # an end of file stays readable
        if signal.SIGQUIT in received or (deadline is not None and time.monotonic() >= deadline):
            status = 128 + signal.SIGKILL
            break
        if orphaned or (deadline is None and (signal.SIGTERM in received or signal.SIGINT in received)):
            end = time.monotonic() + (orphan_grace_seconds if orphaned else grace_seconds)
            deadline = end if deadline is None else min(deadline, end)
            _kill(child, signal.SIGTERM)
    _kill_descendants(wakeup)
    return status


def _listen() -> int:
    """Have the signals written, one byte each, to a pipe, and unblock them: the returned end of the pipe is read."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.set_blocking(reading, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    return reading


def _reaped(child: int) -> int | None:
    """Reap whoever has ended; the child's exit status if it was among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            found = code if code >= 0 else 128 - code


def _kill_descendants(wakeup: int) -> None:
    """Until none is left: what was forked meanwhile, or lost its parent by this, is found in the next round.

    Python's resource tracker is spared at first: once the others are gone it removes the shared memory that they
    left (vLLM's: hundreds of megabytes) and ends by itself.
    """
    pause_seconds = 0.01
    spare_until = time.monotonic() + _TRACKER_SECONDS
    while True:
        _reaped(0)
        alive = _descendants()
        if not alive:
            return
        for pid in alive:
            if time.monotonic() >= spare_until or not _is_tracker(pid):
                _kill(pid, signal.SIGKILL)
        select.select([wakeup], [], [], pause_seconds)
        pause_seconds = min(2 * pause_seconds, 1.0)  # one that hangs in the kernel dies when the kernel lets it
        try:
            os.read(wakeup, 4096)
        except BlockingIOError:
            pass


def _descendants() -> list[int]:
    """Every process below this one, nearest first. Reads /proc, as there is no call for it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208  # pathlib alone would double the start time
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:  # noqa: PTH123  # as above
                    # pid (name) state parent …, and the name may hold blanks and parentheses: proc_pid_stat(5)
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue  # gone since it was listed
            children.setdefault(parent, []).append(int(entry))
    found = list(children.get(os.getpid(), ()))
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def _is_tracker(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123  # as above
            return b"multiprocessing.resource_tracker" in file.read()
    except OSError:
        return False


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
