"""The exceptions that `main.py` and the scripts answer with one line instead of a traceback."""

import errno
import os
import re
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

    STATE = "is damaged"
    REMEDY = "delete it, and the same command resumes the run"

    def __init__(self, path: str | os.PathLike, why: str):
        self.fault = f"{printable(path)} {self.STATE} ({printable(why)})"
        super().__init__(f"{self.fault}; {self.REMEDY}")


class UnreadableFile(DamagedFile):
    """A file of a run that may be intact but cannot be read on this machine now."""

    STATE = "cannot be read"
    REMEDY = "make it readable, and the same command resumes the run"


MACHINE_FAULTS = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT),
        *(errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN),
    }
)
"""The errno of errors that say nothing about a file's content."""


def machine_fault(error: BaseException) -> str | None:
    """Return why this machine cannot read a file that may be intact; None for other errors."""
    if isinstance(error, MemoryError):
        return str(error) or "out of memory"
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := re.search(r"OS error (\d+)", str(error))):
        number = int(found[1])  # of tensorstore
    return os.strerror(number) if number in MACHINE_FAULTS else None


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
