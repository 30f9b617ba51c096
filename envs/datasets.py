"""Offline datasets in a compact layout: every observation once, the next observation in the next row."""

import hashlib
import os
import shutil
import zipfile
import zlib
from pathlib import Path

import numpy as np

from envs.download import HOSTS, HUGGING_FACE, REPOSITORIES, download, repository_files
from envs.files import alone
from envs.ogbench import SeededEnv, make_env
from envs.tasks import dataset_name, has_oracle, is_manipulation, is_user_env, world_name
from utils.errors import UserError

DATASET_DIR = "~/.ogbench/data"

# How many files of a '<dataset>-100m-v0' release are used, one million transitions each.
SHARDS = {"puzzle-4x4-play": 10, "cube-triple-play": 10, "cube-quadruple-play": 100}

_CLIP = 1 - 1e-5  # actions lie strictly inside the policy's range
_BLOCK = 1_000_000  # rows whose rewards are computed at a time


def find_dataset(env_name: str, dataset_dir: Path | str = DATASET_DIR) -> Path:
    """The npz file, or the folder of shards, that holds a task's dataset; downloaded if it is not there.

    Shards ('cube-triple-play-v0-000.npz', ...) lie in '<dataset>-100m-v0' or in `dataset_dir` itself.
    Raises UserError with what to do if the dataset is neither there nor to be had.
    """
    if is_user_env(env_name):
        raise UserError(f"--dataset: {env_name} needs its data as --dataset=FILE.npz")
    name = dataset_name(env_name)
    folder = Path(dataset_dir).expanduser()
    if folder.is_file():
        raise UserError(f"--ogbench_dataset_dir: {folder} is a file; give its folder, or --dataset={folder}")
    for candidate in (folder / f"{name}-100m-v0", folder / f"{name}-10m-v0", folder):
        if len(_shards(candidate, _pattern(name, candidate))) >= SHARDS.get(name, 1):
            return candidate
    single = folder / f"{name}-v0.npz"
    if single.exists():
        return single
    try:
        return _download(name, folder)
    except (UserError, OSError) as error:
        raise UserError(f"--ogbench_dataset_dir: {_how_to_get(name, folder)} [{error}]") from error


def published_transitions(env_name: str) -> int:
    """How many transitions of a task's dataset the published results are with."""
    name = dataset_name(env_name)
    return 1_000_000 * SHARDS.get(name, 10 if name in REPOSITORIES else 1)


def _pattern(name: str, folder: Path) -> str:
    """Every file of a folder that bears the dataset's name is a shard; elsewhere the numbered ones are."""
    return "*.npz" if folder.name.startswith(f"{name}-") else f"{name}-*[0-9][0-9][0-9].npz"


def _shards(folder: Path, pattern: str, limit: int | None = None) -> list[Path]:
    """The training shards in a folder, in order."""
    return sorted(path for path in folder.glob(pattern) if not path.name.endswith("-val.npz"))[:limit]


def _how_to_get(name: str, folder: Path) -> str:
    missing = f"the data of {name} is neither in {folder} nor to be downloaded"
    if has_oracle(name):
        many = f" --transitions={published_transitions(name)}" if name in SHARDS else ""
        command = f"python scripts/make_data.py --env_name={name} --ogbench_dataset_dir={folder}{many}"
        return f"{missing}; make it: {command}"
    source = f"{HUGGING_FACE}/datasets/{REPOSITORIES[name]}" if name in REPOSITORIES else HOSTS[0]
    return (
        f"{missing}, and scripts/make_data.py cannot make it (that takes OGBench's expert policies); "
        f"fetch it from {source} elsewhere and put it there"
    )


def _download(name: str, folder: Path) -> Path:
    if name in REPOSITORIES:
        target = folder / f"{name}-10m-v0"
        host = f"{HUGGING_FACE}/datasets/{REPOSITORIES[name]}/resolve/main"
        for file in repository_files(REPOSITORIES[name]):
            download(file, target / Path(file).name, [host])
        return target
    if name in SHARDS:
        target = folder / f"{name}-100m-v0"
        print(f"{name} is {SHARDS[name]} files of a million transitions, fetched to {target} where they are missing")
        for index in range(SHARDS[name]):
            file = f"{name}-v0-{index:03d}.npz"
            download(f"{target.name}/{file}", target / file, HOSTS[:1])
        return target
    for file in (f"{name}-v0-val.npz", f"{name}-v0.npz"):
        download(file, folder / file)
    return folder / f"{name}-v0.npz"


