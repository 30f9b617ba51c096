"""scripts/report.py on run folders with known numbers, on what unfinished and damaged runs
leave, and on the README.
"""

import csv
import html.parser
import io
import itertools
import json
import pickle
import re
import resource
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from envs.tasks import ALL_TASKS, dataset_name
from reports.cells import (
    CELLS,
    Lookup,
    blocks,
    keys_of,
    main_names,
    main_rows,
    short,
    visible_table,
)
from reports.curves import curve, kl_curve
from reports.export import command
from reports.files import as_csv
from reports.html import page
from reports.published import read_published
from reports.reading import read_all
from reports.summary import report
from reports.text import aligned, as_text
from scripts import report as script
from tests.synthetic_runs import write_csv, write_run, write_table

ROOT = Path(__file__).resolve().parents[2]
SCENE, CUBE = "scene-play-singletask-task{}-v0", "cube-double-play-singletask-task{}-v0"
LEVELS = {"bc": 0.2, "qam": 0.68, "trqam": 0.7}


def run(*words):
    return script.main(["report.py", *map(str, words)])


def made(folder, at="final", **changed):
    results, notes = read_all([str(folder)], 50_000)
    return report(results, at, read_published(), notes, replicates=200, **changed)


def words(text):
    """A text without its line breaks."""
    return " ".join(text.split())


def row_of(found, name, method, phase="offline"):
    (row,) = (
        row
        for row in found.rows
        if (row.name, row.method, row.phase) == (name, method, phase)
    )
    return row


def change_dataset(folder, **changed):
    """Have a run say that it was trained on other data."""
    config = json.loads((folder / "config.json").read_text())
    config["dataset"] |= changed
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """50 tasks x 8 seeds x 3 methods: the folder, success [methods, tasks, seeds], and the
    report.
    """
    folder = tmp_path_factory.mktemp("table")
    final = write_table(folder, list(ALL_TASKS), 8, LEVELS, evaluations=4, logs=40)
    return folder, final, made(folder)


# ---------------------------------------------------------------- the numbers


def test_repeated_runs_are_told_apart_from_others(tmp_path, capsys):
    """Only the same settings count, a run is not compared with itself, and one outside makes
    the exit code 1.
    """
    task, settings = SCENE.format(1), {"given": {"agent.kl_budget": 0.3}}
    for seed, rate in enumerate((0.2, 0.4, 0.6)):
        write_run(tmp_path / "kept", task, seed, {1_000_000: rate}, **settings)
        write_run(
            tmp_path / "kept",
            task,
            seed,
            {1_000_000: 0.95},
            given={"agent.kl_budget": 3.0},
            hashed="b",
        )
    write_run(tmp_path / "again", task, 3, {1_000_000: 1.0}, **settings)
    assert (
        run(tmp_path / "again", f"--repeat_of={tmp_path}/kept", "--bootstrap=10") == 0
    )
    interval = (
        f"40.0 ± {100 * stats.t.ppf(0.975, 2) * 0.2 * (4 / 3) ** 0.5:.1f} (95 % prediction"
        " interval of 3 seeds)"
    )
    assert (
        f"trqam {task[:-3]} seed 3, step 1,000,000: 100.0 % is inside {interval}"
        in words(capsys.readouterr().out)
    )
    write_run(
        tmp_path / "again",
        task,
        4,
        {1_000_000: 0.5},
        hashed="b",
        given={"agent.kl_budget": 3.0},
    )
    assert (
        run(tmp_path / "again", f"--repeat_of={tmp_path}/kept", "--bootstrap=10") == 1
    )
    assert "seed 4, step 1,000,000: 50.0 % is OUTSIDE 95.0 ±" in words(
        capsys.readouterr().out
    )
    assert (
        run(tmp_path / "kept", f"--repeat_of={tmp_path}/again", "--bootstrap=10") == 1
    )
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 120
    assert "fewer than two other seeds of the same settings" in words(shown)


def test_repeated_runs_have_the_settings_and_as_many_data(tmp_path, capsys):
    """bc_steps are in no folder's hash; data that were made anew are told, and fewer or more of
    them are other settings.
    """
    task = SCENE.format(1)
    for seed in range(3):
        write_run(tmp_path / "kept", task, seed, {1_000_000: 0.5}, bc_steps=10_000)
    write_run(tmp_path / "short", task, 3, {1_000_000: 0.5}, bc_steps=20)
    assert (
        run(tmp_path / "short", f"--repeat_of={tmp_path}/kept", "--bootstrap=10") == 1
    )
    assert (
        "evaluated at step 1,000,000; there are others with bc_steps 10000 and 20"
        in words(capsys.readouterr().out)
    )
    again = write_run(
        tmp_path / "again",
        task,
        3,
        {1_000_000: 0.5},
        bc_steps=10_000,
        offline_steps=2_000_000,
    )
    change_dataset(again, crc=8)
    assert (
        run(tmp_path / "again", f"--repeat_of={tmp_path}/kept", "--bootstrap=10") == 0
    )
    assert "(95 % prediction interval of 3 seeds); the data were not the same" in words(
        capsys.readouterr().out
    )
    change_dataset(again, transitions=60_000)
    assert (
        run(tmp_path / "again", f"--repeat_of={tmp_path}/kept", "--bootstrap=10") == 1
    )
    assert "there are others with transitions 1000000 and 60000" in words(
        capsys.readouterr().out
    )


def test_a_row_for_every_task_domain_and_all_tasks(table):
    _, _, found = table
    names = [(row.scope, row.name) for row in found.rows if row.method == "trqam"]
    domains = list(dict.fromkeys(map(dataset_name, ALL_TASKS)))
    assert [name for scope, name in names if scope == "task"] == list(ALL_TASKS)
    assert [name for scope, name in names if scope == "domain"] == domains
    assert [name for scope, name in names if scope == "overall"] == ["all tasks"]
    assert len(found.rows) == 3 * 61 and {row.seeds for row in found.rows} == {8}


@pytest.mark.parametrize("scope", ["task", "domain", "overall"])
def test_success_is_what_was_written(table, scope):
    _, final, found = table
    rows = [row for row in found.rows if row.scope == scope]
    assert rows
    for row in rows:
        inside = [
            i
            for i, task in enumerate(ALL_TASKS)
            if row.name in (task, dataset_name(task), "all tasks")
        ]
        scores = 100 * final[list(LEVELS).index(row.method), inside]
        of_seeds = scores.mean(0)
        assert row.mean == pytest.approx(scores.mean())
        assert row.half == pytest.approx(
            stats.t.ppf(0.975, 7) * of_seeds.std(ddof=1) / 8**0.5
        )
        assert row.iqm.value == pytest.approx(stats.trim_mean(scores, 0.25, axis=None))
        assert row.iqm.low <= row.iqm.value <= row.iqm.high
        assert (row.step, row.tasks, row.episodes, row.start) == (
            "1,000,000",
            len(inside),
            50,
            0.0,
        )


def test_path_kl_and_lambda_are_what_was_written(table):
    _, _, found = table
    row = row_of(found, "all tasks", "trqam")
    # of the last tenth of 40 logs
    last = [1.0 + 0.05 * (-1) ** k + 2.0 / (k + 1) for k in range(36, 40)]
    assert row.path_kl == pytest.approx(np.mean(last), rel=1e-6)
    settled = [1.0 + 0.05 * (-1) ** k + 2.0 / (k + 1) for k in range(20, 40)]
    assert (
        row.within
        == pytest.approx(100 * np.mean([abs(kl - 1) <= 0.1 for kl in settled]))
        and 0 < row.within < 100
    )
    assert (row.kl_budget, row.lam) == (1.0, pytest.approx(3.0 * (1 + 39 / 40)))
    assert np.isnan(row_of(found, "all tasks", "qam").path_kl)


def test_when_the_path_kl_settled_and_how_high_it_was(tmp_path):
    """It settles with the first log near the budget from which on nine in ten are; a run that
    strays again never does.
    """
    step = 50_000
    spent = [3.0, 1.0, 0.5, 0.5, *[0.95] * 12, 1.2, *[1.05] * 3]
    for task, last in ((1, 1.0), (2, 1.5)):
        kl = [
            (step * (i + 1), 2.0 * share, 1.0)
            for i, share in enumerate([*spent, last, last])
        ]
        write_run(
            tmp_path,
            CUBE.format(task),
            0,
            {1_100_000: 0.5},
            "trqam",
            kl,
            given={"agent.kl_budget": 2.0},
        )
    settled, strayed = (row for row in made(tmp_path).rows if row.scope == "task")
    assert (settled.settled, settled.highest) == (5 * step, 3.0)
    assert settled.within > 90 > strayed.within and np.isnan(strayed.settled)
    assert (CELLS["settled"][1](settled), CELLS["settled"][1](strayed)) == (
        "250,000",
        "-",
    )
    assert CELLS["highest"][1](settled) == "3.00"


