"""Offline datasets in a compact layout, which stores every observation once.

The observation after a transition is that of the next row (utils/replay.py).
"""

import contextlib
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from envs import own_data, own_files
from envs.arrays import (
    ACTION_LIMIT,
    INTEGERS,
    READER_VERSION,
    Arrays,
    check_action_range,
    check_arrays,
    read_npz,
)
from envs.dataset_files import find_dataset, own_shards, used_shards
from envs.mapped_shards import ArraysTarget, arrays_folder, mapped, write_shards
from envs.ogbench import SeededEnv, make_env, repeats_episodes
from envs.robomimic_data import Recipe, read_demonstrations
from envs.tasks import (
    dataset_name,
    folder_flag,
    is_manipulation,
    is_ogbench,
    is_robomimic,
    is_user_env,
    world_name,
)
from utils.errors import UserError
from utils.files import expanded
from utils.messages import warn
from utils.progress import Counter

_BLOCK = 1_000_000  # rows whose rewards are computed at a time


def load_dataset(
    env_name: str,
    dataset_dir: Path | str | None = None,
    dataset_path: Path | str | None = None,
    proportion: float = 1.0,
    sparse: bool = False,
    dataset_layout: str = "auto",
    action_scale: float = 1.0,
    environment: bool = True,
    arrays_dir: Path | str | None = None,
) -> dict[str, np.ndarray]:
    """Load the dataset of a task, with the task's rewards by OGBench's own function.

    The data of robomimic and of a user's own environment have rewards. R rows hold N
    transitions: transition n starts in row rows[n] and ends in the next row. The last row of a
    trajectory is its final state, in which no transition starts.

    Args:
        env_name: the task, or a user's 'module:EnvId'.
        dataset_dir: the folder of OGBench's or robomimic's files, used without `dataset_path`;
            None for the default.
        dataset_path: one file or folder; for a user's environment see envs/own_data.py.
        proportion: the share of the transitions to keep, from the start.
        sparse: whether to replace every reward that is not 0 by -1.
        dataset_layout: the layout of a user's own data: auto, ogbench or flat.
        action_scale: a user's actions are divided by it.
        environment: whether it is an error if the environment of a user or of robomimic cannot
            be made.
        arrays_dir: the folder for arrays converted from shards; None: beside the shards.

    Returns:
        observations [R, O] and actions [R, A] (float32, actions within ±(1 - 1e-5)), rewards
        [R], masks [R] (0 where the task ended), terminals [R] (1 where the trajectory's last
        transition starts) and rows [N]. Shards are returned as read-only memory maps.

    Raises:
        UserError: if the data is missing or does not fit the task.
    """
    if not 0 < proportion <= 1:
        raise UserError(f"--dataset_proportion must lie in (0, 1], it is {proportion}")
    source = _source(env_name, dataset_dir, dataset_path)
    converted = expanded(arrays_dir, "--arrays_dir") if arrays_dir else None
    target = ArraysTarget(source.flag, converted)
    with contextlib.ExitStack() as stack:
        make = functools.partial(_environment, stack, env_name, environment)
        env = None if is_robomimic(env_name) else make(None)
        raw, recipe = _read_any(source, env_name, dataset_layout, action_scale, target)
        where = f"{source.flag}: {source.path}"
        if recipe:  # the file says how to make the environment
            env = make(recipe)
        if env:
            _check_belongs(raw, env, env_name, where)
            _label(raw, env, env_name)
    if sparse:
        raw["rewards"] = _sparse(raw["rewards"], where)
    return _compact(raw, proportion, where)


def load_recipe(
    env_name: str,
    dataset_dir: Path | str | None = None,
    dataset_path: Path | str | None = None,
) -> Recipe | None:
    """Read how to make the environment of a task of robomimic; None for other tasks.

    The arguments are those of `load_dataset`, and so are the errors.
    """
    if not is_robomimic(env_name):
        return None
    source = _source(env_name, dataset_dir, dataset_path)
    return read_demonstrations(source.path, env_name, source.flag).recipe


class _Source(NamedTuple):
    """Where the data of a task is."""

    path: Path
    flag: str
    """The flag that says so."""
    named: bool
    """Whether the user named the file or folder itself, not the folder of all datasets."""


