"""SIGTERM (a preempted job) and Ctrl-C: training saves and the process ends within 30 seconds.

with handled():                     # in main: the two signals raise Preempted
    with deferred():                # in a training loop: they wait until it checks
        while ...:
            update()
            if received():
                save()
                leave_if_asked()    # raises Preempted
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator

GRACE_SECONDS = 25.0
SIGNALS = (signal.SIGTERM, signal.SIGINT)

_received: int | None = None
_waits = False  # whether a signal is only recorded until `leave_if_asked`


class Preempted(BaseException):
    """A signal asked the process to end; `exit_code` is 143 after SIGTERM, 130 after Ctrl-C."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


def received() -> bool:
    """Whether a signal was received."""
    return _received is not None


def leave_if_asked() -> None:
    """Raise Preempted if a signal was received."""
    if _received is not None:
        raise Preempted(_received)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """In this block a signal is only recorded; a Ctrl-C after it raises Preempted.

    Another SIGTERM does not: a scheduler sends it to every process, and a sweep passes it on.
    """
    with _waiting(True):
        yield


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """In this block a signal raises Preempted at once, including one recorded before."""
    with _waiting(False):
        leave_if_asked()
        yield


@contextlib.contextmanager
def _waiting(waits: bool) -> Iterator[None]:
    global _waits
    before = _waits
    _waits = waits
    try:
        yield
    finally:
        _waits = before


def _handle(signum: int, frame: object) -> None:
    global _received
    impatient = _received is not None and signum == signal.SIGINT
    _received = signum
    if impatient or not _waits:
        raise Preempted(signum)


@contextlib.contextmanager
def handled(grace: float | None = None) -> Iterator[None]:
    """Handle SIGTERM and SIGINT in this block.

    Only the main thread receives signals; in any other thread this does nothing.
    grace: seconds after the first signal until the process ends in any case; None:
        GRACE_SECONDS.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handlers(), _watched(GRACE_SECONDS if grace is None else grace):
        yield


@contextlib.contextmanager
def _handlers() -> Iterator[None]:
    global _received
    _received = None
    before = {signum: signal.signal(signum, _handle) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextlib.contextmanager
def _watched(grace: float) -> Iterator[None]:
    """In this block a thread notices signals even while Python cannot run handlers."""
    theirs, ours = socket.socketpair()
    ours.setblocking(False)
    threading.Thread(
        target=_watch, args=(theirs, grace), daemon=True, name="preemption"
    ).start()
    wakeup = signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        ours.close()  # ends the thread


def _exit(signum: int) -> None:
    """End the process at once, without running any handler."""
    name = signal.Signals(signum).name
    hint = "the same command resumes from the last checkpoint"
    os.write(2, f"stopped by {name} before it could save; {hint}\n".encode())
    os._exit(128 + signum)


def _watch(pipe: socket.socket, grace: float) -> None:
    """End the process `grace` seconds after the first signal, even if handlers cannot run.

    A long compilation keeps Python from running signal handlers. Checkpoints are written
    atomically, so only the work since the last one is lost.
    """
    timer: threading.Timer | None = None
    with pipe:
        while data := pipe.recv(64):  # until the block ends
            asked = [signum for signum in data if signum in SIGNALS]
            if asked and timer is None:
                timer = threading.Timer(grace, _exit, [asked[0]])
                timer.daemon = True
                timer.start()
    if timer is not None:
        timer.cancel()
