"""A report as text: for a terminal, CSV, LaTeX and Markdown."""

import csv
import dataclasses
import io
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from utils.report import Beside, Improvement, Report, Return, Row, by_phase, size
from utils.statistics import Interval


def plus_minus(mean: float, half: float | None, digits: int = 1) -> str:
    """61.2 ± 1.3; the mean alone where there is no interval."""
    known = half is not None and np.isfinite(half)
    return f"{mean:.{digits}f}" + (f" ± {half:.{digits}f}" if known else "")


def bracket(interval: Interval) -> str:
    """64.1 [62.0, 66.0]; the value alone where there is no interval."""
    if np.isnan(interval.low):
        return f"{interval.value:.1f}"
    return f"{interval.value:.1f} [{interval.low:.1f}, {interval.high:.1f}]"


def spent(row: Row) -> str:
    """0.312 / 0.3: path KL and its budget; what there is of the two."""
    known = [(value, form) for value, form in ((row.path_kl, ".3f"), (row.kl_budget, ".3g")) if np.isfinite(value)]
    return " / ".join(f"{value:{form}}" for value, form in known)


def short(name: str) -> str:
    """A task's name without what every task's has."""
    return name.replace("-singletask", "").removesuffix("-v0")


CELLS: dict[str, tuple[str, Callable[[Row], str]]] = {
    "name": ("task", lambda row: short(row.name)),
    "method": ("method", lambda row: row.method),
    "step": ("step", lambda row: row.step),
    "tasks": ("tasks", lambda row: "" if row.scope == "task" else str(row.tasks)),
    "seeds": ("seeds", lambda row: str(row.seeds)),
    "success": ("success (%)", lambda row: plus_minus(row.mean, row.half)),
    "start": ("at step 0", lambda row: "" if np.isnan(row.start) else f"{row.start:.1f}"),
    "iqm": ("IQM [95 %]", lambda row: bracket(row.iqm)),
    "path_kl": ("path KL / budget", spent),
    "within": ("within 10 %", lambda row: "" if np.isnan(row.within) else f"{row.within:.0f} %"),
    "settled": ("settled at", lambda row: "" if np.isnan(row.kl_budget) else f"{row.settled:,.0f}".replace("nan", "-")),
    "highest": ("highest KL", lambda row: "" if np.isnan(row.kl_budget) else f"{row.highest:.2f}"),
    "lam": ("λ", lambda row: "" if np.isnan(row.lam) else f"{row.lam:.3g}"),
    "data": ("data", lambda row: size(row.only(lambda r: r.transitions))),
    "episodes": ("episodes", lambda row: "" if np.isnan(row.episodes) else f"{row.episodes:.0f}"),
}
"""Columns by name: header and text."""


def beside_cells(entry: Beside) -> list[str]:
    """Task, method, our figure with seeds and data, the published one with the same, its source, and what differs."""
    row, figure = entry.row, entry.published
    ours = [plus_minus(row.mean, row.half), str(row.seeds), size(row.only(lambda r: r.transitions))]
    data = "not stated" if figure.transitions is None else size(figure.transitions)
    theirs = [plus_minus(figure.success, figure.std), "" if figure.seeds is None else str(figure.seeds), data]
    return [short(row.name), row.method, *ours, *theirs, figure.source, "; ".join(entry.differences)]


BESIDE = ["task", "method", "ours ± 95 %", "seeds", "data", "published ± std", "seeds", "data", "source", "what differs"]


def improvement_cells(entry: Improvement) -> list[str]:
    """Where, which, against which, on how many tasks, probability."""
    return [short(entry.name), entry.method, entry.other, str(entry.tasks), bracket(entry.probability)]


IMPROVEMENT = ["task", "method X", "method Y", "tasks", "P(X > Y) in % [95 %]"]


def return_cells(entry: Return) -> list[str]:
    """Task, method, seeds, mean return, step."""
    value = plus_minus(entry.mean, entry.half)
    return [short(entry.name), entry.method, str(entry.seeds), value, entry.step]


RETURN = ["task", "method", "seeds", "return", "step"]


def aligned(header: list[str], lines: list[list[str]]) -> str:
    """A table for a terminal."""
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    rule = ["-" * width for width in widths]
    table = [zip(line, widths, strict=True) for line in [header, rule, *lines]]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in line).rstrip() for line in table)


def as_text(found: Report) -> str:
    """The report for a terminal."""
    parts = []
    for phase, rows in by_phase(found.rows, lambda row: row.phase):
        names = ["name", "method", "tasks", "seeds", "start", "success", "iqm", "path_kl", "lam", "step"]
        names = [name for name in names if any(CELLS[name][1](row) for row in rows)]
        lines, before = [], None
        for row in rows:
            line = [CELLS[name][1](row) for name in names]
            lines.append(line if row.name != before else ["", *line[1:]])
            before = row.name
        parts.append(f"{phase}: success in %, mean ± 95 % interval over seeds\n" + aligned([CELLS[n][0] for n in names], lines))
    parts += return_tables(found)
    for phase, improvements in by_phase(coarse(found), lambda entry: entry.phase):
        lines = [improvement_cells(entry) for entry in improvements]
        parts.append(f"{phase}: probability of improvement\n" + aligned(IMPROVEMENT, lines))
    for phase, entries in by_phase(found.beside, lambda entry: entry.row.phase):
        lines = [beside_cells(entry) for entry in entries]
        parts.append(f"{phase}: beside the published figures\n" + aligned(BESIDE, lines))
    if found.notes:
        parts.append("\n".join(f"note: {note}" for note in found.notes))
    return "\n\n".join(parts)


