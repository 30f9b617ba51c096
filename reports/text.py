"""A report in a terminal."""

import itertools
import textwrap

from envs.tasks import short_task
from reports.cells import (
    CELLS,
    EXPLAINED,
    RETURN,
    Block,
    Lookup,
    Matrix,
    blocks,
    excludes_half,
    main_names,
    main_rows,
    matrices,
    plus_minus,
    visible_table,
)
from reports.compare import Comparison
from reports.points import by_phase
from reports.rows import Row
from reports.statistics import Interval
from reports.summary import Report

WIDTH = 120
GAP = 2
NAME = 40  # the widest first column
STARRED = (
    "* the 95 % interval leaves out 50 %; the intervals are in the CSV and the page"
)


def aligned(header: list[str], lines: list[list[str]], least: int = 0) -> str:
    """A table for a terminal, at most WIDTH wide: the columns that do not fit are shown below.

    Args:
        header: a title for each column.
        lines: the cells. The first column names what a line is about and is repeated.
        least: if given, the last column is wrapped to what the others leave, but not below it.
    """
    table = [header, *lines]
    widths = [max(len(line[i]) for line in table) for i in range(len(header))]
    widths = [
        min(width, WIDTH - NAME - GAP if i else NAME) for i, width in enumerate(widths)
    ]
    if least:
        rest = WIDTH - sum(width + GAP for width in widths[:-1])
        widths[-1] = min(widths[-1], max(rest, least))
    return "\n\n".join(_aligned(table, widths, columns) for columns in _fitting(widths))


def _fitting(widths: list[int]) -> list[list[int]]:
    """The numbers of the columns that fit beside the first one together."""
    runs = [[0]]
    for i, width in enumerate(widths[1:], 1):
        if len(runs[-1]) > 1 and sum(widths[k] + GAP for k in runs[-1]) + width > WIDTH:
            runs.append([0])
        runs[-1].append(i)
    return runs


def _aligned(table: list[list[str]], widths: list[int], columns: list[int]) -> str:
    """Some columns of a table, cells that are too wide on several lines."""
    rule = ["-" * width for width in widths]
    text = []
    for line in [table[0], rule, *table[1:]]:
        cells = [_split(line[i], widths[i]) for i in columns]
        for part in itertools.zip_longest(*cells, fillvalue=""):
            padded = (
                cell.ljust(widths[i]) for i, cell in zip(columns, part, strict=True)
            )
            text.append((" " * GAP).join(padded).rstrip())
    return "\n".join(text)


def _split(cell: str, width: int) -> list[str]:
    return [cell] if len(cell) <= width else textwrap.wrap(cell, width)


def wrapped(text: str, indent: int = 2) -> str:
    """A line for a terminal, on as many lines as it needs; names are not broken at hyphens."""
    return textwrap.fill(
        text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False
    )


def as_text(report: Report, details: bool = False) -> str:
    """The report for a terminal; with details also every task, all pairs and what differs."""
    lookup = Lookup(report)
    parts = key_lines(lookup)
    parts += [block_text(block, lookup) for block in blocks(main_rows(report))]
    parts += return_tables(report, lookup)
    if details:
        parts += [matrix_text(matrix, lookup) for matrix in matrices(report, lookup)]
        parts += task_tables(report, lookup)
        parts += beside_tables(report, lookup)
    parts.append("\n".join([*footnotes(report, lookup, details), *notes(report)]))
    return "\n\n".join(parts)


def key_lines(lookup: Lookup) -> list[str]:
    """The keys of the methods, unless the labels beside the rows say all."""
    if all(
        lookup.label(method) == f"{key} {method}" for method, key in lookup.keys.items()
    ):
        return []
    lines = [wrapped(f"{key}  {method}") for method, key in lookup.keys.items()]
    return ["\n".join(lines)]


def block_text(block: Block, lookup: Lookup) -> str:
    """One table with its title."""
    facts, header, lines = visible_table(block, lookup)
    labels = [lookup.label(row.method) for row in block.rows]
    table = aligned(
        ["method", *header], [[a, *b] for a, b in zip(labels, lines, strict=True)]
    )
    return f"{title(block.phase, block.name, ', '.join(facts))}\n{table}"


def return_tables(report: Report, lookup: Lookup) -> list[str]:
    """The returns of the runs without success, a table for each phase."""
    parts = []
    for phase, returns in by_phase(report.returns, lambda entry: entry.phase):
        heading = (
            f"{phase}: return of runs that report no success, mean ± 95 % interval"
        )
        parts.append(
            f"{heading}\n{aligned(RETURN, list(map(lookup.returned, returns)))}"
        )
    return parts


