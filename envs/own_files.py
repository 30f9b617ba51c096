"""Reads the arrays of a user's own files: npz, HDF5, and the folders of Minari's datasets."""

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from envs.arrays import (
    Arrays,
    PythonObjectsError,
    check_action_range,
    check_arrays,
    read_npz,
    refuse_unreadable,
)
from utils.errors import UserError

LIMITS = ("timeouts", "truncations", "truncateds")
"""Flags of time limits, by the names of common file formats."""
ENDS = (*LIMITS, "dones_float")
"""Flags that end a trajectory but not the task; dones_float is 1 at every end."""
NEEDED = ("observations", "actions", "rewards", "terminals")
READ = (*NEEDED, "masks", "next_observations", *ENDS)
SIMULATOR = ("qpos", "qvel", "button_states")
"""A simulator's state in each row. Own data may hold it; it is ignored."""
SUFFIXES = (".npz", ".hdf5", ".h5")


def read_checked(path: Path, layout: str, action_scale: float, flag: str) -> Arrays:
    """Read and check the arrays of a file, as float32.

    Raises UserError for another file type, for unknown arrays and for unusable numbers.

    Args:
        path: the file.
        layout: auto, ogbench or flat.
        action_scale: actions are divided by it.
        flag: the flag that named the file.
    """
    where = f"{flag}: {path}"
    arrays = _refuse_unknown(read_file(path, flag), where)
    if layout == "ogbench":
        _refuse_flat(arrays, where)
        _fill_final_rows(arrays)
    arrays = check_arrays(arrays, where, "correct it in the file")
    _check_sizes(arrays, where)
    if action_scale != 1:
        arrays["actions"] = arrays["actions"] / np.float32(action_scale)
    remedy = (
        "where the environment is wrapped to rescale actions, --action_scale=2 divides them"
        " by 2"
    )
    check_action_range(arrays["actions"], where, remedy)
    return arrays


def _refuse_flat(arrays: Arrays, where: str) -> None:
    """Raise UserError for arrays that the ogbench layout does not have."""
    flat = [name for name in ("next_observations", *ENDS) if name in arrays]
    if flat:
        raise UserError(
            f"{where} holds {', '.join(flat)}, which --dataset_layout=ogbench does not read;"
            " give --dataset_layout=flat, or remove them"
        )


def _check_sizes(arrays: Arrays, where: str) -> None:
    """Raise UserError for arrays without rows, and for next observations of another width."""
    observations = arrays["observations"]
    if not len(observations):
        raise UserError(f"{where} holds no rows; give a file with transitions")
    width = observations.shape[1]
    following = arrays.get("next_observations", observations).shape[1]
    if following != width:
        raise UserError(
            f"{where} holds next_observations with {following} columns and observations with"
            f" {width}; store both with the same columns"
        )


def _fill_final_rows(arrays: Arrays) -> None:
    """Replace NaN in final rows, where no transition starts and writers may leave NaN."""
    terminals = arrays["terminals"]
    if terminals.ndim != 1 or terminals.dtype.kind not in "biuf":
        return  # `check_arrays` refuses them
    final = terminals > 0
    final[-1:] = True  # a trajectory ends there in any case
    for name, value in (("actions", 0), ("rewards", 0), ("masks", 1)):
        array = arrays.get(name)
        if array is None or array.dtype.kind != "f" or not array.ndim:
            continue
        if len(array) == len(final):
            rows = array[final]
            array[final] = np.where(np.isnan(rows), value, rows)


def read_file(path: Path, flag: str) -> Arrays:
    """Read the arrays of an npz or HDF5 file, or of a Minari dataset's folder.

    Raises UserError for another file type and for a damaged file; `flag` begins the message.
    """
    where = f"{flag}: {path}"
    if minari_file(path):
        return _read_hdf5(minari_file(path) or path, where)
    if not path.is_file():
        raise UserError(f"{where} does not exist")
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise UserError(f"{where} cannot be read ({error.strerror})") from error
    if start == b"\x89HDF\r\n\x1a\n":
        return _read_hdf5(path, where)
    if not start.startswith(b"PK"):
        raise UserError(
            f"{where} is {_kind(start)}; give an npz file (numpy.savez) or an HDF5 file"
        )
    return _read_npz(path, where)


def _kind(start: bytes) -> str:
    """Describe a file that is not an npz file by its first bytes."""
    if start.startswith(b"\x93NUMPY"):
        return "a single array (.npy), not an npz file"
    if start.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return "a pickle, which is never loaded"
    return "an empty file" if not start else "not an npz file"


def _read_npz(path: Path, where: str) -> Arrays:
    try:
        return read_npz(path, where, lambda names: _wanted(names, where))
    except PythonObjectsError as error:
        rows = "store one array of numbers with a row for each step"
        remedy = rows if str(error) in READ else "it is not used: remove it"
        raise UserError(
            f"{where} holds {error} as Python objects (rows of unequal length?), which are"
            f" never loaded; {remedy}"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{where} is damaged ({error}); bring back an intact copy"
        ) from error


