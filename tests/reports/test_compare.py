"""A report compares methods with each other and with published figures."""

import json

import numpy as np
import pytest

from reports.compare import size
from reports.html import page
from reports.published import read_published
from reports.reading import read_all
from tests.reports.helpers import ROOT, SCENE, make_report
from tests.synthetic_runs import write_run


def test_the_probability_of_improvement_is_that_of_the_written_runs(table):
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


def test_our_results_are_compared_with_the_published_figures(table):
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
    assert entries["antmaze-giant-navigate", "QAM", "QAM p"].differences == []
    (note,) = found.notes
    assert note.startswith(
        "15 published figures are from another amount of data than ours (DATA): trqam"
        " antmaze-giant-navigate"
    )


def test_given_settings_are_mentioned_beside_a_published_figure(tmp_path):
    given = {"agent.actor_hidden_dims": [128, 128], "agent.inv_temp": 10.0}
    folder = write_run(
        tmp_path, SCENE.format(1), 0, {1_000_000: 0.5}, agent="qam", given=given
    )
    config = json.loads((folder / "config.json").read_text())
    config["sources"]["agent.num_qs"] = "preset study"
    (folder / "config.json").write_text(json.dumps(config))
    (entry,) = make_report(tmp_path).comparisons
    assert (
        entry.differences[-1]
        == "settings actor_hidden_dims=[128,128], inv_temp=10.0, preset=study"
    )
    assert entry.differences[-1].removeprefix("settings ") in page(
        make_report(tmp_path)
    )


def test_cloning_and_a_base_are_differences_from_the_papers_runs(tmp_path):
    """The runs of QAM's paper cloned nothing before."""
    done = {1_000_000: 0.5}
    base = {"pretrained_actor_path": "/data/mine"}
    write_run(
        tmp_path / "cloned", SCENE.format(1), 0, done, agent="qam", bc_steps=300_000
    )
    write_run(tmp_path / "given", SCENE.format(1), 0, done, agent="qam", given=base)
    base = {"pretrained_actor_path": "published"}
    write_run(tmp_path / "theirs", SCENE.format(1), 0, done, agent="qam", given=base)
    for folder, difference in (
        ("cloned", "cloning of 300,000 updates, published none"),
        ("given", "base mine"),
        ("theirs", "base published, published runs cloned nothing"),
    ):
        (entry,) = make_report(tmp_path / folder).comparisons
        assert difference in entry.differences and entry.differs


@pytest.mark.parametrize(
    ("transitions", "text"),
    [(999_995, "1M"), (99_950, "100K"), (1_234_567_890, "1.23G"), (999, "999")],
)
def test_sizes_of_data_are_short(transitions, text):
    assert size(transitions) == text


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
    """QAM-E and QAM-F are QAM with a positive edit_scale or fql_alpha; at 0 they are QAM with
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


@pytest.mark.parametrize(("at", "published"), [("final", 93.0), ("200000", 69.0)])
def test_the_published_figure_of_our_step_is_the_one_compared(at, published, tmp_path):
    task = "humanoidmaze-medium-navigate-singletask-task1-v0"
    write_run(tmp_path, task, 0, {200_000: 0.5, 1_000_000: 0.6})
    found = make_report(tmp_path, at).comparisons
    assert [entry.published.success for entry in found] == [published]
