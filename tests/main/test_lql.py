"""Runs with LQL's hinge losses train and resume, and log the same wherever their data is."""

import json
import shutil

import numpy as np
import pytest

from envs.probe import write_dataset
from tests import chain_table
from tests.tiny_runs import FILE, TASK, TINY, run
from training.plan import plan
from utils.csv_log import CsvLog
from utils.errors import UserError

CHUNKS = ["--horizon_length=2", "--agent.action_chunking=True", "--agent.batch_size=32"]
LQL = ["--agent.lql_points=4", "--agent.hinge_weight=1"]


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["trqam", "qam", "fql", "ifql"])
@pytest.mark.usefixtures("no_key_twice")
def test_lql_trains_offline_and_online_and_resumes(data, tmp_path, agent):
    """A run that was stopped in both phases logs the same as an uninterrupted one, which has its
    data on the host. Both use --preset=smoke.
    """
    place = [
        f"--env_name={TASK}",
        f"--ogbench_dataset_dir={data}/good",
        f"--save_dir={tmp_path}",
    ]
    flags = [*place, "--preset=smoke", f"--agent=agents/{agent}.py", "--eval_workers=1"]
    flags += [*TINY, *CHUNKS, *LQL, "--eval_episodes=1"]
    for steps in ((10, 0), (20, 30), (20, 40)):
        phases = [
            f"--{name}_steps={n}"
            for name, n in zip(("offline", "online"), steps, strict=True)
        ]
        assert run(*flags, *phases, "--run_group=parts") == 0
    assert run(*flags, "--run_group=whole", "--device_data_gb=0") == 0
    parts, uninterrupted = (
        next(tmp_path.glob(f"{group}/{TASK}/{agent}_*/train.csv"))
        for group in ("parts", "whole")
    )
    assert parts.read_text() == uninterrupted.read_text()
    rows = CsvLog(uninterrupted).read()
    found = [(row["step"], row["phase"]) for row in rows]
    assert found == [(10, "offline"), (20, "offline"), (50, "online"), (60, "online")]
    for name in ("td", "lower", "upper"):
        losses = [row[f"critic/{name}_loss"] for row in rows]
        assert np.isfinite(losses).all() and min(losses) >= 0
        # So early in training Q exceeds the returns of its sequences: nothing pushes it up.
        assert (len(set(losses)) > 1) == (name != "lower")
    hinges = [row["critic/lower_loss"] + row["critic/upper_loss"] for row in rows]
    assert max(hinges) > 0
    for row, hinge in zip(rows, hinges, strict=True):
        assert row["critic/loss"] == pytest.approx(
            row["critic/td_loss"] + hinge, rel=1e-4
        )
    config = json.loads((uninterrupted.parent / "config.json").read_text())["agent"]
    assert (config["lql_points"], config["hinge_weight"]) == (4, 1.0)


@pytest.mark.slow
def test_two_seeds_train_on_a_users_dataset_in_balanced_halves(tmp_path):
    """The logs do not depend on where the data is, nor on whether seeds train together. The
    agents act in chunks.
    """
    env_name = "envs.probe:ProbeChain-v0"
    write_dataset(env_name, tmp_path / "mine.npz", 60)
    flags = [f"--env_name={env_name}", f"--dataset={tmp_path}/mine.npz"]
    flags += ["--preset=smoke", f"--save_dir={tmp_path}", "--agent=agents/fql.py"]
    flags += [*TINY, *CHUNKS, *LQL, "--eval_episodes=0", "--balanced_sampling"]
    for group, more in {
        "device": ["--num_seeds=2"],
        "host": ["--num_seeds=2", "--device_data_gb=0"],
        "alone": ["--seed=1"],
    }.items():
        assert run(*flags, *more, f"--run_group={group}") == 0
    logs = {
        (path.parents[2].name, path.parent.name.split("_")[1]): path
        for path in tmp_path.glob("*/*/fql_s*/train.csv")
    }
    assert len(logs) == 5
    text = {place: path.read_text() for place, path in logs.items()}
    for seed in ("s0", "s1"):
        assert text["device", seed] == text["host", seed]
    assert text["device", "s0"] != text["device", "s1"]
    rows = [CsvLog(logs[group, "s1"]).read() for group in ("device", "alone")]
    for together, alone in zip(*rows, strict=True):
        assert together["critic/upper_loss"] > 0
        for name in ("critic/loss", "critic/upper_loss", "actor/distill_loss"):
            assert together[name] == pytest.approx(alone[name], rel=1e-3)


def planned(*flags):
    from configs.flags import parse_flags

    return plan(parse_flags(["main.py", f"--env_name={TASK}", *flags]))


def test_a_base_is_shared_with_runs_without_lql():
    """Behaviour cloning has no critic and reads no sequences."""
    with_it, without = (
        planned("--agent=agents/qgf.py", *more)[0] for more in (LQL, [])
    )
    assert with_it.folder != without.folder
    bases = [run.of_base("data") for run in (with_it, without)]
    assert bases[0].folder == bases[1].folder
    assert (
        bases[0].settings.agent.lql_points == 1
        and with_it.settings.agent.lql_points == 4
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--online_steps=8", "--start_training=2"],
            "end before its first update .*lql_points=4",
        ),
        (
            ["--agent.lql_points=3"],
            "--agent.lql_points=3: sequences of 3 chunks do not fill",
        ),
        (["--agent=agents/rql.py"], "lql_points"),
        (
            ["--balanced_sampling", "--agent.lql_points=32"],
            "--balanced_sampling: --agent.batch_size=32 in sequences of --agent.lql_points=32 "
            "has no two halves; give 64 or more",
        ),
        (
            ["--balanced_sampling", "--agent.batch_size=1", "--agent.lql_points=1"],
            "--balanced_sampling: --agent.batch_size=1 has no two halves; give 2 or more",
        ),
    ],
)
def test_impossible_settings_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        planned(*CHUNKS, *LQL, *flags)


def test_a_dataset_shorter_than_one_sequence_is_refused(data, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    shutil.copy(data / "good" / FILE, tmp_path / "data" / FILE)
    with np.load(tmp_path / "data" / FILE) as file:
        rows = len(file["terminals"])
    place = [
        f"--env_name={TASK}",
        f"--ogbench_dataset_dir={tmp_path}/data",
        f"--save_dir={tmp_path}",
    ]
    points = rows // 2 + 1
    flags = [*CHUNKS, f"--agent.lql_points={points}", f"--agent.batch_size={points}"]
    assert run(*place, "--online_steps=0", "--eval_episodes=0", *flags) == 2
    error = " ".join(capsys.readouterr().err.split())
    expected = f"--horizon_length=2 and --agent.lql_points={points}: sequences of {2 * points}: "
    assert f"{expected}the dataset has only" in error


def test_updates_are_counted_until_the_value_stays_near_the_true_one():
    near, far = chain_table.VALUE, 0.5 * chain_table.VALUE
    values = np.array([[near, far, far], [far, far, near], [near, near, far]])
    assert chain_table.updates_needed(values) == [150, 150, 200]


@pytest.mark.slow
def test_the_value_of_a_long_chain_needs_fewer_updates_with_sequences():
    """With sequences of 8 chunks, each of three seeds of results/chain.csv needs fewer updates
    than any of the same seeds with TD.
    """
    needed = {
        n: chain_table.updates_needed(chain_table.start_values(n, 3)) for n in (1, 8)
    }
    assert max(needed[8]) < min(needed[1]) <= chain_table.UPDATES
