"""A report's numbers: one entry for each method on a task, a domain or all tasks; methods
compared with each other and with published figures; notes on what limits the comparison.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

import numpy as np

from envs.tasks import DOMAINS
from reports.published import Published
from reports.results import Result, differing_settings
from reports.statistics import (
    REPLICATES,
    Interval,
    bootstrap,
    improvements,
    iqm,
    mean_and_half,
    prediction_half,
)
from utils.errors import UserError, join_first, printable

OVERALL = "all tasks"
FEW_SEEDS = 5
SETTLED = 0.5  # the part of a phase's logs in which lambda counts as settled
NEAR = 0.1  # of the budget
MOST = 0.9  # of the logs
DATA_TOLERANCE = 0.05
UNSURE = ("published data", "data ")  # how differences begin that there may not be

Item = TypeVar("Item")
Bootstrap = Callable[..., Interval]


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
class Improvement:
    """Probability (in percent) that a run of `method` does better than one of `other` on a task
    of `name`.
    """

    phase: str
    name: str
    method: str
    other: str
    tasks: int
    probability: Interval


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A result of ours, a published figure of the same method, and what differs."""

    row: Row
    published: Published
    differences: list[str]

    @property
    def differs(self) -> bool:
        """Whether anything is known to differ."""
        return not all(difference.startswith(UNSURE) for difference in self.differences)


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


@dataclasses.dataclass(frozen=True)
class Report:
    """What scripts/report.py shows."""

    results: list[Result]
    methods: list[str]
    rows: list[Row]
    improvements: list[Improvement]
    comparisons: list[Comparison]
    notes: list[str]
    returns: list[Return] = dataclasses.field(default_factory=list)


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
        """The run's trust region up to the point; see dual_of."""
        return dual_of(self)


def report(
    results: list[Result],
    at: str,
    published: list[Published],
    notes: Iterable[str] = (),
    replicates: int = REPLICATES,
) -> Report:
    """All of a report.

    Args:
        results: the runs, each with the name of its method.
        at: a step, "final" (the end of each phase) or "last" (that all runs of a task share).
        published: figures to compare with.
        notes: on how the results were read.
        replicates: of the bootstrap.
    """
    notes = list(notes)
    chosen = choose_points(results, at, notes)
    methods = sorted({point.result.method for point in chosen})
    returns = returns_of(chosen, notes)
    points = [point for point in chosen if not np.isnan(point.success)]
    by_method: dict[str, list[float]] = {}
    for point in points:
        by_method.setdefault(point.result.method, []).append(point.success)
    ranked = sorted(sorted(by_method), key=lambda method: -np.mean(by_method[method]))
    draw = functools.partial(bootstrap, replicates=replicates)
    tables, rows, compared = [], [], []
    for phase, now in by_phase(points, lambda point: point.phase):
        tables += tables_of(phase, now)
    for _, group in itertools.groupby(
        tables, key=lambda table: (table.phase, table.name)
    ):
        inside = list(group)
        rows += [row for table in inside if (row := row_of(table, draw, notes))]
        compared += compare(inside, ranked, replicates)
    note_reduced(tables, notes)
    check_groups(points, notes)
    check_runs(chosen, notes)
    comparisons = compare_published(rows, published)
    note_other_data(comparisons, notes)
    notes = list(dict.fromkeys(map(printable, notes)))
    return Report(results, methods, rows, compared, comparisons, notes, returns)


def by_phase(
    entries: Iterable[Item],
    phase_of: Callable[[Item], str],
) -> list[tuple[str, list[Item]]]:
    """The entries of each phase that has any."""
    found: dict[str, list[Item]] = {"offline": [], "online": []}
    for entry in entries:
        found[phase_of(entry)].append(entry)
    return [(phase, inside) for phase, inside in found.items() if inside]


# --------------------------------------------------------------------------- which evaluations


def choose_points(results: list[Result], at: str, notes: list[str]) -> list[Point]:
    """The evaluations that count, in the order of tasks, methods and seeds. `notes` names the
    runs that are left out.
    """
    ordered = sorted(results, key=lambda r: (r.domain, r.env_name, r.method, r.seed))
    if at == "final":
        points = final_points(ordered, notes)
        if points:
            return points
        notes.append(
            "no run has reached the end of a phase: every task at the last step that all of its"
            " runs share (--step=last)"
        )
        at = "last"
    return (
        last_points(ordered, notes)
        if at == "last"
        else points_at(ordered, int(at), notes)
    )


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
    for (
        result
    ) in results:  # steps of a run without an offline phase are no steps of the others
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
    domains: dict[str, dict[str, list[Item]]] = {}
    for item in items:
        result = result_of(item)
        domains.setdefault(result.domain, {}).setdefault(result.env_name, []).append(
            item
        )
    found = [("overall", OVERALL, items)] if len(domains) > 1 else []
    order = {domain: i for i, domain in enumerate(DOMAINS)}
    for domain, tasks in sorted(
        domains.items(), key=lambda entry: (order.get(entry[0], len(order)), entry[0])
    ):
        if len(tasks) > 1:
            found.append(
                (
                    "domain",
                    domain,
                    [item for inside in tasks.values() for item in inside],
                )
            )
        found += [("task", task, inside) for task, inside in sorted(tasks.items())]
    return found


