"""Names of tasks, domains and datasets of OGBench and robomimic, without any simulator."""

import difflib
import functools
import re
from typing import NamedTuple

from utils.errors import UserError
from utils.messages import note

# What OGBench registers: family -> (sizes, dataset types). The first type is the default.
_FAMILIES = {
    "pointmaze": (("medium", "large", "giant", "teleport"), ("navigate", "stitch")),
    "antmaze": (
        ("medium", "large", "giant", "teleport"),
        ("navigate", "stitch", "explore"),
    ),
    "humanoidmaze": (("medium", "large", "giant", "teleport"), ("navigate", "stitch")),
    "antsoccer": (("arena", "medium"), ("navigate", "stitch")),
    "cube": (("single", "double", "triple", "quadruple", "octuple"), ("play", "noisy")),
    "scene": (("",), ("play", "noisy")),
    "puzzle": (("3x3", "4x4", "4x5", "4x6"), ("play", "noisy")),
}
# The task that OGBench calls "<dataset>-singletask-v0", by the beginning of the dataset's name.
_DEFAULT_TASKS = {
    "pointmaze": 1,
    "antmaze": 1,
    "humanoidmaze": 1,
    "antsoccer": 4,
    "cube": 2,
    "scene": 2,
    "puzzle-3x3": 4,
    "puzzle-4x4": 4,
    "puzzle-4x5": 2,
    "puzzle-4x6": 2,
}
_DATASETS = {
    (f"{family}-{size}" if size else family): kinds
    for family, (sizes, kinds) in _FAMILIES.items()
    for size in sizes
}

DOMAINS = (
    "antmaze-large-navigate",
    "antmaze-giant-navigate",
    "humanoidmaze-medium-navigate",
    "humanoidmaze-large-navigate",
    "scene-play",
    "puzzle-3x3-play",
    "puzzle-4x4-play",
    "cube-double-play",
    "cube-triple-play",
    "cube-quadruple-play",
)


def _tasks(dataset: str) -> list[str]:
    return [f"{dataset}-singletask-task{i}-v0" for i in range(1, 6)]


ALL_TASKS = tuple(task for domain in DOMAINS for task in _tasks(domain))


class RobomimicTask(NamedTuple):
    """A task of robomimic: demonstrations in a simulator of robosuite."""

    environment: str
    """Its name in robosuite."""
    limit: int
    """The steps after which an episode ends without success."""
    kinds: tuple[str, ...] = ("mh", "ph")
    """Who demonstrated: several people of unequal skill (mh) or one proficient one (ph)."""


_ROBOMIMIC_TASKS = {
    "lift": RobomimicTask("Lift", 300),
    "can": RobomimicTask("PickPlaceCan", 300),
    "square": RobomimicTask("NutAssemblySquare", 400),
    "transport": RobomimicTask("TwoArmTransport", 800),
    "tool_hang": RobomimicTask("ToolHang", 1000, ("ph",)),
}
# Each dataset is a task of its own.
_ROBOMIMIC = {
    f"{name}-{kind}-low_dim": task
    for name, task in _ROBOMIMIC_TASKS.items()
    for kind in task.kinds
}
ROBOMIMIC_DOMAIN = ("lift-mh-low_dim", "can-mh-low_dim", "square-mh-low_dim")
"""The tasks that --env_name=robomimic stands for."""

_SINGLE_TASK = re.compile(r"(?P<dataset>.+)-singletask(?P<task>-task[1-5])?-v0")


def is_user_env(name: str) -> bool:
    """Whether a name is a user's own Gymnasium environment, written 'module:EnvId'."""
    return ":" in name


def is_robomimic(name: str) -> bool:
    """Whether a name is a task of robomimic, such as 'lift-mh-low_dim'."""
    return name in _ROBOMIMIC


def is_ogbench(name: str) -> bool:
    """Whether a name is neither a user's own environment nor a task of robomimic."""
    return not (is_user_env(name) or is_robomimic(name))


def is_single_task(name: str) -> bool:
    """Whether a valid name is one task, not a domain or dataset of several."""
    return not is_ogbench(name) or "-singletask" in name


def robomimic_task(name: str) -> RobomimicTask:
    """Return robosuite's name and the episode limit of a task of robomimic."""
    return _ROBOMIMIC[name]


def folder_flag(name: str) -> str:
    """Return the name of the flag for the folder that holds a task's data."""
    return "robomimic_dataset_dir" if is_robomimic(name) else "ogbench_dataset_dir"


def _split(dataset: str) -> tuple[str, str] | None:
    """Split 'cube-double-play' into ('cube-double', 'play'); None for an unknown dataset."""
    world, _, kind = dataset.rpartition("-")
    return (world, kind) if kind in _DATASETS.get(world, ()) else None


def resolve_alias(name: str) -> str:
    """Return the task of an alias such as 'scene-play-singletask-v0'; other names unchanged."""
    match = _SINGLE_TASK.fullmatch(name)
    if is_user_env(name) or not match or match["task"] or not _split(match["dataset"]):
        return name
    number = next(
        task for world, task in _DEFAULT_TASKS.items() if name.startswith(world)
    )
    return f"{match['dataset']}-singletask-task{number}-v0"


def short_task(name: str) -> str:
    """A task's name for people: without -singletask and -v0."""
    return name.replace("-singletask", "").removesuffix("-v0")


@functools.cache
def _say_alias(alias: str, task: str) -> None:
    """Print a note about an alias, once per process."""
    note(f"--env_name={alias} is {task}, the default task of OGBench")


