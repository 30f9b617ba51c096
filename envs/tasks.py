"""Names: OGBench's state-based single tasks, their domains and their datasets. Imports no simulator."""

import difflib
import re

from utils.errors import UserError

# What OGBench registers: family -> (sizes, dataset types); a shortcut means the first dataset type.
_FAMILIES = {
    "pointmaze": (("medium", "large", "giant", "teleport"), ("navigate", "stitch")),
    "antmaze": (("medium", "large", "giant", "teleport"), ("navigate", "stitch", "explore")),
    "humanoidmaze": (("medium", "large", "giant", "teleport"), ("navigate", "stitch")),
    "antsoccer": (("arena", "medium"), ("navigate", "stitch")),
    "cube": (("single", "double", "triple", "quadruple", "octuple"), ("play", "noisy")),
    "scene": (("",), ("play", "noisy")),
    "puzzle": (("3x3", "4x4", "4x5", "4x6"), ("play", "noisy")),
}
_DATASETS = {(f"{family}-{size}" if size else family): kinds for family, (sizes, kinds) in _FAMILIES.items() for size in sizes}

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

_SINGLE_TASK = re.compile(r"(?P<dataset>.+)-singletask(-task[1-5])?-v0")


def is_user_env(name: str) -> bool:
    """True for a user's own Gymnasium environment, written 'module:EnvId'."""
    return ":" in name


def _split(dataset: str) -> tuple[str, str] | None:
    """'cube-double-play' -> ('cube-double', 'play'); None if OGBench has no such dataset."""
    world, _, kind = dataset.rpartition("-")
    return (world, kind) if kind in _DATASETS.get(world, ()) else None


def _unknown(name: str) -> UserError:
    datasets = [f"{world}-{kind}" for world, kinds in _DATASETS.items() for kind in kinds]
    known = ["all50", *_DATASETS, *datasets, *(task for dataset in datasets for task in _tasks(dataset))]
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
    return UserError(f"--env_name: no environment is called '{name}'; the nearest name is '{nearest}'")


def resolve_env_name(name: str) -> list[str]:
    """The single tasks that a value of --env_name stands for.

    Takes a full single-task name, a domain with or without its dataset type ('puzzle-4x4', 'puzzle-4x4-play':
    five tasks), 'all50', or a user's 'module:EnvId'. Raises UserError with the nearest name otherwise.
    """
    if is_user_env(name):
        return [name]
    if name == "all50":
        return list(ALL_TASKS)
    if name in _DATASETS:
        return _tasks(f"{name}-{_DATASETS[name][0]}")
    if _split(name):
        return _tasks(name)
    match = _SINGLE_TASK.fullmatch(name)
    if match and _split(match["dataset"]):
        return [name]
    raise _unknown(name)


def dataset_name(env_name: str) -> str:
    """The dataset of a task: 'cube-single-play', without OGBench's '-v0'; a user's env keeps its name."""
    if is_user_env(env_name):
        return env_name
    match = _SINGLE_TASK.fullmatch(env_name)
    dataset = match["dataset"] if match else env_name
    if dataset in _DATASETS:
        dataset = f"{dataset}-{_DATASETS[dataset][0]}"
    if not _split(dataset):
        raise _unknown(env_name)
    return dataset


def world_name(env_name: str) -> str:
    """The world a task or dataset lives in, without dataset type and task: 'cube-single'."""
    return dataset_name(env_name).rpartition("-")[0]


def is_manipulation(env_name: str) -> bool:
    """True for the robot-arm environments (cube, scene, puzzle)."""
    return env_name.split("-")[0] in ("cube", "scene", "puzzle")


def has_oracle(dataset: str) -> bool:
    """Whether OGBench's package holds the scripted policy that collected a dataset such as 'scene-play'."""
    return is_manipulation(dataset) or (dataset.startswith("pointmaze") and dataset.endswith("-navigate"))
