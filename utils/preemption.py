"""SIGTERM (a preempted job) and Ctrl-C: what is at hand is saved, and the process is gone
within 30 seconds.

with handled():                     # in main: from here on the two signals raise Preempted
    with deferred():                # in a training loop: they wait until it asks for them
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
_waits = False  # whether a signal waits to be asked for


class Preempted(BaseException):
    """A signal asked the process to end; `exit_code` is what a shell expects then (143 after
    SIGTERM, 130 after Ctrl-C).
    """

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


def received() -> bool:
    """Whether a signal is waiting."""
    return _received is not None


def leave_if_asked() -> None:
    """Raise Preempted where a signal is waiting."""
    if _received is not None:
        raise Preempted(_received)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """In this block a signal waits; a second one does not."""
    with _waiting(True):
        yield


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """In this block a signal raises Preempted, also one that was waiting."""
    with _waiting(False):
        leave_if_asked()
        yield


@contextlib.contextmanager
def _waiting(waits: bool) -> Iterator[None]:
    global _waits
    before, _waits = _waits, waits
    try:
        yield
    finally:
        _waits = before


def _handle(signum: int, frame: object) -> None:
    global _received
    second, _received = _received is not None, signum
    if second or not _waits:
        raise Preempted(signum)


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Handle SIGTERM and SIGINT in this block.

    In another thread than the main one, which alone gets signals, the block just runs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handlers(), _watched():
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
def _watched() -> Iterator[None]:
    """In this block a thread sees the signals that Python cannot answer, see `_watch`."""
    theirs, ours = socket.socketpair()
    ours.setblocking(False)
    threading.Thread(target=_watch, args=(theirs,), daemon=True, name="preemption").start()
    wakeup = signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        ours.close()  # ends the thread


def _watch(pipe: socket.socket) -> None:
    """End the process some time after the first signal, whatever it is doing: a compilation
    keeps handlers from running.

    Checkpoints appear whole or not at all, so this loses nothing but the work since the last
    one.
    """
    timer: threading.Timer | None = None
    with pipe:
        while data := pipe.recv(64):  # until the block ends
            asked = [signum for signum in data if signum in SIGNALS]
            if asked and timer is None:
                timer = threading.Timer(GRACE_SECONDS, os._exit, [128 + asked[0]])
                timer.daemon = True
                timer.start()
    if timer is not None:
        timer.cancel()
