"""Arrays of a dataset before anything else is done with them: shapes, numbers, the action
range, and files of memory maps.
"""

import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from utils.errors import UserError

ACTION_LIMIT = 1 - 1e-5
"""Actions lie strictly inside the policy's range."""
ACTION_TOLERANCE = 1.001
"""Up to here actions are clipped; beyond, they are of another scale."""
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
    RuntimeError,  # of zipfile: a password, or a compression that it lacks
)
"""What reading the members of a damaged npz file may raise."""

Arrays = dict[str, np.ndarray]


class PythonObjectsError(ValueError):
    """An array is stored as Python objects; the message is its name."""


def read_npz(path: Path, choose: Callable[[list[str]], Iterable[str]]) -> Arrays:
    """The arrays of an npz file that `choose` picks from the names of all.

    Raises ValueError, which says why, for a file that is damaged in whatever way, and
    PythonObjectsError; and what `choose` raises.
    """
    try:
        # opened here, because NumPy leaves a file open that it cannot read
        with path.open("rb") as opened, np.errstate(all="ignore"):
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
    """One array of an npz file."""
    try:
        array = file[name]
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise PythonObjectsError(name) from error
        raise
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name} is no array")
    return array


def checked(arrays: Arrays, where: str, remedy: str) -> Arrays:
    """The arrays as float32. Raises UserError for wrong shapes, types and numbers; `remedy`
    ends the message.

    Rows of observations and actions are vectors, the others numbers; flags are 0 or 1, masks
    between them.
    """
    rows = len(arrays["observations"]) if arrays["observations"].ndim else 0
    for name, value in arrays.items():
        dimensions = 1 if name in VECTORS else 2
        if value.ndim != dimensions or len(value) != rows or value.dtype.kind not in "biuf":
            raise UserError(
                f"{where} holds {name} of shape {value.shape} and type {value.dtype}; needed"
                f" are {dimensions}-dimensional numbers with {rows} rows, as many as there are"
                " observations"
            )
    return {name: _as_float32(name, value, where, remedy) for name, value in arrays.items()}


def _as_float32(name: str, value: np.ndarray, where: str, remedy: str) -> np.ndarray:
    if not np.all(np.isfinite(value)):
        raise UserError(f"{where} holds NaN or infinite numbers in {name}; {remedy}")
    if name in FLAGS and not np.all((value == 0) | (value == 1)):
        raise UserError(f"{where} holds {name} other than 0 and 1; {remedy}")
    if name == "masks" and not np.all((value >= 0) & (value <= 1)):
        raise UserError(
            f"{where} holds masks outside [0, 1] (0: the task ended here, 1: it goes on);"
            f" {remedy}"
        )
    if name in INTEGERS:
        return value
    with np.errstate(over="ignore"):
        single = value.astype(np.float32, copy=False)
    if not np.all(np.isfinite(single)):
        largest = np.abs(value).max()
        raise UserError(
            f"{where} holds {name} up to {largest:.3g}, more than float32 can hold; {remedy}"
        )
    return single


def check_action_range(actions: np.ndarray, where: str, remedy: str) -> None:
    """Raise UserError where actions [R, A] are not of the environment's scale, [-1, 1]."""
    size = np.abs(actions)
    outside = int((size > ACTION_TOLERANCE).sum())
    if outside:
        raise UserError(
            f"{where} holds actions up to {size.max():.4g} ({outside:,} of {size.size:,}"
            f" numbers beyond the environment's [-1, 1]); {remedy}"
        )


class ArrayFile:
    """A .npy file to which rows are appended; a context manager, at whose end the header gives
    their number.
    """

    def __init__(self, path: Path, like: np.ndarray):
        self._header = np.lib.format.header_data_from_array_1_0(np.ascontiguousarray(like[:0]))
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
        """Write the rows of an array [R, *columns] after those that are there."""
        self._file.write(np.ascontiguousarray(array).tobytes())
        self.rows += len(array)

    def _write_header(self) -> None:
        """NumPy leaves room in a header for the first dimension to grow, so that it can be
        rewritten in place.
        """
        header = self._header | {"shape": (self.rows, *self.columns)}
        np.lib.format.write_array_header_1_0(self._file, header)