# ---------------------------------------------------------------------------------- one method


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
        episodes=min(episodes_of(point) for point in table.inside),
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


def episodes_of(point: Point) -> float:
    """The number of episodes of the evaluation at a point."""
    evaluations = point.result.evaluations
    return float(evaluations["episodes"][evaluations["step"] == point.step][-1])


def dual_of(point: Point) -> TrustRegion | None:
    """A run's trust region up to a point; without a budget only path KL and λ, and None without
    a KL.
    """
    kl = point.result.kl(point.step)
    if not kl:
        return None
    steps, spent, budget = kl["step"], kl["path_kl"], kl["kl_budget"][-1]
    last, second = (steps > part * point.step for part in (0.9, SETTLED))
    if not last.any():
        return None
    near = np.abs(spent / kl["kl_budget"] - 1) <= NEAR
    within = np.nan if np.isnan(budget) else 100 * near[second].mean()
    # of the logs from each one on
    share = np.cumsum(near[::-1])[::-1] / np.arange(len(near), 0, -1)
    settled = steps[near & (share >= MOST)][0] if within >= 100 * MOST else np.nan
    return TrustRegion(
        spent[last].mean(),
        budget,
        within,
        settled,
        (spent / kl["kl_budget"]).max(),
        kl["lam"][-1],
    )


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


# ----------------------------------------------------------------------------- several methods


def compare(
    tables: list[Table],
    ranked: list[str],
    replicates: int,
) -> list[Improvement]:
    """Each method against each that is ranked lower, on the tasks that both have.

    Args:
        tables: of one phase and name, one for each method.
        ranked: the methods, the best first.
        replicates: of the bootstrap.
    """
    scores: dict[str, dict[str, np.ndarray]] = {}
    tables = sorted(
        (t for t in tables if t.seeds), key=lambda t: ranked.index(t.method)
    )
    for table in tables:
        for task, rates in zip(table.tasks, table.scores, strict=True):
            scores.setdefault(task, {})[table.method] = rates
    found = improvements(scores, replicates)
    compared = []
    for one, other in itertools.combinations(tables, 2):
        tasks, interval = found.get((one.method, other.method), (0, None))
        if interval:
            percent = Interval(*(100 * value for value in interval))
            entry = Improvement(
                one.phase, one.name, one.method, other.method, tasks, percent
            )
            compared.append(entry)
    return compared


def compare_published(rows: list[Row], published: list[Published]) -> list[Comparison]:
    """Each row with the published figures of its method; a domain's and all tasks' only where
    all of their tasks are there.
    """
    by_key: dict[tuple[str, str, str], list[Published]] = {}
    for figure in published:
        by_key.setdefault((figure.method, figure.name, figure.phase), []).append(figure)
    found = []
    for row in rows:
        if row.tasks != {"task": 1, "domain": 5, "overall": 50}[row.scope]:
            continue
        name = "all" if row.scope == "overall" else row.name
        figures = by_key.get((row.results[0].published_name, name, row.phase), [])
        same = [figure for figure in figures if f"{figure.step:,}" == row.step]
        found += [
            Comparison(row, figure, differences(row, figure))
            for figure in same or figures
        ]
    return found


def note_other_data(comparisons: list[Comparison], notes: list[str]) -> None:
    """Name the published figures that are from another amount of data than ours."""
    others = [
        entry
        for entry in comparisons
        if any(d.startswith("DATA") for d in entry.differences)
    ]
    if others:
        names = join_first(f"{entry.row.method} {entry.row.name}" for entry in others)
        kind = "published figures are from another amount of data than ours (DATA)"
        notes.append(f"{len(others)} {kind}: {names}")