def test_path_kl_without_a_budget_is_shown_alone(tmp_path):
    """QAM logs it and has no budget to be off."""
    write_run(
        tmp_path,
        SCENE.format(1),
        0,
        {0: 0.1, 1_000_000: 0.7},
        kl=[(1_000_000, 1.05, 0.5)],
    )
    folder = write_run(
        tmp_path, SCENE.format(1), 0, {0: 0.1, 1_000_000: 0.0}, agent="qam"
    )
    write_csv(
        folder / "train.csv",
        ("step", "phase", "dual/path_kl"),
        [(s, "offline", 6.4) for s in (500_000, 1_000_000)],
    )
    found = made(tmp_path)
    row = row_of(found, SCENE.format(1), "qam")
    assert row.path_kl == 6.4 and np.isnan([row.kl_budget, row.within, row.lam]).all()
    assert [CELLS[name][1](row) for name in ("path_kl", "within", "lam")] == [
        "6.400",
        "",
        "",
    ]
    assert not any("path KL" in note for note in found.notes)
    assert "6.400" in page(found) and ">nan" not in page(found)


def test_probability_of_improvement_is_what_was_written(table):
    _, final, found = table
    of = {
        (entry.name, entry.method, entry.other): entry for entry in found.improvements
    }
    x, y = np.round(final[[2, 1]], 9)
    expected = np.mean(
        [[(a > b) + 0.5 * (a == b) for a in x[t] for b in y[t]] for t in range(50)]
    )
    entry = of["all tasks", "trqam", "qam"]
    assert (
        entry.probability.value == pytest.approx(100 * expected)
        and 60 < 100 * expected < 90
    )
    assert entry.probability.low < 100 * expected < entry.probability.high
    assert of["scene-play", "qam", "bc"].probability == (100.0, 100.0, 100.0)
    assert len(found.improvements) == 3 * 61


def test_curves_are_what_was_written(table):
    _, final, found = table
    results = [
        r for r in found.results if r.method == "trqam" and r.domain == "scene-play"
    ]
    steps, mean, half = curve(results)
    np.testing.assert_array_equal(steps, 250_000 * np.arange(5))
    inside = [
        i for i, task in enumerate(ALL_TASKS) if dataset_name(task) == "scene-play"
    ]
    np.testing.assert_allclose(mean, 100 * final[2, inside].mean() * np.arange(5) / 4)
    assert half[0] == 0.0 and half[-1] == pytest.approx(
        row_of(found, "scene-play", "trqam").half
    )
    steps, mean, half = kl_curve(
        results, "path_kl", points=10
    )  # four logs in each window
    kl = np.array([1.0 + 0.05 * (-1) ** k + 2.0 / (k + 1) for k in range(40)])
    np.testing.assert_allclose(mean, kl.reshape(10, 4).mean(1), rtol=1e-6)
    np.testing.assert_allclose([steps[-1], *half], [1_000_000, *[0.0] * 10], atol=1e-9)


def test_rows_stand_beside_the_published_figures(table):
    _, _, found = table
    entries = {
        (e.row.name, e.published.method, e.published.source[:5]): e
        for e in found.comparisons
    }
    entry = entries["all tasks", "TRQAM", "TRQAM"]
    assert (entry.published.success, entry.published.seeds, entry.row.mean) == (
        68.0,
        8,
        pytest.approx(70.0),
    )
    entry = entries["scene-play", "QAM", "QAM p"]
    assert (entry.published.success, entry.published.std, entry.published.seeds) == (
        96.9,
        1.5,
        12,
    )
    assert entry.differences == [
        "reward default, published sparse",
        "discount 0.995, published 0.99",
    ]
    assert entries["antmaze-giant-navigate", "TRQAM", "TRQAM"].differences == [
        "DATA 1M, published 10M"
    ]
    assert entries["antmaze-giant-navigate", "QAM", "QAM p"].differences == [
        "published data size not stated"
    ]
    (note,) = found.notes
    assert note.startswith(
        "3 published figures are from another amount of data than ours (DATA): trqam"
        " antmaze-giant-navigate"
    )


def test_settings_that_were_given_are_told_beside_a_published_figure(tmp_path):
    given = {"agent.actor_hidden_dims": [128, 128], "agent.inv_temp": 10.0}
    folder = write_run(
        tmp_path, SCENE.format(1), 0, {1_000_000: 0.5}, agent="qam", given=given
    )
    config = json.loads((folder / "config.json").read_text())
    config["sources"]["agent.num_qs"] = "preset study"
    (folder / "config.json").write_text(json.dumps(config))
    (entry,) = made(tmp_path).comparisons
    assert (
        entry.differences[-1]
        == "settings actor_hidden_dims=[128,128], inv_temp=10.0, preset=study"
    )
    assert entry.differences[-1].removeprefix("settings ") in page(made(tmp_path))


SETTINGS = [
    *(("cgql", {"mode": mode}) for mode in ("simple", "mse", "linex")),
    *(
        ("qam", {key: value})
        for key in ("edit_scale", "fql_alpha")
        for value in (0.0, 0.1)
    ),
    *(("qam_edit", {"edit_scale": value}) for value in (0.0, 0.1)),
    *(("qam_fql", {"fql_alpha": value}) for value in (0.0, 30.0)),
]


def test_every_published_agent_of_this_project_finds_its_figures(tmp_path):
    """Where edit_scale or fql_alpha is 0, what was published as QAM-E or QAM-F is QAM with
    other settings.
    """
    ours = {
        path.stem
        for path in (ROOT / "agents").glob("*.py")
        if "\nAGENT = " in path.read_text()
    }
    unpublished = {"bc", "sqam", "qgf", "qpilots"}
    unpublished |= {name for name in ours if name.startswith("trqam_")}
    settings = [
        *SETTINGS,
        *(
            (agent, {})
            for agent in ours - unpublished - {agent for agent, _ in SETTINGS}
        ),
    ]
    for i, (agent, values) in enumerate(settings):
        given = {f"agent.{key}": value for key, value in values.items()}
        write_run(
            tmp_path,
            SCENE.format(1),
            0,
            {1_000_000: 0.5},
            agent=agent,
            given=given,
            hashed=f"{i}",
        )
    results, _ = read_all([str(tmp_path)], 1)
    names = {result.published_name for result in results}
    assert (
        len(results) == len(settings) and {"QAM-E", "QAM-F", "CGQL-M", "TRQAM"} <= names
    )
    assert names <= {figure.method for figure in read_published()}
    assert {r.published_name for r in results if r.agent == "qam_edit"} == {"QAM-E"}
    assert {r.published_name for r in results if r.agent == "qam_fql"} == {"QAM-F"}


STEPS = {
    "RQL": {("offline", 2_000_000)},
    "QAM": {("offline", 1_000_000), ("online", 1_500_000)},
    "RLPD": {("online", 500_000)},  # it has no offline phase
    "TRQAM": {("offline", 1_000_000), ("offline", 200_000)},
}


def test_the_published_figures_have_their_sources():
    figures = read_published()
    assert len(figures) == 16 * 61 * 2 + 61 + 10 + 30 and len(set(figures)) == len(
        figures
    )
    known = {*ALL_TASKS, *map(dataset_name, ALL_TASKS), "all"}
    for figure in figures:
        assert (
            figure.name in known
            and 0 <= figure.success <= 100
            and figure.seeds in (4, 8, 12)
        )
        assert re.search(r"arXiv \d{4}\.\d{5}|rerun", figure.source)
        paper = figure.source.split()[0].replace("independent", "TRQAM")
        paper = "RLPD" if figure.method == "RLPD" else paper
        assert (figure.phase, figure.step) in STEPS[paper]
        if paper in ("QAM", "RLPD"):
            assert figure.seeds == 12 and figure.std is not None


def test_the_published_figures_of_domains_are_means_of_their_tasks():
    """Of the QAM paper, whose figures were rounded to a tenth of a percent each."""
    figures = [
        f for f in read_published() if f.source == "QAM paper (arXiv 2601.14234)"
    ]
    of = {(f.method, f.phase, f.name): f.success for f in figures}
    assert len(of) == 16 * 61 * 2 + 61
    for method, phase in {(f.method, f.phase) for f in figures}:
        tasks = {task: of[method, phase, task] for task in ALL_TASKS}
        mean = np.mean(list(tasks.values()))
        assert of[method, phase, "all"] == pytest.approx(mean, abs=0.101)
        for domain in map(dataset_name, ALL_TASKS):
            own = [rate for task, rate in tasks.items() if dataset_name(task) == domain]
            assert of[method, phase, domain] == pytest.approx(np.mean(own), abs=0.101)
    right = {"QAM-E": (45.7, 84.7), "QAM": (44.4, 69.9)}
    for method, rates in right.items():
        assert (of[method, "offline", "all"], of[method, "online", "all"]) == rates
    assert (of["ReBRAC", "offline", "all"], of["RLPD", "online", "all"]) == (40.0, 60.0)


