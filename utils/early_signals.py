"""Signal handling while a program imports its modules; imported before all others.

It imports almost nothing itself, because Ctrl-C prints a traceback until it is loaded.
"""

import _signal  # faster to import than `signal`, which builds enumerations
import os

NAMES = {_signal.SIGINT: "SIGINT", _signal.SIGTERM: "SIGTERM"}


def end_at_signals() -> None:
    """Make SIGINT and SIGTERM end the process with one line until `preemption.handled` is used.

    The handlers raise no exception, since import machinery may turn it into another one. There
    is nothing to save yet.
    """
    for signum in NAMES:
        _signal.signal(signum, _end)


def _end(signum: int, frame: object) -> None:
    os.write(2, f"stopped by {NAMES[signum]}\n".encode())
    os._exit(128 + signum)
