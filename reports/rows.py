"""The results of one method on a task, a domain or all tasks."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from reports.points import Point, TrustRegion, groups
from reports.results import Result
from reports.statistics import Interval, iqm, mean_and_half
from utils.errors import join_first

Bootstrap = Callable[..., Interval]


@dataclasses.dataclass(frozen=True)
class Row(TrustRegion):
    """A method on a task, a domain or all tasks, at a step. Success in percent; path KL and λ
    are means over runs.
    """

    phase: str
    scope: str  # task, domain, overall
    name: str
    method: str
    step: str
    tasks: int
    seeds: int
    mean: float
    half: float
    """Half of Student's 95 % interval over seeds; NaN for one seed."""
    iqm: Interval
    start: float
    """Mean success at step 0, of what the runs began with; NaN where it was not evaluated."""
    episodes: float
    results: list[Result] = dataclasses.field(repr=False)

    @property
    def names(self) -> frozenset[str]:
        """Its tasks."""
        return frozenset(result.env_name for result in self.results)

    def common_value(self, quantity: Callable[[Result], Any]) -> Any:
        """The value that all its runs share; None where they differ or do not record it."""
        values = {quantity(result) for result in self.results}
        return values.pop() if len(values) == 1 else None


@dataclasses.dataclass(frozen=True)
class Return:
    """The mean return of a method on a task whose environment reports no success."""

    phase: str
    name: str
    method: str
    step: str
    seeds: int
    mean: float
    half: float
    """Half of Student's 95 % interval over seeds; NaN for one seed."""


class Table:
    """Scores of a method in percent [T, N]: T tasks, the N seeds that all of them have."""

    def __init__(
        self, phase: str, scope: str, name: str, method: str, points: list[Point]
    ):
        self.phase, self.scope, self.name, self.method = phase, scope, name, method
        by_task: dict[str, dict[int, Point]] = {}
        for point in points:
            by_task.setdefault(point.result.env_name, {})[point.result.seed] = point
        self.tasks = list(by_task)
        self.seeds = (
            sorted(set.intersection(*map(set, by_task.values()))) if by_task else []
        )
        self.left_out = len(points) - len(self.tasks) * len(self.seeds)
        self.inside = [
            by_task[task][seed] for task in self.tasks for seed in self.seeds
        ]
        rates = np.array([point.success for point in self.inside]).reshape(
            len(self.tasks), len(self.seeds)
        )
        # equal rates are ties, whatever they were computed from
        self.scores = np.round(100 * rates, 9)


def tables_of(phase: str, points: list[Point]) -> list[Table]:
    """The tables of all tasks, each domain and each task: those of every method together."""
    found = []
    for scope, name, inside in groups(points, lambda point: point.result):
        by_method: dict[str, list[Point]] = {}
        for point in inside:
            by_method.setdefault(point.result.method, []).append(point)
        found += [Table(phase, scope, name, m, by_method[m]) for m in sorted(by_method)]
    return found


def row_of(table: Table, draw: Bootstrap, notes: list[str]) -> Row | None:
    """The row of a table; None, with a note, where its tasks have no seed in common."""
    if not table.seeds:
        no_seed = f"the tasks of {table.method} have no seed in common"
        notes.append(f"{table.name}: {no_seed}, so there is no row over them")
        return None
    mean, half = mean_and_half(table.scores.mean(0))
    return Row(
        phase=table.phase,
        scope=table.scope,
        name=table.name,
        method=table.method,
        step=step_range([point.step for point in table.inside]),
        tasks=len(table.tasks),
        seeds=len(table.seeds),
        mean=float(mean),
        half=float(half),
        iqm=draw(iqm, table.scores, bounds=(0, 100)),
        start=start_of(table.inside),
        episodes=min(point.result.episodes(point.step) for point in table.inside),
        **mean_trust_region(table.inside),
        results=[point.result for point in table.inside],
    )


def start_of(points: list[Point]) -> float:
    """Mean success in percent at step 0; NaN where a run was not evaluated there."""
    rates = [point.result.success(0) for point in points]
    return float(np.mean([np.nan if rate is None else 100 * rate for rate in rates]))


def mean_trust_region(points: list[Point]) -> dict[str, float]:
    """The fields of TrustRegion, means over the runs that have one; NaN where none has."""
    names = [field.name for field in dataclasses.fields(TrustRegion)]
    regions = [point.trust_region for point in points if point.trust_region]
    values = [dataclasses.astuple(region) for region in regions] or [
        (np.nan,) * len(names)
    ]
    return dict(zip(names, np.mean(values, axis=0), strict=True))


def note_reduced(tables: list[Table], notes: list[str]) -> None:
    """Name the tables over several tasks in which seeds are left out."""
    reduced: dict[str, dict[str, None]] = {}  # names in order, once each
    for table in tables:
        if table.seeds and table.left_out:
            reduced.setdefault(table.method, {})[f"{table.name} {len(table.seeds)}"] = (
                None
            )
    for method, names in reduced.items():
        counted = "rows over several tasks count the seeds that each of the tasks has"
        notes.append(f"{method}: {counted}: {join_first(names)}")


def returns_of(points: list[Point], notes: list[str]) -> list[Return]:
    """The returns of the runs that report no success; `notes` names the runs."""
    by_key: dict[tuple[str, str, str], list[Point]] = {}
    without = [point for point in points if np.isnan(point.success)]
    for point in without:
        key = (point.phase, point.result.env_name, point.result.method)
        by_key.setdefault(key, []).append(point)
    found = []
    for (phase, name, method), inside in by_key.items():
        values = np.array([point.result.mean_return(point.step) for point in inside])
        mean, half = mean_and_half(values)
        step = step_range([point.step for point in inside])
        found.append(
            Return(phase, name, method, step, len(inside), float(mean), float(half))
        )
    if names := list(dict.fromkeys(point.result.name for point in without)):
        notes.append(
            f"{len(names)} runs report no success: their returns have a table of their own, "
            f"and they count in no row of success: {join_first(names)}"
        )
    return found


def step_range(steps: Collection[int]) -> str:
    """1,000, or 500 to 1,000."""
    low, high = min(steps), max(steps)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