def test_second_hand_figures_say_so_and_leave_blank_what_is_unknown():
    figures = {
        (f.method, f.name): f for f in read_published() if f.source.startswith("RQL")
    }
    assert {method for method, _ in figures} == {"RQL", "BDPO", "TFQL"}
    assert all("second hand" in f.source for f in figures.values())
    assert {(f.seeds, f.std) for f in figures.values()} == {(4, None)}
    assert figures["RQL", "cube-quadruple-play"].success == 51
    assert figures["TFQL", "scene-play"].success == 61
    assert figures["BDPO", "antmaze-large-navigate"].success == 83
    rql = {
        name: figure for (method, name), figure in figures.items() if method == "RQL"
    }
    sizes = {name: f.transitions / 1e6 for name, f in rql.items() if f.transitions}
    assert sizes == {
        "puzzle-4x4-play": 100,
        "cube-triple-play": 1,
        "cube-quadruple-play": 100,
    }
    others = [figure for (method, _), figure in figures.items() if method != "RQL"]
    assert {(f.reward, f.discount) for f in others} == {(None, None)}
    assert (rql["scene-play"].reward, rql["scene-play"].discount) == ("sparse", 0.99)


# ---------------------------------------------------------------- what it writes


class Page(html.parser.HTMLParser):
    """What a page refers to and whether its tags close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.ids, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        self.addresses += [
            given[name]
            for name in ("href", "src", "srcset", "data", "action", "xlink:href")
            if name in given
        ]
        self.ids += [given["id"]] if "id" in given else []
        if tag != "meta" and not self.get_starttag_text().endswith("/>"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.get_starttag_text().endswith("/>") or self.open[-1:] == [tag]:
            assert self.open.pop() == tag


@pytest.mark.ci
def test_the_files_hold_the_numbers_and_the_page_asks_for_nothing(
    table, tmp_path, capsys
):
    folder, _, found = table
    files = [tmp_path / name for name in ("r.html", "r.csv", "r.tex")]
    assert (
        run(
            folder,
            "--bootstrap=200",
            *(f"--{path.suffix[1:].replace('tex', 'latex')}={path}" for path in files),
        )
        == 0
    )
    shown = capsys.readouterr().out
    overall = row_of(found, "all tasks", "trqam")
    iqm = f"70.0 [{overall.iqm.low:.1f}, {overall.iqm.high:.1f}]"
    cells = (
        f"70.0 ± {overall.half:.1f}",
        f"{overall.path_kl:.3f} / 1",
        f"{overall.lam:.3g}",
        iqm,
    )
    assert (
        "offline, all tasks: 0.0 % at step 0, 50 tasks, 8 seeds, step 1,000,000\n"
        in shown
    )
    assert re.search(
        "\nC trqam +" + " +".join(map(re.escape, cells)) + r" +best +68\.0 \[\d\]\n",
        shown,
    )

    text = files[0].read_text()
    page = Page(text)
    assert (
        page.open == []
        and "http" not in text.lower()
        and not re.search(r"url\(|@import|@font-face", text)
    )
    links = {
        a for a in page.addresses if not a.startswith("data:image/svg+xml;base64,")
    }
    assert links and {address[0] for address in links} == {"#"}
    assert {address[1:] for address in links} <= set(page.ids) and len(
        set(page.ids)
    ) == len(page.ids)
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    images = re.findall(
        '<img class="chart" alt="[^"]*" src="data:image/svg[+]xml;base64,', text
    )
    assert (
        len(images) == page.tags.count("img") == 3 * 61
    )  # success, path KL and λ of each
    assert all(cell in text for cell in cells) and not re.search(
        r"\bnan\b", text, re.IGNORECASE
    )

    lines = list(csv.DictReader(io.StringIO(files[1].read_text())))
    kinds = {
        kind: [line for line in lines if line["kind"] == kind]
        for kind in ("ours", "published", "improvement")
    }
    assert (len(kinds["ours"]), len(kinds["improvement"]), len(kinds["published"])) == (
        183,
        183,
        len(found.comparisons),
    )
    (line,) = (
        line
        for line in kinds["ours"]
        if (line["name"], line["method"]) == ("all tasks", "trqam")
    )
    assert [float(line[key]) for key in ("success", "low", "path_kl")] == pytest.approx(
        [overall.mean, overall.iqm.low, overall.path_kl], rel=1e-5
    )
    latex = files[2].read_text()
    assert (
        latex.count(r"\\") == 61 + 1
        and latex.count(r"\textbf{") == 61
        and "±" not in latex
    )
    assert rf"\textit{{all tasks}} & 20.0 $\pm$ {overall.half:.1f} & 68.0" in latex


def test_methods_are_text_wherever_they_are_shown(tmp_path, capsys):
    for i, value in enumerate(("a<b&c", "50%_x")):
        write_run(
            tmp_path / "exp",
            SCENE.format(1),
            0,
            {0: 0.1, 1_000_000: 0.5},
            given={"agent.mode": value},
            hashed=f"{i}",
        )
    files = [f"--html={tmp_path / 'r.html'}", f"--latex={tmp_path / 'r.tex'}"]
    assert run(tmp_path / "exp", *files) == 0
    assert "trqam mode=a&lt;b&amp;c" in (tmp_path / "r.html").read_text()
    assert r"trqam mode=50\%\_x" in (tmp_path / "r.tex").read_text()


# ---------------------------------------------------------------- what is shown first


class VisibleTable:
    """A report as it is shown: in the terminal, with details, as a page and as CSV lines."""

    def __init__(self, found):
        self.found = found
        self.text, self.details = as_text(found), as_text(found, details=True)
        self.page = page(found)
        self.lines = list(csv.DictReader(io.StringIO(as_csv(found))))
        self.keys = keys_of(found.methods)

    def chance(self, phase, name, x, y):
        """P(X > Y) and the ends of its interval, from the CSV; None without a common task."""
        for line in self.lines:
            if (line["kind"], line["phase"], line["name"]) != (
                "improvement",
                phase,
                name,
            ):
                continue
            values = [float(line[key]) for key in ("probability", "low", "high")]
            if (line["method"], line["versus"]) == (x, y):
                return values
            if (line["method"], line["versus"]) == (y, x):
                return [100 - values[i] for i in (0, 2, 1)]
        return None


@pytest.fixture(scope="module")
def study():
    return VisibleTable(made(ROOT / "results" / "study"))


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """17 methods with long settings on three tasks of two domains, offline and online."""
    folder = tmp_path_factory.mktemp("crowd")
    rng = np.random.default_rng(0)
    for i in range(17):
        given = {
            "agent.mode": f"{'a_long_word_' * 12}{i}",
            "agent.kl_budget": 0.1 * 2.0**i,
        }
        kl = [(100_000 * k, 0.1 * 2.0**i * (1 + 1 / k), 1.0 + i) for k in range(1, 16)]
        for task in (CUBE.format(1), CUBE.format(2), SCENE.format(1)):
            for seed in range(2):
                rates = rng.uniform(size=16)
                success = dict(zip(range(0, 1_600_000, 100_000), rates, strict=True))
                settings = {"given": given, "hashed": f"{i}", "online_steps": 500_000}
                write_run(folder, task, seed, success, kl=kl, **settings)
    return VisibleTable(made(folder))


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
        assert words(line).startswith(" ".join([label, *filter(None, cells)]))
    assert "P(row > column)" in study.details and "P(row > column)" not in study.text


@pytest.mark.parametrize("details", ["text", "details"])
def test_many_methods_with_long_settings_fit(crowd, details):
    text = getattr(crowd, details)
    assert max(map(len, text.splitlines())) <= 120
    joined = "".join(text.split())
    for method, key in crowd.keys.items():
        assert f"{key}{method}".replace(" ", "") in joined  # wrapped, and whole
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
    shown = VisibleTable(made(tmp_path))
    assert max(map(len, shown.details.splitlines())) <= 120
    assert len(set(shown.keys.values())) == 40 and shown.keys["trqam lr=9.0"] == "AN"
    cells = text_matrices(shown.details)["offline", "cube-double-play-task1"]
    assert len(cells) == 40 * 40 and cells["AN", "A"] == "100"


def text_matrices(text):
    """{(phase, name): {(row, column): cell}} of the matrices in the terminal."""
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


def page_matrices(text):
    """{(phase, name): {(row, column): (probability, bold, interval)}} of those in the page."""
    found = {}
    section = text[text.index('id="improvement"') : text.index('id="details"')]
    heading = r'<h3>(.*?) <span class="dim">(.*?)</span></h3><div class="matrix">(.*?)</table>'
    for name, phase, table in re.findall(heading, section):
        head, body = table.split("<tbody>")
        columns = re.findall(r"<th>(\w+)</th>", head)
        cells = found[phase, name] = {}
        for key, line in re.findall(r"<tr><th><b>(\w+)</b>.*?</th>(.*?)</tr>", body):
            cell = r'<td( class="certain")?(?: style="[^"]*")?(?: title="(.*?)")?>(\d*)</td>'
            row = zip(columns, re.findall(cell, line), strict=True)
            for column, (bold, interval, value) in row:
                cells[key, column] = value, bool(bold), interval
    return found


@pytest.mark.ci
@pytest.mark.parametrize("which", ["study", "table", "crowd"])
def test_the_matrices_are_the_pairs_of_the_csv(which, request):
    report_of = request.getfixturevalue(which)
    shown = VisibleTable(report_of[2]) if which == "table" else report_of
    in_text, in_page = text_matrices(shown.details), page_matrices(shown.page)
    assert in_text.keys() == in_page.keys()
    assert len(in_text) == {"study": 1, "table": 11, "crowd": 6}[which]
    pairs = 0
    for (phase, name), cells in in_text.items():
        full = next(row.name for row in shown.found.rows if short(row.name) == name)
        assert len(cells) == len(shown.keys) ** 2
        for x, y in itertools.product(shown.keys, repeat=2):
            key = shown.keys[x], shown.keys[y]
            expected = shown.chance(phase, full, x, y)
            if x == y:
                assert (cells[key], in_page[phase, name][key]) == (".", ("", False, ""))
                continue
            value, low, high = expected
            certain = low > 50 or high < 50
            bold = in_page[phase, name][key][1]
            assert (cells[key].endswith("*"), bold) == (certain, certain)
            assert float(cells[key].rstrip("*")) == pytest.approx(value, abs=0.5001)
            numbers = map(float, re.findall(r"[\d.]+", in_page[phase, name][key][2]))
            assert list(numbers) == pytest.approx([value, low, high], abs=0.0501)
            pairs += 1
    methods = len(shown.keys)
    assert pairs == len(in_text) * methods * (methods - 1)


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


@pytest.mark.parametrize("which", ["study", "crowd"])
def test_the_page_begins_with_curves_and_folds_the_details(which, request):
    shown = request.getfixturevalue(which)
    text = shown.page
    sections = ("curves", "tables", "improvement", "details")
    places = [text.index(f'<section id="{key}">') for key in sections]
    assert places == sorted(places) and text.index('<img class="chart') < text.index(
        "<table"
    )
    row = text[text.index('<div class="row">') : text.index('<ul class="legend"')]
    name = "cube-single-play-task1" if which == "study" else "all tasks"
    drawn = re.findall('alt="(.*?)"', row)
    assert drawn == [f"{name}: {what}" for what in ("success (%)", "path KL", "λ")]
    tables = text[places[1] : places[2]]
    columns = re.findall("<th>(.*?)</th>", tables)
    assert columns[:4] == ["method", "success (%)", "path KL / budget", "λ"]
    folded = text[places[3] :]
    assert (
        "<details open" not in text
        and re.sub("<details.*?</details>", "", folded)
        == '<section id="details"><h2>Details</h2></section></main></body></html>\n'
    )
    titles = re.findall("<summary>(.*?)</summary>", folded)
    wanted = ("Notes (", "Methods: ", "Tasks, offline", "Pairs of methods")
    assert all(any(title.startswith(word) for title in titles) for word in wanted)
    assert all(html.escape(note) in folded for note in shown.found.notes)
    assert text.count('<div class="box"><table>') == text.count(
        "<table>"
    )  # which scrolls
    folded_pairs = folded[folded.index('id="offline-pairs"') :].partition("</details>")[
        0
    ]
    main = {
        short(name) for phase, name in main_names(shown.found) if phase == "offline"
    }
    assert set(re.findall("<h3>(.*?)</h3>", folded_pairs)) == main
    count = len(shown.keys) * (len(shown.keys) - 1) // 2
    assert folded_pairs.count("<tr><td>") == count * len(main)


@pytest.mark.parametrize("which", ["study", "crowd"])
def test_the_legend_names_every_line(which, request):
    shown = request.getfixturevalue(which)
    legend = shown.page[shown.page.index('<ul class="legend"') :].partition("</ul>")[0]
    found = re.findall(
        r"border-top: 2px (\w+) (#\w+)\"></i><b>(\w)</b><span>(.*?)<", legend
    )
    assert [(key, html.unescape(name)) for _, _, key, name in found] == [
        (key, name) for name, key in shown.keys.items()
    ]
    styles = [(dashes, colour) for dashes, colour, *_ in found]
    assert len(set(styles)) == len(styles)
    assert all(a[0] != b[0] for a, b in itertools.pairwise(styles))


def test_tasks_are_shown_first_where_a_method_has_no_row_over_them(tmp_path):
    for task in (1, 2):
        write_run(tmp_path, CUBE.format(task), 0, {1_000_000: 0.5})
        write_run(tmp_path, CUBE.format(task), task, {1_000_000: 0.4}, agent="qam")
    found = made(tmp_path)
    assert {(row.name, row.method) for row in main_rows(found)} == {
        ("cube-double-play", "trqam"),
        *(
            (CUBE.format(task), method)
            for task in (1, 2)
            for method in ("qam", "trqam")
        ),
    }


def test_published_figures_stand_beside_the_rows_with_their_sources(table):
    text, details = (as_text(table[2], shown) for shown in (False, True))
    rows = text[text.index("offline, antmaze-giant-navigate") :].partition("\n\n")[0]
    (trqam,) = re.findall(r"41\.0 \[(\d)\] ≠\n?", rows)  # of 10M transitions
    (qam,) = re.findall(
        r"18\.1 ± 7\.3 \[(\d)\]$", rows, re.M
    )  # whose data size is not stated
    assert f"\n[{qam}] QAM paper (arXiv 2601.14234)\n" in text
    assert f"\n[{trqam}] TRQAM paper (arXiv 2605.27079)" in text
    line = r"antmaze-giant-navigate +C trqam +70\.0 .* 41\.0 .*DATA 1M, published 10M\n"
    assert re.search(line, details)
    assert (
        "independent rerun" in details and "independent rerun" not in text
    )  # of single tasks
    assert max(map(len, details.splitlines())) <= 120


def test_a_table_that_is_too_wide_goes_on_below():
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
    assert words(long) in words(last) and max(map(len, last.splitlines())) <= 120


# ---------------------------------------------------------------- which evaluations count


def test_offline_and_online_are_two_tables(tmp_path):
    success = {0: 0.1, 500_000: 0.2, 1_000_000: 0.4, 1_250_000: 0.7, 1_500_000: 0.9}
    write_run(tmp_path, CUBE.format(1), 0, success, online_steps=500_000)
    found = made(tmp_path)
    assert [(row.phase, row.step, row.mean) for row in found.rows] == [
        ("offline", "1,000,000", pytest.approx(40.0)),
        ("online", "1,500,000", pytest.approx(90.0)),
    ]
    assert [(row.phase, row.mean) for row in made(tmp_path, "1250000").rows] == [
        ("online", pytest.approx(70.0))
    ]
    assert [(row.phase, row.mean) for row in made(tmp_path, "500000").rows] == [
        ("offline", pytest.approx(20.0))
    ]


def test_unfinished_runs_are_told_and_left_out(tmp_path):
    for seed, last in enumerate((1_000_000, 1_000_000, 600_000)):
        write_run(
            tmp_path,
            CUBE.format(1),
            seed,
            {step: step / 2e6 for step in range(0, last + 1, 200_000)},
        )
    found = made(tmp_path)
    assert [(row.seeds, row.mean) for row in found.rows] == [(2, pytest.approx(50.0))]
    assert (
        "1 runs have not reached the end of a phase and are left out there: trqam"
        " cube-double-play-singletask-task1 seed 2 " in (found.notes[0])
    )
    assert "(offline, step 600,000 of 1,000,000)" in found.notes[0]
    last = made(tmp_path, "last")
    assert [(row.seeds, row.step, row.mean) for row in last.rows] == [
        (3, "600,000", pytest.approx(30.0))
    ]
    assert (
        "at step 600,000 of 1,000,000, held back by trqam cube-double-play-singletask-task1"
        " seed 2" in last.notes[0]
    )
    step = made(tmp_path, "800000")
    assert [(row.seeds, row.mean) for row in step.rows] == [(2, pytest.approx(40.0))]
    assert step.notes[0].startswith(
        "1 of 3 runs have no evaluation at step 800,000 and are left out: "
    )


def test_where_no_run_has_finished_they_are_compared_as_far_as_all_are(tmp_path):
    for seed, last in enumerate((400_000, 600_000)):
        write_run(
            tmp_path,
            CUBE.format(1),
            seed,
            {step: step / 2e6 for step in range(0, last + 1, 200_000)},
        )
    found = made(tmp_path)
    assert [(row.seeds, row.step) for row in found.rows] == [(2, "400,000")]
    assert any("no run has reached the end of a phase" in note for note in found.notes)


def test_a_step_that_nobody_has_evaluated_is_a_mistake(tmp_path, capsys):
    write_run(tmp_path, CUBE.format(1), 0, {0: 0.0, 1_000_000: 0.5})
    assert run(tmp_path, "--step=123") == 2
    assert capsys.readouterr().err.startswith(
        "error: --step=123: no run has an evaluation there; the last ones are at step 1,000,000"
    )


def test_different_numbers_of_seeds_and_tasks_are_told(tmp_path):
    done = {0: 0.0, 1_000_000: 0.5}
    for task, seeds in ((1, 3), (2, 2)):
        for seed in range(seeds):
            write_run(tmp_path, CUBE.format(task), seed, done)
    write_run(tmp_path, CUBE.format(1), 0, done, agent="qam")
    found = made(tmp_path)
    row = row_of(found, "cube-double-play", "trqam")
    assert (row.tasks, row.seeds) == (2, 2) and row_of(
        found, CUBE.format(1), "trqam"
    ).seeds == 3
    notes = "\n".join(found.notes)
    assert (
        "trqam: rows over several tasks count the seeds that each of the tasks has:"
        " cube-double-play 2" in notes
    )
    assert (
        "offline: methods were run on different tasks (qam 1, trqam 2): their rows over several"
        " tasks are not comparable" in notes
    )
    assert (
        f"the number of seeds differs, from 1 (qam on {CUBE.format(1)}, offline) to 3"
        in notes
    )
    narrow = "2 seeds: bootstrap intervals over few tasks are too narrow (one task: about 80 %)"
    assert narrow in notes


def test_widened_intervals_stay_inside_what_can_be(tmp_path):
    for seed, rate in enumerate((0.0, 0.0, 1.0)):
        write_run(tmp_path, CUBE.format(1), seed, {1_000_000: rate})
        write_run(tmp_path, CUBE.format(1), seed, {1_000_000: 0.5}, agent="qam")
    found = made(tmp_path)
    assert row_of(found, CUBE.format(1), "trqam").iqm[1:] == (0.0, 100.0)
    assert found.improvements[0].probability[1:] == (0.0, 100.0)


def test_rows_over_different_tasks_say_so_and_are_not_ranked(tmp_path, capsys):
    """Offline both methods have both tasks; one of them was not trained online on the second."""
    success = {0: 0.1, 1_000_000: 0.4, 1_100_000: 0.6}
    for task in (1, 2):
        write_run(tmp_path / "exp", CUBE.format(task), 0, success, online_steps=100_000)
        write_run(
            tmp_path / "exp",
            CUBE.format(task),
            0,
            success,
            agent="qam",
            online_steps=100_000 * (task == 1),
        )
    assert (
        run(
            tmp_path / "exp",
            *(f"--{kind}={tmp_path / kind}" for kind in ("html", "latex")),
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert (
        "note: online: methods were run on different tasks (qam 1, trqam 2): " in shown
        and "offline: methods" not in shown
    )
    offline, _, online = shown.partition(
        "online, cube-double-play: 10.0 % at step 0, 1 seed, "
    )
    assert (
        "cube-double-play: 10.0 % at step 0, 2 tasks, 1 seed, " in offline
        and "P(A > it) %" in offline
    )
    assert (
        re.search(r"\nA qam .* 1\nB trqam .* 2\n", online)
        and "> it) %" not in online.partition("\n\n")[0]
    )
    text = (tmp_path / "html").read_text()
    tables = text[text.index('id="offline-means"') : text.index('id="offline-tasks"')]
    rows = re.findall(
        r"<th><b>[AB]</b> (qam|trqam)</th><td>(\d)</td><td>1</td>", tables
    )
    assert rows == [("qam", "2"), ("trqam", "2"), ("qam", "1"), ("trqam", "2")]
    lines = [
        line
        for line in (tmp_path / "latex").read_text().splitlines()
        if line.startswith(r"\textit{cube-double-play}")
    ]
    assert [line.count(r"\textbf{") for line in lines] == [2, 0]


def test_tasks_without_a_common_seed_have_no_row_together(tmp_path):
    for i in (1, 2):
        write_run(tmp_path, CUBE.format(i), i, {1_000_000: 0.5})
    found = made(tmp_path)
    assert [row.scope for row in found.rows] == ["task", "task"]
    assert (
        "cube-double-play: the tasks of trqam have no seed in common, so there is no row over"
        " them" in found.notes
    )


def test_runs_that_are_being_written_or_damaged_are_read_as_far_as_they_go(
    tmp_path, capsys
):
    whole = write_run(
        tmp_path,
        CUBE.format(1),
        0,
        {0: 0.25, 500_000: 0.5},
        kl=[(250_000, 1.0, 1.0), (500_000, 1.0, 1.0)],
    )
    with (whole / "eval.csv").open("a") as file:
        file.write("1000000,50,0.1")  # no end of line: more digits may come
    with (whole / "train.csv").open("a") as file:
        file.write("750000,offline,")
    (write_run(tmp_path, CUBE.format(1), 1, {}) / "eval.csv").write_text("")
    (write_run(tmp_path, CUBE.format(1), 2, {}) / "eval.csv").unlink()
    (write_run(tmp_path, CUBE.format(1), 3, {0: 0.5}) / "config.json").write_text(
        '{"agent_file": "agents/t'
    )
    base = write_run(
        tmp_path, "cube-double-play", 0, {}, agent="bc", run_group="bc", eval_episodes=0
    )
    assert run(tmp_path, "--step=last") == 0
    shown = words(capsys.readouterr().out)
    assert (
        "offline, cube-double-play-task1: 25.0 % at step 0, 1 seed, step 500,000 method"
        in shown
    )
    assert " A trqam 50.0 1.000 / 1 3 50.0 " in shown
    assert (
        "note: 2 runs have no evaluation yet and are left out: trqam"
        " cube-double-play-singletask-task1 seed 1, " in shown
    )
    assert re.search(
        r"note: left out: .*trqam_s3_44136fa3/config.json is damaged", shown
    )
    assert base.name not in shown and "bc" not in shown


def write_returns(folder, name, seed, returns, success=None, **changed):
    """A run whose eval.csv has returns by step, and success rates where there are any."""
    place = write_run(folder, name, seed, {}, **changed)
    if success:
        header = ("step", "episodes", "return", "success")
        rows = [
            (step, 50, value, success.get(step, "")) for step, value in returns.items()
        ]
    else:
        header = ("step", "episodes", "return")
        rows = [(step, 50, value) for step, value in returns.items()]
    write_csv(place / "eval.csv", header, rows)


def test_runs_without_success_are_named_and_their_returns_shown(tmp_path, capsys):
    """They are no runs of 0 % success: others of the same task keep their rates."""
    own, task = "mine:Walker-v0", CUBE.format(1)
    for seed, value in enumerate((-10.0, -14.0)):
        write_returns(tmp_path / "exp", own, seed, {0: -90.0, 1_000_000: value})
        write_run(tmp_path / "exp", task, seed, {0: 0.0, 1_000_000: 0.5})
    write_returns(tmp_path / "exp", task, 2, {1_000_000: -3.5})
    files = {kind: tmp_path / kind for kind in ("csv", "html", "latex")}
    assert (
        run(tmp_path / "exp", *(f"--{kind}={path}" for kind, path in files.items()))
        == 0
    )
    shown = capsys.readouterr().out
    half = stats.t.ppf(0.975, 1) * 2
    assert re.search(
        rf"mine:Walker +A trqam +2 +-12.0 ± {half:.1f} +1,000,000\n", shown
    )
    assert re.search(r"cube-double-play-task1 +A trqam +1 +-3.5 +1,000,000\n", shown)
    assert re.search(
        r"cube-double-play-task1: 0.0 % at step 0, 2 seeds, .*\n.*\n.*\nA trqam +50.0 ± 0.0 ",
        shown,
    )
    assert (
        "note: 3 runs report no success: their returns have a table of their own"
        in words(shown)
    )
    assert "Return of runs that report no success, offline" in files["html"].read_text()
    assert "Walker" not in files["latex"].read_text()
    rows = [
        row
        for row in csv.DictReader(files["csv"].read_text().splitlines())
        if row["kind"] != "published"
    ]
    columns = ("kind", "name", "seeds", "success", "return")
    assert [[row[column] for column in columns] for row in rows] == [
        ["ours", task, "2", "50", ""],
        ["return", task, "1", "", "-3.5"],
        ["return", own, "2", "", "-12"],
    ]
    assert run(tmp_path / "exp" / "sweep" / own, f"--repeat_of={tmp_path / 'exp'}") == 1
    line = "trqam mine:Walker seed 0: it reports no success to compare"
    assert line in capsys.readouterr().out
    alone = page(made(tmp_path / "exp" / "sweep" / own))
    assert "<td>mine:Walker</td><td>A trqam</td><td>2</td><td>-12.0 ± " in alone
    assert 'id="improvement"' not in alone and "<img class=" not in alone


def test_success_that_is_reported_only_where_it_is_reached_is_0_elsewhere(tmp_path):
    returns = {0: -90.0, 500_000: -50.0, 1_000_000: -10.0}
    write_returns(tmp_path, CUBE.format(1), 0, returns, {1_000_000: 0.25})
    (row,) = made(tmp_path).rows
    assert (row.start, row.mean) == (0.0, 25.0) and not made(tmp_path).returns


def test_a_success_of_0_that_is_no_longer_reported_never_was(tmp_path):
    """Earlier versions wrote 0 for an environment that reports none, and such a run may go on."""
    write_returns(tmp_path, "mine:Walker-v0", 0, {0: -90.0, 1_000_000: -10.0}, {0: 0.0})
    found = made(tmp_path)
    assert not found.rows and [entry.mean for entry in found.returns] == [-10.0]


def test_a_cloned_policy_that_was_evaluated_is_a_method(tmp_path):
    write_run(
        tmp_path,
        CUBE.format(1),
        0,
        {0: 0.0, 300_000: 0.4},
        agent="bc",
        run_group="bc",
        offline_steps=300_000,
    )
    assert [(row.method, row.mean) for row in made(tmp_path).rows] == [
        ("bc", pytest.approx(40.0))
    ]


def test_the_agents_warnings_at_the_end_and_mixed_data_are_told(tmp_path):
    done, bound = (
        {1_000_000: 0.5},
        {"lambda_max": "lambda is at its upper bound: raise it"},
    )
    folders = [write_run(tmp_path, CUBE.format(1), seed, done) for seed in range(4)]
    for folder, concerns in zip(folders, (bound, bound, {}), strict=False):
        (folder / "concerns.json").write_text(json.dumps(concerns))
    change_dataset(folders[2], transitions=60_000)
    notes = made(tmp_path).notes
    name = "trqam cube-double-play-singletask-task1 seed"
    assert f"2 runs: {bound['lambda_max']}: {name} 0, {name} 1" in notes
    text = f"the runs of a task were not all trained on the same data: {CUBE.format(1)}"
    assert text in notes


def test_warnings_at_the_end_of_a_run_say_nothing_of_its_offline_phase(tmp_path):
    success = {1_000_000: 0.5, 1_500_000: 0.6}
    folder = write_run(tmp_path, CUBE.format(1), 0, success, online_steps=500_000)
    (folder / "concerns.json").write_text(
        '{"path_kl": "the path KL stays off its budget"}'
    )
    assert not any("path KL stays" in note for note in made(tmp_path, "1000000").notes)
    assert any("path KL stays" in note for note in made(tmp_path).notes)


def test_seeds_that_were_trained_with_other_settings_are_told(tmp_path):
    """What no folder's hash covers and no method's name says; steps that are still to come are
    none of it.
    """
    for seed, steps in enumerate((10_000, 20, 10_000)):
        write_run(
            tmp_path,
            CUBE.format(1),
            seed,
            {1_000_000: 0.5},
            bc_steps=steps,
            log_interval=seed,
            online_steps=seed,
        )
    (note,) = (note for note in made(tmp_path).notes if "trained with" in note)
    assert (
        note == "seeds of one method were trained with bc_steps 10000 and 20: trqam"
        f" {CUBE.format(1)}"
    )


def test_a_frozen_lambda_has_no_budget_and_no_bound(tmp_path):
    """agents/trqam_fixed_lambda.py logs the budget of its parent, which nothing steers towards."""
    kl = [(500_000, 9.0, 100.0), (1_000_000, 9.0, 100.0)]
    write_run(
        tmp_path,
        CUBE.format(1),
        0,
        {1_000_000: 0.5},
        "trqam_fixed_lambda",
        kl,
        given={"agent.lam": 100.0},
    )
    found = made(tmp_path)
    row = row_of(found, CUBE.format(1), "trqam_fixed_lambda")
    assert [CELLS[name][1](row) for name in ("path_kl", "within", "lam")] == [
        "9.000",
        "",
        "300",
    ]
    assert found.notes == [] and "budget s0" not in page(found)


# ---------------------------------------------------------------- which method


def methods_of(folder, *more):
    results, _ = read_all([str(folder), *map(str, more)], 50_000)
    return sorted({result.method for result in results})


def test_methods_are_told_apart_by_what_differs(tmp_path):
    done = {1_000_000: 0.5}
    write_run(tmp_path, CUBE.format(1), 0, done, given={"agent.lr": 1e-3})
    for i, budget in enumerate((0.5, 2.0)):
        write_run(
            tmp_path,
            CUBE.format(1),
            0,
            done,
            given={"agent.lr": 1e-3, "agent.kl_budget": budget},
            hashed=f"{i}",
        )
    write_run(tmp_path, CUBE.format(1), 0, done, agent="qam", given={"agent.lr": 1e-3})
    assert methods_of(tmp_path) == [
        "qam",
        "trqam",
        "trqam kl_budget=0.5",
        "trqam kl_budget=2.0",
    ]


def test_steps_intervals_and_places_make_no_other_method(tmp_path):
    write_run(tmp_path, CUBE.format(1), 0, {1_000_000: 0.5}, run_group="a")
    given = {
        "ogbench_dataset_dir": "/data",
        "eval_interval": 5,
        "offline_steps": 1_000_000,
        "run_group": "b",
    }
    write_run(tmp_path, CUBE.format(1), 1, {1_000_000: 0.5}, given=given)
    assert methods_of(tmp_path) == ["trqam"]


def test_the_same_run_in_two_places_is_two_methods_and_one_folder_given_twice_is_one(
    tmp_path,
):
    for group in ("first", "second"):
        write_run(tmp_path, CUBE.format(1), 0, {1_000_000: 0.5}, run_group=group)
    assert methods_of(tmp_path, tmp_path / "first") == [
        "trqam in first",
        "trqam in second",
    ]
    assert methods_of(tmp_path / "first", tmp_path / "first" / ".") == ["trqam"]
    write_run(
        tmp_path / "again", CUBE.format(1), 0, {1_000_000: 0.5}, run_group="first"
    )
    assert methods_of(tmp_path / "first", tmp_path / "again") == [
        f"trqam in {tmp_path}/again/first",
        f"trqam in {tmp_path}/first",
    ]


def test_runs_of_one_group_from_other_bases_or_data_are_other_methods(tmp_path):
    """Every run has a row: none takes the place of another of its task and seed."""
    for seed in range(2):
        write_run(tmp_path, CUBE.format(1), seed, {1_000_000: 0.1})
        for i, (name, path) in enumerate(
            {
                "pretrained_actor_path": f"/home/me/bc/bc_s{seed}_12ab",
                "ogbench_dataset_dir": "/data/small",
            }.items(),
            2,
        ):
            write_run(
                tmp_path,
                CUBE.format(1),
                seed,
                {1_000_000: i / 10},
                given={name: path},
                hashed=f"{i}",
            )
    rates = {row.method: (row.mean, row.seeds) for row in made(tmp_path).rows}
    assert rates == {
        "trqam": (pytest.approx(10.0), 2),
        "trqam pretrained_actor_path=bc_12ab": (pytest.approx(20.0), 2),
        "trqam ogbench_dataset_dir=small": (pytest.approx(30.0), 2),
    }


def test_bases_of_one_name_are_told_apart_by_the_hash_and_copies_are_noted(tmp_path):
    given = [{"pretrained_actor_path": f"{place}/params.pkl"} for place in "ab"]
    folders = [
        write_run(
            tmp_path, CUBE.format(1), 0, {1_000_000: 0.5}, given=given[i], hashed=f"{i}"
        )
        for i in range(2)
    ]
    assert methods_of(tmp_path) == ["trqam hash=0", "trqam hash=1"]
    shutil.copytree(folders[0], folders[0].parent.with_name("copy") / folders[0].name)
    found = made(tmp_path)
    assert sorted(row.method for row in found.rows) == ["trqam hash=0", "trqam hash=1"]
    (note,) = (note for note in found.notes if "left out" in note)
    assert re.fullmatch(
        "1 runs have the method, task and seed of another and are left out: .*/trqam_s0_0",
        note,
    )


# ---------------------------------------------------------------- pickles


def dump(path, value):
    path.write_bytes(pickle.dumps(value))
    return path


def curves_of(low, high, evaluations, seeds=12):
    """Success [evaluations, seeds] that rises from `low` to `high` in the mean of seeds."""
    own = 0.001 * (np.arange(seeds) - (seeds - 1) / 2)
    return np.linspace(low, high, evaluations)[:, None] + own


def published(domains=("cube-double-play", "scene-play")):
    """A file like the QAM paper's: 30 evaluations of 12 seeds, 10 of RLPD, means over tasks."""
    data = {}
    tasks = [task for task in ALL_TASKS if dataset_name(task) in domains]
    ends_of = {
        "QAM-E": (0.11, 0.69, 30),
        "QAM": (0.01, 0.59, 30),
        "RLPD": (0.05, 0.5, 10),
    }
    for method, ends in ends_of.items():
        data |= {
            (task, method): curves_of(*ends) + 0.01 * i for i, task in enumerate(tasks)
        }
        for name in ("all", *domains):
            own = [
                data[task, method]
                for task in tasks
                if name in ("all", dataset_name(task))
            ]
            data[name, method] = np.mean(own, axis=0)[:, ::-1]  # seeds in another order
    return data


