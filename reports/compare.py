"""Methods compared with each other and with published figures."""

import dataclasses
import itertools

import numpy as np

from reports.published import Published
from reports.rows import Row, Table
from reports.statistics import Interval, improvements
from utils.errors import join_first

DATA_TOLERANCE = 0.05


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
    """Known and possible ones."""
    differs: bool
    """Whether anything is known to differ."""
    other_data: bool
    """Whether ours is known to be from another amount of data."""


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
        found += [compare_figure(row, figure) for figure in same or figures]
    return found


def note_other_data(comparisons: list[Comparison], notes: list[str]) -> None:
    """Name the published figures that are from another amount of data than ours."""
    others = [entry for entry in comparisons if entry.other_data]
    if others:
        names = join_first(f"{entry.row.method} {entry.row.name}" for entry in others)
        kind = "published figures are from another amount of data than ours (DATA)"
        notes.append(f"{len(others)} {kind}: {names}")


def compare_figure(row: Row, figure: Published) -> Comparison:
    """A row beside a published figure of its method."""
    data, other_data = data_difference(
        row.common_value(lambda r: r.transitions), figure.transitions
    )
    same_step = f"{figure.step:,}" == row.step
    step = [] if same_step else [f"step {row.step}, published {figure.step:,}"]
    settings = setting_differences(row, figure)
    differs = bool(step or settings) or other_data
    return Comparison(row, figure, step + data + settings, differs, other_data)


def data_difference(ours: int | None, theirs: int | None) -> tuple[list[str], bool]:
    """In what two numbers of transitions differ, and whether they are known to.

    None: not recorded, not one number, or not stated.
    """
    if theirs is None:
        return ["published data size not stated"], False
    if ours is None:
        return [f"data {size(ours)}, published {size(theirs)}"], False
    if abs(ours / theirs - 1) <= DATA_TOLERANCE:
        return [], False
    return [f"DATA {size(ours)}, published {size(theirs)}"], True


def setting_differences(row: Row, figure: Published) -> list[str]:
    """List the differences in settings between our experiment and the published one."""
    found = []
    for what, mine, theirs in (
        ("reward", row.common_value(lambda r: r.reward), figure.reward),
        ("discount", row.common_value(lambda r: r.discount), figure.discount),
    ):
        if mine != theirs and mine is not None and theirs is not None:
            found.append(f"{what} {mine}, published {theirs}")
    found += pretraining(row, figure)
    # that of all its runs, or they would be another method's
    if overrides := row.results[0].overrides_text:
        found.append(f"settings {overrides}")
    return found


def pretraining(row: Row, figure: Published) -> list[str]:
    """List the differences in the base and its cloning; the QAM paper's runs cloned nothing."""
    base = row.common_value(lambda r: r.origins.get("pretrained_actor_path", ""))
    if base not in ("", "published"):
        return [f"base {base or 'various'}"]
    cloned = row.common_value(lambda r: r.cloning_steps)
    if not figure.source.startswith("QAM paper"):
        return []
    if base == "published":
        return ["base published, published runs cloned nothing"]
    if cloned == 0:
        return []
    updates = "various" if cloned is None else f"{cloned:,}"
    return [f"cloning of {updates} updates, published none"]


def size(transitions: int | None) -> str:
    """1M, 60K; "?" if it is not recorded or not one number."""
    if transitions is None:
        return "?"
    for unit, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "K")):
        if transitions >= 0.9995 * unit:  # 999,500 is 1M, not 1000K
            return f"{transitions / unit:.3g}{letter}"
    return str(transitions)
