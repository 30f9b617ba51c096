"""The columns, labels and blocks of a report's tables: terminal, page and files share them."""

import itertools
import string
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from envs.tasks import short_task
from reports.compare import Comparison, size
from reports.rows import Return, Row
from reports.statistics import Interval
from reports.summary import Report

LABEL_WIDTH = 20  # of the longest word beside a key


def plus_minus(mean: float, half: float | None, digits: int = 1) -> str:
    """61.2 ± 1.3; the mean alone where there is no interval."""
    known = half is not None and np.isfinite(half)
    return f"{mean:.{digits}f}" + (f" ± {half:.{digits}f}" if known else "")


def bracket(interval: Interval, digits: int = 1) -> str:
    """64.1 [62.0, 66.0]; the value alone where there is no interval."""
    value, low, high = (f"{end:.{digits}f}" for end in interval)
    return value if np.isnan(interval.low) else f"{value} [{low}, {high}]"


def spent(row: Row) -> str:
    """0.312 / 0.3: path KL, a dash where it is unknown, and the budget if there is one."""
    path_kl = number(row.path_kl, ".3f")
    if np.isnan(row.kl_budget):
        return path_kl
    return f"{path_kl or '-'} / {row.kl_budget:.3g}"


def number(value: float, form: str, unit: str = "") -> str:
    """A number in a format, with its unit; nothing where it is NaN."""
    return "" if np.isnan(value) else f"{value:{form}}{unit}"


def settled(row: Row) -> str:
    """The mean step from which on runs kept their budget; a dash if one never did."""
    if np.isnan(row.kl_budget):
        return ""
    return "-" if np.isnan(row.settled) else f"{row.settled:,.0f}"


CELLS: dict[str, tuple[str, Callable[[Row], str]]] = {
    "name": ("task", lambda row: short_task(row.name)),
    "method": ("method", lambda row: row.method),
    "step": ("step", lambda row: row.step),
    "tasks": ("tasks", lambda row: "" if row.scope == "task" else str(row.tasks)),
    "seeds": ("seeds", lambda row: str(row.seeds)),
    "success": ("success (%)", lambda row: plus_minus(row.mean, row.half)),
    "start": ("at step 0", lambda row: number(row.start, ".1f")),
    "iqm": ("IQM [95 %]", lambda row: bracket(row.iqm)),
    "path_kl": ("path KL / budget", spent),
    "within": ("within 10 %", lambda row: number(row.within, ".0f", " %")),
    "settled": ("settled at", settled),
    "highest": (
        "highest KL",
        lambda row: "" if np.isnan(row.kl_budget) else f"{row.highest:.2f}",
    ),
    "lam": ("λ", lambda row: number(row.lam, ".3g")),
    "data": ("data", lambda row: size(row.common_value(lambda r: r.transitions))),
    "episodes": ("episodes", lambda row: number(row.episodes, ".0f")),
}
"""Columns by name: header and text."""


def comparison_cells(entry: Comparison) -> list[str]:
    """Task, method, our figure with seeds and data, the published one with the same, its
    source, and what differs.
    """
    row, figure = entry.row, entry.published
    ours = [
        plus_minus(row.mean, row.half),
        str(row.seeds),
        size(row.common_value(lambda r: r.transitions)),
    ]
    data = "not stated" if figure.transitions is None else size(figure.transitions)
    theirs = [
        plus_minus(figure.success, figure.std),
        "" if figure.seeds is None else str(figure.seeds),
        data,
    ]
    return [
        short_task(row.name),
        row.method,
        *ours,
        *theirs,
        figure.source,
        "; ".join(entry.differences),
    ]


COMPARISON = [
    "task",
    "method",
    "ours ± 95 %",
    "seeds",
    "data",
    "published ± std",
    "seeds",
    "data",
    "source",
    "what differs",
]


RETURN = ["task", "method", "seeds", "return", "step"]


class Block(NamedTuple):
    """The rows of one table: the methods on a task, a domain or all tasks in one phase."""

    phase: str
    name: str
    rows: list[Row]


def blocks(rows: Iterable[Row]) -> list[Block]:
    """The tables that rows make, in their order."""
    grouped = itertools.groupby(rows, key=lambda row: (row.phase, row.name))
    return [Block(phase, name, list(inside)) for (phase, name), inside in grouped]


def main_rows(report: Report) -> list[Row]:
    """The rows over several tasks, and those of tasks that a method has in no domain row."""
    in_domains = {
        (row.phase, row.method, task)
        for row in report.rows
        if row.scope == "domain"
        for task in row.names
    }
    alone = {
        (row.phase, row.name)
        for row in report.rows
        if row.scope == "task" and (row.phase, row.method, row.name) not in in_domains
    }
    return [
        row
        for row in report.rows
        if row.scope != "task" or (row.phase, row.name) in alone
    ]


def main_names(report: Report) -> set[tuple[str, str]]:
    """The phases and names of the tables that are shown first."""
    return {(row.phase, row.name) for row in main_rows(report)}


def keys_of(methods: list[str]) -> dict[str, str]:
    """A short key for each method: A to Z, then AA, AB and so on."""
    letters = (
        itertools.product(string.ascii_uppercase, repeat=n) for n in itertools.count(1)
    )
    keys = map("".join, itertools.chain.from_iterable(letters))
    return dict(zip(methods, keys, strict=False))


Pairs = dict[tuple[str, str], Interval]
"""P(X > Y) in percent by the methods (X, Y), in both orders."""


