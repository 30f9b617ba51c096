"""The dataset of a run: made, loaded, identified, and compared with the published one."""

import importlib.metadata
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from envs.collect import collect, collection_settings, random_data
from envs.datasets import dataset_files, load_dataset, published_transitions
from envs.fingerprint import Fingerprint, remembered
from envs.tasks import dataset_name, has_oracle, is_user_env
from training.run import Run
from utils.logging import say, warn, warn_once


class TaskData(NamedTuple):
    """The dataset of a task."""

    arrays: dict[str, np.ndarray]
    """A compact dataset, as `envs.datasets.load_dataset` returns it."""
    fingerprint: Fingerprint

    @property
    def transitions(self) -> int:
        """How many there are."""
        return len(self.arrays["rows"])

    @property
    def dims(self) -> tuple[int, int]:
        """O and A."""
        return self.arrays["observations"].shape[1], self.arrays["actions"].shape[1]

    def record(self, crc: str) -> dict[str, Any]:
        """What config.json holds of the data; `crc` is of what the run reads of it."""
        observation_dim, action_dim = self.dims
        data = {"transitions": self.transitions, "crc": crc}
        return {"observation_dim": observation_dim, "action_dim": action_dim, "dataset": data}


def task_data(run: Run) -> TaskData:
    """The data that a run trains on, made or downloaded where it is missing and may be."""
    arrays = prepare_data(run)
    found = data_fingerprint(run, arrays)
    assert found, "its files are there: they were just read"
    return TaskData(arrays, found)


def prepare_data(run: Run) -> dict[str, np.ndarray]:
    """The run's dataset; with a preset it is made first where it is missing, by an oracle or,
    in --preset=smoke, at random.
    """
    flags, transitions = run.settings.flags, run.settings.transitions
    folder, env_name = flags["ogbench_dataset_dir"], run.env_name
    # Never in a folder of the user's own: there it would pass for the real dataset.
    ours = run.settings.sources["ogbench_dataset_dir"] not in ("default", "command line")
    named = flags["dataset"] or is_user_env(env_name)
    if (
        transitions
        and ours
        and not named
        and not (Path(folder) / f"{dataset_name(env_name)}-v0.npz").exists()
    ):
        if has_oracle(dataset_name(env_name)):
            collect(env_name, folder, transitions, progress=True)
        elif run.settings.random_data:
            made = f"{transitions:,} transitions of random actions, in {folder}"
            say(f"{dataset_name(env_name)} has no oracle: {made}")
            random_data(env_name, folder, transitions, progress=True)
    return load_data(run)


def load_data(run: Run) -> dict[str, np.ndarray]:
    """The run's dataset, as its flags say."""
    flags = run.settings.flags
    needs_environment = (
        flags["online_steps"] or flags["eval_episodes"] or flags["video_episodes"]
    )
    return load_dataset(
        run.env_name,
        flags["ogbench_dataset_dir"],
        flags["dataset"],
        flags["dataset_proportion"],
        flags["sparse"],
        dataset_layout=flags["dataset_layout"],
        action_scale=flags["action_scale"],
        environment=bool(needs_environment),
        arrays_dir=flags["arrays_dir"],
    )


DATA_FLAGS = ("dataset_proportion", "sparse", "dataset_layout", "action_scale")
"""Flags on which a dataset depends besides the task and its files."""


def data_fingerprint(
    run: Run, dataset: dict[str, np.ndarray] | None = None
) -> Fingerprint | None:
    """The fingerprint of the run's dataset; None if its files are gone.

    dataset: its content; None to load it, where the fingerprint is not remembered.
    """
    flags = run.settings.flags
    files = dataset_files(run.env_name, flags["ogbench_dataset_dir"], flags["dataset"])
    if not files:
        return None
    settings = {"env_name": run.env_name, **{name: flags[name] for name in DATA_FLAGS}}
    return remembered(files, settings, lambda: load_data(run) if dataset is None else dataset)


def warn_of_data(run: Run, data: TaskData) -> None:
    """Warn of data with which results do not compare with the published ones."""
    warn_of_little_data(run, data.transitions)
    warn_of_other_physics(run)


def warn_of_little_data(run: Run, transitions: int) -> None:
    """Warn where a dataset has the name of a published one and less than half of its share that
    is asked for.
    """
    flags, env_name = run.settings.flags, run.env_name
    if run.settings.transitions or flags["dataset"] or is_user_env(env_name):
        return  # a preset's own data, or the user's
    wanted = published_transitions(env_name) * flags["dataset_proportion"]
    if transitions < wanted / 2:
        place = f"{dataset_name(env_name)} in {flags['ogbench_dataset_dir']}"
        warn(
            f"{place} gives {transitions:,} transitions; the published results are with"
            f" {wanted:,.0f}"
        )


PHYSICS = ((3, 1, 6), (3, 4))
"""MuJoCo versions, from the first to before the last, that repeat OGBench's recorded actions to
5e-10 m.
"""


def warn_of_other_physics(run: Run) -> None:
    """Warn once where OGBench's tasks are simulated, or their data was made, by a MuJoCo with
    other contacts.
    """
    if is_user_env(run.env_name):
        return
    versions = {"mujoco is installed as": importlib.metadata.version("mujoco")}
    flags = run.settings.flags
    for path in dataset_files(run.env_name, flags["ogbench_dataset_dir"], flags["dataset"])[:1]:
        made = collection_settings(path) or {}
        versions |= (
            {f"{path.name} was made with mujoco": made["mujoco"]} if "mujoco" in made else {}
        )
    first, end = PHYSICS
    for what, version in versions.items():
        if not first <= tuple(map(int, re.findall(r"\d+", version)[:3])) < end:
            warn_once(
                f"{what} {version}, whose contacts differ from those of OGBench's data and of"
                " the published tables: results do not compare; pip install"
                " 'mujoco>=3.1.6,<3.4'"
            )
