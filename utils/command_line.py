"""An argument parser that answers a mistake in one line, the types of its values, and what
every program does with its words and its output.
"""

import argparse
import codecs
import contextlib
import math
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from absl import flags

from utils.errors import UserError, one_line
from utils.files import expanded


def refuse_control_characters(words: Iterable[str]) -> None:
    """Raise UserError for a word with a newline or another control character, or with bytes
    that are no text.

    Such a word would be several lines in a script, a log or a list of jobs.
    """
    for word in words:
        if any(
            unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in word
        ):
            flag, equals, _ = word.partition("=")
            name = flag if equals and flag.isprintable() else "the command line"
            raise UserError(
                f"{name}: {word!a:.80} has a control character, or bytes that are not UTF-8;"
                " leave them out"
            )


@contextlib.contextmanager
def unreadable_words() -> Iterator[None]:
    """Raise UserError for what absl and ml_collections raise where they cannot read a word."""
    try:
        yield
    except (flags.Error, ValueError, LookupError, TypeError, AttributeError) as error:
        text = str(error.args[0] if error.args else error).replace("\n", " ")
        raise UserError(text.removeprefix("ERROR:: ")) from error


PLAIN = {"±": "+-", "λ": "lambda", "≠": "!=", "√": "sqrt", "≥": ">=", "≤": "<="}


def plain_letters(error: UnicodeError) -> tuple[str, int]:
    """What is printed for letters that an encoding lacks: others that mean the same, or
    escapes.
    """
    assert isinstance(error, UnicodeEncodeError)
    letters = error.object[error.start : error.end]
    shown = [PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in letters]
    return "".join(shown), error.end


def print_any_text(encoding: str | None = None) -> None:
    """From here on stdout shows other letters where its encoding lacks one.

    encoding: given to stdout; None: it keeps its own.
    """
    codecs.register_error("plain", plain_letters)
    with contextlib.suppress(AttributeError):  # of a stand-in, which has no encoding
        sys.stdout.reconfigure(  # type: ignore[union-attr]
            encoding=encoding or sys.stdout.encoding, errors="plain"
        )


def report_error(error: Exception) -> int:
    """Print an error in one line; returns the exit code, 2 for a UserError and else 1."""
    print("error:", one_line(error), file=sys.stderr)
    return 2 if isinstance(error, UserError) else 1


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UserError, in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see --help)")


def at_least(least: int) -> Callable[[str], int]:
    """The type of a whole number, with or without underscores, that is not below `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            wanted = f"a whole number of at least {least}"
            raise argparse.ArgumentTypeError(f"give {wanted}, not {text}")
        return value

    return parse


def each_at_least(least: int) -> Callable[[str], list[int]]:
    """The type of whole numbers separated by commas, none below `least`."""

    def parse(text: str) -> list[int]:
        return [at_least(least)(word) for word in text.split(",")]

    return parse


def positive_float(text: str) -> float:
    """The type of a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"give a positive number, not {text}")
    return value


def existing_folder(text: str) -> Path:
    """The type of a folder that exists."""
    path = expanded(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return path


def existing_file(text: str) -> Path:
    """The type of a file that exists."""
    path = expanded(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path


def output_file(text: str) -> Path:
    """The type of a file to write: its folder exists, and it is no folder itself."""
    path = expanded(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; give a file")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent} for {path.name}")
    return path