def load_dataset(
    env_name: str,
    dataset_dir: Path | str = DATASET_DIR,
    dataset_path: Path | str | None = None,
    proportion: float = 1.0,
    sparse: bool = False,
    split: str = "train",
) -> dict[str, np.ndarray]:
    """Load the data of one task, labelled with the task's rewards by OGBench itself.

    R rows hold N transitions; transition n starts in row rows[n] and ends in the row after it. A trajectory's
    last row is its final state, in which no transition starts.

    Returns observations [R, O] and actions [R, A] (float32, actions within ±(1 - 1e-5)), rewards [R],
    masks [R] (0 where the task succeeded), terminals [R] (1 where the trajectory's last transition starts)
    and rows [N]. Shards come as read-only memory maps. `proportion` keeps the first share of the transitions;
    `sparse` makes every reward that is not 0 a -1. `dataset_path` names a file (or folder of shards)
    outright; a user's own holds observations, actions, terminals and rewards in the same order of rows, and
    masks if episodes end for other reasons than time. Raises UserError for every file that does not fit.
    """
    flag = "--dataset" if dataset_path is not None else "--ogbench_dataset_dir"
    if not 0 < proportion <= 1:
        raise UserError(f"--dataset_proportion must lie in (0, 1], it is {proportion}")
    source = find_dataset(env_name, dataset_dir) if dataset_path is None else Path(dataset_path).expanduser()
    env = make_env(env_name)
    try:
        raw, path = _read(source, env_name, split, flag, named=dataset_path is not None)
        _check_belongs(raw, env, env_name, f"{flag}: {path}")
        if not is_user_env(env_name):
            raw["rewards"], raw["masks"] = _label(env, env_name, raw)
    finally:
        env.close()
    if sparse:
        raw["rewards"] = np.where(raw["rewards"] == 0, np.float32(0), np.float32(-1))
    return _compact(raw, proportion, f"{flag}: {path}")


def _read(source: Path, env_name: str, split: str, flag: str, named: bool) -> tuple[dict[str, np.ndarray], Path]:
    """The arrays of a file or a folder of shards, and the path to name in complaints.

    A folder the user `named` is used whole; of one that was looked up, the shards that the paper uses.
    """
    needed = ["observations", "actions", "terminals"]
    if is_user_env(env_name):
        needed += ["rewards"]
    else:
        needed += ["qpos"] + ["button_states"] * env_name.startswith(("scene", "puzzle"))
    if not source.is_dir():
        path = source if split == "train" else source.with_name(f"{source.stem}-val.npz")
        return _read_file(path, needed, flag), path
    name = dataset_name(env_name)
    shards = _shards(source, "*.npz") if named else _shards(source, _pattern(name, source), SHARDS.get(name))
    if not shards:
        raise UserError(f"{flag}: {source} holds no npz files of {env_name}")
    if split != "train":
        path = shards[0].with_name(f"{shards[0].stem}-val.npz")
        return _read_file(path, needed, flag), path
    return _map_shards(shards, needed, flag), source


def _read_file(path: Path, needed: list[str], flag: str) -> dict[str, np.ndarray]:
    return _checked(_read_arrays(path, needed, flag), f"{flag}: {path}")


def _read_arrays(path: Path, needed: list[str], flag: str) -> dict[str, np.ndarray]:
    where = f"{flag}: {path}"
    if not path.is_file():
        raise UserError(f"{where} does not exist")
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            missing = [key for key in needed if key not in file]
            if missing:
                raise UserError(f"{where} lacks {', '.join(missing)}; it holds {', '.join(file.files)}")
            if "next_observations" in file:
                raise UserError(
                    f"{where} holds next_observations; store every trajectory's states in order instead, "
                    "the final one too, with terminals 1 in that last row"
                )
            optional = [key for key in ("masks",) if "rewards" in needed and key in file]
            return {key: file[key] for key in needed + optional}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{where} is truncated or no npz file ({error}); delete it and fetch or make it again") from error


