"""A report as one page that opens without a network: tables, and curves as inline SVG. No script, no font, no other file."""

import functools
import html
import itertools
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from utils.report import OVERALL, Report, Row, by_phase, curve, groups, kl_curve
from utils.report_text import (
    BESIDE,
    CELLS,
    IMPROVEMENT,
    RETURN,
    beside_cells,
    coarse,
    improvement_cells,
    return_cells,
    short,
)
from utils.results import Result

LIGHT = ("#2468c8", "#c2571a", "#1a8a5a", "#8a4fc0", "#a87b00", "#0b8494", "#c0354e", "#5f6875")
DARK = ("#74a9f7", "#f0965c", "#53c795", "#bb97ee", "#d9b04b", "#4fc3d2", "#f0808f", "#a9b1bd")
WIDTH, HEIGHT = 330, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 14, 24, 24
TICKS = 4


def page(found: Report, title: str) -> str:
    """The whole page."""
    sections = [("summary", "Summary", summary(found))]
    if found.notes:
        notes = "".join(f"<li>{escape(note)}</li>" for note in found.notes)
        sections.append(("notes", "What to mind", f"<ul>{notes}</ul>"))
    sections += tables(found)
    figures = [(f"curves-{i}", short(name), body) for i, (name, body) in enumerate(curves(found))]
    contents = "".join(f'<li><a href="#{key}">{escape(name)}</a></li>' for key, name, _ in sections)
    below = "".join(f'<li><a href="#{key}">{escape(name)}</a></li>' for key, name, _ in figures)
    body = "".join(f'<section id="{key}"><h2>{escape(name)}</h2>{inside}</section>' for key, name, inside in sections)
    body += f'<section id="curves"><h2>Curves</h2>{legend(found)}'
    body += "".join(f'<div id="{key}"><h3>{escape(name)}</h3>{inside}</div>' for key, name, inside in figures) + "</section>"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{style()}</style></head><body>'
        f'<nav><strong>Contents</strong><ul>{contents}<li><a href="#curves">Curves</a><ul>{below}</ul></li></ul></nav>'
        f"<main><h1>{escape(title)}</h1>{body}</main></body></html>\n"
    )


def summary(found: Report) -> str:
    """What the report is made of: the methods with their settings, the programs and machines."""
    lines = []
    for method in found.methods:
        results = [result for result in found.results if result.method == method]
        overrides = sorted({result.given or "defaults" for result in results})
        made = {key: sorted({str(r.config.get(key)) for r in results if r.config.get(key)}) for key in ("device", "commit")}
        tasks, seeds = len({r.env_name for r in results}), len({r.seed for r in results})
        commits = ", ".join(commit[:10] for commit in made["commit"])
        lines.append(
            [method, str(len(results)), str(tasks), str(seeds), "; ".join(overrides), ", ".join(made["device"]), commits]
        )
    return (
        "<p>Success in percent over the evaluation episodes, at step 0 and at the step named. ± is Student's 95 % interval "
        "over seeds, IQM the interquartile mean with its 95 % bootstrap interval stratified by task (Agarwal et al. 2021). "
        "Bands in the figures are 95 % intervals over seeds. A method without an offline phase "
        "is drawn from where the online phase of the others begins.</p>"
        + table(["method", "runs", "tasks", "seeds", "settings given", "device", "commit"], lines)
    )


def tables(found: Report) -> list[tuple[str, str, str]]:
    """(key, title, body) of the sections with tables."""
    sections = []
    columns = ["method", "tasks", "seeds", "start", "success", "iqm", "path_kl", "within", "lam", "data", "episodes", "step"]
    for phase, rows in by_phase(found.rows, lambda row: row.phase):
        first = [row for row in rows if row.scope != "task"]
        sections += [(f"{phase}-{key}", f"{title}, {phase}", result_table(inside, columns)) for key, title, inside in (
            ("means", "Domains and all tasks", first),
            ("tasks", "Tasks", [row for row in rows if row.scope == "task"]),
        ) if inside]  # fmt: skip
    for phase, returns in by_phase(found.returns, lambda entry: entry.phase):
        title = f"Return of runs that report no success, {phase}"
        body = table(RETURN, [return_cells(entry) for entry in returns])
        sections.append((f"{phase}-return", title, body))
    for phase, entries in by_phase(coarse(found), lambda entry: entry.phase):
        body = table(IMPROVEMENT, [improvement_cells(entry) for entry in entries])
        sections.append((f"{phase}-improvement", f"Probability of improvement, {phase}", body))
    for phase, beside in by_phase(found.beside, lambda entry: entry.row.phase):
        body = table(BESIDE, [beside_cells(entry) for entry in beside])
        sections.append((f"{phase}-published", f"Beside the published figures, {phase}", body))
    return sections


