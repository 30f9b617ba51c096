"""The tables of the README and of docs/, made from results/.

A table lies between `<!-- made: NAME -->` and `<!-- end -->`, where NAME is a key of TABLES.
`make results` writes them anew.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from envs.tasks import short_task
from reports.cells import CELLS, bracket, plus_minus
from reports.curves import curve
from reports.files import as_markdown, markdown
from reports.points import Point
from reports.reading import read_all
from reports.rows import Row
from reports.statistics import Interval, mean_and_half
from reports.summary import make_report
from utils.csv_log import read_csv
from utils.errors import UserError

PAGES = ("README.md", "docs/results.md", "docs/study.md")
BLOCK = re.compile(r"(?<=<!-- made: )(\w+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)
STUDY_COLUMNS = (
    "method", "seeds", "start", "success", "path_kl", "within", "settled", "highest", "lam",
)  # fmt: skip


def renewed(text: str, results: Path) -> str:
    """A page with all of its tables made from the files below `results`. Raises UserError for a
    table that nothing makes.
    """

    def block(match: re.Match) -> str:
        if match[1] not in TABLES:
            raise UserError(
                f"<!-- made: {match[1]} -->: it is none of {', '.join(TABLES)}"
            )
        table = "".join(f"{line}\n" for line in TABLES[match[1]](results))
        return f"{match[1]}{match[2]}{table}"

    return BLOCK.sub(block, text)


def quickstart(results: Path) -> list[str]:
    """The seeds of scripts/quickstart.py and their mean with Student's 95 % interval."""
    found = []
    for path in sorted(results.glob("quickstart/*.json")):
        summary = json.loads(path.read_text())
        lines = read_csv(path.with_suffix(".csv"))
        success = [100 * line["success"] for line in lines if "success" in line]
        kl, lam = summary["path_kl"], summary["lambda"]
        found.append([success[0], success[-1], kl, lam])
    budget = f"{summary['kl_budget']:g}"
    rows = [
        [
            str(seed),
            f"{bc:.0f} %",
            f"{ours:.0f} %",
            f"{kl:.3f} / {budget}",
            f"{lam:.2f}",
        ]
        for seed, (bc, ours, kl, lam) in enumerate(found)
    ]
    mean, half = mean_and_half(np.array(found).T)
    bc, ours, kl, lam = map(plus_minus, mean, half, (1, 1, 3, 2))
    rows.append(["mean ± 95 %", f"{bc} %", f"{ours} %", f"{kl} / {budget}", lam])
    header = ["seed", "success of BC", "success of TRQAM", "path KL / budget", "λ"]
    return markdown(header, rows)


def study(folder: Path) -> list[str]:
    """The methods of an exported study of one task, as report.py compares them."""
    return as_markdown(rows_of_tasks(folder), list(STUDY_COLUMNS))


def rows_of_tasks(folder: Path) -> list[Row]:
    """The rows of an exported study for each task and method, after the offline phase."""
    report = make_report(read_all([str(folder)], 1)[0], "final", [])
    return [row for row in report.rows if (row.scope, row.phase) == ("task", "offline")]


def learning(folder: Path, every: int = 10_000) -> list[str]:
    """Success of each method of an exported study as it learns; path KL and λ at the end.

    Updates include those of the base that a run cloned before. Columns are the updates at
    which every method was evaluated.

    Args:
        folder: the study.
        every: only multiples of this number of updates become columns.
    """
    rows = rows_of_tasks(folder)
    curves = []
    for row in rows:
        steps, mean, _ = curve(row.results)
        updates = map(int, steps + row.results[0].cloning_steps)
        curves.append(dict(zip(updates, mean, strict=True)))
    *columns, _ = sorted(set.intersection(*map(set, curves)))
    columns = [update for update in columns if update % every == 0]
    lines = []
    for row, success in zip(rows, curves, strict=True):
        line = [CELLS[name][1](row) for name in ("name", "method", "seeds")]
        line += [f"{success[update]:.1f}" for update in columns]
        line += [CELLS[name][1](row) for name in ("success", "path_kl", "lam")]
        lines.append(line)
    header = ["task", "method", "seeds", *(f"at {update:,}" for update in columns)]
    return markdown([*header, "at the end (%)", "path KL / budget", "λ"], lines)


