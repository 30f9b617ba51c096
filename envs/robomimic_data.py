"""Reads and writes robomimic's files of demonstrations (low-dimensional observations, HDF5).

    data                    attribute env_args: JSON with env_name, env_version, env_kwargs
    data/demo_N             N = 0, 1, ...; actions [T, A], rewards [T], dones [T]
    data/demo_N/obs/KEY     [T, ...]; data/demo_N/next_obs/KEY: the same, one step later
    mask/NAME               names of demonstrations; not read

`--robomimic_dataset_dir` holds them as <task>/<kind>/low_dim_v15.hdf5, as robomimic's own
downloader stores them.
"""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from envs.arrays import Arrays, check_action_range, check_arrays
from envs.tasks import has_oracle, robomimic_task
from utils.errors import UserError

DATASET_DIR = "~/.robomimic"
FILE = "low_dim_v15.hdf5"
COLLECTION = "collection"
"""The attribute of `data` with the settings of a file that was made by a script."""

_ROBOT_KEYS = ("eef_pos", "eef_quat", "gripper_qpos")
_MARGIN = 1e-6  # of a range in the scaling, against division by 0

Scaled = Any
"""A NumPy or JAX array [..., O]."""


class Recipe(NamedTuple):
    """A file's description of its environment: how to make it and to scale observations."""

    env_name: str
    """The name in robosuite."""
    env_version: str
    """The version of robosuite that made the file; "" if it is not stored."""
    env_kwargs: dict[str, Any]
    """The arguments of robosuite.make."""
    keys: list[str]
    """The observations that are concatenated, in order."""
    low: list[float]
    """The minimum of each entry [O] over all observations of the file."""
    high: list[float]
    """The maximum [O]."""

    @classmethod
    def from_record(cls, record: dict[str, Any] | None) -> "Recipe | None":
        """Read the entry of a config.json; None for tasks that have none."""
        return None if record is None else cls(*(record[name] for name in cls._fields))

    def scale(self, observations: Scaled) -> Scaled:
        """Scale observations [..., O] to [-1, 1], where the file's lie."""
        low, high = np.array([self.low, self.high], observations.dtype)
        # tests run JAX without implicit broadcasting
        row = (None,) * (observations.ndim - 1)
        return 2 * ((observations - low[row]) / (high - low + _MARGIN)[row] - 0.5)


class Demonstrations(NamedTuple):
    """The content of a file."""

    arrays: Arrays
    """Arrays in the flat layout (envs/own_data.py), with scaled observations [N, O]."""
    recipe: Recipe


def file_of(env_name: str, folder: Path) -> Path:
    """Return the path of a task's file below --robomimic_dataset_dir."""
    task, kind, _ = env_name.split("-")
    return folder / task / kind / FILE


def missing_file(env_name: str, folder: Path) -> UserError:
    """Return the error for a task's missing file, with the ways to get it."""
    task, kind, _ = env_name.split("-")
    path = file_of(env_name, folder)
    fetch = (
        f"python -m robomimic.scripts.download_datasets --tasks {task} --dataset_types"
        f" {kind} --hdf5_types low_dim --download_dir {folder}"
    )
    make = (
        "; or let a script demonstrate: python scripts/make_data.py"
        f" --env_name={env_name} --robomimic_dataset_dir={folder}"
    )
    return UserError(
        f"--robomimic_dataset_dir: {path} is missing; robomimic's own downloader fetches it:"
        f" {fetch}{make if has_oracle(env_name) else ''}"
    )


def require_packages(where: str) -> None:
    """Raise UserError, which begins with `where`, unless robosuite and h5py are installed."""
    for package in ("robosuite", "h5py"):
        if find_spec(package) is None:
            raise UserError(f"{where} needs {package}: pip install '.[robomimic]'")


# ---------------------------------------------------------------- reading


def read_demonstrations(path: Path, env_name: str, flag: str) -> Demonstrations:
    """Read a file of demonstrations in the order of their numbers.

    The reward of a row is the file's minus 1. Its mask is 1 minus `dones`. A trajectory ends in
    rows with `dones` 1 and in the last row of a demonstration. Observations are scaled by their
    minimum and maximum over `obs` and `next_obs` of the whole file.

    Raises UserError for a file of another task, and for a damaged or incomplete file.

    Args:
        path: the file.
        env_name: the task.
        flag: the flag that named the file, which begins the message.
    """
    where = f"{flag}: {path}"
    h5py = _h5py(where)
    if not path.is_file():
        raise UserError(f"{where} is not a file; give an HDF5 file of robomimic")
    try:
        with h5py.File(path, "r") as file:
            return _read(file, env_name, where)
    except UserError:
        raise
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{where} is damaged or no file of robomimic ({error}); fetch it again"
        ) from error


def _h5py(where: str) -> Any:
    """Import h5py; raise UserError if it is not installed."""
    try:
        import h5py
    except ImportError as error:
        raise UserError(
            f"{where} is an HDF5 file, which needs h5py: pip install '.[robomimic]'"
        ) from error
    return h5py


