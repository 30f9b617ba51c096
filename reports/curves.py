"""The curves of a report as inline SVG: success, path KL and λ over steps.

A method has a colour, a dash pattern and, at the end of its line, its key.
"""

import functools
import html
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from reports.results import Result
from reports.summary import curve, kl_curve

COLOURS = 8  # in report.css
DASHES = ("", "7 3", "2 2", "9 3 2 3", "4 2")  # with the colours: 40 different lines
WIDTH, HEIGHT = 330, 190
LEFT, TOP, BOTTOM = 40, 24, 24
TICKS = 4
LETTER, COLUMN = 8.0, 9.0  # height and width of a key at the end of a line
WIDE_RANGE = 30  # between the ends of the lines: above it the axis is logarithmic
CROWD = 6  # lines: with more of them the bands are fainter

Line = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Steps, mean and half of the interval."""


def figures(keys: dict[str, str], title: str, results: list[Result]) -> list[str]:
    """The figures of some runs: success, path KL with its budgets, and λ, where there are any.

    Args:
        keys: the key of each of the report's methods, in the order of their colours.
        title: of the runs.
        results: the runs.
    """
    by_method: dict[str, list[Result]] = {}
    for result in results:
        by_method.setdefault(result.method, []).append(result)
    by_method = {method: by_method[method] for method in keys if method in by_method}
    ends = online_starts(results)
    draw = functools.partial(chart, keys=keys, ends=ends, shift=shifts(by_method, ends))
    columns = ("path_kl", "kl_budget", "lam")
    kl, budget, lam = (lines(by_method, functools.partial(kl_curve, name=n)) for n in columns)
    drawn = (
        draw(f"{title}: success (%)", series=lines(by_method, curve), budgets={}, top=100.0),
        draw(f"{title}: path KL", series=kl, budgets=budget),
        draw(f"{title}: λ", series=lam, budgets={}),
    )
    return [figure for figure in drawn if figure]


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
    """The scales of a figure."""

    right: float
    """The last step."""
    low: float
    top: float
    edge: float
    """Where the plot ends on the right, in units of the figure."""

    def place(self, steps: np.ndarray, values: np.ndarray) -> list[str]:
        """Points of a path, values clipped to the figure."""
        x = LEFT + (self.edge - LEFT) * steps / self.right
        y = self.heights(values)
        return [f"{a:.1f} {b:.1f}" for a, b in zip(x.tolist(), y, strict=True)]

    def heights(self, values: np.ndarray) -> list[float]:
        """The y of values; the axis is logarithmic where its lowest value is above 0."""
        inside = np.clip(values, self.low, self.top)
        if self.low > 0:
            share = np.log(inside / self.low) / math.log(self.top / self.low)
        else:
            share = inside / self.top
        return (HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share).tolist()

    def at(self, x: float, y: float) -> list[str]:
        """The two coordinates of one point."""
        return self.place(np.array([x]), np.array([y]))[0].split()

    def grid(self, ends: Iterable[int]) -> str:
        """Ticks with their numbers, and a rule at each step of `ends`."""
        parts = []
        for y in decades(self.low, self.top) if self.low > 0 else ticks(self.top):
            _, b = self.at(0, y)
            parts.append(f'<path class="grid" d="M{LEFT} {b}H{self.edge}"/>')
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
    keys: dict[str, str],
    series: dict[str, Line],
    budgets: dict[str, Line],
    ends: Iterable[int],
    shift: dict[str, int],
    top: float | None = None,
) -> str:
    """One figure; empty without a line.

    Args:
        title: above it.
        keys: of all the report's methods, in the order of their colours.
        series: lines with bands by method.
        budgets: thin lines without bands.
        ends: the steps at which the online phase begins.
        shift: by how many steps a method without an offline phase is moved to the right, to the
            beginning of the online phase of the others.
        top: the highest value; by default that of the lines, on a logarithmic axis where their
            ends are far apart.
    """
    if not series:
        return ""
    series, budgets = moved(series, shift), moved(budgets, shift)
    shown = [*series.values(), *budgets.values()]
    low, highest = (0.0, top) if top else value_range(shown)
    last = max(line[0][-1] for line in shown)
    axes = Axes(last or 1.0, low, highest, WIDTH - 10 - COLUMN * key_columns(len(series)))
    parts = [f'<text class="title" x="{LEFT}" y="14">{escape(title)}</text>', axes.grid(ends)]
    numbers = {method: i for i, method in enumerate(keys)}
    parts += [budget_path(axes, numbers[method], line) for method, line in budgets.items()]
    for method, line in series.items():
        parts.append(curve_path(axes, method, numbers[method], line, shift.get(method, 0)))
    parts.append(end_keys(axes, keys, series))
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}"'
    crowd = " crowd" if len(series) > CROWD else ""
    return f'<svg class="chart{crowd}" {box}>{"".join(parts)}</svg>'


def moved(series: dict[str, Line], shift: dict[str, int]) -> dict[str, Line]:
    """Lines, those of some methods by so many steps further to the right."""
    found = {}
    for method, (steps, mean, half) in series.items():
        found[method] = (steps + shift.get(method, 0), mean, half)
    return found


def value_range(shown: list[Line]) -> tuple[float, float]:
    """The lowest and the highest value of an axis; the lowest is above 0 on a logarithmic one.

    It is so where the ends of the lines are far apart: those near 0 would not be seen. Values
    far below the lowest end are left out.
    """
    means = np.concatenate([mean for _, mean, _ in shown])
    ends = [mean[-1] for _, mean, _ in shown if mean[-1] > 0]
    top = np.nanmax(means) * 1.15 or 1.0
    if ends and top / min(ends) > WIDE_RANGE:
        return max(means[means > 0].min() / 1.2, min(ends) / 5), top
    return 0.0, top


def budget_path(axes: Axes, i: int, line: Line) -> str:
    """The KL budget of method i."""
    points = "L".join(axes.place(line[0], line[1]))
    return f'<path class="line budget s{i % COLOURS}" d="M{points}"/>'


def curve_path(axes: Axes, method: str, i: int, line: Line, online: int) -> str:
    """The line of a method with its band, and its last value as a tooltip.

    Args:
        axes: the scales of the figure.
        method: its name.
        i: its number, for its colour and dashes.
        line: what is drawn.
        online: by how many steps it was moved, for a method that was trained online alone.
    """
    steps, mean, half = line
    colour, part = i % COLOURS, ""
    if (band := np.isfinite(half)).any():
        upper = axes.place(steps[band], (mean + half)[band])
        lower = axes.place(steps[band], (mean - half)[band])
        part = f'<path class="band s{colour}" d="M{"L".join([*upper, *lower[::-1]])}Z"/>'
    points = axes.place(steps, mean)
    path = "L".join(points if len(points) > 1 else points * 2)
    where = counted(steps[-1] - online) + (" steps, all online" if online else "")
    title = f"<title>{escape(method)}: {mean[-1]:.3g} at {where}</title>"
    return f'<g>{part}<path class="line s{colour}"{dash(i)} d="M{path}">{title}</path></g>'


def end_keys(axes: Axes, keys: dict[str, str], series: dict[str, Line]) -> str:
    """The key of each method beside the end of its line, and not on another's."""
    ends: dict[str, list[tuple[float, str]]] = {}  # by their x: (y, method)
    for method, (steps, mean, _) in series.items():
        x, y = axes.at(steps[-1], mean[-1])
        ends.setdefault(x, []).append((float(y), method))
    numbers = {method: i for i, method in enumerate(keys)}
    parts = []
    for x, inside in ends.items():
        inside.sort(key=lambda end: end[0])
        columns = key_columns(len(inside))
        heights = apart([end for end, _ in inside])
        for k, ((end, method), height) in enumerate(zip(inside, heights, strict=True)):
            left = float(x) + 5 + COLUMN * (k % columns)
            colour, lead = numbers[method] % COLOURS, f"M{x} {end}L{left - 1:.0f} {height:.1f}"
            place = f'x="{left:.0f}" y="{height:.1f}"'
            parts.append(f'<path class="lead s{colour}" d="{lead}"/>')
            parts.append(f'<text class="key s{colour}" {place}>{keys[method]}</text>')
    return "".join(parts)