def differences(folder: Path, method: str) -> list[str]:
    """Success of a method minus that of each other agent's, in points with Student's 95 %
    interval over the seeds that both have: seeds share their base, so they are compared one by
    one.
    """
    results = read_all([str(folder)], 1)[0]
    (agent,) = {r.agent for r in results if r.method == method}
    # success in percent by task and method, then by seed
    rates: dict[tuple[str, str], dict[int, float]] = {}
    for result in sorted(results, key=lambda r: (r.env_name, r.method)):
        if result.method == method or result.agent != agent:
            of_method = rates.setdefault((result.env_name, result.method), {})
            success = result.success(result.ends()["offline"])
            if success is not None:
                of_method[result.seed] = 100 * success
    lines = []
    for (task, other), theirs in rates.items():
        if other != method:
            ours = rates.get((task, method), {})
            both = sorted(ours.keys() & theirs.keys())
            by_seed = np.array([ours[seed] - theirs[seed] for seed in both])
            mean, half = map(float, mean_and_half(by_seed))
            points = plus_minus(mean, half)
            lines.append([short_task(task), other, str(len(both)), points])
    return markdown(["task", f"{method} minus", "seeds", "points"], lines)


def returns(folder: Path) -> list[str]:
    """The mean return of each run of an exported study at every evaluation, and its success and
    path KL at the end.
    """
    results = sorted(read_all([str(folder)], 1)[0], key=lambda r: (r.method, r.seed))
    steps = sorted({int(step) for r in results for step in r.evaluations["step"]})
    lines = []
    for result in results:
        success = result.evaluations["success"][-1]
        region = Point(result, "offline", result.last_step, success).trust_region
        at_steps = [result.mean_return(step) for step in steps]
        lines.append(
            [
                result.method,
                *("" if value is None else f"{value:,.0f}" for value in at_steps),
                f"{100 * success:.0f}",
                f"{region.path_kl:.3g}" if region else "",
            ]
        )
    header = ["method", *(f"return at {step:,}" for step in steps)]
    return markdown([*header, "success (%)", "path KL"], lines)


def measurements(path: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, setup and figures of every measurement in a file of scripts/benchmark.py table."""
    for name, setup in json.loads(path.read_text()).items():
        for figures in setup.get("by_seeds", []):
            yield name, setup, figures


def speed(path: Path) -> list[str]:
    """Updates per second in a file of scripts/benchmark.py table."""
    rows = [
        [
            name,
            str(figures["seeds"]),
            f"{setup['gflop_per_update']:.1f}",
            f"{figures['seed_updates_per_s']:.2f}",
            f"{figures['fraction_of_peak']:.2f}",
        ]
        for name, setup, figures in measurements(path)
    ]
    header = ["measurement", "seeds", "GFLOP per update", "seed-updates/s", "of peak"]
    return markdown(header, rows)


def host_data(results: Path) -> list[str]:
    """How long updates wait for data on the host."""
    speeds = json.loads((results / "speed_cpu.json").read_text())
    rows = [
        [
            f"{data['rows']:,}",
            str(data["readers"]),
            f"{data['fastest_updates_per_s']:,.0f}",
            f"{data['paced_waiting']:.1%}",
        ]
        for data in speeds["data"]["measurements"]
    ]
    header = ["rows on the host", "threads", "updates/s at most", "waiting"]
    return markdown(header, rows)


def oracle_speed(results: Path) -> list[str]:
    """Our update against one written straight from the equations, in paired rounds."""
    measured = json.loads((results / "oracle_speed.json").read_text())
    row = [
        str(measured["rounds"]),
        f"{measured['ours']['gflop']:.1f}",
        f"{measured['oracle']['gflop']:.1f}",
        bracket(Interval(measured["speedup"], *measured["speedup_95"]), 3),
    ]
    header = ["rounds", "GFLOP, ours", "GFLOP, theirs", "times as fast [95 %]"]
    return markdown(header, [row])


def csv_table(path: Path) -> list[str]:
    """A CSV file as it is."""
    with path.open(newline="") as file:
        header, *lines = csv.reader(file)
    return markdown(header, lines)


def chain(results: Path) -> list[str]:
    """Updates that a critic needs on the long chain, for every length of sequences and seed."""
    with (results / "chain.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    for line in lines:
        line.append(f"{np.mean([int(count) for count in line[2:]]):,.0f}")
    return markdown([*header, "mean"], lines)


TABLES: dict[str, Callable[[Path], list[str]]] = {
    "quickstart": quickstart,
    "scene": lambda results: learning(results / "scene"),
    "scene_differences": lambda results: differences(results / "scene", "trqam"),
    "scene_stability": lambda results: study(results / "scene_stability"),
    "scene_tuning": lambda results: returns(results / "scene_tuning"),
    "cube_double": lambda results: learning(results / "cube_double", every=20_000),
    "lift": lambda results: study(results / "lift"),
    "speed": lambda results: speed(results / "speed_cpu.json"),
    "agents": lambda results: speed(results / "agents_cpu.json"),
    "host_data": host_data,
    "oracle_speed": oracle_speed,
    "probe": lambda results: csv_table(results / "probe.csv"),
    "chain": chain,
    "chain_slow_targets": lambda results: csv_table(results / "chain_slow_targets.csv"),
}