def _read(file: Any, env_name: str, where: str) -> Demonstrations:
    environment = _environment(file, env_name, where)
    data = file["data"]
    keys = observation_keys(environment["env_kwargs"])
    parts = [_demonstration(data[name], keys, where) for name in _order(data, where)]
    raw = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    both = (raw["observations"], raw["next_observations"])
    recipe = Recipe(
        **environment,
        keys=keys,
        low=np.min([array.min(axis=0) for array in both], axis=0).tolist(),
        high=np.max([array.max(axis=0) for array in both], axis=0).tolist(),
    )
    with np.errstate(invalid="ignore"):  # NaN and infinity are refused below
        for key in ("observations", "next_observations"):
            raw[key] = recipe.scale(raw[key])
    arrays = check_arrays(raw, where, "fetch it again")
    check_action_range(arrays["actions"], where, "fetch it again")
    return Demonstrations(arrays, recipe)


def _environment(file: Any, env_name: str, where: str) -> dict[str, Any]:
    """Return name, version and arguments of the environment; raise UserError for another's."""
    if "data" not in file or "env_args" not in file["data"].attrs:
        raise UserError(
            f"{where} is not a robomimic file: it has no group 'data' with the attribute"
            " env_args"
        )
    try:
        stored = json.loads(file["data"].attrs["env_args"])
        found: dict[str, Any] = {
            "env_name": str(stored["env_name"]),
            "env_version": str(stored.get("env_version") or ""),
            "env_kwargs": dict(stored["env_kwargs"]),
        }
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{where}: the attribute env_args is not robomimic's JSON of env_name and"
            " env_kwargs; fetch it again"
        ) from error
    wanted = robomimic_task(env_name).environment
    if found["env_name"] != wanted:
        raise UserError(
            f"{where} is a dataset of another environment: its own is {found['env_name']},"
            f" that of {env_name} {wanted}"
        )
    if found["env_kwargs"].get("reward_shaping"):
        raise UserError(
            f"{where} was made for shaped rewards, which are above 0 without a success; give"
            " the file with sparse rewards"
        )
    return found


def observation_keys(env_kwargs: dict[str, Any]) -> list[str]:
    """Return the keys of the observations of each robot, then of the objects."""
    robots = env_kwargs.get("robots", "")
    count = 1 if isinstance(robots, str) else len(robots)
    robot_keys = [f"robot{i}_{key}" for i in range(count) for key in _ROBOT_KEYS]
    return [*robot_keys, "object"]


def _order(data: Any, where: str) -> list[str]:
    """Return the names demo_0, demo_1, ..., demo_10 in the order of their numbers."""
    numbers = {}
    for name in data:
        prefix, _, number = name.partition("_")
        if prefix != "demo" or not number.isdecimal():
            raise UserError(f"{where} holds data/{name}, which is not a demonstration")
        numbers[name] = int(number)
    if not numbers:
        raise UserError(f"{where} holds no demonstrations")
    return sorted(numbers, key=lambda name: numbers[name])


def _demonstration(demo: Any, keys: Sequence[str], where: str) -> Arrays:
    """Read one demonstration as arrays of T rows; raise UserError if it is incomplete."""
    stored = _complete(demo, keys, where)
    ends = np.asarray(stored["dones"], np.float64)
    terminals = ends.copy()
    terminals[-1] = 1

    def joined(group: str) -> np.ndarray:
        parts = [stored[f"{group}/{key}"] for key in keys]
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)

    return {
        "observations": joined("obs").astype(np.float64),
        "next_observations": joined("next_obs").astype(np.float64),
        "actions": stored["actions"],
        "rewards": np.asarray(stored["rewards"], np.float64) - 1,
        "masks": 1 - ends,
        "terminals": terminals,
    }


def _complete(demo: Any, keys: Sequence[str], where: str) -> Arrays:
    """Read the stored arrays of a demonstration; raise UserError unless all are as long."""
    names = ["actions", "rewards", "dones"]
    names += [f"{group}/{key}" for group in ("obs", "next_obs") for key in keys]
    missing = [name for name in names if name not in demo]
    if missing:
        raise UserError(
            f"{where} lacks {', '.join(missing)} in {demo.name}; give robomimic's file of type"
            " low_dim"
        )
    columns = {name: demo[name][()] for name in names}
    lengths = {value.shape[:1] for value in columns.values()}
    if len(lengths) > 1 or lengths & {(), (0,)}:
        raise UserError(
            f"{where}: the arrays of {demo.name} do not all have the same number of rows"
        )
    return columns


# ---------------------------------------------------------------- writing


def write_demonstrations(
    parts: Sequence[Path], path: Path, recipe: dict[str, Any], settings: dict[str, Any]
) -> None:
    """Write demonstrations from their npz files into one HDF5 file.

    Args:
        parts: npz files with actions, rewards, dones, obs/KEY and next_obs/KEY [T, ...].
        path: the file to write.
        recipe: the content of the attribute env_args.
        settings: of the collection, stored in the file.
    """
    h5py = _h5py(str(path))
    total = 0
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for number, part in enumerate(parts):
            demo = data.create_group(f"demo_{number}")
            with np.load(part) as arrays:
                for name in arrays.files:
                    demo.create_dataset(name, data=arrays[name])
                demo.attrs["num_samples"] = len(arrays["actions"])
                total += len(arrays["actions"])
        data.attrs["total"] = total
        data.attrs["env_args"] = json.dumps(recipe)
        data.attrs[COLLECTION] = json.dumps(settings)


def made_settings(path: Path) -> dict[str, Any] | None:
    """Return the settings with which a script made a file; None for any other file."""
    h5py = _h5py(str(path))
    try:
        with h5py.File(path, "r") as file:
            return json.loads(file["data"].attrs[COLLECTION])
    except (OSError, KeyError, ValueError):
        return None