def numbers(path, *words):
    """The lines of kind "ours" of the CSV of a report on a pickle, by (phase, method, name)."""
    target = path.with_suffix(".csv")
    assert run(path, f"--csv={target}", "--bootstrap=50", *words) == 0
    lines = list(csv.DictReader(io.StringIO(target.read_text())))
    assert lines[0].keys() >= {"phase", "name", "method", "success", "seeds"}
    ours = [line for line in lines if line["kind"] == "ours"]
    return {(line["phase"], line["method"], line["name"]): line for line in ours}


def test_published_pickles_are_evaluations_by_seeds(tmp_path, capsys):
    """Row 19 of 30 is at 1M steps, row 29 at 1.5M; ten tasks are 4.5 % above the first."""
    lines = numbers(dump(tmp_path / "exp_data.pkl", published()))
    for (phase, method), step, rate in (
        (("offline", "QAM-E"), "1000000", 49 + 4.5),
        (("online", "QAM-E"), "1500000", 69 + 4.5),
        (("offline", "QAM"), "1000000", 39 + 4.5),
        (("online", "QAM"), "1500000", 59 + 4.5),
        (("online", "RLPD"), "500000", 50 + 4.5),
    ):
        line = lines[phase, method, "all tasks"]
        assert float(line["success"]) == pytest.approx(rate)
        assert (line["step"], line["seeds"]) == (step, "12")
    assert not any(
        method == "RLPD" and phase == "offline" for phase, method, _ in lines
    )
    shown = capsys.readouterr().out
    offline, _, online = shown.partition("online, all tasks: 10 tasks, 12 seeds\n")
    assert "RLPD" not in offline and re.search(r"RLPD +54\.5 ± .*500,000", online)
    when = "evaluated every 50,000 steps, the last time at 1,500,000"
    assert len(re.findall("^note: ", shown, re.MULTILINE)) == 1
    assert f"360 runs, read as {when}; QAM-E, QAM: 30 evaluations of 12 seeds" in words(
        shown
    )


