"""The program on a user's own environments: without success, without an end, with a fault."""

import contextlib
import csv
import dataclasses
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

import main as program
from envs.probe import write_dataset
from scripts import report, rollout
from training import evaluator
from training.checkpoints import Checkpoints
from training.online import ONLINE_SEEDS
from training.replay_file import ReplayFile
from utils.csv_log import read_csv

FLAGS = [
    "--dataset=data.npz", "--save_dir=exp", "--bc_steps=4", "--offline_steps=16",
    "--online_steps=0", "--start_training=4", "--log_interval=4", "--eval_interval=4",
    "--save_interval=4", "--keep_checkpoints=1", "--eval_episodes=2", "--eval_workers=1",
    "--horizon_length=2", "--agent.action_chunking=True", "--agent.actor_hidden_dims=(8,8)",
    "--agent.value_hidden_dims=(8,8)", "--agent.num_qs=2", "--agent.flow_steps=2",
    "--agent.batch_size=8",
]  # fmt: skip
STAND_INS = "tests.envs.stand_ins"


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """A dataset in the working directory."""
    monkeypatch.chdir(tmp_path)
    write_dataset("envs.probe:ProbeChain-v0", "data.npz", 60)


def train(name, *flags):
    return program.main(
        ["main.py", f"--env_name={STAND_INS}:{name}-v0", *FLAGS, *flags]
    )


def only_run(name):
    (config,) = Path().glob(f"exp/Debug/{STAND_INS}_{name}-v0/*/config.json")
    return config.parent


@pytest.mark.ci
def test_without_success_the_return_is_reported_and_decides_which_is_best(
    monkeypatch, capsys, printed
):
    """Returns of -9, -1, -5, -7 and -3 at steps 0, 4, 8, 12 and 16."""
    real, totals = evaluator.evaluate, itertools.chain((-9.0, -1.0, -5.0, -7.0, -3.0))

    def evaluate(*args, **kwargs):
        result = real(*args, **kwargs)
        return dataclasses.replace(result, returns=np.full(2, next(totals)))

    monkeypatch.setattr(evaluator, "evaluate", evaluate)
    assert train("Silent") == 0
    out, folder = printed().out, only_run("Silent")
    found = (
        "mean return -9 (no success reported) over 2 episodes before the first update"
    )
    assert (
        f"trqam tests.envs.stand_ins:Silent seed 0: {found}" in out and "0%" not in out
    )
    header = (folder / "eval.csv").read_text().partition("\n")[0]
    assert header == "step,episodes,return,length,discounted_return"
    done = json.loads((folder / "done.json").read_text())
    assert (done["success"], done["return"]) == (None, -3.0)
    assert Checkpoints(folder / "checkpoints").steps() == [4, 16]

    assert rollout.main(["rollout.py", str(folder), "--best", "--episodes=1"]) == 0
    summary, _, table = capsys.readouterr().out.partition("episode  ")
    lines = table.splitlines()
    assert summary.startswith("trqam after 4 updates") and lines[1].split()[:2] == [
        "0",
        "-",
    ]
    assert re.fullmatch(
        r"mean return -[.\de-]+ \(no success reported\) of 1 episodes", lines[2]
    )

    assert report.main(["report.py", "exp", "--csv=report.csv"]) == 0
    out = capsys.readouterr().out
    assert (
        "note: 1 runs report no success: their returns have a table of their own" in out
    )
    assert (
        "offline: return of runs that report no success" in out
        and "success in %" not in out
    )
    entries = list(csv.DictReader(Path("report.csv").read_text().splitlines()))
    columns = ("kind", "return", "step", "success")
    assert [[entry[column] for column in columns] for entry in entries] == [
        ["return", "-3", "16", ""]
    ]


@pytest.mark.ci
def test_without_evaluations_the_newest_checkpoint_is_taken_for_the_best(printed):
    assert train("Silent", "--eval_episodes=0") == 0
    printed()
    assert (
        rollout.main(["rollout.py", str(only_run("Silent")), "--best", "--episodes=1"])
        == 0
    )
    found = printed()
    assert "trqam after 16 updates" in found.out
    assert "was evaluated: the newest is used instead" in found.err


@pytest.mark.ci
def test_episodes_that_do_not_end_are_truncated_online_and_in_evaluations(
    monkeypatch, printed
):
    # in this process alone, so only the online phase has this limit
    monkeypatch.setattr("envs.ogbench.EPISODE_LIMIT", 5)
    assert train("Endless", "--online_steps=12", "--eval_interval=0") == 0
    folder, found = only_run("Endless"), printed()
    assert {row["length"] for row in read_csv(folder / "eval.csv")} == {1000}
    (line,) = (line for line in found.err.splitlines() if "warning: an episode" in line)
    assert "Endless-v0 had not ended after 1,000 steps and was truncated" in line
    assert "gymnasium.register(..., max_episode_steps=N) sets one" in line
    path = folder / "replay.bin"
    with contextlib.closing(ReplayFile(path, 1, 1)) as file:
        rows = np.fromfile(path, file.dtype)
    rows = rows[rows["starts"] == 1]
    assert rows["terminals"].tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0]
    # a time limit does not end the task
    assert rows["masks"].tolist() == [1] * 12


@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("Melting", "the reward is nan"),
        ("Diverging", "FloatingPointError: the solver diverged"),
    ],
)
def test_a_fault_of_one_seeds_environment_leaves_the_others_alone(name, fault, printed):
    assert ONLINE_SEEDS == 1 << 20  # the stand-in uses this number
    flags = ["--bc_steps=0", "--online_steps=8", "--num_seeds=2", "--eval_interval=0"]
    assert train(name, *flags) == 1
    err = printed().err.splitlines()
    where = "in the step after step 18 of "
    message = f"environment {STAND_INS}:{name}-v0: {fault} {where}"
    assert sum(line.startswith(f"warning: {message}") for line in err) == 1
    assert err[-1].startswith(f"error: {message}")
    assert err[-1].endswith("; the last good checkpoint is that of step 16")
    done = Path().glob(f"exp/Debug/{STAND_INS}_{name}-v0/*/done.json")
    assert [path.parent.name.partition("_s")[2][0] for path in done] == ["0"]