def _source(
    env_name: str, dataset_dir: Path | str | None, dataset_path: Path | str | None
) -> _Source:
    if dataset_path is not None:
        return _Source(expanded(dataset_path), "--dataset", named=True)
    path = find_dataset(env_name, dataset_dir)
    return _Source(path, f"--{folder_flag(env_name)}", named=False)


def _environment(
    stack: contextlib.ExitStack, env_name: str, required: bool, recipe: Recipe | None
) -> SeededEnv | None:
    """Make the environment that the data is checked against; the stack closes it.

    Returns None, with a warning, if the environment of a user or of robomimic cannot be made
    and is not required.

    Args:
        stack: closes the environment.
        env_name: the task.
        required: whether that is an error instead.
        recipe: of a task of robomimic.
    """
    try:
        env = make_env(env_name, recipe=recipe)
    except UserError as error:
        if required or is_ogbench(env_name):
            raise
        warn(
            "the data is not checked against its environment, and nothing is evaluated"
            f" ({error})"
        )
        return None
    stack.callback(env.close)
    if is_user_env(env_name):
        _warn_unless_repeated(env, env_name)
    return env


def _warn_unless_repeated(env: SeededEnv, env_name: str) -> None:
    """Warn if a user's environment does not repeat an episode from its seed."""
    with contextlib.suppress(Exception):  # reported where episodes are run
        if not repeats_episodes(env):
            warn(
                f"{env_name} does not repeat an episode after reset(seed) with the same seed,"
                " so evaluations differ in their episodes or repeat some: call"
                " super().reset(seed=seed), draw from self.np_random, and keep nothing of"
                " earlier episodes"
            )


def _refuse_own_settings(dataset_layout: str, action_scale: float) -> None:
    """Raise UserError for settings of a user's own data, with data of another kind."""
    if dataset_layout != "auto":
        raise UserError(
            f"--dataset_layout={dataset_layout} is only for your own data"
            " (--env_name=module:EnvId); leave it out"
        )
    if action_scale != 1:
        raise UserError(
            f"--action_scale={action_scale} is only for your own data"
            " (--env_name=module:EnvId); leave it out"
        )


def _sparse(rewards: np.ndarray, where: str) -> np.ndarray:
    """Replace every reward that is not 0 by -1; raise UserError if one is positive."""
    if (rewards > 0).any():
        raise UserError(
            f"--sparse: {where} has rewards up to {rewards.max():g}, and --sparse makes every"
            " reward but 0 a -1; leave it out, or store rewards of at most 0"
        )
    return np.where(rewards == 0, np.float32(0), np.float32(-1))


# ---------------------------------------------------------------- reading


def _read_any(
    source: _Source,
    env_name: str,
    layout: str,
    action_scale: float,
    target: ArraysTarget,
) -> tuple[Arrays, Recipe | None]:
    """Return arrays in the ogbench layout, and the recipe of a task of robomimic.

    The arguments are those of `load_dataset`; `target` is where shards are converted to.
    """
    if is_user_env(env_name):
        return _read_own(source.path, layout, action_scale, target), None
    _refuse_own_settings(layout, action_scale)
    if is_robomimic(env_name):
        return _read_robomimic(source.path, env_name, source.flag)
    return _read(source.path, env_name, target, named=source.named), None


def _read(source: Path, env_name: str, target: ArraysTarget, named: bool) -> Arrays:
    """Read OGBench's file or folder of shards.

    Args:
        source: the file or folder.
        env_name: the task.
        target: where arrays are converted to.
        named: whether the user named the file or folder, see `used_shards`.
    """
    flag = target.flag
    needed = ["observations", "actions", "terminals", "qpos"]
    if env_name.startswith(("scene", "puzzle")):
        needed.append("button_states")
    if not source.is_dir():
        arrays = _read_file(source, needed, flag)
        return {name: arrays[name] for name in needed}
    shards = used_shards(dataset_name(env_name), source, named)
    if not shards:
        raise UserError(f"{flag}: {source} holds no npz files of {env_name}")

    def rows() -> Iterator[Arrays]:
        for path in shards:
            raw = _read_file(path, needed, flag)
            raw["terminals"][-1] = 1  # no trajectory continues in the next file
            yield raw

    def write(folder: Path) -> None:
        write_shards(shards, rows(), folder, flag)

    folder = arrays_folder(shards, write, target)
    arrays = mapped(folder)
    if missing := [name for name in needed if name not in arrays]:
        raise UserError(
            f"{flag}: {folder} lacks {', '.join(missing)}; delete it, and it is made again"
        )
    return {name: arrays[name] for name in needed}


