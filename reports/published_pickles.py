"""Published learning curves: exp_data pickles, {(name, method): success [evaluations, seeds]}.

A name is a single task, or a domain or "all", whose entries are means over tasks. Those are not
used as results; they check how the arrays were read. Their seeds may be in another order than
the tasks'.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from envs.tasks import resolve_alias
from reports.statistics import mean_and_half
from utils.errors import UserError, join_first
from utils.pickles import safe_unpickle

OFFLINE_STEPS = 1_000_000  # of the published programs
ROUND = 500_000  # their phases end at multiples of this
AXES = ("evaluations,seeds", "seeds,evaluations")
TOLERANCE = 1e-3  # of a success rate that was rounded when it was written

Key = tuple[str, str]
"""Name and method."""
Arrays = dict[Key, np.ndarray]
Notes = list[str]


class Schedule(NamedTuple):
    """When a method was evaluated."""

    steps: np.ndarray
    """[E], each phase's steps after those of the phase before."""
    offline_steps: int
    online_steps: int

    def __str__(self) -> str:
        first, last = int(self.steps[0]), int(self.steps[-1])
        when = (
            f"at {first:,}" if len(self.steps) == 1 else f"from {first:,} to {last:,}"
        )
        if not self.offline_steps:
            return f"{when}, online alone"
        if not self.online_steps:
            return when
        return f"{when}, online after {self.offline_steps:,}"


class Curves(NamedTuple):
    """The seeds of one method on one task."""

    task: str
    method: str
    success: np.ndarray
    """[E, N], 0 to 1; NaN where it is absent."""
    schedule: Schedule


def read_curves(path: Path, interval: int, axes: str) -> tuple[list[Curves], Notes]:
    """The learning curves of each method on each task, and notes on how they were read.

    Args:
        path: the pickle. An array [N] is one evaluation of N seeds, after training offline.
        interval: steps between two evaluations.
        axes: what the axes of the arrays [., .] are, one of AXES.

    Raises UserError for a file that is no exp_data pickle.
    """
    entries = read_entries(path)
    groups = groups_of(path, [name for name, _ in entries])
    tasks = groups["all"]
    used = {key: value for key, value in entries.items() if key[0] in {*groups, *tasks}}
    arrays = success_rates(path, used, axes)
    of_tasks = {key: array for key, array in arrays.items() if key[0] in tasks}
    found = read_tasks(of_tasks, interval)
    notes = [
        describe(found, interval),
        *check_axes(found, axes),
        *check_means(arrays, groups, axes),
    ]
    left_out = dict.fromkeys(key[0] for key in entries if key not in used)
    if left_out:
        names = join_first(left_out)
        notes.append(f"left out, neither tasks nor their domains nor all: {names}")
    return found, [f"{path}: {note}" for note in notes]


def read_entries(path: Path) -> dict[Key, Any]:
    """The entries of a pickle by (name, method); raises UserError where it is no such dict.

    OGBench's alias for a task counts as that task, unless the task is there under its own name.
    """
    data = safe_unpickle(path)
    keys = list(data) if isinstance(data, dict) else []
    if not keys or any(not isinstance(key, tuple) or len(key) != 2 for key in keys):
        form = "a dict of (name, method) -> array"
        raise UserError(f"{path}: not an exp_data file, which is {form}")
    entries = {
        (str(name), str(method)): value for (name, method), value in data.items()
    }
    of_aliases = {
        (resolve_alias(name), method): value
        for (name, method), value in entries.items()
    }
    return {key: entries.get(key, value) for key, value in of_aliases.items()}


def groups_of(path: Path, names: Iterable[str]) -> dict[str, list[str]]:
    """The single tasks among the names: all by "all", and those of each domain by its name.

    Raises UserError where there are none.
    """
    names = list(dict.fromkeys(names))
    groups: dict[str, list[str]] = {
        "all": [name for name in names if "-singletask" in name]
    }
    if not groups["all"]:
        raise UserError(
            f"{path}: no name in it is a single task; it has {join_first(names)}"
        )
    for task in groups["all"]:
        groups.setdefault(task.partition("-singletask")[0], []).append(task)
    return groups


def success_rates(path: Path, values: dict[Key, Any], axes: str) -> Arrays:
    """Success rates [evaluations, seeds] from 0 to 1; raises UserError where they are none."""
    try:
        arrays = {key: np.asarray(value, np.float64) for key, value in values.items()}
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path}: an array in it is not made of numbers ({error})"
        ) from error
    if any(array.ndim not in (1, 2) or not array.size for array in arrays.values()):
        shapes = "[seeds] or [evaluations, seeds] (--pickle_axes)"
        raise UserError(f"{path}: arrays must be {shapes}")
    scale = highest_rate(path, arrays)
    if axes == AXES[1]:
        arrays = {key: array.T for key, array in arrays.items()}
    return {key: np.atleast_2d(array) / scale for key, array in arrays.items()}


def highest_rate(path: Path, arrays: Arrays) -> float:
    """100 where success is in percent, else 1; raises UserError for what is no success."""
    numbers = np.concatenate([array[np.isfinite(array)] for array in arrays.values()])
    low, high = (numbers.min(), numbers.max()) if numbers.size else (np.nan, np.nan)
    if not 0 <= low <= high <= 100 + TOLERANCE:
        raise UserError(
            f"{path}: not success rates, which are from 0 to 1 or in percent"
        )
    return 100.0 if high > 1 + TOLERANCE else 1.0


