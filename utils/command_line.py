"""An argument parser that answers a mistake in one line, and the types of its values."""

import argparse
import codecs
import contextlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from utils.errors import UserError

PLAIN = {"±": "+-", "λ": "lambda", "≠": "!=", "√": "sqrt", "≥": ">=", "≤": "<="}


def plain_letters(error: UnicodeError) -> tuple[str, int]:
    """What is printed for letters that an encoding lacks: others that mean the same, or
    escapes.
    """
    assert isinstance(error, UnicodeEncodeError)
    letters = error.object[error.start : error.end]
    shown = [PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in letters]
    return "".join(shown), error.end


def print_any_text() -> None:
    """From here on stdout shows other letters where its encoding lacks one."""
    codecs.register_error("plain", plain_letters)
    with contextlib.suppress(AttributeError):  # of a notebook's, which lacks none
        sys.stdout.reconfigure(errors="plain")  # type: ignore[union-attr]


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
    path = Path(text).expanduser()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return path


def output_file(text: str) -> Path:
    """The type of a file to write: its folder exists, and it is no folder itself."""
    path = Path(text).expanduser()
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; give a file")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent} for {path.name}")
    return path
