"""The curves of a report, drawn by matplotlib: success, path KL and λ over steps.

A method has a colour, a dash pattern and, at the end of its line, its key.
"""

import base64
import functools
import io
import math
from collections.abc import Callable, Iterable
from html import escape
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from reports.results import Result
from reports.statistics import mean_and_half

COLOURS = [
    matplotlib.colors.to_hex(colour) for colour in matplotlib.color_sequences["tab10"]
]
DASHES = ("solid", "dashed", "dotted")  # of matplotlib and of CSS
STYLE: Any = {"svg.hashsalt": "trqam", "svg.fonttype": "none", "font.size": 7.0}
LETTER = 0.075  # height of a key at the end of a line, as a share of the axis
WIDE_RANGE = 30  # between the ends of the lines: above it the axis is logarithmic
CROWD = 6  # lines: with more of them the bands are fainter

Line = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Steps, mean and half of the interval."""


class Chart(NamedTuple):
    """What one figure shows: lines with bands and thin budgets by method, the steps at which
    runs go online, and the highest value, by default that of the lines.
    """

    title: str
    series: dict[str, Line]
    budgets: dict[str, Line]
    online_at: set[int]
    top: float | None = None


def figures(keys: dict[str, str], title: str, results: list[Result]) -> list[str]:
    """The figures of some runs as HTML images.

    Args:
        keys: the key of each of the report's methods, in the order of their colours.
        title: of the runs.
        results: the runs.
    """
    return [image(chart, draw(chart, keys)) for chart in charts(keys, title, results)]


def charts(methods: Iterable[str], title: str, results: list[Result]) -> list[Chart]:
    """Success, path KL with its budgets, and λ of some runs, each where there are any."""
    grouped = {m: [result for result in results if result.method == m] for m in methods}
    by_method = {method: runs for method, runs in grouped.items() if runs}
    online_at = online_starts(results)

    def logged(name: str) -> dict[str, Line]:
        return lines(by_method, functools.partial(kl_curve, name=name), online_at)

    success = lines(by_method, curve, online_at)
    possible = (
        Chart(f"{title}: success (%)", success, {}, online_at, 100.0),
        Chart(f"{title}: path KL", logged("path_kl"), logged("kl_budget"), online_at),
        Chart(f"{title}: λ", logged("lam"), {}, online_at),
    )
    return [chart for chart in possible if chart.series]


def online_starts(results: list[Result]) -> set[int]:
    """The steps at which runs with an offline phase began to be trained online."""
    both = [
        result for result in results if result.offline_steps and result.online_steps
    ]
    return {
        result.offline_steps
        for result in both
        if result.last_step > result.offline_steps
    }


def lines(
    by_method: dict[str, list[Result]],
    line_of: Callable[[list[Result]], Line],
    online_at: set[int],
) -> dict[str, Line]:
    """The line of each method that has any points. A method without an offline phase begins
    where the others go online.
    """
    found = {}
    for method, runs in by_method.items():
        steps, mean, half = line_of(runs)
        known = np.isfinite(mean)
        if not known.any():
            continue
        if not any(run.offline_steps for run in runs):
            steps = steps + max(online_at, default=0)
        found[method] = (steps[known], mean[known], half[known])
    return found


def curve(results: list[Result]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, mean success in percent and half of its 95 % interval, of one method on some
    tasks.

    At each step over the seeds that were evaluated there on all of the tasks.
    """
    tasks = sorted({r.env_name for r in results})
    seeds = sorted({r.seed for r in results})
    steps = np.unique(np.concatenate([r.evaluations["step"] for r in results]))
    success = np.full((len(tasks), len(steps), len(seeds)), np.nan)
    for r in results:
        task, seed = tasks.index(r.env_name), seeds.index(r.seed)
        at = np.searchsorted(steps, r.evaluations["step"])
        success[task, at, seed] = r.evaluations["success"]
    mean, half = mean_and_half(100 * success.mean(0))
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


