"""Helpers of command-line programs: argument types, one-line errors and printable output."""

import argparse
import codecs
import contextlib
import math
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from absl import flags

from utils.errors import UserError, one_line
from utils.files import expanded


def refuse_control_characters(words: Iterable[str]) -> None:
    """Raise UserError for an argument with control characters or with bytes that are not UTF-8.

    A newline in an argument would break the line-based scripts, logs and lists of jobs.
    """
    for word in words:
        categories = {unicodedata.category(character) for character in word}
        if categories & {"Cc", "Cs", "Zl", "Zp"}:
            flag, equals, _ = word.partition("=")
            name = flag if equals and flag.isprintable() else "the command line"
            raise UserError(
                f"{name}: {word!a:.80} has a control character, or bytes that are not UTF-8;"
                " leave them out"
            )


def refuse_words(words: Sequence[str]) -> None:
    """Raise UserError for words of a command line that are left when its flags are read."""
    if words:
        raise UserError(f"{words[0]!r} is not a flag; flags are written --name=value")


@contextlib.contextmanager
def user_errors_of_flags() -> Iterator[None]:
    """Turn the errors that absl and ml_collections raise for a bad argument into UserError."""
    try:
        yield
    except (flags.Error, ValueError, LookupError, TypeError, AttributeError) as error:
        text = str(error.args[0] if error.args else error).replace("\n", " ")
        raise UserError(text.removeprefix("ERROR:: ")) from error


PLAIN = {"±": "+-", "λ": "lambda", "≠": "!=", "√": "sqrt", "≥": ">=", "≤": "<="}


def plain_letters(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: replace characters that the encoding lacks by ASCII or escapes."""
    assert isinstance(error, UnicodeEncodeError)
    letters = error.object[error.start : error.end]
    shown = [
        PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in letters
    ]
    return "".join(shown), error.end


def print_any_text(encoding: str | None) -> None:
    """Make stdout replace characters that its encoding lacks, instead of raising an error.

    encoding: the new encoding of stdout; None keeps the present one.
    """
    codecs.register_error("plain", plain_letters)
    # stdout may be replaced by another object
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(  # type: ignore[union-attr]
            encoding=encoding or sys.stdout.encoding, errors="plain"
        )


def run_program(main: Callable[[], int], encoding: str | None = None) -> NoReturn:
    """Run a program and exit with its code, 130 after Ctrl-C, 141 if its output was closed.

    Args:
        main: the program, which returns its exit code.
        encoding: of stdout; None keeps the present one.
    """
    print_any_text(encoding)
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # `| head` has ended; the rest of the output is discarded
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141  # a shell's exit code after SIGPIPE
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def report_error(error: Exception) -> int:
    """Print an error as one line on stderr; return the exit code: 2 for a UserError, else 1.

    Raises a BrokenPipeError again, for `run_program`.
    """
    if isinstance(error, BrokenPipeError):
        raise error
    print("error:", one_line(error), file=sys.stderr)
    return 2 if isinstance(error, UserError) else 1


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UserError instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see --help)")


def at_least(minimum: int) -> Callable[[str], int]:
    """Return the argparse type of an integer that is at least `minimum`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            wanted = f"a whole number of at least {minimum}"
            raise argparse.ArgumentTypeError(f"give {wanted}, not {text}")
        return value

    return parse


def each_at_least(minimum: int) -> Callable[[str], list[int]]:
    """Return the argparse type of comma-separated integers, each at least `minimum`."""

    def parse(text: str) -> list[int]:
        return [at_least(minimum)(word) for word in text.split(",")]

    return parse


def positive_float(text: str) -> float:
    """Argparse type: a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"give a positive number, not {text}")
    return value


def existing_folder(text: str) -> Path:
    """Argparse type: a folder that exists."""
    path = expanded(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return path


def existing_file(text: str) -> Path:
    """Argparse type: a file that exists."""
    path = expanded(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path


def output_file(text: str) -> Path:
    """Argparse type: a file to write, in a folder that exists."""
    path = expanded(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; give a file")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(
            f"there is no folder {path.parent} for {path.name}"
        )
    return path