def title(phase: str, name: str, more: str) -> str:
    """The line above a table."""
    return wrapped(f"{phase}, {short_task(name)}" + (f": {more}" if more else ""))


def matrix_text(matrix: Matrix, lookup: Lookup) -> str:
    """One matrix with its title; * where the interval leaves out 50 %."""
    lines = [
        [lookup.label(method), *(_chance(cell) for cell in cells)]
        for method, cells in zip(matrix.methods, matrix.cells, strict=True)
    ]
    header = [
        "P(row > column) %",
        *(lookup.keys[method].rjust(3) for method in matrix.methods),
    ]
    return (
        f"{title(matrix.phase, matrix.name, 'improvement')}\n{aligned(header, lines)}"
    )


def _chance(cell: Interval | None) -> str:
    if cell is None:
        return "  ."
    return f"{cell.value:3.0f}" + "*" * excludes_half(cell)


def task_tables(report: Report, lookup: Lookup) -> list[str]:
    """Tasks down and methods across, for each phase with tasks that are not shown before."""
    before = {id(row) for row in main_rows(report)}
    parts = []
    for phase, rows in by_phase(report.rows, lambda row: row.phase):
        tasks = [row for row in rows if row.scope == "task"]
        if not before.issuperset(map(id, tasks)):
            heading = f"{phase}, tasks: success (%), path KL / budget (KL), λ"
            parts.append(f"{heading}\n{across(tasks, lookup)}")
    return parts


def across(rows: list[Row], lookup: Lookup) -> str:
    """A line for each task; columns of the success, the path KL and the λ of each method."""
    names = list(dict.fromkeys(row.name for row in rows))
    columns = {"task": [short_task(name) for name in names]}
    for quantity, word in (("success", ""), ("path_kl", "KL "), ("lam", "λ ")):
        for method, key in lookup.keys.items():
            cells = {
                row.name: CELLS[quantity][1](row)
                for row in rows
                if row.method == method
            }
            header = f"{word}{key}" if word else lookup.label(method)
            columns[header] = [cells.get(name, "") for name in names]
    return table_of(columns)


def table_of(columns: dict[str, list[str]]) -> str:
    """A table of columns by their headers, without those that are empty."""
    columns = {header: cells for header, cells in columns.items() if any(cells)}
    return aligned(
        list(columns), [list(line) for line in zip(*columns.values(), strict=True)]
    )


def beside_tables(report: Report, lookup: Lookup) -> list[str]:
    """Our rows beside the published figures, a table for each phase."""
    parts = []
    header = [
        "task",
        "method",
        "ours ± 95 %",
        "published ± std",
        "seeds",
        "what differs",
    ]
    for phase, entries in by_phase(report.comparisons, lambda entry: entry.row.phase):
        lines = [comparison_line(entry, lookup) for entry in entries]
        parts.append(
            f"{phase}: beside the published figures\n{aligned(header, lines, 20)}"
        )
    return parts


def comparison_line(entry: Comparison, lookup: Lookup) -> list[str]:
    """Task, method, our figure, the published one with its source, seeds, what differs."""
    row, figure = entry.row, entry.published
    theirs = (
        f"{plus_minus(figure.success, figure.std)} [{lookup.sources[figure.source]}]"
    )
    seeds = f"{row.seeds} / {figure.seeds or '?'}"
    ours = plus_minus(row.mean, row.half)
    differs = "; ".join(entry.differences)
    name, label = short_task(row.name), lookup.label(row.method)
    return [name, label, ours, theirs, seeds, differs]


def footnotes(report: Report, lookup: Lookup, details: bool) -> list[str]:
    """What the columns are, and where the published figures that are shown come from."""
    lines = [wrapped(EXPLAINED)]
    if details and lookup.pairs:
        lines.append(STARRED)
    names = main_names(report)
    comparisons = [
        e for e in report.comparisons if details or (e.row.phase, e.row.name) in names
    ]
    lines += source_lines(comparisons, lookup)
    if any(entry.differs for entry in comparisons):
        lines.append(
            f"≠ not the same experiment{'' if details else '; --details says why'}"
        )
    return lines


def source_lines(comparisons: list[Comparison], lookup: Lookup) -> list[str]:
    """The sources of some published figures, by their numbers."""
    used = {entry.published.source for entry in comparisons}
    numbered = [
        (number, source) for source, number in lookup.sources.items() if source in used
    ]
    return [wrapped(f"[{number}] {source}") for number, source in numbered]


def notes(report: Report) -> list[str]:
    """What to know when reading the tables."""
    return [wrapped(f"note: {note}", 6) for note in report.notes]
