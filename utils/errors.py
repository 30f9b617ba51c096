"""The exceptions that `main.py` and the scripts answer with one line instead of a traceback."""

from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user's: one line that says what was wrong, which flag, and what to do.

    `main.py` and the scripts print it without a traceback and exit with code 2.
    """


class RunError(RuntimeError):
    """A run that cannot go on, through nobody's mistake on the command line: what happened and
    what is left; exit code 1.
    """


def join_first(names: Iterable[str], most: int = 3) -> str:
    """The first few of many names, for a message."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def one_line(error: BaseException) -> str:
    """The first line of an error's message; control characters in it are escaped."""
    line = str(error).partition("\n")[0]
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
