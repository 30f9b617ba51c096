"""Run logs (CSV that survives kills and resumes, TensorBoard, W&B) and printed messages."""

import csv
import difflib
import functools
import importlib
import io
import os
import secrets
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TextIO

from utils.errors import DamagedFile, UserError, one_line, printable
from utils.files import CSV_BYTES, read_file

WIDTH = 100
"""Columns that printed lines keep to."""
BACKENDS = {"csv": None, "tensorboard": "tensorboardX", "wandb": "wandb"}


class CsvLog:
    """An append-only CSV whose bytes are a function of the rows written, kills and `cut`
    notwithstanding.

    The header is every key in order of first appearance; a row with a new key rewrites the
    file, atomically, and earlier rows have empty cells there. None is an absent value. A line
    that a kill left unfinished is dropped on opening.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = read_file(self.path, CSV_BYTES) or b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self.path.open("r+b") as file:
                file.truncate(whole)
        header, lines = self._table()
        self._header = list(header)
        self.count = len(lines)
        """How many rows there are."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends a row of numbers (Python's, or 0-d arrays) and strings of one line, and
        flushes it.
        """
        cells = {key: _cell(value) for key, value in row.items() if value is not None}
        new = [key for key in cells if key not in self._header]
        if new:
            _, lines = self._table()
            self._rewrite(self._header + new, [*lines, cells])
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                file.write(_lines([[cells.get(key, "") for key in self._header]]))
        self.count += 1

    def rows(self) -> list[dict[str, int | float | str]]:
        """What was written, absent values left out; cells that read as numbers are numbers
        again.
        """
        return read_rows(self.path)

    def sync(self) -> None:
        """Returns when what was written is on disk."""
        if self.path.exists():
            with self.path.open("a") as file:
                os.fsync(file.fileno())

    def cut(self, count: int) -> None:
        """Keeps the first `count` rows and the columns that they have, atomically."""
        _, lines = self._table()
        kept = lines[:count]
        header = [name for name in self._header if any(name in line for line in kept)]
        if header != self._header or len(kept) < len(lines):
            self._rewrite(header, kept)
        self.count = len(kept)

    def _table(self) -> tuple[list[str], list[dict[str, str]]]:
        return _table(self.path)

    def _rewrite(self, header: list[str], lines: Iterable[Mapping[str, str]]) -> None:
        cells = [[line.get(key, "") for key in header] for line in lines]
        _replace(self.path, _lines([header, *cells] if header else []))
        self._header = header


def read_rows(path: str | os.PathLike) -> list[dict[str, int | float | str]]:
    """The rows of a CSV file of a run, which may be being written: absent values left out,
    cells that are numbers as such.
    """
    return [{key: _value(cell) for key, cell in line.items()} for line in _table(Path(path))[1]]


def read_lines(path: Path) -> list[list[str]]:
    """The cells of each line of a CSV file that may be being written, the header first: whole
    lines only; [] where there is no file.

    Raises DamagedFile for a file that is no such table.
    """
    content = read_file(path, CSV_BYTES) or b""
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
    header, *lines = read_lines(path) or [[]]
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


def _replace(path: Path, text: str) -> None:
    """Write a text file, all or nothing."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w", newline="", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def wandb_id(folder: Path) -> str:
    """The id of the W&B run that belongs to a run folder: random, and kept in the folder.

    A resumed run continues its W&B run. A run that starts again in an emptied folder has
    another, and so has one under the same path on another machine.
    """
    file = folder / "wandb_id"
    if file.exists() and (kept := file.read_text().strip()):
        return kept
    # An older version derived the id from the folder's path and kept none. Its W&B run is
    # continued as one curve, by the id in the names of W&B's own folders, run-<time>-<id>; that
    # holds also where the run folder was moved since.
    logged = sorted(path.name.partition("run-")[2] for path in folder.glob("wandb/*run-*-*"))
    found = logged[-1].rpartition("-")[2] if logged else secrets.token_hex(8)
    _replace(file, f"{found}\n")
    return found