def key_columns(count: int) -> int:
    """The number of columns in which so many keys are a letter apart."""
    return math.ceil(count * LETTER / (HEIGHT - TOP - BOTTOM))


def apart(heights: list[float]) -> list[float]:
    """Ascending heights moved as little as keeps them a letter apart and in the figure."""
    gap = min(LETTER, (HEIGHT - TOP - BOTTOM) / max(1, len(heights) - 1))
    moved_down, lowest = [], -math.inf
    for y in heights:
        lowest = max(y, lowest + gap)
        moved_down.append(lowest)
    highest = HEIGHT - BOTTOM + gap
    found = []
    for y in reversed(moved_down):
        highest = min(y, highest - gap)
        found.append(highest)
    return found[::-1]


def sample(i: int) -> str:
    """A piece of the line of method i, for the legend."""
    path = f'<path class="line s{i % COLOURS}"{dash(i)} d="M1 5H31"/>'
    return f'<svg width="32" height="10" aria-hidden="true">{path}</svg>'


def dash(i: int) -> str:
    """The dash pattern of method i, as an attribute."""
    pattern = DASHES[i % len(DASHES)]
    return f' stroke-dasharray="{pattern}"' if pattern else ""


def ticks(top: float) -> list[float]:
    """0 and round numbers up to `top`, about TICKS of them."""
    raw = top / TICKS
    unit = 10.0 ** math.floor(math.log10(raw))
    steps = [unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999]
    step = min(steps, default=raw)
    return [i * step for i in range(int(top / step * 1.001) + 1)]


def decades(low: float, top: float) -> list[float]:
    """Powers of ten between two numbers."""
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(top))
    return [10.0**power for power in range(first, last + 1)]


def counted(steps: float) -> str:
    """250K, 1.5M."""
    for unit, letter in ((1e6, "M"), (1e3, "K")):
        if steps >= unit:
            return f"{steps / unit:.4g}{letter}"
    return f"{steps:g}"


def escape(text: str) -> str:
    """Text for HTML."""
    return html.escape(text)
