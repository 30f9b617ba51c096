"""The published figures have their sources and agree with each other."""

import re

import numpy as np
import pytest

from envs.tasks import ALL_TASKS, dataset_name
from reports.published import read_published

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
    """These are the figures of the QAM paper, each rounded to a tenth of a percent."""
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
