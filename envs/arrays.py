"""Reading and checking the arrays of a dataset, and writing arrays as memory-mapped files."""

import contextlib
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from utils.errors import UserError, machine_fault

READER_VERSION = 3
"""Version of the reading code; increase it if the same files are read as other data. OGBench's
converted shards do not depend on it."""
ACTION_LIMIT = 1 - 1e-5
"""Actions are clipped to this, strictly inside the policy's range [-1, 1]."""
ACTION_TOLERANCE = 1.001
"""Larger actions are an error, because the dataset must have another scale."""
VECTORS = (
    "terminals",
    "rewards",
    "masks",
    "timeouts",
    "truncations",
    "truncateds",
    "dones_float",
)
FLAGS = tuple(name for name in VECTORS if name not in ("rewards", "masks"))
INTEGERS = ("button_states",)

BROKEN_ARCHIVE = (
    *(OSError, ValueError, EOFError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    RuntimeError,  # zipfile: a password, or an unknown compression
)
"""The errors that reading a damaged npz file may raise."""

Arrays = dict[str, np.ndarray]


class PythonObjectsError(ValueError):
    """An array is stored as Python objects; the message is the array's name."""


@contextlib.contextmanager
def refuse_unreadable(where: str) -> Iterator[None]:
    """Raise UserError if a file cannot be read because of this machine, not of its content.

    where: flag and path, which begin the message.
    """
    try:
        yield
    except (MemoryError, OSError) as error:
        why = machine_fault(error)
        if why is None:  # of a damaged file
            raise
        if isinstance(error, MemoryError):
            raise UserError(
                f"{where} does not fit into memory ({why}); give the program more memory, or an"
                " intact copy if its arrays are smaller than that"
            ) from error
        raise UserError(
            f"{where} cannot be read ({why}); make it readable, or give another file"
        ) from error


def read_npz(
    path: Path, where: str, choose: Callable[[list[str]], Iterable[str]]
) -> Arrays:
    """Read the arrays of an npz file whose names `choose` returns.

    Raises ValueError for a damaged file, PythonObjectsError for an array of objects, and
    UserError as `refuse_unreadable` does.

    Args:
        path: the file.
        where: flag and path, which begin messages.
        choose: takes the names of all arrays and returns those to read.
    """
    try:
        # opened here, because NumPy does not close a file that it cannot read
        with (
            refuse_unreadable(where),
            path.open("rb") as opened,
            np.errstate(all="ignore"),
        ):
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            with file:
                return {name: _member(file, name) for name in choose(file.files)}
    except PythonObjectsError:
        raise
    except BROKEN_ARCHIVE as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _member(file: Any, name: str) -> np.ndarray:
    """Read one array of an npz file."""
    try:
        array = file[name]
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise PythonObjectsError(name) from error
        raise
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name} is not an array")
    return array


def check_arrays(arrays: Arrays, where: str, remedy: str) -> Arrays:
    """Check the arrays of a dataset and return them as float32.

    observations and actions are [R, N], all other arrays [R]; flags are 0 or 1, masks from 0 to
    1. Raises UserError for wrong shapes, types and numbers.

    Args:
        arrays: arrays by name.
        where: flag and path, which begin the message.
        remedy: what to do, which ends the message.
    """
    rows = len(arrays["observations"]) if arrays["observations"].ndim else 0
    for name, value in arrays.items():
        dimensions = 1 if name in VECTORS else 2
        if (
            value.ndim != dimensions
            or len(value) != rows
            or value.dtype.kind not in "biuf"
        ):
            raise UserError(
                f"{where} holds {name} of shape {value.shape} and type {value.dtype}; needed"
                f" are {dimensions}-dimensional numbers with {rows} rows, as many as there are"
                " observations"
            )
    return {
        name: _as_float32(name, value, where, remedy) for name, value in arrays.items()
    }


def _as_float32(name: str, value: np.ndarray, where: str, remedy: str) -> np.ndarray:
    if not np.all(np.isfinite(value)):
        raise UserError(f"{where} holds NaN or infinite numbers in {name}; {remedy}")
    if name in FLAGS and not np.all((value == 0) | (value == 1)):
        raise UserError(f"{where} holds {name} other than 0 and 1; {remedy}")
    if name == "masks" and not np.all((value >= 0) & (value <= 1)):
        raise UserError(
            f"{where} holds masks outside [0, 1] (0: the task ended here, 1: it continues);"
            f" {remedy}"
        )
    if name in INTEGERS:
        return value.astype(np.int64, copy=False)  # of one type in all shards
    with np.errstate(over="ignore"):
        single = value.astype(np.float32, copy=False)
    if not np.all(np.isfinite(single)):
        largest = np.abs(value).max()
        raise UserError(
            f"{where} holds {name} up to {largest:.3g}, more than float32 can hold; {remedy}"
        )
    return single


def check_action_range(actions: np.ndarray, where: str, remedy: str) -> None:
    """Raise UserError if actions [R, A] lie outside the environment's range, [-1, 1].

    Args:
        actions: the actions.
        where: flag and path, which begin the message.
        remedy: what to do, which ends the message.
    """
    size = np.abs(actions)
    outside = int((size > ACTION_TOLERANCE).sum())
    if outside:
        raise UserError(
            f"{where} holds actions up to {size.max():.4g} ({outside:,} of {size.size:,}"
            f" numbers beyond the environment's [-1, 1]); {remedy}"
        )


class ArrayFile:
    """A .npy file to which rows are appended; a context manager.

    At the end of the context the header is rewritten with the final number of rows.
    """

    def __init__(self, path: Path, like: np.ndarray):
        self._header = np.lib.format.header_data_from_array_1_0(
            np.ascontiguousarray(like[:0])
        )
        self._file: IO[Any] = path.open("w+b")
        self.rows = 0
        self._write_header()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.close()

    @property
    def columns(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self._header["shape"][1:]

    def append(self, array: np.ndarray) -> None:
        """Append the rows of an array [R, *columns]."""
        self._file.write(np.ascontiguousarray(array).tobytes())
        self.rows += len(array)

    def _write_header(self) -> None:
        """Write the header in place; NumPy reserves room in it for a larger number of rows."""
        header = self._header | {"shape": (self.rows, *self.columns)}
        np.lib.format.write_array_header_1_0(self._file, header)