def test_the_axes_of_a_pickle_are_given_by_a_flag(tmp_path, capsys):
    data = {key: array.T for key, array in published().items()}
    path = dump(tmp_path / "exp_data.pkl", data)
    line = numbers(path, "--pickle_axes=seeds,evaluations")[
        "online", "QAM-E", "all tasks"
    ]
    assert float(line["success"]) == pytest.approx(73.5) and line["seeds"] == "12"
    assert "axis" not in capsys.readouterr().out
    assert ("offline", "QAM-E", "all tasks") in numbers(path)
    shown = words(capsys.readouterr().out)
    assert "note: " + str(path) + ": the second axis is the longer one" in shown
    assert "with --pickle_axes=seeds,evaluations all of them are" in shown


def test_published_pickles_are_read_beside_runs(tmp_path, capsys):
    """31 rows of percent begin at step 0; a single evaluation is that after 1M steps."""
    curves = np.linspace(0, 1, 31)[:, None] * np.array([60.0, 80.0])
    data = {
        (CUBE.format(1), "QAM"): curves,
        (CUBE.format(1), "FQL"): np.array([10.0, 30.0]),
        ("all", "QAM"): curves,
    }
    write_run(tmp_path / "exp", CUBE.format(1), 0, {0: 0.0, 1_000_000: 0.9})
    path = dump(tmp_path / "exp_data.pkl", data)
    results, notes = read_all([str(tmp_path / "exp"), str(path)], 50_000)
    found = report(results, "final", [], notes)
    means = {
        (row.method, row.phase): (row.mean, row.step, row.seeds) for row in found.rows
    }
    assert means["QAM", "offline"] == (pytest.approx(70.0 * 20 / 30), "1,000,000", 2)
    assert means["QAM", "online"] == (pytest.approx(70.0), "1,500,000", 2)
    assert means["FQL", "offline"] == (pytest.approx(20.0), "1,000,000", 2)
    assert means["trqam", "offline"][0] == pytest.approx(90.0)
    starts = {row.start for row in found.rows if row.method == "QAM"}
    assert starts == {0.0}
    assert any(
        "4 runs, read as evaluated every 50,000 steps, the last time at 1,500,000"
        in note
        for note in found.notes
    )
    assert run(path, f"--html={tmp_path / 'r.html'}") == 0  # a pickle alone


