"""A report as files: CSV, LaTeX and Markdown."""

import csv
import dataclasses
import io
import operator
from typing import Any

import numpy as np

from envs.tasks import short_task
from reports.cells import CELLS, plus_minus
from reports.compare import Comparison, Improvement
from reports.points import OVERALL, by_phase
from reports.rows import Return, Row
from reports.summary import Report

COLUMNS = (
    "kind phase scope name method versus step tasks seeds episodes start success ci95_half std"
    " iqm probability low high path_kl kl_budget within_tenth_pct settled highest_kl lam"
    " transitions reward discount source differences return"
).split()


def as_csv(report: Report) -> str:
    """Every result, return, published figure and improvement as a line of CSV."""
    lines = [
        *map(our_line, report.rows),
        *map(return_line, report.returns),
        *map(published_line, report.comparisons),
        *map(improvement_line, report.improvements),
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: _plain(value) for key, value in line.items()} for line in lines
    )
    return text.getvalue()


def our_line(row: Row) -> dict[str, Any]:
    """The line of a method on a task, a domain or all tasks."""
    same = "phase scope name method tasks seeds episodes start path_kl kl_budget settled lam"
    line: dict[str, Any] = {"kind": "ours"} | {
        name: getattr(row, name) for name in same.split()
    }
    line |= {
        "step": row.step.replace(",", ""),
        "success": row.mean,
        "ci95_half": row.half,
    }
    line |= {"iqm": row.iqm.value, "low": row.iqm.low, "high": row.iqm.high}
    line |= {"within_tenth_pct": row.within, "highest_kl": row.highest}
    shared = ("transitions", "reward", "discount")
    return line | {name: row.common_value(operator.attrgetter(name)) for name in shared}


def return_line(entry: Return) -> dict[str, Any]:
    """The line of a return."""
    line = dataclasses.asdict(entry) | {"kind": "return", "scope": "task", "tasks": 1}
    line |= {"step": entry.step.replace(",", ""), "return": line.pop("mean")}
    return line | {"ci95_half": line.pop("half")}


def published_line(entry: Comparison) -> dict[str, Any]:
    """The line of a published figure beside a method of ours."""
    row = entry.row
    line = dataclasses.asdict(entry.published) | {"kind": "published"}
    line |= {
        "scope": row.scope,
        "name": row.name,
        "tasks": row.tasks,
        "versus": row.method,
    }
    return line | {"differences": "; ".join(entry.differences)}


def improvement_line(entry: Improvement) -> dict[str, Any]:
    """The line of a probability of improvement."""
    probability, low, high = entry.probability
    line: dict[str, Any] = {
        "kind": "improvement",
        "phase": entry.phase,
        "name": entry.name,
    }
    line |= {"method": entry.method, "versus": entry.other, "tasks": entry.tasks}
    return line | {"probability": probability, "low": low, "high": high}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.6g}"
    return value


LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "±": r"$\pm$",
    "λ": r"$\lambda$",
}


def as_latex(report: Report) -> str:
    """Tasks and domains down, methods across, the best mean of lines whose methods have the
    same tasks in bold; no package.
    """
    phases = by_phase(report.rows, lambda row: row.phase)
    return "\n".join(latex_table(phase, rows, report.methods) for phase, rows in phases)


def latex_table(phase: str, rows: list[Row], methods: list[str]) -> str:
    """The table of one phase; all tasks come last."""
    present = {row.method for row in rows}
    methods = [method for method in methods if method in present]
    by_name: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_name.setdefault(row.name, {})[row.method] = row
    lines = [
        rf"% {phase}: success in %, mean $\pm$ 95 % interval over seeds",
        rf"\begin{{tabular}}{{l{'c' * len(methods)}}}",
        r"\hline",
        " & ".join(["", *map(escape, methods)]) + r" \\",
        r"\hline",
    ]
    ordered = sorted(by_name, key=lambda name: name == OVERALL)
    lines += [latex_line(by_name[name], methods) for name in ordered]
    return "\n".join([*lines, r"\hline", r"\end{tabular}", ""])


def latex_line(inside: dict[str, Row], methods: list[str]) -> str:
    """A task, a domain or all tasks: the rows by method."""
    rows = list(inside.values())
    comparable = len({row.names for row in rows}) == 1
    best = max(round(row.mean, 1) for row in rows) if comparable else np.nan
    words = []
    for method in methods:
        row = inside.get(method)
        cell = escape(plus_minus(row.mean, row.half)) if row else "--"
        words.append(
            rf"\textbf{{{cell}}}" if row and round(row.mean, 1) == best else cell
        )
    name = escape(short_task(rows[0].name))
    title = name if rows[0].scope == "task" else rf"\textit{{{name}}}"
    return " & ".join([title, *words]) + r" \\"


def escape(text: str) -> str:
    """Text for LaTeX, on one line."""
    return "".join(LATEX.get(letter, letter) for letter in " ".join(text.splitlines()))


def as_markdown(rows: list[Row], columns: list[str]) -> list[str]:
    """The lines of a Markdown table with the columns asked for, by their names in CELLS."""
    return markdown(
        [CELLS[name][0] for name in columns],
        [[CELLS[name][1](row) for name in columns] for row in rows],
    )


def markdown(header: list[str], lines: list[list[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [
        "| " + " | ".join(line) + " |"
        for line in [header, ["---"] * len(header), *lines]
    ]
