"""The tables of the README and docs/ are those that results/ gives."""

import csv
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from reports.pages import PAGES, TABLES, differences, learning, renewed, study
from scripts import results
from tests.reports.helpers import CUBE
from tests.synthetic_runs import write_run
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("page", PAGES)
def test_every_page_agrees_with_results(page):
    """If this fails, run `make results`."""
    text = (ROOT / page).read_text()
    assert renewed(text, ROOT / "results") == text


def test_every_table_is_on_a_page_and_is_restored_when_it_is_altered():
    texts = [(ROOT / page).read_text() for page in PAGES]
    assert set(re.findall(r"<!-- made: (\w+) -->", "".join(texts))) == TABLES.keys()
    for text in texts:
        for table in re.findall(r"(?s)<!-- made: \w+ -->\n(.*?)<!-- end -->", text):
            for altered in ("", re.sub(r"(\d) \|", r"\g<1>9 |", table)):
                assert altered != table
                assert renewed(text.replace(table, altered), ROOT / "results") == text


def test_a_changed_measurement_changes_its_table(tmp_path):
    shutil.copytree(ROOT / "results" / "quickstart", tmp_path / "quickstart")
    text = "<!-- made: quickstart -->\n<!-- end -->\n"
    before = renewed(text, tmp_path)
    csv = tmp_path / "quickstart" / "seed1.csv"
    assert "3000,0.48," in csv.read_text()
    csv.write_text(csv.read_text().replace("3000,0.48,", "3000,0.77,"))
    lines = set(renewed(text, tmp_path).splitlines()) - set(before.splitlines())
    # The other changed line is the mean.
    assert "| 1 | 11 % | 77 % | 0.315 / 0.3 | 0.76 |" in lines and len(lines) == 2


def test_a_table_of_an_unknown_name_is_a_mistake(tmp_path):
    with pytest.raises(
        UserError, match="made: speeds -->: it is none of quickstart, scene"
    ):
        renewed("<!-- made: speeds -->\n<!-- end -->\n", tmp_path)


def test_a_mistake_in_a_page_prints_one_line(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("<!-- made: speeds -->\n<!-- end -->\n")
    monkeypatch.setattr(results, "PAGES", (page,))
    monkeypatch.setattr(sys, "argv", ["scripts/results.py"])
    assert results.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: <!-- made: speeds -->: it is none of ")


def test_differences_are_between_the_same_seeds():
    """Student's t with two degrees of freedom is 4.3027."""
    lines = TABLES["scene_differences"](ROOT / "results")
    expected = {"fql": [66 - 56, 96 - 100, 94 - 94], "qam inv_temp=3.0": [-8, 60, 14]}
    for other, points in expected.items():
        half = 4.3027 * np.std(points, ddof=1) / np.sqrt(3)
        cells = f"{other} | 3 | {np.mean(points):.1f} ± {half:.1f} |"
        assert f"| scene-play-task1 | {cells}" in lines
    assert not any("| trqam" in line for line in lines[1:])  # only other agents


def test_the_paragraph_on_cube_single_has_figures_of_its_study():
    _, paragraph = (ROOT / "docs/study.md").read_text().split("## Cube-single\n")
    folder = ROOT / "results/study"
    method = "trqam dual_mode=closed_form kl_budget=0.3"
    made = "\n".join(study(folder) + differences(folder, method))
    figures = re.findall(r"[\d.]+ ± [\d.]+\d", paragraph)
    assert len(figures) == 8 and all(f"| {figure} |" in made for figure in figures)


def test_returns_are_the_evaluations_of_each_run():
    with (ROOT / "results" / "scene_tuning" / "curves.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line.get("return")]
    name = {line["run"] for line in lines if line["return"] == "-2044.22"}
    assert len(name) == 1
    cells = [f"{float(line['return']):,.0f}" for line in lines if line["run"] in name]
    line = f"| trqam kl_budget=0.5 | {' | '.join(cells)} | 0 | 0.499 |"
    assert len(cells) == 4
    assert line in TABLES["scene_tuning"](ROOT / "results")


def test_success_is_shown_at_the_updates_at_which_every_method_was_evaluated(tmp_path):
    """TRQAM begins after 20,000 updates of its base, which BC has in its own run."""
    success = {20_000 * i: 0.1 * i for i in range(4)}
    write_run(tmp_path, CUBE.format(1), 0, success, "bc", offline_steps=60_000)
    for seed in range(2):
        rates = {
            step: (4 + seed) * rate for step, rate in success.items() if step < 60_000
        }
        steps = {"offline_steps": 40_000, "bc_steps": 20_000}
        write_run(tmp_path, CUBE.format(1), seed, rates, **steps)
    header, _, bc, trqam = learning(tmp_path)
    columns = "| task | method | seeds | at 20,000 | at 40,000 | at the end (%) |"
    assert header == f"{columns} path KL / budget | λ |"
    assert bc == "| cube-double-play-task1 | bc | 1 | 10.0 | 20.0 | 30.0 |  |  |"
    end = "90.0 ± 127.1"  # Student's t with one degree of freedom is 12.706
    assert trqam == f"| cube-double-play-task1 | trqam | 2 | 0.0 | 45.0 | {end} |  |  |"
    assert learning(tmp_path, every=40_000)[0] == header.replace(" at 20,000 |", "")