def pairs_of(report: Report) -> dict[tuple[str, str], Pairs]:
    """The pairs of methods, by phase and name."""
    pairs: dict[tuple[str, str], Pairs] = {}
    for entry in report.improvements:
        value, low, high = entry.probability
        inside = pairs.setdefault((entry.phase, entry.name), {})
        inside[entry.method, entry.other] = entry.probability
        inside[entry.other, entry.method] = Interval(100 - value, 100 - high, 100 - low)
    return pairs


def best_of(rows: list[Row]) -> Row | None:
    """The row with the highest success; None for one row and for rows over different tasks."""
    if len(rows) < 2 or len({row.names for row in rows}) > 1:
        return None
    return max(rows, key=lambda row: row.mean)


class Lookup:
    """What the tables of a report share: keys, pairs of methods, published figures, sources."""

    def __init__(self, report: Report):
        self.keys = keys_of(report.methods)
        self.pairs = pairs_of(report)
        self.sources: dict[str, int] = {}
        self.published: dict[tuple[str, str, str], list[Comparison]] = {}
        for entry in report.comparisons:
            self.sources.setdefault(entry.published.source, len(self.sources) + 1)
            key = (entry.row.phase, entry.row.name, entry.row.method)
            self.published.setdefault(key, []).append(entry)

    def label(self, method: str) -> str:
        """The key and the first word of a method's name."""
        agent = method.partition(" ")[0]
        if len(agent) > LABEL_WIDTH:
            agent = f"{agent[: LABEL_WIDTH - 3]}..."
        return f"{self.keys[method]} {agent}"

    def figures(self, row: Row) -> str:
        """The published figures of a row's method with the numbers of their sources."""
        comparisons = self.published.get((row.phase, row.name, row.method), [])
        return ", ".join(map(self.figure, comparisons))

    def figure(self, entry: Comparison) -> str:
        """84.5 ± 7.7 [1] ≠: a figure, its source, and whether anything is known to differ."""
        figure, differs = entry.published, " ≠" if entry.differs else ""
        number = self.sources[figure.source]
        return f"{plus_minus(figure.success, figure.std)} [{number}]{differs}"

    def improvement(self, block: Block) -> dict[str, list[str]]:
        """The column with the probability that the best method does better than each."""
        best = best_of(block.rows)
        pairs = self.pairs.get((block.phase, block.name), {})
        if best is None or not pairs:
            return {}
        against = [pairs.get((best.method, row.method)) for row in block.rows]
        cells = ["best" if row is best else "" for row in block.rows]
        cells = [
            bracket(p, 0) if p else cell for p, cell in zip(against, cells, strict=True)
        ]
        return {f"P({self.keys[best.method]} > it) %": cells}

    def returned(self, entry: Return) -> list[str]:
        """The cells of RETURN."""
        value = plus_minus(entry.mean, entry.half)
        return [
            short_task(entry.name),
            self.label(entry.method),
            str(entry.seeds),
            value,
            entry.step,
        ]


MAIN = ["success", "path_kl", "lam", "iqm"]


EXPLAINED = (
    "success: mean ± Student's 95 % interval over seeds. IQM, and P(X > it), the probability "
    "that a run of X does better: with 95 % bootstrap intervals (Agarwal et al. 2021)."
)


class VisibleTable(NamedTuple):
    """A block as it is shown: what its rows have in common, and its columns but the method."""

    facts: list[str]
    header: list[str]
    lines: list[list[str]]


def visible_table(block: Block, lookup: Lookup) -> VisibleTable:
    """The table of a block; columns that are empty are left out."""
    columns = cells_of(block, MAIN)
    columns |= lookup.improvement(block)
    columns["published ± std"] = [lookup.figures(row) for row in block.rows]
    facts = []
    for name in ("start", "tasks", "seeds", "step"):
        column = cells_of(block, [name])
        (cells,) = column.values()
        if len(set(cells)) > 1:
            columns |= column
        elif cells[0]:
            facts.append(fact(name, cells[0]))
    columns = {header: cells for header, cells in columns.items() if any(cells)}
    lines = [list(line) for line in zip(*columns.values(), strict=True)]
    return VisibleTable(facts, list(columns), lines)


def cells_of(block: Block, names: list[str]) -> dict[str, list[str]]:
    """Columns by their headers; `names` as in CELLS."""
    columns = [CELLS[name] for name in names]
    return {header: [cell(row) for row in block.rows] for header, cell in columns}


def fact(name: str, cell: str) -> str:
    """3 seeds, 1 seed, step 5,000, 6.7 % at step 0."""
    if name == "start":
        return f"{cell} % at step 0"
    if name == "step":
        return f"step {cell}"
    return f"{cell} {name.removesuffix('s') if cell == '1' else name}"


class Matrix(NamedTuple):
    """P(row > column) in percent for the methods of a block."""

    phase: str
    name: str
    methods: list[str]
    cells: list[list[Interval | None]]
    """[rows, columns]; None on the diagonal and for methods without a common task."""


def matrices(report: Report, lookup: Lookup) -> list[Matrix]:
    """The matrix of each block that is shown and has several methods."""
    keys = ((block.phase, block.name) for block in blocks(main_rows(report)))
    compared = [key for key in keys if key in lookup.pairs]
    return [matrix_of(*key, report.methods, lookup.pairs[key]) for key in compared]


def matrix_of(phase: str, name: str, methods: list[str], pairs: Pairs) -> Matrix:
    """The matrix of the methods that are compared there."""
    compared = {method for pair in pairs for method in pair}
    methods = [method for method in methods if method in compared]
    return Matrix(
        phase, name, methods, [[pairs.get((x, y)) for y in methods] for x in methods]
    )


def excludes_half(interval: Interval) -> bool:
    """Whether the 95 % interval of a probability of improvement leaves out 50 %."""
    return interval.low > 50 or interval.high < 50
