"""Checks that a program can spawn processes: each process imports the program's file again."""

import multiprocessing
import os
import sys
from pathlib import Path

from utils.errors import UserError

UNGUARDED = 87  # exit code of a spawned process whose program lacks GUARD
GUARD = 'if __name__ == "__main__":'


def leave_if_unguarded() -> None:
    """End a spawned process that trains while it is still importing the program.

    This happens if the program has no GUARD. Call it first; the parent sees the exit code.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(UNGUARDED)


def check_program() -> None:
    """Raise UserError if the program is not in a file, so that processes cannot import it."""
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
    """Return the error for a program whose processes ended with UNGUARDED."""
    file = getattr(sys.modules["__main__"], "__file__", "the program")
    return UserError(
        f"{file} starts its work when it is imported, and environment processes import it:"
        f" put its code below {GUARD}"
    )
