"""Helpers that make reports on synthetic runs and read what they show."""

import csv
import io
import json
import re
from pathlib import Path

from reports import summary
from reports.cells import keys_of
from reports.files import as_csv
from reports.html import page
from reports.published import read_published
from reports.reading import read_all
from reports.text import as_text
from scripts import report as script

ROOT = Path(__file__).resolve().parents[2]
SCENE, CUBE = "scene-play-singletask-task{}-v0", "cube-double-play-singletask-task{}-v0"
LEVELS = {"bc": 0.2, "qam": 0.68, "trqam": 0.7}


def run_report(*words):
    return script.main(["report.py", *map(str, words)])


def make_report(folder, at="final", **changed):
    results, notes = read_all([str(folder)], 50_000)
    return summary.make_report(
        results, at, read_published(), notes, replicates=200, **changed
    )


def unwrapped(text):
    """Return a text without its line breaks."""
    return " ".join(text.split())


def row_of(found, name, method, phase="offline"):
    (row,) = (
        row
        for row in found.rows
        if (row.name, row.method, row.phase) == (name, method, phase)
    )
    return row


def change_dataset(folder, **changed):
    """Change what the config.json of a run says about its dataset."""
    config = json.loads((folder / "config.json").read_text())
    config["dataset"] |= changed
    (folder / "config.json").write_text(json.dumps(config))


def methods_of(folder, *more):
    results, _ = read_all([str(folder), *map(str, more)], 50_000)
    return sorted({result.method for result in results})


class VisibleTable:
    """A report as it is shown: in the terminal, with details, as a page and as CSV lines."""

    def __init__(self, found):
        self.found = found
        self.text, self.details = as_text(found), as_text(found, details=True)
        self.page = page(found)
        self.lines = list(csv.DictReader(io.StringIO(as_csv(found))))
        self.keys = keys_of(found.methods)

    def chance(self, phase, name, x, y):
        """Return P(X > Y) and the ends of its interval, if any, from the CSV; None without a
        common task.
        """
        for line in self.lines:
            if (line["kind"], line["phase"], line["name"]) != (
                "improvement",
                phase,
                name,
            ):
                continue
            cells = [line[key] for key in ("probability", "low", "high")]
            values = [float(cell) for cell in cells if cell]
            if (line["method"], line["versus"]) == (x, y):
                return values
            if (line["method"], line["versus"]) == (y, x):
                return [100 - values[i] for i in (0, 2, 1)[: len(values)]]
        return None


def text_matrices(text):
    """Return {(phase, name): {(row, column): cell}} of the matrices in the terminal."""
    found, cells = {}, None
    for part in text.split("\n\n"):
        title, *lines = part.splitlines()
        if match := re.fullmatch(r"(\w+), (.*): improvement", title):
            cells = found[match.groups()] = {}
        elif title.startswith("P(row"):
            lines = [title, *lines]
        else:
            continue
        columns = lines[0].split()[4:]
        for line in lines[2:]:
            key, *rest = line.split()
            row = zip(columns, rest[-len(columns) :], strict=True)
            cells |= {(key, column): cell for column, cell in row}
    return found
