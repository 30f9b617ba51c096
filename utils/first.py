"""The first import of a program, which has an answer to signals while it imports the others.

It imports next to nothing itself: until it is there, Ctrl-C ends in a traceback.
"""

import _signal  # `signal` makes enumerations of it, which takes longer than all else here
import os

NAMES = {_signal.SIGINT: "SIGINT", _signal.SIGTERM: "SIGTERM"}


def end_at_signals() -> None:
    """From here to `utils.preemption.handled`, a signal ends the process at once, in one line.

    An exception that is raised in an import may come out as another; and nothing is there yet
    to be saved.
    """
    for signum in NAMES:
        _signal.signal(signum, _end)


def _end(signum: int, frame: object) -> None:
    os.write(2, f"stopped by {NAMES[signum]}\n".encode())
    os._exit(128 + signum)