def return_tables(found: Report) -> list[str]:
    """The returns of the runs without success, a table for each phase."""
    parts = []
    for phase, returns in by_phase(found.returns, lambda entry: entry.phase):
        title = f"{phase}: return of runs that report no success, mean ± 95 % interval"
        parts.append(f"{title}\n{aligned(RETURN, [return_cells(entry) for entry in returns])}")
    return parts


def coarse(found: Report) -> list[Improvement]:
    """The improvements over several tasks; where there are none, all."""
    several = [entry for entry in found.improvements if entry.tasks > 1]
    return several or found.improvements


def return_line(entry: Return) -> dict[str, Any]:
    """The line of a return in the CSV."""
    line = dict(kind="return", scope="task", tasks=1) | dataclasses.asdict(entry)
    line |= {"step": entry.step.replace(",", ""), "return": line.pop("mean")}
    return line | {"ci95_half": line.pop("half")}


def as_csv(found: Report) -> str:
    """Every row, published figure and improvement as a line of CSV."""
    lines = []
    for row in found.rows:
        line = dict(kind="ours", phase=row.phase, scope=row.scope, name=row.name, method=row.method, tasks=row.tasks)
        line |= dict(step=row.step.replace(",", ""), seeds=row.seeds, episodes=row.episodes, start=row.start, success=row.mean)
        line |= dict(ci95_half=row.half, iqm=row.iqm.value, low=row.iqm.low, high=row.iqm.high, path_kl=row.path_kl)
        line |= dict(kl_budget=row.kl_budget, within_tenth_pct=row.within, settled=row.settled)
        line |= dict(highest_kl=row.highest, lam=row.lam)
        line |= {name: row.only(operator.attrgetter(name)) for name in ("transitions", "reward", "discount")}
        lines.append(line)
    lines += map(return_line, found.returns)
    for entry in found.beside:
        row, figure = entry.row, entry.published
        line = {"kind": "published"} | dataclasses.asdict(figure) | dict(scope=row.scope, name=row.name, tasks=row.tasks)
        lines.append(line | dict(versus=row.method, differences="; ".join(entry.differences)))
    for better in found.improvements:
        line = dict(kind="improvement", phase=better.phase, name=better.name, method=better.method, versus=better.other)
        probability, low, high = better.probability
        lines.append(line | dict(tasks=better.tasks, probability=probability, low=low, high=high))
    columns = (
        "kind phase scope name method versus step tasks seeds episodes start success ci95_half std iqm probability low high"
    )
    columns += " path_kl kl_budget within_tenth_pct settled highest_kl lam transitions reward discount source differences"
    columns += " return"
    text = io.StringIO()
    writer = csv.DictWriter(text, columns.split(), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _plain(value) for key, value in line.items()} for line in lines)
    return text.getvalue()


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
    "±": r"$\pm$",
    "λ": r"$\lambda$",
}


def as_latex(found: Report) -> str:
    """Tasks and domains down, methods across, the best mean of lines whose methods have the same tasks in bold; no package."""
    parts = []
    for phase, rows in by_phase(found.rows, lambda row: row.phase):
        methods = [method for method in found.methods if any(row.method == method for row in rows)]
        cells = {(row.name, row.method): row for row in rows}
        scopes = {row.name: row.scope for row in rows}
        columns = "c" * len(methods)
        ordered = sorted(scopes, key=lambda name: scopes[name] == "overall")
        lines = [
            rf"% {phase}: success in %, mean $\pm$ 95 % interval over seeds",
            rf"\begin{{tabular}}{{l{columns}}}",
            r"\hline",
        ]
        lines += [" & ".join(["", *map(escape, methods)]) + r" \\", r"\hline"]
        for name in ordered:
            inside = [cells.get((name, method)) for method in methods]
            comparable = len({row.names for row in inside if row}) == 1
            best = max(round(row.mean, 1) for row in inside if row) if comparable else np.nan
            words = [rf"\textbf{{{_latex(row)}}}" if row and round(row.mean, 1) == best else _latex(row) for row in inside]
            title = escape(short(name)) if scopes[name] == "task" else rf"\textit{{{escape(short(name))}}}"
            lines.append(" & ".join([title, *words]) + r" \\")
        parts.append("\n".join([*lines, r"\hline", r"\end{tabular}", ""]))
    return "\n".join(parts)


def _latex(row: Row | None) -> str:
    return escape(plus_minus(row.mean, row.half)) if row else "--"


def escape(text: str) -> str:
    """Text for LaTeX."""
    return "".join(LATEX.get(letter, letter) for letter in text)


def as_markdown(rows: list[Row], columns: list[str]) -> list[str]:
    """The lines of a Markdown table with the columns asked for, by their names in CELLS."""
    return markdown([CELLS[name][0] for name in columns], [[CELLS[name][1](row) for name in columns] for row in rows])


def markdown(header: list[str], lines: list[list[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return ["| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines]]