def test_a_method_without_an_offline_phase_does_not_hold_back_the_others(tmp_path):
    path = dump(tmp_path / "exp_data.pkl", published())
    results, notes = read_all([str(path)], 50_000)
    found = report(results, "last", [], notes, 50)
    assert {row.phase for row in found.rows} == {"online"}
    steps = {row.method: row.step for row in found.rows}
    assert steps == {"QAM-E": "1,500,000", "QAM": "1,500,000", "RLPD": "500,000"}
    assert not any("held back" in note for note in found.notes)


def test_online_steps_are_counted_from_the_end_of_the_offline_phase(tmp_path):
    """500K steps online are as many after 1M offline as after none; 250K are not."""
    success = {250_000: 0.4, 500_000: 0.5, 1_000_000: 0.5, 1_500_000: 0.6}
    write_run(tmp_path, CUBE.format(1), 0, success, online_steps=500_000)
    alone = {
        "root": tmp_path,
        "env_name": CUBE.format(1),
        "seed": 0,
        "offline_steps": 0,
    }
    write_run(**alone, success=success, agent="qam", online_steps=500_000)
    assert not any("different steps" in note for note in made(tmp_path).notes)
    write_run(**alone, success=success, agent="fql", online_steps=250_000)
    (note,) = (note for note in made(tmp_path).notes if "different steps" in note)
    assert note.startswith(
        "online: runs are at different steps of it, 250,000 to 500,000; "
    )