def draw(chart: Chart, keys: dict[str, str]) -> Figure:
    """Return the figure of a chart; keys as in `draw_on`."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.3, 1.9))
        draw_on(figure.add_axes((0.12, 0.13, 0.79, 0.75)), chart, keys)
    return figure


def draw_on(axes: Axes, chart: Chart, keys: dict[str, str]) -> None:
    """Draw a chart on axes; keys: of all the report's methods, in the order of colours."""
    axes.set_title(chart.title, parse_math=False)
    low, top = value_range([*chart.series.values(), *chart.budgets.values()])
    axes.set_yscale("log" if low > 0 and not chart.top else "linear")
    axes.set_ylim((0.0, chart.top) if chart.top else (low, top))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.spines[["top", "right"]].set_visible(False)
    draw_lines(axes, chart, {method: line_style(i) for i, method in enumerate(keys)})
    for step in chart.online_at:
        axes.axvline(step, color="grey", linestyle="dotted", linewidth=0.8)
    write_keys(axes, chart, keys)


def draw_lines(axes: Axes, chart: Chart, styles: dict[str, dict[str, Any]]) -> None:
    """The lines with their bands, and the budgets, in the style of each method."""
    alpha = 0.16 if len(chart.series) <= CROWD else 0.05
    for method, (steps, mean, half) in chart.series.items():
        mark = "." if len(steps) == 1 else None  # a single point has no line
        axes.plot(
            steps, mean, **styles[method], label=method, linewidth=1.2, marker=mark
        )
        shade = {"color": styles[method]["color"], "alpha": alpha, "linewidth": 0}
        axes.fill_between(steps, mean - half, mean + half, **shade)
    for method, (steps, budget, _) in chart.budgets.items():
        axes.plot(steps, budget, color=styles[method]["color"], linewidth=0.5)


def line_style(i: int) -> dict[str, Any]:
    """Colour and dashes of method i: 30 different ones."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)]}


def value_range(shown: list[Line]) -> tuple[float, float]:
    """The lowest and the highest value of an axis; the lowest is above 0 on a logarithmic one.

    The axis is logarithmic if the lines end far apart, or those near 0 would be invisible.
    Values far below the lowest end are left out.
    """
    means = np.concatenate([mean for _, mean, _ in shown])
    ends = [mean[-1] for _, mean, _ in shown if mean[-1] > 0]
    top = np.nanmax(means) * 1.15 or 1.0
    if ends and top / min(ends) > WIDE_RANGE:
        return max(means[means > 0].min() / 1.2, min(ends) / 5), top
    return 0.0, top


def write_keys(axes: Axes, chart: Chart, keys: dict[str, str]) -> None:
    """The key of each method to the right of the axes, joined with the end of its line."""
    low, top = axes.get_ylim()
    ends = {
        method: (steps[-1], np.clip(mean[-1], low, top))  # 0 has no place on a log axis
        for method, (steps, mean, _) in chart.series.items()
    }
    to_share = (axes.transData + axes.transAxes.inverted()).transform
    shares = {method: float(to_share(end)[1]) for method, end in ends.items()}
    ordered = sorted(ends, key=lambda method: shares[method])
    heights = apart([shares[method] for method in ordered])
    colours = {method: line_style(i)["color"] for i, method in enumerate(keys)}
    for method, height in zip(ordered, heights, strict=True):
        axes.annotate(
            keys[method],
            ends[method],
            (1.04, height),
            textcoords="axes fraction",
            color=colours[method],
            weight="bold",
            va="center",
            arrowprops={"arrowstyle": "-", "color": colours[method], "linewidth": 0.4},
            annotation_clip=False,
        )


def apart(heights: list[float]) -> list[float]:
    """Move ascending heights as little as possible so that they are a letter apart and
    between 0 and 1.
    """
    gap = min(LETTER, 1.0 / max(1, len(heights) - 1))
    moved_up, lowest = [], -math.inf
    for y in heights:
        lowest = max(y, lowest + gap)
        moved_up.append(lowest)
    highest = 1.0 + gap
    moved_down = []
    for y in reversed(moved_up):
        highest = min(y, highest - gap)
        moved_down.append(highest)
    return moved_down[::-1]


def image(chart: Chart, figure: Figure) -> str:
    """An HTML image that holds the figure as SVG."""
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format="svg", metadata={"Date": None})
    data = base64.b64encode(file.getvalue()).decode()
    source = f"data:image/svg+xml;base64,{data}"
    return f'<img class="chart" alt="{escape(chart.title)}" src="{source}"/>'


def sample(i: int) -> str:
    """A piece of the line of method i, for the legend."""
    colour, dashes = line_style(i).values()
    return f'<i style="border-top: 2px {dashes} {colour}"></i>'