def _checked(raw: dict[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """Right shapes, real finite numbers; float32 throughout, actions clipped."""
    rows = len(raw["observations"]) if raw["observations"].ndim else 0
    for key, value in raw.items():
        dimensions = 1 if key in ("terminals", "rewards", "masks") else 2
        if value.ndim != dimensions or len(value) != rows or value.dtype.kind not in "biuf":
            raise UserError(
                f"{where} holds {key} of shape {value.shape} and type {value.dtype}; needed are "
                f"{dimensions}-dimensional numbers with {rows} rows, as many as there are observations"
            )
        if not np.all(np.isfinite(value)):
            raise UserError(f"{where} holds NaN or infinite numbers in {key}; make or fetch it again")
    integers = ("button_states",)
    raw = {key: value if key in integers else value.astype(np.float32, copy=False) for key, value in raw.items()}
    raw["actions"] = np.clip(raw["actions"], -_CLIP, _CLIP)
    return raw


def _map_shards(shards: list[Path], needed: list[str], flag: str) -> dict[str, np.ndarray]:
    """Shards as memory maps, converted to plain arrays in a folder beside them the first time."""
    identity = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in shards]
    folder = shards[0].parent / f"arrays-{hashlib.sha256(repr(identity).encode()).hexdigest()[:8]}"
    with alone(folder.parent):
        if not folder.exists():
            try:
                _convert(shards, needed, folder, flag)
            except OSError as error:
                raise UserError(f"{flag}: cannot write {folder} ({error.strerror or error})") from error
    return {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}


def _convert(shards: list[Path], needed: list[str], folder: Path, flag: str) -> None:
    """Write the shards' rows one after the other into one .npy per key, one shard in memory at a time."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    temporary.mkdir()
    try:
        rows = sum(len(_read_arrays(path, ["terminals"], flag)["terminals"]) for path in shards)
        arrays: dict[str, np.memmap] = {}
        row = 0
        for path in shards:
            raw = _read_file(path, needed, flag)
            raw["terminals"][-1] = 1  # a trajectory does not go on in the next file
            if not arrays:
                for key, value in raw.items():
                    shape = (rows, *value.shape[1:])
                    arrays[key] = np.lib.format.open_memmap(temporary / f"{key}.npy", "w+", value.dtype, shape)
            for key in raw.keys() | arrays.keys():
                if key not in raw or key not in arrays or raw[key].shape[1:] != arrays[key].shape[1:]:
                    raise UserError(f"{flag}: {path} and {shards[0].name} do not hold the same {key}")
                arrays[key][row : row + len(raw[key])] = raw[key]
            row += len(raw["terminals"])
        for array in arrays.values():
            array.flush()
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_belongs(raw: dict[str, np.ndarray], env: SeededEnv, env_name: str, where: str) -> None:
    """The widths are those of this environment, and a maze's positions lie in its corridors."""
    expected = {"observations": env.observation_space.shape[0], "actions": env.action_space.shape[0]}
    if not is_user_env(env_name):
        world = env.unwrapped
        expected["qpos"] = (world._model if is_manipulation(env_name) else world.model).nq
        if "button_states" in raw:
            expected["button_states"] = world._num_buttons
    for key, width in expected.items():
        if raw[key].shape[1] != width:
            raise UserError(
                f"{where} is a dataset of another environment: its {key} have {raw[key].shape[1]} columns, "
                f"those of {env_name} {width}"
            )
    if hasattr(env.unwrapped, "maze_map"):
        maze = env.unwrapped
        cells = np.array([maze.xy_to_ij(xy) for xy in raw["qpos"][:: max(1, len(raw["qpos"]) // 1000), :2]])
        inside = np.all((cells >= 0) & (cells < maze.maze_map.shape), axis=1)
        if not np.all(inside) or np.mean(maze.maze_map[tuple(cells.T)]) > 0.05:
            raise UserError(f"{where} is a dataset of another maze: its positions lie in the walls of {env_name}")


def _label(env: SeededEnv, env_name: str, raw: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rewards [R] and masks [R] of the task, by OGBench's own function."""
    from ogbench.relabel_utils import relabel_dataset

    size = len(raw["terminals"])
    rewards, masks = np.empty(size, np.float32), np.empty(size, np.float32)
    for start in range(0, size, _BLOCK):
        block: dict[str, np.ndarray] = {
            key: raw[key][start : start + _BLOCK] for key in ("qpos", "button_states") if key in raw
        }
        relabel_dataset(world_name(env_name), env, block)
        rewards[start : start + _BLOCK], masks[start : start + _BLOCK] = block["rewards"], block["masks"]
    return rewards, masks


def _compact(raw: dict[str, np.ndarray], proportion: float, where: str) -> dict[str, np.ndarray]:
    """The layout that `load_dataset` returns; observations and actions are the arrays given, or views of them."""
    final = np.asarray(raw["terminals"]) > 0
    final[-1:] = True
    rows = np.flatnonzero(~final)
    rows = rows[: max(1, int(len(rows) * proportion))].astype(np.int32 if len(final) < 2**31 else np.int64)
    if len(rows) == 0:
        raise UserError(f"{where} holds no transition: every row ends a trajectory")
    kept = int(rows[-1]) + 2
    ends = final[:kept]
    ends[:-1] |= final[1:kept]
    ends[rows[-1] :] = True  # where the share ends, a trajectory ends
    masks = raw["masks"] if "masks" in raw else np.ones(len(final), np.float32)
    return {
        "observations": raw["observations"][:kept],
        "actions": raw["actions"][:kept],
        "rewards": raw["rewards"][:kept],
        "masks": masks[:kept],
        "terminals": ends.astype(np.float32),
        "rows": rows,
    }
