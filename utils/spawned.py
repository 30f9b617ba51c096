"""What processes that are spawned need of the program that starts them: each imports it again,
under another name than `__main__`.
"""

import multiprocessing
import os
import sys
from pathlib import Path

from utils.errors import UserError

UNGUARDED = 87  # exit code of a process that was to be spawned from a program without a guard
GUARD = 'if __name__ == "__main__":'


def leave_if_unguarded() -> None:
    """End a spawned process whose import of the program has come to train, instead of doing
    nothing.

    To be called before anything is done; the process that spawned it sees the exit code.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(UNGUARDED)


def check_program() -> None:
    """Raise UserError where no process can be spawned, because the program is in no file."""
    program = sys.modules["__main__"]
    file = getattr(program, "__file__", None)
    if file is None or getattr(program, "__spec__", None):
        return  # python -c, a notebook; python -m
    if not Path(file).is_file():
        raise UserError(
            f"the program comes from {file}, and the processes that run environments have to"
            f" import it: save it as a file, with {GUARD} before what it does"
        )


def unguarded_program() -> UserError:
    """The error for a program that ended its spawned processes, see `leave_if_unguarded`."""
    file = getattr(sys.modules["__main__"], "__file__", "the program")
    return UserError(
        f"{file} does its work also when it is imported, and the processes that run"
        f" environments import it: write {GUARD} before what it does"
    )
