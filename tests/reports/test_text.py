"""report.py prints tables that fit a terminal."""

import re

import pytest

from reports.cells import CELLS, Lookup, blocks, main_rows, visible_table
from reports.text import aligned, as_text
from tests.reports.helpers import (
    CUBE,
    VisibleTable,
    make_report,
    text_matrices,
    unwrapped,
)
from tests.synthetic_runs import write_run


def test_the_study_fits_a_screen(study):
    lines = study.text.splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 120
    assert max(map(len, study.details.splitlines())) <= 120
    assert [f"{key}  {name}" for name, key in study.keys.items()] == lines[
        : len(study.keys)
    ]
    (header,) = (line for line in lines if line.startswith("method "))
    columns = [
        "method",
        "success (%)",
        "path KL / budget",
        "λ",
        "IQM [95 %]",
        "P(G > it) %",
    ]
    assert re.split(" {2,}", header) == [*columns, "at step 0", "step"]
    for row in study.found.rows:
        cells = [CELLS[name][1](row) for name in ("success", "path_kl", "lam", "iqm")]
        label = f"{study.keys[row.method]} {row.method.split()[0]}"
        (line,) = (line for line in lines if line.startswith(f"{label} "))
        assert unwrapped(line).startswith(" ".join([label, *filter(None, cells)]))
    assert "P(row > column)" in study.details and "P(row > column)" not in study.text


@pytest.mark.parametrize("details", ["text", "details"])
def test_many_methods_with_long_settings_fit(crowd, details):
    text = getattr(crowd, details)
    assert max(map(len, text.splitlines())) <= 120
    joined = "".join(text.split())
    for method, key in crowd.keys.items():
        assert f"{key}{method}".replace(" ", "") in joined  # wrapped, but complete
    tables = re.findall(r"^(\w+, .*): .*2 seeds, step [\d,]+$", text, re.M)
    names = ("all tasks", "scene-play-task1", "cube-double-play")
    assert tables == [
        f"{phase}, {name}" for phase in ("offline", "online") for name in names
    ]
    assert ("offline, tasks: success" in text) == (details == "details")


def test_more_methods_than_letters_fit(tmp_path):
    for i in range(40):
        settings = {"given": {"agent.lr": float(i)}, "hashed": f"{i}"}
        write_run(tmp_path, CUBE.format(1), 0, {1_000_000: i / 40}, **settings)
    shown = VisibleTable(make_report(tmp_path))
    assert max(map(len, shown.details.splitlines())) <= 120
    assert len(set(shown.keys.values())) == 40 and shown.keys["trqam lr=9.0"] == "AN"
    cells = text_matrices(shown.details)["offline", "cube-double-play-task1"]
    assert len(cells) == 40 * 40 and cells["AN", "A"] == "100"


def test_the_best_method_is_compared_with_each(study):
    (block,) = blocks(main_rows(study.found))
    best = max(block.rows, key=lambda row: row.mean)
    _, header, lines = visible_table(block, Lookup(study.found))
    column = header.index(f"P({study.keys[best.method]} > it) %")
    for row, line in zip(block.rows, lines, strict=True):
        if row is best:
            assert line[column] == "best"
            continue
        numbers = map(float, re.findall(r"\d+", line[column]))
        expected = study.chance("offline", row.name, best.method, row.method)
        assert list(numbers) == pytest.approx(expected, abs=0.5001)


def test_tasks_are_in_the_main_table_if_a_method_has_no_mean_over_them(tmp_path):
    for task in (1, 2):
        write_run(tmp_path, CUBE.format(task), 0, {1_000_000: 0.5})
        write_run(tmp_path, CUBE.format(task), task, {1_000_000: 0.4}, agent="qam")
    found = make_report(tmp_path)
    assert {(row.name, row.method) for row in main_rows(found)} == {
        ("cube-double-play", "trqam"),
        *(
            (CUBE.format(task), method)
            for task in (1, 2)
            for method in ("qam", "trqam")
        ),
    }


def test_published_figures_are_shown_beside_ours_with_their_sources(table):
    text, details = (as_text(table[2], shown) for shown in (False, True))
    rows = text[text.index("offline, antmaze-giant-navigate") :].partition("\n\n")[0]
    # The TRQAM paper used 10M transitions.
    (trqam,) = re.findall(r"41\.0 \[(\d)\] ≠\n?", rows)
    # The QAM paper does not state its data size.
    (qam,) = re.findall(r"18\.1 ± 7\.3 \[(\d)\]$", rows, re.M)
    assert f"\n[{qam}] QAM paper (arXiv 2601.14234)\n" in text
    assert f"\n[{trqam}] TRQAM paper (arXiv 2605.27079)" in text
    line = r"antmaze-giant-navigate +C trqam +70\.0 .* 41\.0 .*DATA 1M, published 10M\n"
    assert re.search(line, details)
    # The rerun is of single tasks, which only the details show.
    assert "independent rerun" in details and "independent rerun" not in text
    assert max(map(len, details.splitlines())) <= 120


def test_a_table_that_is_too_wide_continues_below():
    header = ["name", *(f"column{i}" for i in range(30))]
    lines = [["x" * 90, *(f"{i}{j}" * 5 for j in range(30))] for i in range(3)]
    text = aligned(header, lines)
    assert max(map(len, text.splitlines())) <= 120
    parts = text.split("\n\n")
    assert len(parts) > 1 and all(part.split()[0] == "name" for part in parts)
    cells = {cell for line in lines for cell in line[1:]}
    assert cells | set(header) <= set(text.split())
    assert all("".join(part.split()).count("x") == 3 * 90 for part in parts)
    long = "what differs is told in many words, " * 6
    last = aligned(["task", "what differs"], [["a", long]], 20)
    assert (
        unwrapped(long) in unwrapped(last) and max(map(len, last.splitlines())) <= 120
    )
