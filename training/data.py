"""Collects, loads and identifies the dataset of a run, and compares it with published ones."""

import importlib.metadata
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.run_folder import COMMAND_LINE, DEFAULT
from envs.collect import collect, collect_random, collection_settings
from envs.dataset_files import dataset_files, published_transitions, stored_dataset
from envs.datasets import load_dataset, load_recipe
from envs.fingerprint import Fingerprint, cached_fingerprint
from envs.robomimic_data import Recipe
from envs.tasks import (
    DOMAINS,
    dataset_name,
    folder_flag,
    has_oracle,
    is_ogbench,
    is_robomimic,
    is_user_env,
)
from training.run import Run
from utils.errors import UserError
from utils.messages import say, warn, warn_once


class TaskData(NamedTuple):
    """The dataset of a task."""

    arrays: dict[str, np.ndarray]
    """A compact dataset, as `envs.datasets.load_dataset` returns it."""
    fingerprint: Fingerprint
    recipe: Recipe | None = None
    """How to make the environment of a task of robomimic; None for other tasks."""

    @property
    def transitions(self) -> int:
        """The number of transitions."""
        return len(self.arrays["rows"])

    @property
    def dims(self) -> tuple[int, int]:
        """The dimensions (O, A)."""
        return self.arrays["observations"].shape[1], self.arrays["actions"].shape[1]

    def record(self, crc: str) -> dict[str, Any]:
        """Return the entries of the data in config.json; `crc` is the checksum to store."""
        observation_dim, action_dim = self.dims
        data = {"transitions": self.transitions, "crc": crc}
        recipe = {"environment": self.recipe._asdict()} if self.recipe else {}
        return {
            "observation_dim": observation_dim,
            "action_dim": action_dim,
            "dataset": data,
            **recipe,
        }


def task_data(run: Run) -> TaskData:
    """Load the data that a run trains on; collect or download it if it is missing."""
    arrays = prepare_data(run)
    found = data_fingerprint(run, arrays)
    assert found, "its files are there: they were just read"
    return TaskData(arrays, found, recipe_of(run))


def recipe_of(run: Run) -> Recipe | None:
    """Read how to make the environment of a task of robomimic; None for other tasks."""
    return load_recipe(run.env_name, data_folder(run), run.settings.flags["dataset"])


def data_folder(run: Run) -> str:
    """Return the folder of the run's data, from the flag for its task."""
    return run.settings.flags[folder_flag(run.env_name)]