def result_table(rows: list[Row], columns: list[str]) -> str:
    """Rows, a rule before each name's first; columns that are empty throughout are left out."""
    columns = [name for name in columns if any(CELLS[name][1](row) for row in rows)]
    lines = []
    for name, inside in itertools.groupby(rows, key=lambda row: row.name):
        for i, row in enumerate(inside):
            lines.append([short(name) if i == 0 else "", *(CELLS[column][1](row) for column in columns)])
    return table([CELLS["name"][0], *(CELLS[column][0] for column in columns)], lines)


def table(header: list[str], lines: Iterable[list[str]]) -> str:
    """An HTML table in a box that scrolls."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = ""
    for line in lines:
        kind = ' class="first"' if line[0] else ""
        body += f"<tr{kind}>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>"
    return f'<div class="box"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def escape(text: str) -> str:
    """Text for HTML."""
    return html.escape(text)


# -------------------------------------------------------------------------------------------------- figures


def legend(found: Report) -> str:
    """The colour of each method."""
    entries = ""
    for i, method in enumerate(found.methods):
        line = f'<path class="line s{i % len(LIGHT)}" {_dash(i)} d="M1 5H25"/>'
        entries += f'<span><svg width="26" height="10">{line}</svg>{escape(method)}</span>'
    return f'<p class="legend">{entries}</p>'


def curves(found: Report) -> Iterable[tuple[str, str]]:
    """(domain, its figures): success, path KL against its budget, and λ, of the domain and of each task."""
    everything = groups(found.results, lambda result: result)
    for name, inside in itertools.groupby(
        everything, key=lambda group: OVERALL if group[0] == "overall" else group[2][0].domain
    ):
        rows = [figure_row(found.methods, short(title), runs) for _, title, runs in inside]
        yield name, "".join(rows)


Line = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Steps, mean and half of the interval."""


def figure_row(methods: list[str], title: str, results: list[Result]) -> str:
    """A row of figures of some runs: success, path KL and λ where there are any."""
    by_method: dict[str, list[Result]] = {}
    for result in results:
        by_method.setdefault(result.method, []).append(result)
    by_method = {method: by_method[method] for method in methods if method in by_method}
    ends = online_starts(results)
    draw = functools.partial(chart, methods=methods, ends=ends, shift=shifts(by_method, ends))
    figures = []
    if success := lines(by_method, curve):
        figures.append(draw(f"{title}: success (%)", series=success, top=100.0))
    columns = ("path_kl", "kl_budget", "lam")
    kl, budget, lam = (lines(by_method, functools.partial(kl_curve, name=n)) for n in columns)
    if kl:
        figures.append(draw(f"{title}: path KL", series=kl, dashed=budget))
    if lam:
        figures.append(draw(f"{title}: λ", series=lam))
    return f'<div class="row">{"".join(figures)}</div>'


def shifts(by_method: dict[str, list[Result]], ends: set[int]) -> dict[str, int]:
    """How far methods without an offline phase are moved: to where the others go online."""
    shift = max(ends, default=0)
    return {m: shift for m, runs in by_method.items() if not any(r.offline_steps for r in runs)}


def online_starts(results: list[Result]) -> set[int]:
    """The steps at which runs with an offline phase began to be trained online."""
    both = [result for result in results if result.offline_steps and result.online_steps]
    return {result.offline_steps for result in both if result.last_step > result.offline_steps}