class Evil:
    def __reduce__(self):
        return (exec, ("open('evil', 'w').close()",))


PICKLES = {
    "a call": (
        lambda: {("a", "b"): Evil()},
        "refused, because the file asks for 'builtins.exec'",
    ),
    "no dict": (
        lambda: [1, 2],
        "not an exp_data file, which is a dict of (name, method) -> array",
    ),
    "no task": (
        lambda: {("all", "QAM"): np.ones(3)},
        "no name in it is a single task; it has all",
    ),
    "text": (lambda: {(CUBE.format(1), "QAM"): ["a", "b"]}, "is not made of numbers"),
    "a cube": (
        lambda: {(CUBE.format(1), "QAM"): np.ones((2, 2, 2))},
        "arrays must be [seeds]",
    ),
    "nothing": (
        lambda: {(CUBE.format(1), "QAM"): np.ones((0, 3))},
        "arrays must be [seeds]",
    ),
    "returns": (
        lambda: {(CUBE.format(1), "QAM"): np.array([-9.0])},
        "not success rates",
    ),
}


@pytest.mark.parametrize("mistake", PICKLES)
def test_other_pickles_are_refused_and_not_run(mistake, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    value, named = PICKLES[mistake]
    assert run(dump(tmp_path / "x.pkl", value())) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path}/x.pkl: ") and named in line
    assert not (tmp_path / "evil").exists()


# ---------------------------------------------------------------- keeping runs


