"""One picture of a study: success, path KL and λ of each task over all updates.

The steps of a run that cloned its own base begin after the updates of the base. Published
curves are drawn in grey.
"""

import csv
import itertools
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from envs.tasks import short_task
from reports.curves import (
    STYLE,
    Chart,
    Line,
    charts,
    draw_on,
    line_style,
    online_starts,
)
from reports.results import Result
from utils.errors import UserError, join_first, printable

COLUMNS = ("task", "method", "step", "mean", "low", "high", "seeds", "source")
"""Of a file of published curves: success in percent, with a 95 % interval over seeds."""
PANEL = (3.3, 2.0)  # inches
LEGEND_LINE = 0.16  # inches
NAMES_BESIDE = 2  # in the legend
DASHES: Any = ("dashed", "dotted")  # of published curves


class PublishedCurve(NamedTuple):
    """The published success of one method on one task, in percent, at E steps."""

    task: str
    method: str
    steps: np.ndarray
    """[E], updates; without a base that was cloned before."""
    mean: np.ndarray
    """[E]"""
    low: np.ndarray
    """[E], of the 95 % interval of the mean."""
    high: np.ndarray
    """[E]"""


def read_published_curves(path: Path) -> list[PublishedCurve]:
    """Read a CSV file with `COLUMNS`; raise UserError if it is none."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        groups = itertools.groupby(lines, lambda line: (line["task"], line["method"]))
        return [_curve(task, method, list(inside)) for (task, method), inside in groups]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"--published_curves: {printable(path)} is no CSV file with the columns"
            f" {', '.join(COLUMNS)} ({type(error).__name__})"
        ) from error


def _curve(task: str, method: str, lines: list[dict[str, str]]) -> PublishedCurve:
    """Return the curve in the CSV lines of one method on one task."""
    names = ("step", "mean", "low", "high")
    columns = [np.array([float(line[name]) for line in lines]) for name in names]
    return PublishedCurve(task, method, *columns)


def picture(
    keys: dict[str, str], results: list[Result], published: list[PublishedCurve]
) -> Figure:
    """Return the picture: a row for each task, and a legend; raise UserError if all is empty.

    Args:
        keys: the key of each of the report's methods, in the order of their colours.
        results: the runs.
        published: drawn where their task is among those of the runs.
    """
    charts_of = _charts_of_tasks(keys, results)
    published = _curves_of(published, charts_of)
    rows = list(charts_of.values())
    height = PANEL[1] * len(rows) + LEGEND_LINE * (len(keys) // NAMES_BESIDE + 3)
    width = PANEL[0] * max(map(len, rows))
    names = dict.fromkeys(curve.method for curve in published)
    dashes = dict(zip(names, itertools.cycle(DASHES), strict=False))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(len(rows), max(map(len, rows)), squeeze=False)
        for (task, row), line in zip(charts_of.items(), grid, strict=True):
            of_task = [curve for curve in published if curve.task == task]
            for axes, chart in itertools.zip_longest(line, row):
                _fill(axes, chart, keys, of_task, dashes)
        _write_legend(figure, keys, dashes)
    return figure


def _curves_of(
    published: list[PublishedCurve], tasks: Collection[str]
) -> list[PublishedCurve]:
    """Return the curves of some tasks; raise UserError if all curves are of others."""
    found = [curve for curve in published if curve.task in tasks]
    if published and not found:
        others = sorted({curve.task for curve in published})
        raise UserError(
            f"--published_curves: no run is of its tasks, {join_first(others)}; the runs are of"
            f" {join_first(tasks)}"
        )
    return found


def _charts_of_tasks(
    keys: dict[str, str], results: list[Result]
) -> dict[str, list[Chart]]:
    """Return the charts of each task; raise UserError if there are none."""
    tasks = sorted({result.env_name for result in results})
    charts_of = {
        task: _charts(keys, task, [r for r in results if r.env_name == task])
        for task in tasks
    }
    if not any(charts_of.values()):
        raise UserError(
            "--picture: no run has a success rate or a path KL to draw; leave it out"
        )
    return charts_of


def _charts(keys: dict[str, str], task: str, results: list[Result]) -> list[Chart]:
    """Return the charts of a task, whose steps begin after the updates of the base.

    Methods that only train online begin where the others go online, see `curves.lines`.
    """
    later = max(result.cloning_steps for result in results)
    some_go_online = bool(online_starts(results))
    shifts: dict[str, int] = {}  # of the steps of each method
    for result in results:
        waits = some_go_online and not result.offline_steps
        shifts[result.method] = later if waits else result.cloning_steps

    def moved(lines: dict[str, Line]) -> dict[str, Line]:
        return {m: (x + shifts[m], y, half) for m, (x, y, half) in lines.items()}

    return [
        chart._replace(
            series=moved(chart.series),
            budgets=moved(chart.budgets),
            online_at={step + later for step in chart.online_at},
        )
        for chart in charts(keys, short_task(task), results)
    ]


def _fill(
    axes: Axes,
    chart: Chart | None,
    keys: dict[str, str],
    published: list[PublishedCurve],
    dashes: dict[str, Any],
) -> None:
    """Draw a chart, or nothing, on axes; success with the published curves of the task.

    dashes: the dash pattern of each published method.
    """
    if chart is None:
        axes.set_axis_off()
        return
    draw_on(axes, chart, keys)
    axes.set_xlabel("updates, those of the base included")
    if chart.top:
        left, right = axes.get_xlim()
        for curve in published:
            style = dashes[curve.method]
            axes.plot(curve.steps, curve.mean, color="grey", linestyle=style)
            axes.fill_between(
                curve.steps, curve.low, curve.high, color="grey", alpha=0.2, linewidth=0
            )
        axes.set_xlim(left, right)


def _write_legend(figure: Figure, keys: dict[str, str], dashes: dict[str, Any]) -> None:
    """Write the key and the name of every method below the charts, published ones last."""
    lines = [
        (Line2D([], [], **line_style(i)), f"{key}  {method}")
        for i, (method, key) in enumerate(keys.items())
    ]
    for name, style in dashes.items():
        handle = Line2D([], [], color="grey", linestyle=style)
        lines.append((handle, f"published: {name}"))
    handles, labels = zip(*lines, strict=True)
    legend = figure.legend(
        handles, labels, loc="outside lower left", ncols=NAMES_BESIDE, frameon=False
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
