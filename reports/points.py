"""The evaluations that a report counts: each a run at one step, with its trust region."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np

from envs.tasks import DOMAINS
from reports.results import Result
from utils.errors import UserError, join_first

OVERALL = "all tasks"
SETTLED = 0.5  # the part of a run's steps after which lambda counts as settled
NEAR = 0.1  # of the budget
SETTLED_SHARE = 0.9  # of the logs

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class TrustRegion:
    """How a run, or the mean of several, kept to its KL budget; NaN where there is none."""

    path_kl: float
    """Mean over the last tenth of the logs."""
    kl_budget: float
    within: float
    """Percent of the logs in the second half of training whose path KL is within a tenth of the
    budget.
    """
    settled: float
    """Step of the first log within a tenth of the budget from which on 90 % are; NaN where
    `within` is below 90.
    """
    highest: float
    """The highest path KL of a log, as a multiple of the budget."""
    lam: float


@dataclasses.dataclass(frozen=True)
class Point:
    """A result at one step of one phase."""

    result: Result
    phase: str
    step: int
    success: float

    @property
    def phase_step(self) -> int:
        """The step, counted from the beginning of its phase."""
        return self.step - (self.result.offline_steps if self.phase == "online" else 0)

    @functools.cached_property
    def trust_region(self) -> TrustRegion | None:
        """The run's trust region up to the point; None without one."""
        return trust_region_up_to(self)


def by_phase(
    entries: Iterable[Item],
    phase_of: Callable[[Item], str],
) -> list[tuple[str, list[Item]]]:
    """The entries of each phase that has any."""
    found: dict[str, list[Item]] = {"offline": [], "online": []}
    for entry in entries:
        found[phase_of(entry)].append(entry)
    return [(phase, inside) for phase, inside in found.items() if inside]


def choose_points(results: list[Result], step: str, notes: list[str]) -> list[Point]:
    """The evaluations that count, in the order of tasks, methods and seeds. `notes` names the
    runs that are left out; `step` as in `make_report`.
    """
    ordered = sorted(results, key=lambda r: (r.domain, r.env_name, r.method, r.seed))
    if step == "final":
        points = final_points(ordered, notes)
        if points:
            return points
        notes.append(
            "no run has reached the end of a phase: each task counts at the last step that all"
            " its runs share (--step=last)"
        )
        step = "last"
    if step == "last":
        return last_points(ordered, notes)
    return points_at(ordered, int(step), notes)


def points_at(results: list[Result], step: int, notes: list[str]) -> list[Point]:
    """Every run that was evaluated at a step; UserError where none was."""
    found = [(result, result.success(step)) for result in results]
    absent = [result.name for result, success in found if success is None]
    if len(absent) == len(found):
        last = max(result.last_step for result in results)
        nowhere = f"--step={step}: no run has an evaluation there"
        raise UserError(f"{nowhere}; the last ones are at step {last:,}")
    if absent:
        absence = (
            f"{len(absent)} of {len(found)} runs have no evaluation at step {step:,}"
        )
        notes.append(f"{absence} and are left out: {join_first(absent)}")
    return [
        Point(result, result.phase(step), step, success)
        for result, success in found
        if success is not None
    ]


def final_points(results: list[Result], notes: list[str]) -> list[Point]:
    """Every run at the end of each of its phases."""
    points: list[Point] = []
    unfinished: dict[str, str] = {}
    for result in results:
        for phase, end in result.ends().items():
            success = result.success(end)
            if success is not None:
                points.append(Point(result, phase, end, success))
            else:
                unfinished.setdefault(
                    result.name,
                    f"{result.name} ({phase}, step {result.last_step:,} of {end:,})",
                )
    if unfinished:
        absence = f"{len(unfinished)} runs have not reached the end of a phase"
        notes.append(
            f"{absence} and are left out there: {join_first(unfinished.values())}"
        )
    return points


def last_points(results: list[Result], notes: list[str]) -> list[Point]:
    """Every run of a task at the last step that all runs of the task were evaluated at;
    UserError where no task has one.
    """
    points = []
    members: dict[tuple[str, bool], list[Result]] = {}
    for result in results:
        # steps of a run without an offline phase are no steps of the others
        members.setdefault((result.env_name, result.offline_steps > 0), []).append(
            result
        )
    for (env_name, _), runs in members.items():
        step = last_shared_step(env_name, runs, notes)
        if step is not None:
            points += points_at(runs, step, notes)
    if not points:
        raise UserError(
            "--step=last: no task has a step that all of its runs were evaluated at; give"
            " --step=N"
        )
    return points


def last_shared_step(env_name: str, runs: list[Result], notes: list[str]) -> int | None:
    """The last step that all runs of a task were evaluated at; None, and a note, if none."""
    steps = [set(run.evaluations["step"].astype(int).tolist()) for run in runs]
    shared = set.intersection(*steps)
    if not shared:
        notes.append(
            f"{env_name}: its runs have no evaluated step in common and are left out"
        )
        return None
    step, furthest = max(shared), max(runs, key=lambda r: r.last_step)
    if furthest.last_step > step:
        slowest = min(runs, key=lambda r: r.last_step)
        reached = f"at step {step:,} of {furthest.last_step:,}"
        notes.append(f"{env_name}: {reached}, held back by {slowest.name}")
    return step


def groups(
    items: list[Item], result_of: Callable[[Item], Result]
) -> list[tuple[str, str, list[Item]]]:
    """(scope, name, items): all tasks where there are several domains, domains where they have
    several tasks, each task.
    """
    by_domain: dict[str, dict[str, list[Item]]] = {}
    for item in items:
        result = result_of(item)
        tasks = by_domain.setdefault(result.domain, {})
        tasks.setdefault(result.env_name, []).append(item)

    def published_first(domain: str) -> tuple[int, str]:
        return DOMAINS.index(domain) if domain in DOMAINS else len(DOMAINS), domain

    found = [("overall", OVERALL, items)] if len(by_domain) > 1 else []
    for domain in sorted(by_domain, key=published_first):
        tasks = by_domain[domain]
        if len(tasks) > 1:
            inside = list(itertools.chain.from_iterable(tasks.values()))
            found.append(("domain", domain, inside))
        found += [("task", task, inside) for task, inside in sorted(tasks.items())]
    return found


def trust_region_up_to(point: Point) -> TrustRegion | None:
    """A run's trust region in the phase of a point, up to it; without a budget only path KL and
    λ, and None without a KL.
    """
    begin = point.step - point.phase_step
    kl = point.result.kl(point.step)
    kl = {name: column[kl["step"] > begin] for name, column in kl.items()}
    if not kl or not len(kl["step"]):
        return None
    steps, path_kl, budget = kl["step"], kl["path_kl"], kl["kl_budget"]
    last_tenth = steps > begin + 0.9 * point.phase_step
    last_tenth[-1] = True  # where logs are further apart
    ratio = path_kl / budget
    near = np.abs(ratio - 1) <= NEAR
    within = settled = np.nan
    if not np.isnan(budget[-1]):
        within = 100 * near[steps > begin + SETTLED * point.phase_step].mean()
    if within >= 100 * SETTLED_SHARE:
        # the share of logs near the budget, from each log on
        share = np.cumsum(near[::-1])[::-1] / np.arange(len(near), 0, -1)
        settled = steps[near & (share >= SETTLED_SHARE)][0]
    return TrustRegion(
        path_kl=path_kl[last_tenth].mean(),
        kl_budget=budget[-1],
        within=within,
        settled=settled,
        highest=ratio.max(),
        lam=kl["lam"][-1],
    )
