"""A report as one page that opens without a network: curves, tables, details; no script."""

import itertools
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

from envs.tasks import short_task
from reports.cells import (
    CELLS,
    COMPARISON,
    EXPLAINED,
    RETURN,
    Block,
    Lookup,
    Matrix,
    blocks,
    bracket,
    comparison_cells,
    excludes_half,
    main_names,
    main_rows,
    matrices,
    visible_table,
)
from reports.compare import Comparison, Improvement
from reports.curves import figures, sample
from reports.points import OVERALL, by_phase, groups
from reports.results import Result
from reports.rows import Row
from reports.statistics import Interval
from reports.summary import Report

SHADE = 0.45  # of a cell with a probability of 100 %
COLUMNS = ["tasks", "seeds", "start", "success", "iqm", "path_kl", "within", "settled"]
COLUMNS += ["highest", "lam", "data", "episodes", "step"]
STYLE = Path(__file__).with_name("report.css")


def page(report: Report) -> str:
    """The whole page."""
    lookup = Lookup(report)
    sections = [
        ("curves", "Curves", curves(report, lookup)),
        ("tables", "Success, path KL and λ", main_tables(report, lookup)),
        ("improvement", "Probability of improvement", improvement(report, lookup)),
        ("details", "Details", details(report, lookup)),
    ]
    sections = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{key}">{name}</a> ' for key, name, _ in sections)
    body = ""
    for key, name, inside in sections:
        body += f'<section id="{key}"><h2>{name}</h2>{inside}</section>'
    head = (
        f'<meta charset="utf-8"><title>Results</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE.read_text(encoding='utf-8')}</style>"
    )
    main = f"<h1>Results</h1><nav>{links}</nav>{body}"
    inside = f"<head>{head}</head><body><main>{main}</main></body>"
    return f'<!doctype html><html lang="en">{inside}</html>\n'


# ---------------------------------------------------------------- curves


def curves(report: Report, lookup: Lookup) -> str:
    """The figures of all tasks and of each domain, and what their lines are."""
    shown_groups = list(main_groups(report.results))
    rows = figure_rows(shown_groups, lookup)
    first = rows[:1] if len(rows) == len(shown_groups) else []
    about = (
        "<p>Over steps. Bands: 95 % intervals over seeds; of path KL and λ, over runs. "
        "Thin lines: the KL budget. Vertical line: the online phase begins; "
        "methods without an offline phase start there.</p>"
    )
    return "".join([*first, legend(lookup), about, *rows[len(first) :]])


def by_domain(
    results: list[Result],
) -> Iterator[tuple[str, list[tuple[str, list[Result]]]]]:
    """(domain, [(title, runs)]): the domain and each of its tasks; first all tasks."""

    def domain_of(group: tuple[str, str, list[Result]]) -> str:
        return OVERALL if group[0] == "overall" else group[2][0].domain

    all_groups = groups(results, lambda result: result)
    for domain, inside in itertools.groupby(all_groups, key=domain_of):
        yield domain, [(short_task(name), runs) for _, name, runs in inside]


def main_groups(results: list[Result]) -> Iterator[tuple[str, list[Result]]]:
    """(title, runs) of all tasks and of each domain."""
    for _, inside in by_domain(results):
        yield inside[0]


def figure_rows(runs: list[tuple[str, list[Result]]], lookup: Lookup) -> list[str]:
    """Rows of figures: one for each group of runs, or all in one where a group has but one."""
    drawn = [figures(lookup.keys, title, inside) for title, inside in runs]
    drawn = [row for row in drawn if row]
    if all(len(row) == 1 for row in drawn):
        drawn = [[figure for row in drawn for figure in row]]
    return [f'<div class="row">{"".join(row)}</div>' for row in drawn]


def legend(lookup: Lookup) -> str:
    """The line and the key of each method, in columns as wide as the names."""
    entries = ""
    for i, (method, key) in enumerate(lookup.keys.items()):
        entries += f"<li>{sample(i)}<b>{key}</b><span>{escape(method)}</span></li>"
    width = min(300, 60 + 8 * max(map(len, lookup.keys)))
    return f'<ul class="legend" style="--w:{width}px">{entries}</ul>'


# ---------------------------------------------------------------- tables


