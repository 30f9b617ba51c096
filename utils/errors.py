"""The exceptions that `main.py` and the scripts answer with one line instead of a traceback."""

import os
import unicodedata
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user: one line with the flag, the fault and the remedy.

    `main.py` and the scripts print it without a traceback and exit with code 2.
    """


class RunError(RuntimeError):
    """A failure during a run that is no mistake on the command line.

    The message says what happened and what is still intact. The exit code is 1.
    """


class DamagedFile(RunError):
    """A file of a run that cannot be read; `fault` is the message without the remedy."""

    def __init__(self, path: str | os.PathLike, fault: str):
        self.fault = f"{printable(path)} is damaged ({printable(fault)})"
        remedy = "delete it, and the same command resumes the run"
        super().__init__(f"{self.fault}; {remedy}")


def printable(value: object) -> str:
    """Return `str(value)` with unprintable characters as escapes such as \\x1b."""
    text = str(value)
    return "".join(c if c.isprintable() or is_space(c) else repr(c)[1:-1] for c in text)


def is_space(character: str) -> bool:
    """Whether a character is a space of any width; `isprintable` accepts only the ASCII one."""
    return unicodedata.category(character) == "Zs"


def join_first(names: Iterable[str], limit: int = 3) -> str:
    """Join the first `limit` names with commas and count the others: "a, b, c and 2 more"."""
    names = [printable(name) for name in names]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def one_line(error: BaseException) -> str:
    """Return the first line of an error's message, in printable characters."""
    return printable(str(error).partition("\n")[0])
