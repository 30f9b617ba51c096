"""CSV files that survive kills and resumes."""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.errors import DamagedFile
from utils.files import read_file, write_text

BYTES = 1 << 29
"""Size limit for the CSV files that are read."""


class CsvLog:
    """An append-only CSV log. Its bytes depend only on the lines written, not on interruptions.

    The header holds all keys in order of first appearance. A line with a new key rewrites the
    file atomically, with empty cells in earlier lines. None leaves a cell empty. Opening the
    file drops an unfinished last line.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = read_file(self.path, BYTES) or b""
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            with self.path.open("r+b") as file:
                file.truncate(complete)
        header, lines = _table(self.path)
        self._header = list(header)
        self.count = len(lines)
        """The number of lines below the header."""

    def write(self, line: Mapping[str, Any]) -> None:
        """Append and flush one line of numbers (Python's or 0-d arrays) and strings."""
        cells = {key: _cell(value) for key, value in line.items() if value is not None}
        new = [key for key in cells if key not in self._header]
        if new:
            _, lines = _table(self.path)
            self._rewrite(self._header + new, [*lines, cells])
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                file.write(_lines([[cells.get(key, "") for key in self._header]]))
        self.count += 1

    def read(self) -> list[dict[str, int | float | str]]:
        """Return the lines as dicts without the empty cells; numeric cells become numbers."""
        return read_csv(self.path)

    def sync(self) -> None:
        """Flush the file to disk."""
        if self.path.exists():
            with self.path.open("a") as file:
                os.fsync(file.fileno())

    def cut(self, count: int) -> None:
        """Keep the first `count` lines and the columns that they use, atomically."""
        _, lines = _table(self.path)
        kept = lines[:count]
        header = [name for name in self._header if any(name in line for line in kept)]
        if header != self._header or len(kept) < len(lines):
            self._rewrite(header, kept)
        self.count = len(kept)

    def _rewrite(self, header: list[str], lines: Iterable[Mapping[str, str]]) -> None:
        cells = [[line.get(key, "") for key in header] for line in lines]
        write_text(self.path, _lines([header, *cells] if header else []))
        self._header = header


def read_csv(path: str | os.PathLike) -> list[dict[str, int | float | str]]:
    """Read the lines of a run's CSV file as dicts without the empty cells.

    Numeric cells become numbers. Another process may be writing the file.
    """
    _, lines = _table(Path(path))
    return [{key: _value(cell) for key, cell in line.items()} for line in lines]


def read_cells(path: Path) -> list[list[str]]:
    """Read the cells of each complete line of a CSV file, the header first.

    Returns [] where the file does not exist; another process may be writing it. Raises
    DamagedFile where the file is not such a table.
    """
    content = read_file(path, BYTES) or b""
    try:
        text = content[: content.rfind(b"\n") + 1].decode()
        lines = [line for line in csv.reader(io.StringIO(text, newline="")) if line]
    except (ValueError, csv.Error) as error:
        raise DamagedFile(path, str(error)) from error
    for number, line in enumerate(lines, 1):
        if len(line) > len(lines[0]):
            raise DamagedFile(path, f"line {number} has more cells than the header")
    return lines


def _table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    header, *lines = read_cells(path) or [[]]
    table = [dict(zip(header, line, strict=False)) for line in lines]
    return header, [{key: cell for key, cell in line.items() if cell} for line in table]


def _cell(value: Any) -> str:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, str):
        return " ".join(value.split())
    return str(int(value)) if isinstance(value, bool) else repr(value)


def _value(cell: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            pass
    return cell


def _lines(table: list[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table)
    return text.getvalue()