def main_tables(report: Report, lookup: Lookup) -> str:
    """A table for all tasks and for each domain, and the sources of the published figures."""
    parts = [block_table(block, lookup) for block in blocks(main_rows(report))]
    for phase, returns in by_phase(report.returns, lambda entry: entry.phase):
        body = table(RETURN, map(lookup.returned, returns))
        parts.append(f"<h3>Return of runs that report no success, {phase}</h3>{body}")
    sources = "".join(f"<li>{escape(source)}</li>" for source in lookup.sources)
    if sources:
        about = "≠: not the same experiment. Published figures:"
        parts.append(f'<p class="dim">{about}</p><ol class="dim">{sources}</ol>')
    return f'{"".join(parts)}<p class="dim">{EXPLAINED}</p>'


def block_table(block: Block, lookup: Lookup) -> str:
    """One table with its heading."""
    facts, header, lines = visible_table(block, lookup)
    methods = [row.method for row in block.rows]
    body = methods_table(header, zip(methods, lines, strict=True), lookup)
    about = " · ".join([block.phase, *facts])
    name = escape(short_task(block.name))
    return f'<h3>{name} <span class="dim">{about}</span></h3>{body}'


def methods_table(
    header: list[str],
    lines: Iterable[tuple[str, list[str]]],
    lookup: Lookup,
) -> str:
    """A table with a line for each method."""
    body = [
        [method_head(method, lookup), *map(_cell, cells)] for method, cells in lines
    ]
    return _table(["method", *header], body)


def method_head(method: str, lookup: Lookup) -> str:
    """The key and the name of a method; its settings are not shown on a narrow screen."""
    agent, _, settings = method.partition(" ")
    more = f" <small>{escape(settings)}</small>" if settings else ""
    return f"<th><b>{lookup.keys[method]}</b> {escape(agent)}{more}</th>"


def table(header: list[str], lines: Iterable[list[str]]) -> str:
    """An HTML table in a box that scrolls."""
    return _table(header, [list(map(_cell, line)) for line in lines])


def _cell(text: str) -> str:
    return f"<td>{escape(text)}</td>"


