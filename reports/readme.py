"""The README's tables of results are what results/ has: made from it, and compared with it.

A table is found by the comment on the line before it:

    <!-- results: results/quickstart -->
        summaries (*.json) of scripts/quickstart.py, one row for each seed
    <!-- results: results/NAME scope=task columns=name,method,seeds,success step=final -->
        run folders, the rows and columns of scripts/report.py
    <!-- results: results/NAME beside=published -->
        run folders, the rows that have a published figure, beside it
    <!-- figures: results/FILE.json -->
        made elsewhere: the numbers of a row are those of one of its measurements

No other table may hold a figure with an interval (x ± y).
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from reports.published import read_published
from reports.results import read_all
from reports.statistics import mean_and_half
from reports.summary import Row, report
from reports.text import BESIDE, CELLS, as_markdown, beside_cells, markdown, plus_minus
from utils.errors import UserError
from utils.files import read_json

MARKER = re.compile(r"<!-- (results|figures): (\S+)((?: \w+=\S+)*) -->")
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?")
FIGURE = re.compile(r"\d+\.?\d*(?:[eE][-+]?\d+)?")
OPTIONS = {
    "scope": "",
    "columns": "name,method,seeds,success,iqm,path_kl,lam",
    "step": "final",
    "phase": "",
    "beside": "",
}


@dataclasses.dataclass(frozen=True)
class Marked:
    """A table behind a marker: what it is made from, and its lines, from number `first` on."""

    kind: str
    source: str
    options: dict[str, str]
    first: int
    lines: list[str]


def marked_tables(lines: list[str]) -> list[Marked]:
    """Every marked table of a README; raises UserError for a marker that cannot be followed."""
    found = []
    for i, line in enumerate(lines):
        match = MARKER.fullmatch(line.strip())
        if not match:
            if line.lstrip().startswith(("<!-- results", "<!-- figures")):
                raise UserError(
                    f"README.md:{i + 1}: write <!-- results: FOLDER key=value -->, not"
                    f" {line.strip()}"
                )
            continue
        options = dict(word.split("=", 1) for word in match[3].split())
        unknown = [key for key in options if key not in OPTIONS]
        columns = options.get("columns", OPTIONS["columns"]).split(",")
        unknown += [column for column in columns if column not in CELLS]
        if unknown:
            raise UserError(
                f"README.md:{i + 1}: the marker's {unknown[0]} is unknown; there are"
                f" {', '.join([*OPTIONS, *CELLS])}"
            )
        end = i + 1
        while end < len(lines) and lines[end].startswith("|"):
            end += 1
        found.append(Marked(match[1], match[2], OPTIONS | options, i + 1, lines[i + 1 : end]))
    return found


def made(root: Path, table: Marked) -> list[str]:
    """The lines that a table should have; raises UserError where its results are not there."""
    place = root / table.source
    if not place.is_dir():
        raise UserError(f"README.md:{table.first}: there is no folder {table.source}")
    summaries = [read_json(path) or {} for path in sorted(place.glob("*.json"))]
    if summaries and all("success_trqam" in summary for summary in summaries):
        return quickstart_table(summaries)
    results, _ = read_all([str(place)], 1)
    found = report(results, table.options["step"], read_published())

    def wanted(row: Row) -> bool:
        return table.options["phase"] in ("", row.phase) and table.options["scope"] in (
            "",
            row.scope,
        )

    if table.options["beside"] == "published":
        return markdown(
            BESIDE, [beside_cells(entry) for entry in found.beside if wanted(entry.row)]
        )
    return as_markdown(
        [row for row in found.rows if wanted(row)], table.options["columns"].split(",")
    )


def quickstart_table(summaries: list[dict[str, Any]]) -> list[str]:
    """The seeds of scripts/quickstart.py and their mean with Student's 95 % interval."""
    lines = [
        [
            str(summary["seed"]),
            f"{100 * summary['success_bc']:.0f} %",
            f"{100 * summary['success_trqam']:.0f} %",
            f"{summary['path_kl']:.3f} / {summary['kl_budget']:g}",
            f"{summary['lambda']:.2f}",
        ]
        for summary in summaries
    ]
    names = ("success_bc", "success_trqam", "path_kl", "lambda")
    means, halves = mean_and_half(
        np.array([[summary[name] for summary in summaries] for name in names])
    )
    percents = [
        f"{plus_minus(100 * mean, 100 * half)} %"
        for mean, half in zip(means[:2], halves[:2], strict=True)
    ]
    spent = f"{plus_minus(means[2], halves[2], 3)} / {summaries[0]['kl_budget']:g}"
    lines.append(["mean ± 95 %", *percents, spent, plus_minus(means[3], halves[3], 2)])
    return markdown(
        ["seed", "success of BC", "success of TRQAM", "path KL / budget", "λ"], lines
    )