def differences(row: Row, figure: Published) -> list[str]:
    """List known and possible differences between our experiment and the published one."""
    found = []
    if f"{figure.step:,}" != row.step:
        found.append(f"step {row.step}, published {figure.step:,}")
    ours = row.common_value(lambda r: r.transitions)
    if figure.transitions is None:
        found.append("published data size not stated")
    elif ours is None:
        found.append(f"data {size(ours)}, published {size(figure.transitions)}")
    elif abs(ours / figure.transitions - 1) > DATA_TOLERANCE:
        found.append(f"DATA {size(ours)}, published {size(figure.transitions)}")
    for what, mine, theirs in (
        ("reward", row.common_value(lambda r: r.reward), figure.reward),
        ("discount", row.common_value(lambda r: r.discount), figure.discount),
    ):
        if mine != theirs and mine is not None and theirs is not None:
            found.append(f"{what} {mine}, published {theirs}")
    if given := row.results[
        0
    ].given:  # that of all its runs, or they would be another method's
        found.append(f"settings {given}")
    return found


def size(transitions: int | None) -> str:
    """1M, 60K; "various" where it is not one number."""
    if transitions is None:
        return "various"
    for unit, letter in ((1_000_000, "M"), (1_000, "K")):
        if transitions >= unit:
            return f"{transitions / unit:.3g}{letter}"
    return str(transitions)


def repeats(found: Report, of: list[Result]) -> list[tuple[str, bool]]:
    """For each run of a report a line on whether the other seeds of its agent, settings and
    task in `of` predict it, and whether they do.

    They do if its success lies in the 95 % prediction interval of one more run at that step. A
    dataset of the same size with other content is mentioned but does not count as a different
    setting.
    """
    return [repeat(result, of) for result in found.results]


def repeat(result: Result, of: list[Result]) -> tuple[str, bool]:
    """The line of one run, and whether it lies inside the interval."""
    step, own = result.last_step, result.evaluations["success"][-1]
    name = f"{result.agent} {result.env_name.removesuffix('-v0')} seed {result.seed}"
    if np.isnan(own):
        return f"{name}: it reports no success to compare", False
    others = other_seeds(result, of)
    same = same_settings(result, others, step)
    rates = np.array([r.success(step) for r in same])
    if len(rates) < 2:
        few = f"fewer than two other seeds of the same settings are evaluated at step {step:,}"
        differing = ", ".join(
            differing_settings([r.settings(step) for r in (result, *others)])
        )
        return (
            f"{name}: {few}{differing and f'; there are others with {differing}'}",
            False,
        )
    half = prediction_half(rates, float(result.evaluations["episodes"][-1]))
    inside = bool(abs(own - rates.mean()) <= half)
    word = "inside" if inside else "OUTSIDE"
    interval = f"95 % prediction interval of {len(rates)} seeds"
    where = f"{word} {100 * rates.mean():.1f} ± {100 * half:.1f} ({interval})"
    data = "; the data were not the same" if differing_data(result, same) else ""
    return f"{name}, step {step:,}: {100 * own:.1f} % is {where}{data}", inside


def other_seeds(result: Result, of: list[Result]) -> list[Result]:
    """The runs of the same agent, command line and task with another seed."""
    key = (result.agent, result.overrides, result.env_name)
    same = [r for r in of if (r.agent, r.overrides, r.env_name) == key]
    return [r for r in same if r.seed != result.seed]


def same_settings(result: Result, others: list[Result], step: int) -> list[Result]:
    """The runs whose settings until a step are those of `result`, if evaluated there."""
    found = []
    for other in others:
        differing = differing_settings([result.settings(step), other.settings(step)])
        if not differing and other.success(step) is not None:
            found.append(other)
    return found


def differing_data(result: Result, others: list[Result]) -> bool:
    """Whether runs were trained on different data, as far as they record it."""
    return len({fingerprint(r) for r in (result, *others)} - {()}) > 1


# ------------------------------------------------------------------------------------- notes


def check_groups(points: list[Point], notes: list[str]) -> None:
    """Methods on different tasks, few or different numbers of seeds, and different steps."""
    for phase, now in by_phase(points, lambda point: point.phase):
        check_tasks(phase, now, notes)
    check_seeds(points, notes)
    for phase, now in by_phase(points, lambda point: point.phase):
        steps = sorted({point.phase_step for point in now})
        if len(steps) > 1:
            reached = (
                f"runs stand at different steps of it, {steps[0]:,} to {steps[-1]:,}"
            )
            notes.append(f"{phase}: {reached}; --step=N compares at one")


def check_tasks(phase: str, points: list[Point], notes: list[str]) -> None:
    """Methods that were not run on the same tasks."""
    tasks: dict[str, set[str]] = {}
    for point in points:
        tasks.setdefault(point.result.method, set()).add(point.result.env_name)
    if len(set(map(frozenset, tasks.values()))) > 1:
        counts = ", ".join(f"{method} {len(tasks[method])}" for method in sorted(tasks))
        different = f"methods were run on different tasks ({counts})"
        notes.append(
            f"{phase}: {different}: their rows over several tasks are not comparable"
        )