# Messages for OGBench's other names, by a part of the name; {} is the name to type instead.
_NOT_COVERED = {
    "visual": "OGBench's tasks from images are not covered; type {} for the same from states",
    "powderworld": (
        "OGBench's powderworld tasks, from images and with discrete actions, are not "
        "covered; --env_name=all50 --dry_run lists 50 tasks that are"
    ),
    "oraclerep": (
        "OGBench's goal-conditioned tasks, here with oracle representations of the "
        "goals, are not covered; type {} for tasks with a fixed goal"
    ),
    "100m": (
        "this names a dataset of 100 million transitions, not a task; type {}, and "
        "--dataset=FOLDER to train on all files of that folder"
    ),
    "v0": (
        "OGBench's goal-conditioned tasks are not covered; type {} for tasks with a fixed goal"
    ),
}


def _unknown_name(name: str) -> UserError:
    """Return the error for an unknown name, with the nearest name or what it is elsewhere."""
    if reason := _not_covered(name):
        return UserError(f"--env_name={name}: {reason}")
    if name.split("-")[0] not in _FAMILIES and (nearest := _nearest_of_gymnasium(name)):
        return UserError(
            f"--env_name={name}: for Gymnasium's {nearest} write"
            f" --env_name=gymnasium:{nearest} --dataset=FILE.npz"
        )
    said = f"no environment is called '{name}'; the nearest name is '{_nearest(name)}'"
    return UserError(f"--env_name: {said}")


def _not_covered(name: str) -> str | None:
    """Say why an OGBench dataset is not covered, such as a visual one; None for other names."""
    parts = name.split("-")
    base = "-".join(part for part in parts if part not in _NOT_COVERED)
    if "singletask" in parts:
        base += "-v0"
    for part, what in _NOT_COVERED.items():
        if part in parts and (part != "v0" or _is_known(base)):
            return what.format(base if _is_known(base) else _nearest(base))
    return None


def _is_known(name: str) -> bool:
    """Whether `resolve_env_name` accepts the name of an OGBench domain or task."""
    match = _SINGLE_TASK.fullmatch(name)
    return name in _DATASETS or _split(match["dataset"] if match else name) is not None


def _nearest(name: str) -> str:
    """Return the known name that is nearest to an unknown one."""
    datasets = [
        f"{world}-{kind}" for world, kinds in _DATASETS.items() for kind in kinds
    ]
    tasks = [task for dataset in datasets for task in _tasks(dataset)]
    known = ["all50", *_DATASETS, *datasets, *tasks, "robomimic", *_ROBOMIMIC]
    return difflib.get_close_matches(name, known, n=1, cutoff=0)[0]


def _nearest_of_gymnasium(name: str) -> str | None:
    """Return the Gymnasium environment with a very similar name; None if there is none."""
    import gymnasium  # only for an error: names need no simulator

    found = difflib.get_close_matches(name, gymnasium.registry, n=1, cutoff=0.85)
    return found[0] if found else None


def resolve_env_name(name: str) -> list[str]:
    """Return the single tasks of one name in --env_name.

    A name is a single task, a domain with or without its dataset type ('puzzle-4x4',
    'puzzle-4x4-play': five tasks), 'all50', 'robomimic' (three tasks), or a user's
    'module:EnvId'. OGBench's alias for a task is accepted with a note. Raises UserError, with
    the nearest name, for any other name.
    """
    if not is_ogbench(name):
        return [name]
    if name == "robomimic":
        return list(ROBOMIMIC_DOMAIN)
    if name == "all50":
        return list(ALL_TASKS)
    if name in _DATASETS:
        return _tasks(f"{name}-{_DATASETS[name][0]}")
    if _split(name):
        return _tasks(name)
    match = _SINGLE_TASK.fullmatch(name)
    if match and _split(match["dataset"]):
        task = resolve_alias(name)
        if task != name:
            _say_alias(name, task)
        return [task]
    raise _unknown_name(name)


def resolve_env_names(names: str) -> list[str]:
    """Return the single tasks of a comma-separated --env_name, each once, in order."""
    tasks: dict[str, None] = {}
    for name in names.split(","):
        if name.strip():
            tasks |= dict.fromkeys(resolve_env_name(name.strip()))
    return list(tasks)


def dataset_name(env_name: str) -> str:
    """Return the dataset of a task, 'cube-single-play'.

    That of a user's environment or a task of robomimic has the same name. Raises UserError for
    an unknown name.
    """
    if not is_ogbench(env_name):
        return env_name
    match = _SINGLE_TASK.fullmatch(env_name)
    dataset = match["dataset"] if match else env_name
    if dataset in _DATASETS:
        dataset = f"{dataset}-{_DATASETS[dataset][0]}"
    if not _split(dataset):
        raise _unknown_name(env_name)
    return dataset


def world_name(env_name: str) -> str:
    """Return the world of a task or dataset, without dataset type and task: 'cube-single'."""
    return dataset_name(env_name).rpartition("-")[0]


def is_manipulation(env_name: str) -> bool:
    """Whether an environment is a robot arm (cube, scene, puzzle)."""
    return env_name.split("-")[0] in ("cube", "scene", "puzzle")


def has_oracle(dataset: str) -> bool:
    """Whether there is a scripted policy that collects a dataset.

    OGBench's package has those that collected its own; for robomimic there is one for lift.
    """
    if is_robomimic(dataset):
        return dataset.startswith("lift-")
    is_pointmaze = dataset.startswith("pointmaze") and dataset.endswith("-navigate")
    return is_manipulation(dataset) or is_pointmaze