def _read_file(path: Path, needed: list[str], flag: str) -> Arrays:
    where = f"{flag}: {path}"
    named = flag == "--dataset"
    raw = check_arrays(
        _read_arrays(path, needed, where, named), where, "make or fetch it again"
    )
    check_action_range(
        raw["actions"], where, "OGBench's data has none; make or fetch it again"
    )
    raw["actions"] = np.clip(raw["actions"], -ACTION_LIMIT, ACTION_LIMIT)
    return raw


def _read_arrays(path: Path, needed: list[str], where: str, named: bool) -> Arrays:
    if not path.is_file():
        raise UserError(f"{where} does not exist")
    remedy = (
        "give an intact npz file" if named else "delete it and fetch or make it again"
    )

    def choose(names: list[str]) -> Iterable[str]:
        _check_names(names, needed, where)
        # shards are converted once, whichever task the first command names
        return dict.fromkeys([*needed, *(name for name in INTEGERS if name in names)])

    try:
        return read_npz(path, where, choose)
    except ValueError as error:
        raise UserError(
            f"{where} is truncated or not an npz file ({error}); {remedy}"
        ) from error


def _check_names(names: list[str], needed: list[str], where: str) -> None:
    """Raise UserError if an OGBench file lacks an array or holds one that would be ignored."""
    missing = [key for key in needed if key not in names]
    if missing:
        raise UserError(
            f"{where} lacks {', '.join(missing)}; it holds {', '.join(names)}"
        )
    unread = [key for key in ("next_observations", "rewards", "masks") if key in names]
    if unread:
        raise UserError(
            f"{where} holds {', '.join(unread)}, which is not read for OGBench's tasks: they"
            " label every state themselves, and the next row is the next observation;"
            " remove it"
        )


def _read_own(
    source: Path, layout: str, action_scale: float, target: ArraysTarget
) -> Arrays:
    """Read a user's own file or folder of shards in the ogbench layout, and print how.

    Args:
        source: the file or folder.
        layout: auto, ogbench or flat.
        action_scale: actions are divided by it.
        target: where arrays of shards are converted to.
    """
    if source.is_dir() and not own_files.minari_file(source):
        return _map_own_shards(source, layout, action_scale, target)
    flag = target.flag
    arrays = own_files.read_checked(source, layout, action_scale, flag)
    files = [(source, arrays)]
    chosen, why = own_data.choose_layout(files, layout, f"{flag}: {source}")
    rows, reading = own_data.as_rows(arrays, chosen, why)
    reading.announce(source)
    return rows


def _read_robomimic(source: Path, env_name: str, flag: str) -> tuple[Arrays, Recipe]:
    """Read demonstrations in the ogbench layout, and print how many there are.

    Args:
        source: the file.
        env_name: the task.
        flag: the flag that named it.
    """
    arrays, recipe = read_demonstrations(source, env_name, flag)
    rows, reading = own_data.as_rows(arrays, "flat", "robomimic's")
    reading.announce(source)
    return rows, recipe


def _map_own_shards(
    source: Path, layout: str, action_scale: float, target: ArraysTarget
) -> Arrays:
    """Read a folder of own files, all of one layout, as memory maps."""
    flag = target.flag
    files = own_shards(source)
    if not files:
        raise UserError(
            f"{flag}: {source} holds no npz or HDF5 files, and is no Minari dataset in HDF5"
        )

    def write(folder: Path) -> None:
        shards = (
            (path, own_files.read_checked(path, layout, action_scale, flag))
            for path in files
        )
        chosen, why = own_data.choose_layout(shards, layout, f"{flag}: {source}")
        readings: list[own_data.Reading] = []

        def rows() -> Iterator[Arrays]:
            for path in files:
                arrays = own_files.read_checked(path, layout, action_scale, flag)
                shard, reading = own_data.as_rows(arrays, chosen, why)
                readings.append(reading)
                yield shard

        write_shards(files, rows(), folder, flag)
        own_data.sum_readings(readings).write(folder / "reading.json")

    key = (READER_VERSION, layout, action_scale)
    folder = arrays_folder(files, write, target, key)
    own_data.Reading.read(folder / "reading.json").announce(source)
    return mapped(folder)