def check_seeds(points: list[Point], notes: list[str]) -> None:
    """Seeds that differ in number, or are too few for the bootstrap's intervals."""
    seeds: dict[tuple[str, str, str], int] = {}
    for point in points:
        key = (point.phase, point.result.env_name, point.result.method)
        seeds[key] = seeds.get(key, 0) + 1
    if len(set(seeds.values())) > 1:
        fewest = min(seeds, key=lambda key: seeds[key])
        notes.append(
            f"the number of seeds differs, from {seeds[fewest]} ({fewest[2]} on {fewest[1]},"
            f" {fewest[0]}) to {max(seeds.values())}"
        )
    few = [count for count in seeds.values() if 1 < count < FEW_SEEDS]
    if few:
        narrow = (
            "bootstrap intervals over few tasks are too narrow (one task: about 80 %)"
        )
        notes.append(f"{min(few)} seeds: {narrow}; use Student's ± there")


def check_runs(points: list[Point], notes: list[str]) -> None:
    """Data that differ within a task, settings that differ between seeds, agents' warnings."""
    data: dict[str, set[tuple]] = {}
    seeds: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        result = point.result
        data.setdefault(result.env_name, set()).add(fingerprint(result))
        seeds.setdefault((point.phase, result.env_name, result.method), []).append(
            point
        )
    mixed = [
        task for task, fingerprints in data.items() if len(fingerprints - {()}) > 1
    ]
    if mixed:
        tasks = join_first(mixed)
        notes.append(
            f"the runs of a task were not all trained on the same data: {tasks}"
        )
    differing: dict[str, dict[str, None]] = {}  # names in order, once each
    for (_, task, method), inside in seeds.items():
        for difference in differing_settings(
            [point.result.settings(point.step) for point in inside]
        ):
            differing.setdefault(difference, {})[f"{method} {task}"] = None
    for what, names in differing.items():
        notes.append(
            f"seeds of one method were trained with {what}: {join_first(names)}"
        )
    check_concerns(points, notes)


def check_concerns(points: list[Point], notes: list[str]) -> None:
    """The agents' own warnings at the end of their runs, each with the names of the runs."""
    runs_of: dict[str, dict[str, None]] = {}  # names in order, once each
    for point in points:
        result = point.result
        if point.step == max(result.ends().values(), default=-1):
            for concern in result.concerns.values():
                runs_of.setdefault(printable(concern), {})[result.name] = None
    for concern, names in runs_of.items():
        notes.append(f"{len(names)} runs: {concern}: {join_first(names)}")


def fingerprint(result: Result) -> tuple:
    """What identifies a run's data; empty where config.json does not record it."""
    return tuple(sorted(result.config.get("dataset", {}).items()))


# -------------------------------------------------------------------------------------- curves


def curve(results: list[Result]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, mean success in percent and half of its 95 % interval, of one method on some
    tasks.

    At each step over the seeds that were evaluated there on all of the tasks.
    """
    tasks, seeds = (
        sorted({r.env_name for r in results}),
        sorted({r.seed for r in results}),
    )
    steps = np.unique(np.concatenate([r.evaluations["step"] for r in results]))
    scores = np.full((len(tasks), len(steps), len(seeds)), np.nan)
    for r in results:
        scores[
            tasks.index(r.env_name),
            np.searchsorted(steps, r.evaluations["step"]),
            seeds.index(r.seed),
        ] = r.evaluations["success"]
    mean, half = mean_and_half(100 * scores.mean(0))
    known = np.isfinite(mean)
    return steps[known], mean[known], half[known]


def kl_curve(
    results: list[Result], name: str, points: int = 80
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, mean over runs and half of its 95 % interval of path_kl, kl_budget or lam, in at
    most `points` windows.
    """
    columns = [r.kl(r.offline_steps + r.online_steps) for r in results]
    columns = [kl for kl in columns if np.isfinite(kl.get(name, np.nan)).any()]
    if not columns:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    steps = np.unique(np.concatenate([kl["step"] for kl in columns]))
    values = np.full((len(steps), len(columns)), np.nan)
    for i, kl in enumerate(columns):
        values[np.searchsorted(steps, kl["step"]), i] = kl[name]
    width = -(-len(steps) // points)
    starts = np.arange(0, len(steps), width)
    known = np.isfinite(values)
    counts = np.add.reduceat(known, starts, axis=0)
    sums = np.add.reduceat(np.where(known, values, 0.0), starts, axis=0)
    windows = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    mean, half = mean_and_half(windows)
    return steps[np.minimum(starts + width, len(steps)) - 1], mean, half
