"""The picture of a study shows its curves; matplotlib's own objects are checked."""

from pathlib import Path

import numpy as np
import pytest

from reports.picture import COLUMNS, picture, read_published_curves
from reports.reading import read_all
from scripts.report import main
from tests.reports.test_returns import write_returns
from tests.synthetic_runs import write_run
from utils.errors import UserError, one_line

STUDY = Path(__file__).resolve().parents[2] / "results" / "study"
TASK = "cube-single-play-singletask-task1-v0"
LINES = [
    f"{TASK},QAM,50000,18,10,26,12,a paper",
    f"{TASK},QAM,100000,44,30,58,12,a paper",
    "scene-play-singletask-task1-v0,QAM,50000,90,85,95,12,a paper",
]


@pytest.fixture(scope="module")
def results():
    return read_all([str(STUDY)], 1)[0]


def write_csv(path, lines=LINES, columns=COLUMNS):
    path.write_text("\n".join([",".join(columns), *lines]) + "\n")
    return path


def drawn(axes):
    return {line.get_label(): line for line in axes.lines}


def test_the_updates_of_the_base_count_as_steps(results):
    methods = dict.fromkeys(result.method for result in results)
    figure = picture({method: method for method in methods}, results, [])
    success, kl, _ = figure.axes
    first = {label: line.get_xdata()[0] for label, line in drawn(success).items()}
    assert first == {method: 0 if method == "bc" else 10_000 for method in methods}
    budgets = [line for line in kl.lines if line.get_linewidth() == 0.5]
    assert budgets and all(
        line.get_xdata()[0] > 10_000 for line in budgets if line.get_ydata()[0] != 0.5
    )
    labels = [text.get_text() for text in figure.legends[0].texts]
    assert labels == [f"{method}  {method}" for method in methods]


def test_names_with_dollars_are_no_formulas(tmp_path):
    env_name = "my:Env$\\x$-v0"
    write_run(tmp_path, env_name, 0, {0: 0.1, 1_000_000: 0.5})
    keys = {"trqam": "A", "trqam tags=$\\y$": "B"}
    figure = picture(keys, read_all([str(tmp_path)], 1)[0], [])
    figure.savefig(tmp_path / "a.png")
    assert any("Env$\\x$" in axes.get_title() for axes in figure.axes)


def test_published_curves_are_drawn_in_grey_only_for_their_task(results, tmp_path):
    published = read_published_curves(write_csv(tmp_path / "published.csv"))
    assert [len(curve.steps) for curve in published] == [2, 1]
    success, *others = picture({"bc": "A"}, results, published).axes
    (grey,) = [line for line in success.lines if line.get_color() == "grey"]
    np.testing.assert_array_equal(grey.get_ydata(), [18, 44])
    assert success.get_xlim()[1] < 50_000  # the runs decide what is shown
    assert not any(line.get_color() == "grey" for axes in others for line in axes.lines)
    short = [curve._replace(task="cube-double-play-task1") for curve in published]
    with pytest.raises(
        UserError, match="no run is of its tasks, cube-double-play-task1;"
    ):
        picture({"bc": "A"}, results, short)


@pytest.mark.parametrize(
    ("lines", "columns", "reason"),
    [
        (["a,b"], ("task", "method"), "KeyError"),
        ([f"{TASK},QAM,many,1,1,1,1,"], COLUMNS, "ValueError"),
        ([f"{TASK},QAM,1"], COLUMNS, "TypeError"),
    ],
)
def test_other_files_are_refused_in_one_line(lines, columns, reason, tmp_path):
    path = write_csv(tmp_path / "published.csv", lines, columns)
    with pytest.raises(UserError) as error:
        read_published_curves(path)
    message = one_line(error.value)
    assert message.startswith(f"--published_curves: {path} is no CSV file with the ")
    assert message.endswith(f"({reason})")


def test_the_command_writes_a_picture(tmp_path, capsys):
    curves = f"--published_curves={write_csv(tmp_path / 'published.csv')}"
    path = tmp_path / "curves.png"
    assert main(["report.py", str(STUDY), f"--picture={path}", curves]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert f"written: {path}" in capsys.readouterr().out
    assert main(["report.py", str(STUDY), f"--picture={tmp_path}/a.gif"]) == 2
    assert "end it in .png, .pdf, .svg" in capsys.readouterr().err


def test_a_published_method_has_one_dash_in_every_panel_and_in_the_legend(tmp_path):
    """The first task has no curve of FQL, which is first on the second."""
    tasks = [f"scene-play-singletask-task{i}-v0" for i in (1, 2)]
    curves = [(tasks[0], "QAM"), (tasks[1], "FQL"), (tasks[1], "QAM")]
    lines = [f"{task},{method},50000,18,10,26,12,a paper" for task, method in curves]
    for task in tasks:
        write_run(tmp_path, task, 0, {0: 0.0, 1_000_000: 0.5})
    runs, _ = read_all([str(tmp_path)], 1)
    published = read_published_curves(write_csv(tmp_path / "published.csv", lines))
    figure = picture({"trqam": "A"}, runs, published)
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    of_name = {
        name: handle.get_linestyle()
        for name, handle in zip(names, legend.get_lines(), strict=True)
    }
    styles = [
        line.get_linestyle()
        for axes in figure.axes
        for line in axes.lines
        if line.get_color() == "grey"
    ]
    assert styles == [of_name[f"published: {method}"] for _, method in curves]
    assert len(set(styles)) == 2


def test_a_method_that_only_trains_online_begins_where_the_others_go_online(tmp_path):
    for agent, offline in (("trqam", 1_000_000), ("rlpd", 0)):
        steps = {0: 0.0, offline: 0.5, offline + 500_000: 0.9}
        phases = {"offline_steps": offline, "online_steps": 500_000}
        cloned = {"bc_steps": 300_000} if offline else {}
        write_run(tmp_path, TASK, 0, steps, agent=agent, **phases, **cloned)
    runs, _ = read_all([str(tmp_path)], 1)
    success = picture({"rlpd": "A", "trqam": "B"}, runs, []).axes[0]
    first = {label: line.get_xdata()[0] for label, line in drawn(success).items()}
    assert (first["trqam"], first["rlpd"]) == (300_000, 1_300_000)


def test_a_picture_of_runs_without_success_is_refused_in_one_line(tmp_path, capsys):
    write_returns(
        tmp_path, "mine:Walker-v0", 0, {0: -90.0, 1_000_000: -1.0}, agent="bc"
    )
    assert main(["report.py", str(tmp_path), f"--picture={tmp_path}/a.png"]) == 2
    assert "error: --picture: no run has a success rate" in capsys.readouterr().err