# ---------------------------------------------------------------- belonging to the task


def _check_belongs(
    raw: dict[str, np.ndarray], env: SeededEnv, env_name: str, where: str
) -> None:
    """Raise UserError for data of another environment, or of another maze.

    Args:
        raw: the arrays.
        env: the environment of the task.
        env_name: the task.
        where: flag and path, which begin the message.
    """
    expected = {
        "observations": env.observation_space.shape[0],
        "actions": env.action_space.shape[0],
    }
    if is_ogbench(env_name):
        world = env.unwrapped
        expected["qpos"] = (
            world._model if is_manipulation(env_name) else world.model
        ).nq
        if "button_states" in raw:
            expected["button_states"] = world._num_buttons
    for key, width in expected.items():
        if raw[key].shape[1] != width:
            raise UserError(
                f"{where} is a dataset of another environment: its {key} have"
                f" {raw[key].shape[1]} columns, those of {env_name} {width}"
            )
    if hasattr(env.unwrapped, "maze_map"):
        maze = env.unwrapped
        stride = max(1, len(raw["qpos"]) // 1000)
        cells = np.array([maze.xy_to_ij(xy) for xy in raw["qpos"][::stride, :2]])
        inside = np.all((cells >= 0) & (cells < maze.maze_map.shape), axis=1)
        if not np.all(inside) or np.mean(maze.maze_map[tuple(cells.T)]) > 0.05:
            raise UserError(
                f"{where} is a dataset of another maze: its positions lie in the walls of"
                f" {env_name}"
            )


def _label(raw: dict[str, np.ndarray], env: SeededEnv, env_name: str) -> None:
    """Add the rewards [R] and masks [R] of an OGBench task, by OGBench's own function.

    Does nothing for other tasks, whose data has its rewards.
    """
    if not is_ogbench(env_name):
        return
    from ogbench.relabel_utils import relabel_dataset

    size = len(raw["terminals"])
    rewards = np.empty(size, np.float32)
    masks = np.empty(size, np.float32)
    names = [name for name in ("qpos", "button_states") if name in raw]
    with Counter("computing rewards", size, kept=False, unit=" rows") as bar:
        for start in range(0, size, _BLOCK):
            part = slice(start, start + _BLOCK)
            block: dict[str, np.ndarray] = {name: raw[name][part] for name in names}
            relabel_dataset(world_name(env_name), env, block)
            rewards[part] = block["rewards"]
            masks[part] = block["masks"]
            bar.update(len(block["rewards"]))
    raw["rewards"] = rewards
    raw["masks"] = masks


def _compact(
    raw: dict[str, np.ndarray], proportion: float, where: str
) -> dict[str, np.ndarray]:
    """Return the layout of `load_dataset`; the arrays are views of `raw`.

    Args:
        raw: the arrays; terminals is 1 in each trajectory's final row.
        proportion: the share of the transitions to keep.
        where: flag and path, which begin the message.
    """
    final = np.asarray(raw["terminals"]) > 0
    final[-1:] = True
    integer = np.int32 if len(final) < 2**31 else np.int64
    rows = np.flatnonzero(~final).astype(integer)
    rows = rows[: max(1, int(len(rows) * proportion))]
    if len(rows) == 0:
        raise UserError(f"{where} holds no transition: every row ends a trajectory")
    kept = int(rows[-1]) + 2
    ends = final[:kept]
    ends[:-1] |= final[1:kept]
    ends[rows[-1] :] = True  # the kept share ends with the end of a trajectory
    names = ("observations", "actions", "rewards", "masks")
    arrays = {name: raw[name][:kept] for name in names}
    return {**arrays, "terminals": ends.astype(np.float32), "rows": rows}