def _table(header: list[str], body: list[list[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    rows = "".join(f"<tr>{''.join(cells)}</tr>" for cells in body)
    inside = f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="box"><table>{inside}</table></div>'


# ---------------------------------------------------------------- improvement


def improvement(report: Report, lookup: Lookup) -> str:
    """The matrices of all tasks, or of the only table, and folded those of the domains."""
    made = matrices(report, lookup)
    if not made:
        return ""
    about = (
        "<p>The probability (%) that a run of the method on the left does better than one of "
        "the method above. Bold: the 95 % interval leaves out 50 %.</p>"
    )
    shown = made[0].name
    first = [matrix_table(matrix, lookup) for matrix in made if matrix.name == shown]
    others = [matrix_table(matrix, lookup) for matrix in made if matrix.name != shown]
    more = fold("domains", "Of each domain", "".join(others)) if others else ""
    return "".join([about, *first, more])


def matrix_table(matrix: Matrix, lookup: Lookup) -> str:
    """One matrix with its heading."""
    header = [lookup.keys[method] for method in matrix.methods]
    body = [
        [method_head(method, lookup), *map(matrix_cell, cells)]
        for method, cells in zip(matrix.methods, matrix.cells, strict=True)
    ]
    name = escape(short_task(matrix.name))
    heading = f'<h3>{name} <span class="dim">{matrix.phase}</span></h3>'
    return f'{heading}<div class="matrix">{_table(["", *header], body)}</div>'


def matrix_cell(interval: Interval | None) -> str:
    """A probability, shaded above 50 %, its interval as a tooltip."""
    if interval is None:
        return "<td></td>"
    shade = SHADE * max(0.0, interval.value / 50 - 1)
    mark = ' class="certain"' if excludes_half(interval) else ""
    tint = f' style="--p:{shade:.2f}"' if shade else ""
    return f'<td{mark}{tint} title="{bracket(interval)}">{interval.value:.0f}</td>'


# ---------------------------------------------------------------- details


def fold(key: str, title: str, body: str) -> str:
    """A part of the page that is closed at first."""
    return f'<details id="{key}"><summary>{escape(title)}</summary>{body}</details>'


def details(report: Report, lookup: Lookup) -> str:
    """Everything else, folded."""
    parts = [
        ("methods", "Methods: settings, device, commit", methods_made(report, lookup))
    ]
    if report.notes:
        listed = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
        parts.insert(0, ("notes", f"Notes ({len(report.notes)})", f"<ul>{listed}</ul>"))
    parts += task_curves(report, lookup)
    parts += tables(report, lookup)
    return "".join(fold(*part) for part in parts)


def methods_made(report: Report, lookup: Lookup) -> str:
    """The methods with their settings, the programs and machines."""
    header = ["runs", "tasks", "seeds", "settings given", "device", "commit"]
    by_method: dict[str, list[Result]] = {}
    for result in report.results:
        by_method.setdefault(result.method, []).append(result)
    lines = [(method, made_cells(by_method[method])) for method in report.methods]
    return methods_table(header, lines, lookup)


def made_cells(results: list[Result]) -> list[str]:
    """Numbers of runs, tasks and seeds of one method; its settings, devices and commits."""
    numbers = [
        len(results),
        len({r.env_name for r in results}),
        len({r.seed for r in results}),
    ]
    settings = sorted({result.overrides_text or "defaults" for result in results})
    devices = named(results, "device")
    commits = [commit[:10] for commit in named(results, "commit")]
    return [*map(str, numbers), *map("; ".join, (settings, devices, commits))]


def named(results: list[Result], key: str) -> list[str]:
    """The different values of an entry of config.json, where there are any."""
    return sorted({str(r.config[key]) for r in results if r.config.get(key)})


def task_curves(report: Report, lookup: Lookup) -> list[tuple[str, str, str]]:
    """(key, title, body): the figures of the tasks of each domain that has several."""
    parts: list[tuple[str, str, str]] = []
    for domain, (_, *tasks) in by_domain(report.results):
        if tasks:
            body = "".join(figure_rows(tasks, lookup))
            title = f"Curves: {domain}, {len(tasks)} tasks"
            parts.append((f"curves-{len(parts)}", title, body))
    return parts


def tables(report: Report, lookup: Lookup) -> list[tuple[str, str, str]]:
    """(key, title, body) of the tables with every column, every pair and published figure."""
    parts: list[tuple[str, str, str]] = []
    for scope, title in (("means", "Domains and all tasks"), ("tasks", "Tasks")):
        rows = [
            row for row in report.rows if (row.scope == "task") == (scope == "tasks")
        ]
        for phase, inside in by_phase(rows, lambda row: row.phase):
            body = full_tables(inside, lookup)
            parts.append((f"{phase}-{scope}", f"{title}, {phase}: every column", body))
    names = main_names(report)
    pairs = [pair for pair in report.improvements if (pair.phase, pair.name) in names]
    for phase, entries in by_phase(pairs, lambda pair: pair.phase):
        title = f"Pairs of methods with intervals, {phase}"
        parts.append((f"{phase}-pairs", title, pair_tables(entries, lookup)))
    for phase, comparisons in by_phase(
        report.comparisons, lambda entry: entry.row.phase
    ):
        body = table(COMPARISON, [labelled(entry, lookup) for entry in comparisons])
        body = f'<div class="wide">{body}</div>'
        parts.append(
            (f"{phase}-published", f"Beside the published figures, {phase}", body)
        )
    return parts


def pair_tables(entries: list[Improvement], lookup: Lookup) -> str:
    """Each pair of methods with the interval, a table for each name."""
    header = ["method X", "method Y", "tasks", "P(X > Y) in % [95 %]"]
    parts = []
    for name, inside in itertools.groupby(entries, key=lambda entry: entry.name):
        lines = [pair_cells(pair, lookup) for pair in inside]
        parts.append(f"<h3>{escape(short_task(name))}</h3>{table(header, lines)}")
    return "".join(parts)


def pair_cells(pair: Improvement, lookup: Lookup) -> list[str]:
    """The two methods, the number of their tasks, and the probability."""
    methods = [lookup.label(pair.method), lookup.label(pair.other)]
    return [*methods, str(pair.tasks), bracket(pair.probability)]


def labelled(entry: Comparison, lookup: Lookup) -> list[str]:
    """The cells of a row beside a published figure, the method by its label."""
    name, _, *cells = comparison_cells(entry)
    return [name, lookup.label(entry.row.method), *cells]


def full_tables(rows: list[Row], lookup: Lookup) -> str:
    """A table of every column for each name, without the columns that are empty throughout."""
    columns = [CELLS[name] for name in COLUMNS]
    columns = [(header, cell) for header, cell in columns if any(map(cell, rows))]
    header = [header for header, _ in columns]
    parts = []
    for block in blocks(rows):
        lines = [(row.method, [cell(row) for _, cell in columns]) for row in block.rows]
        body = methods_table(header, lines, lookup)
        parts.append(f"<h3>{escape(short_task(block.name))}</h3>{body}")
    return "".join(parts)