def lines(
    by_method: dict[str, list[Result]],
    line_of: Callable[[list[Result]], Line],
) -> dict[str, Line]:
    """The line of each method that has any points."""
    found = {method: line_of(runs) for method, runs in by_method.items()}
    return {method: line for method, line in found.items() if len(line[0])}


class Axes(NamedTuple):
    """The scales of a figure: from 0 to the last step and to the highest value."""

    right: float
    top: float

    def place(self, steps: np.ndarray, values: np.ndarray) -> list[str]:
        """Points of a path, values clipped to the figure."""
        x = LEFT + (WIDTH - LEFT - RIGHT) * steps / self.right
        inside = np.clip(values, 0.0, self.top)
        y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * inside / self.top
        return [f"{a:.1f} {b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True)]

    def at(self, x: float, y: float) -> list[str]:
        """The two coordinates of one point."""
        return self.place(np.array([x]), np.array([y]))[0].split()

    def grid(self, ends: Iterable[int]) -> str:
        """Ticks with their numbers, and a rule at each step of `ends`."""
        parts = []
        for y in ticks(self.top):
            _, b = self.at(0, y)
            parts.append(f'<path class="grid" d="M{LEFT} {b}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text class="y" x="{LEFT - 5}" y="{b}">{y:g}</text>')
        for x in ticks(self.right):
            a, _ = self.at(x, 0)
            below = HEIGHT - BOTTOM + 15
            parts.append(f'<text class="x" x="{a}" y="{below}">{counted(x)}</text>')
        for end in ends:
            a, _ = self.at(min(end, self.right), 0)
            rule = f'<path class="end" d="M{a} {TOP}V{HEIGHT - BOTTOM}">'
            parts.append(f"{rule}<title>online from here</title></path>")
        return "".join(parts)


def chart(
    title: str,
    methods: list[str],
    series: dict[str, Line],
    dashed: dict[str, Line] | None = None,
    top: float | None = None,
    ends: Iterable[int] = (),
    shift: dict[str, int] | None = None,
) -> str:
    """One figure.

    Args:
        title: above it.
        methods: all of the report's, which gives each its colour.
        series: lines with bands by method.
        dashed: lines without bands.
        top: the highest value; the highest of the lines by default.
        ends: the steps at which the online phase begins.
        shift: by how many steps a method without an offline phase is moved to the right, to the
            beginning of the online phase of the others.
    """
    dashed, shift = dashed or {}, shift or {}
    shown = [*series.items(), *dashed.items()]
    last = [line[0][-1] + shift.get(method, 0) for method, line in shown]
    if top is None:
        top = max((np.nanmax(line[1]) for _, line in shown), default=1.0) * 1.15 or 1.0
    axes = Axes(max(last, default=1.0) or 1.0, top)
    parts = [f'<text class="title" x="{LEFT}" y="14">{escape(title)}</text>', axes.grid(ends)]
    for method, (steps, mean, _) in dashed.items():
        points = "L".join(axes.place(steps + shift.get(method, 0), mean))
        kind = f"line budget s{methods.index(method) % len(LIGHT)}"
        parts.append(f'<path class="{kind}" d="M{points}"/>')
    for method, line in series.items():
        name, i = escape(method), methods.index(method)
        parts.append(curve_path(axes, name, i, line, shift.get(method, 0)))
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}"'
    return f'<svg class="chart" {box}>{"".join(parts)}</svg>'


def curve_path(axes: Axes, name: str, i: int, line: Line, shift: int) -> str:
    """The line of a method with its band, and its last value as a tooltip.

    Args:
        axes: the scales of the figure.
        name: of the method.
        i: the number of the method, for its colour and dashes.
        line: what is drawn.
        shift: by how many steps to the right.
    """
    steps, mean, half = line
    moved, colour, part = steps + shift, i % len(LIGHT), ""
    if (band := np.isfinite(half)).any():
        upper = axes.place(moved[band], (mean + half)[band])
        lower = axes.place(moved[band], (mean - half)[band])
        part = f'<path class="band s{colour}" d="M{"L".join([*upper, *lower[::-1]])}Z"/>'
    points = axes.place(moved, mean)
    path = "L".join(points if len(points) > 1 else points * 2)
    where = f"{counted(steps[-1])} steps, all online" if shift else counted(steps[-1])
    title = f"<title>{name}: {mean[-1]:.3g} at {where}</title>"
    return f'{part}<path class="line s{colour}" {_dash(i)} d="M{path}">{title}</path>'


