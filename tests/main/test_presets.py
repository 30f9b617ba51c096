"""The presets train as the README says."""

import json
import re
import subprocess
import sys
import time

import pytest

from tests.envs.test_video import egl_renders
from tests.terminal import lines_on, terminal, written
from tests.tiny_runs import ROOT, TINY, lenient, run, train
from utils.csv_log import CsvLog


@pytest.mark.slow
def test_a_domain_is_trained_with_one_base(data, tmp_path):
    assert train(data, tmp_path, "--env_name=pointmaze-medium", "--online_steps=0") == 0
    finished = sorted(
        path.parent.parent.name
        for path in tmp_path.glob("Debug/*/trqam_s0_*/done.json")
    )
    assert finished == [
        f"pointmaze-medium-navigate-singletask-task{i}-v0" for i in range(1, 6)
    ]
    assert len(list(tmp_path.glob("bc/*/*/done.json"))) == 1


SMOKE = [
    "--env_name=cube-double-play-singletask-task2-v0",
    "--preset=smoke",
    "--agent.kl_budget=0.5",
]


@pytest.mark.slow
def test_the_lines_of_a_run_fit_a_terminal_of_100_columns(tmp_path):
    with terminal(100) as (ours, programs):
        command = [sys.executable, ROOT / "main.py", *SMOKE, "--save_dir=exp"]
        process = subprocess.Popen(
            command, stdout=programs, stderr=programs, cwd=tmp_path, env=lenient()
        )
        text = ""
        while process.poll() is None:
            time.sleep(0.1)
            text += written(ours)
        text += written(ours)
    lines = lines_on(text)
    assert process.returncode == 0, text
    assert max(map(len, lines)) <= 100
    drawn = re.split(r"[\r\n]", text.replace("\x1b[A", ""))
    assert max(map(len, drawn)) <= 100
    offline, online = (
        line for line in lines if line.startswith("trqam c") and "  step " in line
    )
    figures = r"success \d+%  KL \d\S*/0\.5  λ \d\S*"
    assert re.search(rf"  step 20/20 offline  \S+ updates/s  {figures}$", offline)
    assert re.search(rf"  step 40/40 online  \S+ steps/s  {figures}$", online)
    finished = [line for line in lines if "finished" in line]
    folder = rf"finished: exp/smoke/{SMOKE[0].partition('=')[2]}/trqam_s0_\w+"
    assert re.fullmatch(r"finished: exp/bc/cube-double-play/bc_s0_\w+", finished[0])
    assert re.fullmatch(folder, finished[1]) and len(finished) == 2


@pytest.mark.ci
@pytest.mark.parametrize(
    ("agent", "world"),
    [
        ("trqam", "cube-double-play"),
        ("bc", "antmaze-large-navigate"),  # random actions: there is no oracle
        # on cube-double the published coefficients of both heads are 0
        pytest.param("qam_edit", "puzzle-3x3-play", marks=pytest.mark.slow),
        pytest.param("qam_fql", "scene-play", marks=pytest.mark.slow),
    ],
)
def test_smoke_preset_on_every_family_of_environments(tmp_path, agent, world):
    """The preset makes its data, clones, and trains offline and online."""
    task = f"{world}-singletask-task1-v0"
    flags = [f"--env_name={task}", f"--agent=agents/{agent}.py", "--preset=smoke"]
    assert run(*flags, f"--save_dir={tmp_path}") == 0
    (log,) = tmp_path.glob(f"smoke/{task}/{agent}_s0_*/train.csv")
    assert {row["phase"] for row in CsvLog(log).read()} == {"offline", "online"}
    assert (log.parent / "done.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("gl", ["egl", "nonsense"])
def test_quickstart_writes_a_summary_and_films_if_rendering_works(
    tmp_path, monkeypatch, capsys, gl
):
    from configs.presets import PRESETS
    from scripts import quickstart

    monkeypatch.setitem(
        PRESETS, "quickstart", PRESETS["quickstart"]._replace(transitions=1000)
    )
    monkeypatch.setenv("MUJOCO_GL", gl)
    flags = [
        "--bc_steps=4",
        "--offline_steps=8",
        "--log_interval=4",
        "--eval_episodes=2",
        f"--save_dir={tmp_path}",
        *TINY,
    ]
    assert quickstart.main(["quickstart.py", *flags]) == 0
    output = capsys.readouterr()
    (path,) = tmp_path.glob("quickstart/*/*/summary.json")
    summary = json.loads(path.read_text())
    assert summary["transitions"] == 1000
    assert summary["kl_budget"] == 0.3
    keys = {"success_bc", "success_trqam", "path_kl", "lambda", "seconds_after_install"}
    assert keys <= set(summary)
    assert (path.parent / "learning_curve.png").stat().st_size > 1000
    assert "BC" in output.out and "TRQAM" in output.out and str(path) in output.out
    films = list(path.parent.glob("videos/*.mp4"))
    assert bool(films) == (gl == "egl" and egl_renders())
    if gl == "nonsense":
        assert "MUJOCO_GL=nonsense does not render here" in output.err
