"""Reads and checks the files of a run folder.

    config.json     `CONFIG`
    done.json       `DONE`
    concerns.json   texts by kind
    eval.csv, train.csv, timing.csv     `COLUMNS`

A folder may come from anybody. A file that no run would write raises DamagedFile: one line with
the file, the entry and what it should be.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.csv_log import read_cells
from utils.errors import DamagedFile
from utils.files import read_json

Columns = dict[str, np.ndarray]

LONGEST = 4096  # characters of a name or a path
LARGEST = 2**53  # counts below it are exact as a float
GREATEST = 1e100  # its square is finite

COMMAND_LINE = "command line"
DEFAULT = "default"
PRESET = "preset "
"""Where a value comes from, in config.json; PRESET is followed by the name of the preset."""


def values_by_name(flags: dict[str, Any], agent: dict[str, Any]) -> dict[str, Any]:
    """Return flags and an agent's settings in one dict, the latter as 'agent.KEY'."""
    return flags | {f"agent.{key}": value for key, value in agent.items()}


class Kind(NamedTuple):
    """A condition on a value: its description, and the check."""

    wanted: str
    holds: Callable[[Any], Any]


def is_text(value: Any) -> bool:
    """Whether a value is a non-empty short text without control characters."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= LONGEST
        and not re.search(r"[\x00-\x1f\x7f-\x9f]", value)
    )


def is_file_name(value: Any) -> bool:
    """Whether a value is the path of a file."""
    return is_text(value) and Path(value).stem not in ("", "..")


def is_plain_name(value: Any) -> bool:
    """Whether a value is a file name without a folder."""
    return is_file_name(value) and Path(value).name == value


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return type(value) in (int, float) and abs(value) < GREATEST


def is_whole(value: Any) -> bool:
    """Whether a value is an integer from 0 up."""
    return type(value) is int and 0 <= value < LARGEST


def is_scalar(value: Any) -> bool:
    """Whether a value is neither a list nor an object."""
    return not isinstance(value, list | dict)


def or_null(kind: Kind) -> Kind:
    """Return a kind that also allows null."""
    return Kind(
        f"{kind.wanted} or null", lambda value: value is None or kind.holds(value)
    )


def object_of(wanted: str, holds: Callable[[Any], bool]) -> Kind:
    """Return the kind of an object whose values all satisfy `holds`."""

    def check(value: Any) -> bool:
        return isinstance(value, dict) and all(map(holds, value.values()))

    return Kind(wanted, check)


TEXT = Kind("a short text", is_text)
FILE_NAME = Kind("the path of a file", is_file_name)
PLAIN_NAME = Kind("the name of a file", is_plain_name)
PACKAGE = Kind("a name", lambda value: value == "" or is_plain_name(value))
SWITCH = Kind("true or false", lambda value: isinstance(value, bool))
COUNT = Kind("a whole number from 0 up", is_whole)
SIZE = Kind(
    "a whole number from 1 to a million", lambda v: is_whole(v) and 0 < v <= 1_000_000
)
NUMBER = Kind("a finite number", is_number)
POSITIVE = Kind("a positive number", lambda value: is_number(value) and value > 0)
SHARE = Kind("a number from 0 to 1", lambda value: is_number(value) and 0 <= value <= 1)
OBJECT = object_of("an object", lambda value: True)
TEXTS = object_of("an object of texts", is_text)
PATH = Kind("a path or nothing", lambda value: value in (None, "") or is_text(value))


def list_of(wanted: str, holds: Callable[[Any], bool]) -> Kind:
    """Return the kind of a list whose values all satisfy `holds`."""

    def check(value: Any) -> bool:
        return isinstance(value, list) and all(map(holds, value))

    return Kind(wanted, check)


NUMBERS = list_of("a list of finite numbers", is_number)
NAMES = list_of("a list of texts", is_text)
SCALARS = object_of("an object without lists and objects", is_scalar)

CONFIG = {
    "agent_file": FILE_NAME,
    "flags": OBJECT,
    "flags.env_name": TEXT,
    "flags.seed": COUNT,
    "flags.offline_steps": COUNT,
    "flags.online_steps": COUNT,
    "agent": OBJECT,
    "sources": TEXTS,
}
"""The entries of every config.json, by the path of their keys."""
SOURCE = {
    "source.file": PLAIN_NAME,
    "source.package": PACKAGE,
    "source.digest": TEXT,
    "source.of_checkout": SWITCH,
    "source.checkout": TEXTS,
}
"""The entries about the agent's source, which older versions did not keep."""
BASE = {"base.source": TEXT, "base.sha256": TEXT}
"""The entries about the base that --pretrained_actor_path named."""
ENVIRONMENT = {
    "environment.env_name": TEXT,
    "environment.env_version": TEXT,
    "environment.env_kwargs": OBJECT,
    "environment.keys": NAMES,
    "environment.low": NUMBERS,
    "environment.high": NUMBERS,
}
"""The entries about the environment of a task of robomimic."""
OPTIONAL = {
    "flags.bc_steps": COUNT,
    "flags.start_training": COUNT,
    "flags.utd_ratio": COUNT,
    "flags.sparse": or_null(SWITCH),
    "flags.pretrained_actor_path": PATH,
    "flags.ogbench_dataset_dir": PATH,
    "flags.robomimic_dataset_dir": PATH,
    "flags.dataset": PATH,
    "agent.horizon_length": SIZE,
    "agent.discount": NUMBER,
    "agent.lam_scale": POSITIVE,
    "agent.lambda_min": NUMBER,
    "agent.lambda_max": NUMBER,
    "source": OBJECT,
    "base": OBJECT,
    "cloning": OBJECT,
    "environment": OBJECT,
    "dataset": SCALARS,
    "dataset.transitions": COUNT,
    "observation_dim": SIZE,
    "action_dim": SIZE,
    "command": TEXT,
}
"""The optional entries that this program reads."""
NEEDED_TO_RESUME = ("flags.start_training", "flags.utd_ratio", "agent.horizon_length")
"""Optional entries that are needed to resume a run."""
NEEDED_TO_ACT = (*NEEDED_TO_RESUME, "observation_dim", "action_dim")
"""Optional entries that are needed to load a policy."""

