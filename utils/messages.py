"""Printed messages: wrapped, above any moving progress bar, in printable characters."""

import functools
import sys
import textwrap
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from utils.errors import printable

WIDTH = 100
"""Columns that printed lines keep to."""


def wrapped(text: str) -> list[str]:
    """Wrap a text at WIDTH columns; a longer word, such as a path, gets a line of its own."""
    lines = textwrap.wrap(
        text,
        WIDTH,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [printable(line) for line in lines]


def say(text: str, file: TextIO | None = None) -> None:
    """Print a wrapped message to `file`, by default stdout, above any moving bar."""
    file = file or sys.stdout
    tqdm.write("\n".join(wrapped(text)), file)
    file.flush()


def note(text: str) -> None:
    """Print a note to stderr."""
    say(f"note: {text}", sys.stderr)


def warn(text: str) -> None:
    """Print a warning to stderr."""
    say(f"warning: {text}", sys.stderr)


@functools.cache
def warn_once(text: str) -> None:
    """Print a warning, once per process."""
    warn(text)


def short_path(path: Path) -> str:
    """Return a path for a message: relative to the current folder where it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
