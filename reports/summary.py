"""A report's numbers: one entry for each method on a task, a domain or all tasks; methods
compared with each other and with published figures; notes on what limits the comparison.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable

import numpy as np

from reports.checks import check_groups, check_runs
from reports.compare import (
    Comparison,
    Improvement,
    compare,
    compare_published,
    note_other_data,
)
from reports.points import by_phase, choose_points
from reports.published import Published
from reports.results import Result
from reports.rows import Return, Row, note_reduced, returns_of, row_of, tables_of
from reports.statistics import REPLICATES, bootstrap
from utils.errors import printable


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


def make_report(
    results: list[Result],
    step: str,
    published: list[Published],
    notes: Iterable[str] = (),
    replicates: int = REPLICATES,
) -> Report:
    """All of a report.

    Args:
        results: the runs, each with the name of its method.
        step: a step, "final" (the end of each phase) or "last" (that all runs of a task share).
        published: figures to compare with.
        notes: on how the results were read.
        replicates: of the bootstrap.
    """
    notes = list(notes)
    chosen = choose_points(results, step, notes)
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