DONE = {"offline_steps": COUNT, "online_steps": COUNT}
DONE_OPTIONAL = {
    "bc_steps": COUNT,
    "success": or_null(SHARE),
    "return": or_null(NUMBER),
}

COLUMNS = {
    "eval.csv": ("step", "success", "episodes", "return"),
    "train.csv": ("step", "dual/path_kl", "dual/kl_budget", "dual/lam"),
    "timing.csv": ("step", "updates_per_s", "eval_seconds", "save_seconds"),
}
"""The columns that are read. All cells but the step may be empty."""
FINITE = Kind("a finite number", lambda cells: ~(np.abs(cells) >= GREATEST))
NOT_NEGATIVE = Kind(
    "a number from 0 up", lambda cells: FINITE.holds(cells) & ~(cells < 0)
)
CELLS = {
    "step": Kind(
        COUNT.wanted,
        lambda cells: (cells >= 0) & (cells < LARGEST) & (np.floor(cells) == cells),
    ),
    "success": Kind(SHARE.wanted, lambda cells: ~((cells < 0) | (cells > 1))),
    "episodes": NOT_NEGATIVE,
    "eval_seconds": NOT_NEGATIVE,
    "save_seconds": NOT_NEGATIVE,
    "dual/kl_budget": Kind(
        POSITIVE.wanted, lambda cells: FINITE.holds(cells) & ~(cells <= 0)
    ),
}
"""The condition on the cells of a column, by default FINITE."""


# ---------------------------------------------------------------- JSON


def read_config(folder: Path, also: tuple[str, ...] = ()) -> dict[str, Any] | None:
    """Read the config.json of a run folder; None if there is none. Raises DamagedFile.

    also: required entries besides `CONFIG`: NEEDED_TO_RESUME or NEEDED_TO_ACT.
    """
    path = folder / "config.json"
    stored = read_json(path)
    if stored is not None:
        check_config(path, stored, also)
    return stored


def check_config(
    path: Path, stored: dict[str, Any], also: tuple[str, ...] = ()
) -> None:
    """Raise DamagedFile if the object of a config.json lacks an entry or has a wrong one.

    Args:
        path: the file.
        stored: the object in it.
        also: required entries besides `CONFIG`.
    """
    needed = CONFIG | {name: OPTIONAL[name] for name in also}
    check_entries(path, stored, needed, OPTIONAL)
    parts = (("source", SOURCE), ("base", BASE), ("environment", ENVIRONMENT))
    for part, entries in parts:
        if part in stored:
            check_entries(path, stored, entries)


def read_done(folder: Path) -> dict[str, Any] | None:
    """Read the done.json of a run folder; None if there is none. Raises DamagedFile."""
    path = folder / "done.json"
    stored = read_json(path)
    if stored is not None:
        check_entries(path, stored, DONE, DONE_OPTIONAL)
    return stored


def read_concerns(folder: Path) -> dict[str, str]:
    """Read the agent's warnings in concerns.json; {} without the file, as in older runs.

    Raises DamagedFile.
    """
    path = folder / "concerns.json"
    return checked_concerns(path, read_json(path) or {})