def cells(line: str) -> list[str]:
    """The cells of a line of a Markdown table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def compare(table: Marked, expected: list[str]) -> list[str]:
    """One line for each cell that is not what the results have."""
    header = cells(expected[0])
    faults = []
    for i, (line, wanted) in enumerate(zip(table.lines, expected, strict=False)):
        if i == 1 or cells(line) == cells(wanted):
            continue
        ours, theirs = cells(line), cells(wanted)
        where = f"README.md:{table.first + 1 + i} ({table.source})"
        if len(ours) != len(theirs):
            faults.append(
                f"{where}: {len(ours)} columns, the results give {len(theirs)}: {wanted}"
            )
        faults += [
            f"{where}, column '{column}': the README says '{mine}', the results say '{right}'"
            for column, mine, right in zip(header, ours, theirs, strict=False)
            if mine != right
        ]
    if len(table.lines) != len(expected):
        rows = (max(0, len(lines) - 2) for lines in (table.lines, expected))
        faults.append(
            "README.md:{} ({}): {} rows, the results give {}".format(
                table.first, table.source, *rows
            )
        )
    return faults


def not_found(root: Path, table: Marked) -> list[str]:
    """One line for each number of a table that its file does not hold, rounded as in the table.

    The numbers of a row are those of one measurement, where the file has several: of the one
    that the row's first cell names, else of the one that lacks the fewest.
    """
    path = root / table.source
    if not path.is_file():
        raise UserError(f"README.md:{table.first}: there is no file {table.source}")
    content = read_json(path) or {}
    several = bool(content) and all(isinstance(entry, dict) for entry in content.values())
    texts = (
        {f", {name}": json.dumps(entry) for name, entry in content.items()}
        if several
        else {"": json.dumps(content)}
    )
    values = {
        name: np.array([abs(float(word)) for word in FIGURE.findall(text)])
        for name, text in texts.items()
    }
    faults = []
    for i, line in enumerate(table.lines[2:], table.first + 3):
        named = f", {cells(line)[0]}"
        lacking = [
            [
                f"README.md:{i}, column '{column}': {word} is not in {table.source}{name}"
                for column, cell in zip(cells(table.lines[0]), cells(line), strict=False)
                for word in NUMBER.findall(cell)
                if not holds(values[name], word, 0.01 if f"{word} %" in cell else 1.0)
            ]
            for name in ([named] if named in values else values)
        ]
        fewest = min(lacking, key=len)
        faults += fewest
    return faults


def holds(values: np.ndarray, word: str, scale: float) -> bool:
    """Whether one of the values, in units of `scale`, is a number as it is written, rounded to
    its digits.
    """
    number, digits = float(word.replace(",", "")), len(word.partition(".")[2])
    return bool((np.abs(values / scale - number) <= 0.5000001 * 10.0**-digits).any())


def check(root: Path) -> tuple[list[str], int]:
    """What is wrong in the README's tables, a line each, and the number of marked tables.
    Raises UserError for a bad marker.
    """
    lines = (root / "README.md").read_text().splitlines()
    tables = marked_tables(lines)
    faults = []
    inside = set()
    for table in tables:
        inside |= set(range(table.first, table.first + len(table.lines)))
        faults += (
            compare(table, made(root, table))
            if table.kind == "results"
            else not_found(root, table)
        )
    for i, line in enumerate(lines):
        if line.startswith("|") and i not in inside and re.search(r"\d ?±", line):
            faults.append(
                f"README.md:{i + 1}: a figure with an interval, and no marker says which"
                f" results it is from: {line}"
            )
    return faults, len(tables)


def renew(root: Path) -> list[str]:
    """Write the README's tables anew from the results -> what was changed."""
    path = root / "README.md"
    lines = path.read_text().splitlines()
    changed = []
    for table in reversed(marked_tables(lines)):
        if table.kind == "results" and (expected := made(root, table)) != table.lines:
            lines[table.first : table.first + len(table.lines)] = expected
            changed.append(f"README.md:{table.first}: made from {table.source}")
    if changed:
        path.write_text("\n".join(lines) + "\n")
    return changed[::-1]