def test_exported_runs_make_the_same_report(table, tmp_path):
    folder, _, found = table
    elsewhere = (
        folder / "sweep" / SCENE.format(1) / "bc_s0_44136fa3" / "config.json"
    )  # --bc_only names the file by its path
    elsewhere.write_text(
        elsewhere.read_text().replace('"agents/bc.py"', '"/home/me/agents/bc.py"')
    )
    kept = tmp_path / "a" / "kept"
    assert run(folder / "sweep" / SCENE.format(1), f"--export={kept}") == 0
    assert "/home/me" not in (kept / "runs.json").read_text()
    again, name = made(tmp_path), SCENE.format(1)
    for row in again.rows:
        before = row_of(found, name, row.method)
        assert (row.mean, row.half, row.iqm) == (before.mean, before.half, before.iqm)
        np.testing.assert_allclose(
            [row.path_kl, row.lam, row.within],
            [before.path_kl, before.lam, before.within],
            rtol=1e-8,
        )
    assert {path.name for path in kept.iterdir()} == {"runs.json", "curves.csv"}
    runs = json.loads((kept / "runs.json").read_text())
    command = f"python main.py --agent=agents/trqam.py --env_name={name} --seed=3"
    assert runs[f"{name}/trqam_s3_44136fa3"]["config"]["command"] == command
    assert run(kept, f"--export={tmp_path / 'b'}") == 0  # of a study: the same files
    for file in ("runs.json", "curves.csv"):
        assert (tmp_path / "b" / file).read_bytes() == (kept / file).read_bytes()


def test_a_study_keeps_warnings_and_is_checked_like_runs(tmp_path, capsys):
    folder = write_run(tmp_path / "exp", CUBE.format(1), 0, {0: 0.1, 1_000_000: 0.5})
    (folder / "concerns.json").write_text(
        '{"lambda_max": "lambda is at its upper bound"}'
    )
    write_run(tmp_path / "exp", CUBE.format(1), 1, {0: 0.1, 1_000_000: 0.5})
    kept = tmp_path / "kept"
    assert run(tmp_path / "exp", f"--export={kept}") == 0
    assert any(
        "1 runs: lambda is at its upper bound" in note for note in made(kept).notes
    )
    curves, runs = ((kept / name).read_text() for name in ("curves.csv", "runs.json"))
    faults = {
        "curves.csv is damaged (line 3: success is '17.0', not a number from 0 to 1)": (
            curves.replace(",1000000,0.5,", ",1000000,17.0,", 1),
            runs,
        ),
        "curves.csv is damaged ('other' is no run of runs.json)": (
            curves + "other,0,0.1,50,,,,\n",
            runs,
        ),
        "runs.json is damaged (agent is missing)": (
            curves,
            runs.replace('"agent"', '"a"'),
        ),
        "concerns are 3, not an object of texts": (
            curves,
            runs.replace('"concerns": {', '"concerns": 3, "x": {'),
        ),
    }
    for fault, (changed_curves, changed_runs) in faults.items():
        (kept / "curves.csv").write_text(changed_curves)
        (kept / "runs.json").write_text(changed_runs)
        capsys.readouterr()
        assert run(kept) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert fault in line


def test_the_kept_command_plans_the_same_run(tmp_path):
    from configs.flags import parse_flags
    from reports.reading import read_run
    from training.plan import plan
    from utils.files import write_json

    words = [
        "--env_name=scene-play-singletask-task2-v0",
        "--seed=3",
        "--num_seeds=2",
        "--preset=smoke",
        "--agent.kl_budget=0.25",
    ]
    words += [
        "--agent.actor_hidden_dims=(64, 64)",
        "--offline_steps=40",
        "--sparse",
        f"--save_dir={tmp_path}",
    ]
    ours = plan(parse_flags(["main.py", "--agent=agents/trqam.py", *words]))[1]
    ours.folder.mkdir(parents=True)
    write_json(ours.folder / "config.json", ours.config())
    result = read_run(ours.folder)
    assert result.overrides == {
        "kl_budget": 0.25,
        "actor_hidden_dims": [64, 64],
        "sparse": True,
        "preset": "smoke",
    }
    assert (result.agent, result.seed, result.offline_steps, result.online_steps) == (
        "trqam",
        4,
        40,
        40,
    )
    python, program, *again = shlex.split(command(result.config))
    assert (python, program) == ("python", "main.py")
    (theirs,) = plan(parse_flags([program, *again, f"--save_dir={tmp_path}"]))
    assert (
        theirs.folder == ours.folder
        and theirs.settings.agent.to_dict() == ours.settings.agent.to_dict()
    )
    assert theirs.settings.flags | {"seed": 3, "num_seeds": 2} == ours.settings.flags


def test_a_kept_run_names_its_base_without_its_place(tmp_path):
    for i, base in enumerate(
        ("/home/me/a/params_300000.pkl", "/home/me/b/params_500000.pkl")
    ):
        write_run(
            tmp_path / "exp",
            CUBE.format(1),
            0,
            {1_000_000: 0.5},
            given={"pretrained_actor_path": base},
            hashed=f"{i}",
        )
    assert run(tmp_path / "exp", f"--export={tmp_path / 'kept'}") == 0
    assert methods_of(tmp_path / "kept") == methods_of(tmp_path / "exp")
    assert methods_of(tmp_path / "kept") == [
        f"trqam pretrained_actor_path=params_{n}00000.pkl" for n in (3, 5)
    ]
    runs = (tmp_path / "kept" / "runs.json").read_text()
    assert "/home/me" not in runs
    kept = json.loads(runs)[f"{CUBE.format(1)}/trqam_s0_0"]["config"]
    assert kept["command"].endswith(
        " --seed=0 --pretrained_actor_path=params_300000.pkl"
    )


# ---------------------------------------------------------------- the command


MISTAKES = {
    "nothing given": ([], "the following arguments are required: FOLDER"),
    "no folder": (["{empty}/none"], "none: there is no such folder"),
    "no pickle": (["{empty}/none.pkl"], "none.pkl: the file cannot be read"),
    "no runs": (
        ["{empty}"],
        "no run with an evaluation in {empty}; train one with main.py, or give another folder",
    ),
    "a step that is none": (
        ["{empty}", "--step=end"],
        "argument --step: invalid step value: 'end'",
    ),
    "a number that is none": (
        ["{empty}", "--bootstrap=0"],
        "argument --bootstrap: give a whole number of at least 1, not 0",
    ),
    "other axes": (["{empty}", "--pickle_axes=tasks"], "--pickle_axes: invalid choice"),
    "an unknown flag": (
        ["{empty}", "--htm=x"],
        "unrecognized arguments: --htm=x (see --help)",
    ),
    "nowhere to write": (
        ["{empty}", "--html={empty}/none/r.html"],
        "r.html: there is no folder {empty}/none",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake, tmp_path, capsys):
    words, named = MISTAKES[mistake]
    assert run(*(word.format(empty=tmp_path) for word in words)) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert (
        line.startswith("error: ")
        and named.format(empty=tmp_path) in line
        and printed.out == ""
    )


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        run("--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for flag in ("step", "bootstrap", "details", "csv", "latex", "html", "export"):
        assert f"--{flag}" in shown


def test_the_shells_command_needs_no_jax(table):
    folder, _, _ = table
    code = (
        "from scripts import report; import sys; report.main(['',"
        f" {str(folder / 'sweep' / SCENE.format(1))!r}]); "
    )
    code += "sys.exit(bool({'jax', 'mujoco', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "") and "70.0 ±" not in done.stderr


@pytest.mark.slow
def test_1200_runs_take_less_than_a_minute(tmp_path):
    """Of the paper's size: 31 evaluations and 300 logs of 20 columns each."""
    write_table(
        tmp_path,
        list(ALL_TASKS),
        8,
        {"trqam": 0.7, "sqam": 0.6, "mine": 0.2},
        evaluations=30,
        logs=300,
        columns=20,
    )
    files = [f"--{kind}={tmp_path / kind}" for kind in ("html", "csv", "latex")]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "report.py", tmp_path, *files],
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    print(
        f"1,200 runs in {seconds:.1f} s, a page of"
        f" {(tmp_path / 'html').stat().st_size / 1e6:.1f} MB"
    )
    assert done.returncode == 0 and seconds < 60


@pytest.mark.slow
def test_a_published_file_of_17_methods_takes_less_than_a_minute(tmp_path):
    """On 50 tasks with 12 seeds each: seconds of one core, whatever else the machine does."""
    rng = np.random.default_rng(0)
    tasks = [(task, f"M{method}") for task in ALL_TASKS for method in range(17)]
    data = {key: rng.binomial(50, rng.uniform(0, 0.9), (30, 12)) / 50 for key in tasks}
    path = dump(tmp_path / "exp_data.pkl", data)
    files = [f"--{kind}={tmp_path / kind}" for kind in ("html", "csv", "latex")]
    command = [sys.executable, ROOT / "scripts" / "report.py", path, *files]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    print(f"17 methods on 50 tasks in {seconds:.1f} s")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 61 * (17 + 17 * 16 // 2) and seconds < 60