def checked_concerns(path: Path, stored: Any) -> dict[str, str]:
    """Return stored warnings; raise DamagedFile if they are not an object of texts."""
    if not TEXTS.holds(stored):
        raise DamagedFile(path, f"concerns are {abridged(stored)}, not {TEXTS.wanted}")
    return stored


def check_entries(
    path: Path,
    stored: dict[str, Any],
    needed: dict[str, Kind],
    optional: dict[str, Kind] | None = None,
) -> None:
    """Raise DamagedFile for the first entry that is missing or of another kind.

    Args:
        path: the file.
        stored: the object in it.
        needed: required entries by the path of their keys.
        optional: optional entries.
    """
    for name, kind in {**needed, **(optional or {})}.items():
        value = entry(stored, name)
        if value is ABSENT and name in needed:
            raise DamagedFile(path, f"{name} is missing")
        if value is not ABSENT and not kind.holds(value):
            raise DamagedFile(path, f"{name} is {abridged(value)}, not {kind.wanted}")


ABSENT = object()


def entry(stored: dict[str, Any], name: str) -> Any:
    """Return the value at a path of keys; ABSENT if there is none."""
    value: Any = stored
    for key in name.split("."):
        value = value.get(key, ABSENT) if isinstance(value, dict) else ABSENT
    return value


def abridged(value: Any) -> str:
    """Return a value as text of at most 40 characters."""
    text = str(value) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


# ---------------------------------------------------------------- CSV


def read_columns(path: Path) -> Columns:
    """Read the `COLUMNS` of a CSV file that a run may still be writing.

    Empty cells and missing columns are NaN. Raises DamagedFile.
    """
    header, *lines = read_cells(path) or [[]]
    return checked_columns(path, COLUMNS[path.name], header, lines)


def checked_columns(
    path: Path, names: tuple[str, ...], header: list[str], lines: list[list[str]]
) -> Columns:
    """Convert the cells of columns to numbers; empty cells and missing columns are NaN.

    Raises DamagedFile.

    Args:
        path: the CSV file.
        names: the names of the columns.
        header: the cells of the first line.
        lines: the cells of the other lines.
    """
    if lines and "step" not in header:
        raise DamagedFile(path, "there is no column step")
    absent = np.full(len(lines), np.nan)
    columns = dict.fromkeys(names, absent)
    for name in names:
        if name in header:
            index = header.index(name)
            cells = [line[index] if index < len(line) else "" for line in lines]
            columns[name] = checked_column(path, name, cells)
    return columns


def checked_column(path: Path, name: str, cells: list[str]) -> np.ndarray:
    """Convert the cells of a column to numbers; raise DamagedFile for the first wrong cell.

    Args:
        path: the CSV file.
        name: the name of the column.
        cells: its cells.
    """
    numbers = np.array([number(cell) for cell in cells], np.float64)
    kind = CELLS.get(name, FINITE)
    wrong = np.flatnonzero(~kind.holds(numbers))
    if len(wrong):
        line = wrong[0] + 2
        cell = abridged(cells[wrong[0]])
        raise DamagedFile(path, f"line {line}: {name} is {cell}, not {kind.wanted}")
    return numbers


def number(cell: str) -> float:
    """Return the number in a cell: NaN for an empty cell, infinity for any other text.

    Infinity is wrong in every column.
    """
    try:
        return float(cell or "nan")
    except ValueError:
        return np.inf


def read_evaluations(folder: Path) -> Columns:
    """Read the columns of eval.csv; success is all NaN if the environment reports none.

    An environment may report success only in successful episodes: then a missing value counts
    as 0. Raises DamagedFile.
    """
    return checked_evaluations(folder / "eval.csv", read_columns(folder / "eval.csv"))


def checked_evaluations(path: Path, columns: Columns) -> Columns:
    """Fill the success column as `read_evaluations` does; raise DamagedFile.

    path: the file, for messages.
    """
    if not np.isnan(columns["success"]).all():
        columns["success"] = np.nan_to_num(columns["success"])
    elif np.isnan(columns["return"]).any():
        raise DamagedFile(path, "an evaluation has neither success nor return")
    return columns


def evaluation_lines(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of eval.csv as dicts without the empty cells; raise DamagedFile."""
    columns = read_evaluations(folder)
    lines = []
    for i, step in enumerate(columns["step"]):
        cells = {name: column[i] for name, column in columns.items()}
        known = {name: cell for name, cell in cells.items() if not np.isnan(cell)}
        lines.append(known | {"step": int(step)})
    return lines