def prepare_data(run: Run) -> dict[str, np.ndarray]:
    """Load the run's dataset; a preset with `transitions` collects it first if it is missing.

    An oracle collects it or, with --preset=smoke, random actions do.
    """
    flags = run.settings.flags
    transitions = run.settings.transitions
    folder = data_folder(run)
    env_name = run.env_name
    if not transitions or flags["dataset"] or is_user_env(env_name):
        return load_data(run)
    # Never in the user's own folder, where it would be mistaken for the published dataset.
    ours = run.settings.sources[folder_flag(env_name)] not in (
        DEFAULT,
        COMMAND_LINE,
    )
    name = dataset_name(env_name)
    if ours and not stored_dataset(name, Path(folder)):
        if has_oracle(name):
            collect(
                env_name,
                folder,
                transitions,
                demonstrations=max(2, transitions // 100),
            )
        elif run.settings.random_data:
            made = f"{transitions:,} transitions of random actions, in {folder}"
            say(f"{name} has no oracle: {made}")
            collect_random(env_name, folder, transitions)
    return load_data(run)


def load_data(run: Run) -> dict[str, np.ndarray]:
    """Load the dataset that the run's flags describe."""
    flags = run.settings.flags
    needs_environment = (
        flags["online_steps"] or flags["eval_episodes"] or flags["video_episodes"]
    )
    return load_dataset(
        run.env_name,
        data_folder(run),
        flags["dataset"],
        flags["dataset_proportion"],
        flags["sparse"],
        dataset_layout=flags["dataset_layout"],
        action_scale=flags["action_scale"],
        environment=bool(needs_environment),
        arrays_dir=flags["arrays_dir"],
    )


DATA_FLAGS = ("dataset_proportion", "sparse", "dataset_layout", "action_scale")
"""The flags that a dataset depends on, besides the task and its files."""


def data_fingerprint(
    run: Run, dataset: dict[str, np.ndarray] | None = None
) -> Fingerprint | None:
    """Return the fingerprint of the run's dataset; None if its files are missing.

    dataset: its content; None to load it if the fingerprint is not cached.
    """
    flags = run.settings.flags
    files = dataset_files(run.env_name, data_folder(run), flags["dataset"])
    if not files:
        return None
    settings = {"env_name": run.env_name, **{name: flags[name] for name in DATA_FLAGS}}
    return cached_fingerprint(
        files, settings, lambda: load_data(run) if dataset is None else dataset
    )


MIN_USABLE = 0.5
"""Below this share of usable chunks, the horizon hardly fits the data."""


def check_chunks(run: Run, data: TaskData) -> None:
    """Raise UserError if a run learns from no chunk of its data; warn if from less than half.

    Losses leave out the chunks that continue past the end of a trajectory. A run that learns
    online alone is not refused: its own episodes may be longer.
    """
    flags, horizon = run.settings.flags, run.settings.agent.horizon_length
    ends = np.flatnonzero(data.arrays["terminals"][data.arrays["rows"]])
    lengths = np.diff(ends, prepend=-1)
    share = usable_chunks(lengths, horizon)
    if share >= MIN_USABLE:
        return
    longest = int(lengths.max())
    shorter = range(min(horizon, longest), 0, -1)
    fits = next(h for h in shorter if usable_chunks(lengths, h) >= MIN_USABLE)
    flag = f"--horizon_length={horizon}"
    if horizon > longest and (flags["offline_steps"] or run.needs_base()):
        raise UserError(
            f"{flag}: no trajectory of the data has more than {longest} transitions, so nothing"
            f" would be learnt from it; give --horizon_length={fits}"
        )
    warn(
        f"{flag}: only {share:.0%} of the chunks in the data lie within one trajectory, and"
        f" nothing is learnt from the others; --horizon_length={fits} uses half of them or more"
    )


def usable_chunks(lengths: np.ndarray, horizon: int) -> float:
    """Return the share of the chunks of H transitions that lie within one trajectory.

    lengths: the number of transitions of each trajectory.
    """
    usable = np.maximum(lengths - horizon + 1, 0).sum()
    return float(usable / (lengths.sum() - horizon + 1))


def warn_of_data(run: Run, data: TaskData) -> None:
    """Warn if the data or the simulator make results differ from the published ones."""
    warn_of_another_size(run, data.transitions)
    warn_of_other_physics(run)
    warn_of_a_script(run)
    warn_of_narrow_actions(data.arrays["actions"])


def warn_of_another_size(run: Run, transitions: int) -> None:
    """Warn if a dataset has not half to twice the transitions of the published results."""
    flags = run.settings.flags
    env_name = run.env_name
    dataset = dataset_name(env_name)
    if run.settings.transitions or flags["dataset"] or dataset not in DOMAINS:
        return  # a preset's own data, or the user's, or nothing is published
    wanted = published_transitions(env_name) * flags["dataset_proportion"]
    if not wanted / 2 <= transitions <= 2 * wanted:
        place = f"{dataset} in {flags['ogbench_dataset_dir']}"
        warn(
            f"{place} gives {transitions:,} transitions; the published results are with"
            f" {wanted:,.0f}"
        )


PHYSICS = ((3, 1, 6), (3, 4))
"""MuJoCo versions (from, before) that reproduce OGBench's recorded motions to 5e-10 m."""


def warn_of_other_physics(run: Run) -> None:
    """Warn once if MuJoCo has other contacts than OGBench's data, here or in collected data."""
    if not is_ogbench(run.env_name):
        return
    versions = {"mujoco is installed as": importlib.metadata.version("mujoco")}
    flags = run.settings.flags
    for path in dataset_files(run.env_name, data_folder(run), flags["dataset"])[:1]:
        settings = collection_settings(path) or {}
        if "mujoco" in settings:
            versions[f"{path.name} was made with mujoco"] = settings["mujoco"]
    first, end = PHYSICS
    for what, version in versions.items():
        if not first <= tuple(map(int, re.findall(r"\d+", version)[:3])) < end:
            warn_once(
                f"{what} {version}, whose contacts differ from those of OGBench's data and of"
                " the published tables: results do not compare; pip install"
                " 'mujoco>=3.1.6,<3.4'"
            )


def warn_of_a_script(run: Run) -> None:
    """Warn if no people gave the demonstrations of a task of robomimic."""
    flags = run.settings.flags
    if run.settings.transitions or not is_robomimic(run.env_name):
        return
    for path in dataset_files(run.env_name, data_folder(run), flags["dataset"]):
        if collection_settings(path):
            warn(
                f"the demonstrations in {path} are those of a script (scripts/make_data.py):"
                " results do not compare with those on robomimic's data"
            )


MIN_ACTION_STD = 0.05
"""Below it an entry of the actions hardly varies; the gripper's in puzzle-3x3-play has 0.09."""


def warn_of_narrow_actions(actions: np.ndarray) -> None:
    """Warn if entries of the actions [R, A] hardly vary; 10,000 rows are looked at."""
    sample = actions[:: max(1, len(actions) // 10_000)]
    narrow = np.flatnonzero(sample.std(axis=0) < MIN_ACTION_STD)
    if len(narrow):
        entries = ", ".join(map(str, narrow))
        warn(
            f"entries {entries} of the actions hardly vary in the data (standard deviation"
            f" below {MIN_ACTION_STD}), so a policy may leave the data there at little path KL;"
            " vary them more, or leave them out (docs/data.md)"
        )
