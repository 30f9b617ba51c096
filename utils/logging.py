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

from tqdm import tqdm

from utils.errors import DamagedFile, UserError, one_line, printable
from utils.files import CSV_BYTES, read_file, write_text

WIDTH = 100
"""Columns that printed lines keep to."""
BACKENDS = {"csv": None, "tensorboard": "tensorboardX", "wandb": "wandb"}


class CsvLog:
    """An append-only CSV log. Its bytes depend only on the lines written, not on interruptions.

    The header holds all keys in order of first appearance. A line with a new key rewrites the
    file atomically, with empty cells in earlier lines. None leaves a cell empty. Opening the
    file drops an unfinished last line.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = read_file(self.path, CSV_BYTES) or b""
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


def wandb_id(folder: Path) -> str:
    """Return the W&B id of a run folder: random, and stored in the folder.

    A resumed run therefore continues its W&B run, while a run that starts again in an emptied
    folder, or under the same path on another machine, gets a new one.
    """
    file = folder / "wandb_id"
    if file.exists() and (kept := file.read_text().strip()):
        return kept
    new = secrets.token_hex(8)
    write_text(file, f"{new}\n")
    return new


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
    """Raise UserError for a logger whose module is not installed or cannot be imported.

    Args:
        name: the logger, as in --logger.
        module: the module it needs.
    """
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
    """Writes train.csv, eval.csv and timing.csv, and the same numbers to other backends.

    train.csv and eval.csv are deterministic; wall times and throughput go to timing.csv.

    Args:
        folder: the run folder.
        backends: any of csv (always on), tensorboard, wandb.
        wandb: arguments of wandb.init (project, group, tags, config, ...).

    Raises:
        UserError: for an unknown backend, or one that is not installed.
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
            name: CsvLog(self.folder / f"{name}.csv")
            for name in ("train", "eval", "timing")
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

    def train(self, step: int, line: Mapping[str, Any]) -> None:
        self._write("train", step, line)

    def eval(self, step: int, line: Mapping[str, Any]) -> None:
        self._write("eval", step, line)

    def timing(self, step: int, line: Mapping[str, Any]) -> None:
        self._write("timing", step, line)

    def position(self) -> dict[str, int]:
        """Flush the files to disk and return the number of lines in each."""
        for file in self._files.values():
            file.sync()
        return {name: file.count for name, file in self._files.items()}

    def cut(self, step: int, position: Mapping[str, int]) -> None:
        """Cut every file back to a checkpoint, and start W&B if it is used.

        Raises UserError if W&B does not start.

        Args:
            step: the step of the checkpoint.
            position: the number of lines in each file at that step, as `position` returned it.
        """
        self._purge_step = step + 1
        for name, file in self._files.items():
            count = position.get(name, 0)
            if file.count < count:
                say(
                    f"{short_path(file.path)} has lost {count - file.count} lines since the"
                    f" checkpoint of step {step}"
                )
            file.cut(count)
        if "wandb" in self._backends:  # here, because training has not begun
            self._wandb = self._wandb or self._open_wandb()

    def close(self) -> None:
        """Flush and close the optional backends."""
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()
        self._tensorboard = self._wandb = None

    def _write(self, name: str, step: int, line: Mapping[str, Any]) -> None:
        self._files[name].write({"step": step, **line})
        numbers = {
            f"{name}/{key}": float(value)
            for key, value in line.items()
            if _is_number(value)
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
        defaults = {
            "project": os.environ.get("WANDB_PROJECT", "trqam"),
            "name": f"{self.folder.parent.name} {self.folder.name}",
            "dir": str(self.folder),
            "id": wandb_id(self.folder),
        }
        try:
            run = importlib.import_module("wandb").init(
                resume="allow",
                reinit="create_new",  # several seeds log at the same time
                **{**defaults, **self._wandb_arguments},
            )
        except Exception as error:  # W&B and its connections raise many types
            raise UserError(
                f"--logger=wandb: W&B does not start ({one_line(error)}); wandb login,"
                " WANDB_MODE=offline, or leave wandb out"
            ) from error
        # W&B drops values of an earlier step, and asynchronous evaluations may come late
        run.define_metric("*", step_metric="step")
        return run


def _is_number(value: Any) -> bool:
    return value is not None and not isinstance(value, str)


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