def _wanted(names: list[str], where: str) -> list[str]:
    """Return all names but a simulator's state; raise UserError if a needed one is missing."""
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise UserError(
            f"{where} lacks {', '.join(missing)}; it holds {', '.join(names) or 'nothing'}"
        )
    return [name for name in names if name not in SIMULATOR]


def _refuse_unknown(arrays: Arrays, where: str) -> Arrays:
    """Return the known arrays; raise UserError for unknown ones with a value for each row."""
    rows = len(arrays["observations"]) if arrays["observations"].ndim else 0
    unknown = [
        name
        for name, array in arrays.items()
        if name not in READ and array.ndim and len(array) == rows
    ]
    if unknown:
        raise UserError(
            f"{where} has arrays that are not used ({', '.join(unknown)}); rename them to one"
            f" of {', '.join(READ)}, or remove them"
        )
    return {name: array for name, array in arrays.items() if name in READ}


# ---------------------------------------------------------------- HDF5


def minari_file(path: Path) -> Path | None:
    """Return the HDF5 file of a Minari dataset's folder; None if there is none."""
    files = (path / "main_data.hdf5", path / "data" / "main_data.hdf5")
    return next((file for file in files if file.is_file()), None)


def is_minari(path: Path) -> bool:
    """Whether a file or a folder is a Minari dataset, which is read in the ogbench layout."""
    with contextlib.suppress(ImportError, OSError):
        import h5py

        with h5py.File(minari_file(path) or path, "r") as file:
            return bool(_episodes(file))
    return False


def _episodes(file: Any) -> list[str]:
    """Return the names of Minari's episodes in an HDF5 file, in order; [] in any other file."""
    names = [name for name in file if re.fullmatch(r"episode_\d+", name)]
    return sorted(names, key=lambda name: int(name.removeprefix("episode_")))


def _read_hdf5(path: Path, where: str) -> Arrays:
    """Read an HDF5 file: arrays as in D4RL, or Minari's episodes in the ogbench layout."""
    try:
        import h5py
    except ImportError as error:
        raise UserError(
            f"{where} is an HDF5 file, which needs h5py: pip install '.[hdf5]'"
        ) from error
    try:
        with refuse_unreadable(where), h5py.File(path, "r") as file:
            if _episodes(file):
                return _minari_rows(file, where)
            names = [
                name for name, item in file.items() if isinstance(item, h5py.Dataset)
            ]
            # infos and metadata are D4RL's, and are ignored
            groups = set(file) - set(names) - {"infos", "metadata"}
            if groups:
                raise UserError(
                    f"{where} holds the group {', '.join(sorted(groups))}; only arrays are read"
                )
            # a text is read as bytes
            return {name: np.asarray(file[name][()]) for name in _wanted(names, where)}
    except (OSError, KeyError) as error:  # KeyError: a link to a file that is not there
        raise UserError(
            f"{where} is damaged ({error}); bring back an intact copy"
        ) from error


def _minari_rows(file: Any, where: str) -> Arrays:
    """Concatenate Minari's episodes in the ogbench layout; each has its final observation."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*NEEDED, "masks")}
    for name in _episodes(file):
        episode = file[name]
        steps = _minari_steps(episode, f"{where}: {name}")
        final = np.zeros(steps + 1)
        final[-1] = 1
        parts["observations"].append(episode["observations"][()])
        parts["actions"].append(_with_final_row(episode["actions"][()], 0))
        parts["rewards"].append(_with_final_row(episode["rewards"][()], 0))
        parts["masks"].append(
            _with_final_row(1 - episode["terminations"][()].astype(np.float32), 1)
        )
        parts["terminals"].append(final)
    for name, values in parts.items():
        shapes = {value.shape[1:] for value in values}
        if len(shapes) > 1:
            raise UserError(
                f"{where} holds steps with {name} of shapes"
                f" {' and '.join(map(str, sorted(shapes)))}; store all episodes alike"
            )
    return {name: np.concatenate(values) for name, values in parts.items()}


def _minari_steps(episode: Any, where: str) -> int:
    """Return the number of steps of an episode; raise UserError if it is not as Minari's."""
    needed = ("observations", "actions", "rewards", "terminations")
    missing = [name for name in needed if name not in episode]
    if missing:
        raise UserError(
            f"{where} lacks {', '.join(missing)}; give a file that Minari wrote"
        )
    wrong = [name for name in needed if not getattr(episode[name], "shape", ())]
    if wrong:
        raise UserError(
            f"{where} stores {', '.join(wrong)} as a dictionary or a single value; only arrays"
            " are read"
        )
    steps = len(episode["actions"])
    if not steps:
        raise UserError(f"{where} has no steps; remove it")
    if len(episode["observations"]) != steps + 1:
        raise UserError(
            f"{where} holds {len(episode['observations'])} observations of {steps} steps"
        )
    return steps


def _with_final_row(array: np.ndarray, value: float) -> np.ndarray:
    return np.concatenate([array, np.full_like(array[:1], value)])