def _lines(table: list[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table)
    return text.getvalue()


def check_backends(backends: Sequence[str]) -> None:
    """Raise UserError for a logger that does not exist or is not installed."""
    for name in backends:
        if name not in BACKENDS:
            nearest = difflib.get_close_matches(name, BACKENDS, 1, 0.0)[0]
            raise UserError(
                f"--logger={name}: no such logger; did you mean {nearest}?"
                f" ({', '.join(BACKENDS)})"
            )
        check_backend(name, BACKENDS[name] or "csv")


def check_backend(name: str, module: str) -> None:
    """Raise UserError for a logger whose module is not installed, or installed and broken."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken package can raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            remedy = f"pip install '.[{name}]', or leave {name} out"
            raise UserError(f"--logger={name} needs {module}: {remedy}") from error
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(
            f"--logger={name}: {module} is installed, but its import fails ({reason}); mend it,"
            f" or leave {name} out"
        ) from error


class RunLogger:
    """train.csv, eval.csv and timing.csv of a run folder, and the same numbers to the backends
    asked for.

    Rows of train and eval are deterministic; wall times and throughput belong into timing.

    Args:
        folder: the run folder.
        backends: of csv (always on), tensorboard, wandb.
        wandb: arguments of wandb.init (project, group, tags, config, ...); WANDB_MODE is
            wandb's to honour.

    Raises:
        UserError: an unknown backend, or one that is not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        backends: Sequence[str] = ("csv",),
        wandb: Mapping[str, Any] | None = None,
    ):
        check_backends(backends)
        self.folder = Path(folder)
        self._files = {
            name: CsvLog(self.folder / f"{name}.csv") for name in ("train", "eval", "timing")
        }
        self._backends = set(backends)
        self._wandb_arguments = dict(wandb or {})
        self._purge_step: int | None = None
        self._tensorboard: Any = None
        self._wandb: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __getitem__(self, name: str) -> CsvLog:
        """The CSV file "train", "eval" or "timing"."""
        return self._files[name]

    def train(self, step: int, row: Mapping[str, Any]) -> None:
        self._write("train", step, row)

    def eval(self, step: int, row: Mapping[str, Any]) -> None:
        self._write("eval", step, row)

    def timing(self, step: int, row: Mapping[str, Any]) -> None:
        self._write("timing", step, row)

    def position(self) -> dict[str, int]:
        """How many rows each file has, once they are on disk."""
        for file in self._files.values():
            file.sync()
        return {name: file.count for name, file in self._files.items()}

    def cut(self, step: int, position: Mapping[str, int]) -> None:
        """Takes every file back to where it was at `step`, the checkpoint that a resumed run
        continues from.
        """
        self._purge_step = step + 1
        for name, file in self._files.items():
            count = position.get(name, 0)
            if file.count < count:
                lost = f"has lost {count - file.count} rows since the checkpoint of step {step}"
                say(f"{shown(file.path)} {lost}")
            file.cut(count)

    def close(self) -> None:
        """Flushes and ends the optional backends."""
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()
        self._tensorboard = self._wandb = None

    def _write(self, name: str, step: int, row: Mapping[str, Any]) -> None:
        self._files[name].write({"step": step, **row})
        numbers = {
            f"{name}/{key}": float(value) for key, value in row.items() if _is_number(value)
        }
        if "tensorboard" in self._backends:
            self._tensorboard = self._tensorboard or self._open_tensorboard()
            for key, value in numbers.items():
                self._tensorboard.add_scalar(key, value, step)
        if "wandb" in self._backends:
            self._wandb = self._wandb or self._open_wandb()
            self._wandb.log({"step": step, **numbers})

    def _open_tensorboard(self) -> Any:
        tensorboard = importlib.import_module("tensorboardX")
        return tensorboard.SummaryWriter(
            str(self.folder / "tensorboard"), purge_step=self._purge_step
        )

    def _open_wandb(self) -> Any:
        defaults = {"project": "trqam", "name": self.folder.name, "dir": str(self.folder)}
        defaults["id"] = wandb_id(self.folder)
        run = importlib.import_module("wandb").init(
            resume="allow", **{**defaults, **self._wandb_arguments}
        )
        # W&B drops rows of an earlier step, and evaluations may come late
        run.define_metric("*", step_metric="step")
        return run


def _is_number(value: Any) -> bool:
    return value is not None and not isinstance(value, str)


def wrapped(text: str) -> list[str]:
    """The text on lines of at most WIDTH columns; a longer word, as a path, has a line."""
    lines = textwrap.wrap(
        text,
        WIDTH,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [printable(line) for line in lines]


def say(text: str, file: TextIO | None = None) -> None:
    """Print a message, wrapped, to stdout unless given another file."""
    print("\n".join(wrapped(text)), file=file or sys.stdout, flush=True)


def warn(text: str) -> None:
    """Print a warning to stderr."""
    say(f"warning: {text}", sys.stderr)


@functools.cache
def warn_once(text: str) -> None:
    """Print a warning the first time that a process has it."""
    warn(text)


def shown(path: Path) -> str:
    """A path as it is printed: relative where it lies below the current folder."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
