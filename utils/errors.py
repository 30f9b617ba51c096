"""The exceptions that `main.py` and the scripts answer with one line instead of a traceback."""

import os
import unicodedata
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user's: one line that says what was wrong, which flag, and what to do.

    `main.py` and the scripts print it without a traceback and exit with code 2.
    """


class RunError(RuntimeError):
    """A run that cannot go on, through nobody's mistake on the command line: what happened and
    what is left; exit code 1.
    """


class DamagedFile(RunError):
    """A file that is not what a run writes; `fault` says so without the remedy."""

    def __init__(self, path: str | os.PathLike, fault: str):
        self.fault = f"{printable(path)} is damaged ({printable(fault)})"
        remedy = "delete it, and the same command goes on with the run"
        super().__init__(f"{self.fault}; {remedy}")


def printable(value: object) -> str:
    """A text for a terminal or a page: control characters, and what no file can be encoded
    with, as escapes such as \\x1b.
    """
    return "".join(c if c.isprintable() or is_space(c) else repr(c)[1:-1] for c in str(value))


def is_space(character: str) -> bool:
    """Whether a character is a space of any width, such as one that keeps words together."""
    return unicodedata.category(character) == "Zs"


def join_first(names: Iterable[str], most: int = 3) -> str:
    """The first few of many names, for a message."""
    names = [printable(name) for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def one_line(error: BaseException) -> str:
    """What is printed of an error: its first line."""
    return printable(str(error).partition("\n")[0])