# ---------------------------------------------------------------- steps


def read_tasks(arrays: Arrays, interval: int) -> list[Curves]:
    """The arrays of single tasks with the steps of their evaluations."""
    longest = max(
        int(evaluation_steps(len(array), interval)[-1]) for array in arrays.values()
    )
    found = []
    for (task, method), array in arrays.items():
        found.append(
            Curves(task, method, array, schedule(len(array), interval, longest))
        )
    return found


def evaluation_steps(evaluations: int, interval: int) -> np.ndarray:
    """The steps of the rows, from `interval`, or from 0 if only then the last row ends a phase.

    A single evaluation is that after training offline.
    """
    if evaluations == 1:
        return np.array([OFFLINE_STEPS])
    last_from_zero = (evaluations - 1) * interval
    last_from_interval = evaluations * interval
    if last_from_zero % ROUND == 0 and last_from_interval % ROUND != 0:
        return interval * np.arange(evaluations)
    return interval * np.arange(1, evaluations + 1)


def schedule(evaluations: int, interval: int, longest: int) -> Schedule:
    """The schedule of an array in a file whose longest one ends at the step `longest`.

    An array that is as long as the online phase of the longest one is of a method without an
    offline phase: RLPD, whose ten evaluations are beside thirty of others.
    """
    steps = evaluation_steps(evaluations, interval)
    last = int(steps[-1])
    if last == longest - OFFLINE_STEPS and last < OFFLINE_STEPS:
        return Schedule(steps, 0, last)
    offline = min(last, OFFLINE_STEPS)
    return Schedule(steps, offline, last - offline)


# ---------------------------------------------------------------- notes


def describe(found: list[Curves], interval: int) -> str:
    """How the file was read, with the methods, the evaluations and the seeds of each shape."""
    methods: dict[str, dict[str, None]] = {}  # names in order, once each
    for curves in found:
        evaluations, seeds = curves.success.shape
        count = f"{evaluations} evaluations" if evaluations > 1 else "1 evaluation"
        text = f"{count} of {seeds} seeds {curves.schedule}"
        methods.setdefault(text, {})[curves.method] = None
    runs = sum(curves.success.shape[1] for curves in found)
    last = max(int(curves.schedule.steps[-1]) for curves in found)
    shapes = "; ".join(
        f"{join_first(names)}: {text}" for text, names in methods.items()
    )
    when = f"evaluated every {interval:,} steps, the last time at {last:,}"
    return f"{runs} runs, read as {when}; {shapes}"


def check_axes(found: list[Curves], axes: str) -> list[str]:
    """A warning of more seeds than evaluations, unless a longer array has as many seeds."""
    usual = {c.success.shape[1] for c in found if not more_seeds(c)}
    doubtful = [c for c in found if more_seeds(c) and c.success.shape[1] not in usual]
    if not doubtful:
        return []
    evaluations, seeds = doubtful[0].success.shape
    axis, other = ("second", AXES[1]) if axes == AXES[0] else ("first", AXES[0])
    methods = join_first(dict.fromkeys(c.method for c in doubtful))
    read_as = f"{methods}: read as {evaluations} evaluations of {seeds} seeds"
    advice = f"if it is that of the evaluations, give --pickle_axes={other}"
    return [f"the {axis} axis is the longer one ({read_as}); {advice}"]


def more_seeds(curves: Curves) -> bool:
    """Whether there are several evaluations, of more seeds."""
    evaluations, seeds = curves.success.shape
    return seeds > evaluations > 1


def check_means(arrays: Arrays, groups: dict[str, list[str]], axes: str) -> list[str]:
    """A warning about entries of domains and "all" that are not the means of their tasks."""
    members = {}
    for name, method in arrays:
        tasks = [
            (task, method) for task in groups.get(name, ()) if (task, method) in arrays
        ]
        if tasks:
            members[name, method] = tasks
    means = {key: seed_mean(array) for key, array in arrays.items()}
    differing = differing_means(means, members)
    if not differing:
        return []
    names = join_first(f"{name} {method}" for name, method in differing)
    count = f"{len(differing)} of {len(members)} entries of domains and all"
    note = (
        f"{count} are not the means of their tasks ({names}): they may be read wrongly"
    )
    means = {key: seed_mean(array.T) for key, array in arrays.items()}
    if not differing_means(means, members):
        note += f"; with --pickle_axes={AXES[1 - AXES.index(axes)]} all of them are"
    return [note]


def seed_mean(success: np.ndarray) -> np.ndarray:
    """The mean over seeds [E] of success rates [E, N], without absent ones."""
    return mean_and_half(success)[0]


def differing_means(means: Arrays, members: dict[Key, list[Key]]) -> list[Key]:
    """The entries whose means over seeds are not the mean of those of their tasks."""
    parts = {key: [means[task] for task in tasks] for key, tasks in members.items()}
    return [key for key in members if not is_mean(means[key], parts[key])]


def is_mean(mean: np.ndarray, parts: list[np.ndarray]) -> bool:
    """Whether an array is the mean of others, up to the rounding of what was written."""
    if any(part.shape != mean.shape for part in parts):
        return False
    return np.allclose(
        np.mean(parts, axis=0), mean, rtol=0, atol=TOLERANCE, equal_nan=True
    )