def _dash(i: int) -> str:
    return f'stroke-dasharray="{2 * (i // len(LIGHT))} 3"' if i >= len(LIGHT) else ""


def ticks(top: float) -> list[float]:
    """0 and round numbers up to `top`, about TICKS of them."""
    raw = top / TICKS
    unit = 10.0 ** math.floor(math.log10(raw))
    step = min((unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999), default=raw)
    return [i * step for i in range(int(top / step * 1.001) + 1)]


def counted(steps: float) -> str:
    """250K, 1.5M."""
    for unit, letter in ((1e6, "M"), (1e3, "K")):
        if steps >= unit:
            return f"{steps / unit:.4g}{letter}"
    return f"{steps:g}"


def style() -> str:
    """The page's style sheet, for light and dark screens."""
    colours = ["".join(f".s{i}{{--c:{colour}}}" for i, colour in enumerate(palette)) for palette in (LIGHT, DARK)]
    return f"""
:root{{--fg:#1c2128;--dim:#5c6570;--bg:#fff;--line:#d8dde3;--grid:#e9ecef;--box:#f6f7f9}}{colours[0]}
@media(prefers-color-scheme:dark){{:root{{--fg:#e3e7ec;--dim:#9aa4b0;--bg:#15181c;--line:#343b44;--grid:#272d34;--box:#1d2126}}
{colours[1]}}}
*{{box-sizing:border-box}}body{{margin:0;color:var(--fg);background:var(--bg);font:14px/1.5 system-ui,sans-serif;display:flex}}
nav{{position:sticky;top:0;height:100vh;overflow:auto;flex:0 0 205px;padding:20px 16px;border-right:1px solid var(--line);
font-size:13px}}nav ul{{list-style:none;margin:6px 0;padding-left:0}}nav ul ul{{padding-left:14px;margin:0}}
nav a{{color:var(--dim);text-decoration:none}}nav a:hover{{color:var(--fg);text-decoration:underline}}
main{{flex:1;min-width:0;max-width:1320px;padding:20px 26px 80px}}h1{{font-size:24px;margin:0 0 12px}}
h2{{font-size:18px;margin:36px 0 10px;padding-top:6px}}h3{{font-size:15px;margin:26px 0 4px}}
.box{{overflow-x:auto}}table{{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px}}
th{{text-align:left;color:var(--dim);font-weight:600;padding:4px 11px 4px 0;border-bottom:1px solid var(--fg);
white-space:nowrap}}td{{padding:2px 11px 2px 0;vertical-align:top}}tr.first td{{border-top:1px solid var(--line)}}
td:not(:last-child){{white-space:nowrap}}
.row{{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:10px;margin-bottom:10px}}
.chart{{width:100%;height:auto}}.chart text{{fill:var(--dim);font-size:10px}}.chart .title{{fill:var(--fg);font-size:11px}}
.x{{text-anchor:middle}}.y{{text-anchor:end;dominant-baseline:middle}}.grid{{stroke:var(--grid)}}
.end{{stroke:var(--dim);stroke-dasharray:2 3;fill:none}}
.line{{fill:none;stroke:var(--c);stroke-width:1.6;stroke-linejoin:round}}
.budget{{stroke-dasharray:5 4;stroke-width:1.2;opacity:.8}}.band{{fill:var(--c);opacity:.18}}
.legend{{position:sticky;top:0;background:var(--bg);padding:8px 0;margin:0;z-index:1}}.legend span{{margin-right:18px}}
.legend svg{{margin-right:6px}}
@media(max-width:900px){{body{{display:block}}nav{{position:static;height:auto;border:0}}main{{padding:12px}}}}
"""
