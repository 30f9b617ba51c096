"""export_policy.py exports a policy that acts like the one of `load_policy`."""

import json
import os
import re
import runpy
import shutil
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

import main as program
from envs.collect import collect_random
from scripts import export_policy
from tests.scripts.precision import precisions_of_acting, with_highest_precision
from training.policy import load_policy
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TASK = "pointmaze-medium-navigate-singletask-task1-v0"
OBSERVATIONS = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Return the folder of a run with checkpoints at steps 2 and 4; eval.csv prefers step 2."""
    root = tmp_path_factory.mktemp("export")
    collect_random(TASK, root / "data", 300)
    flags = [
        f"--agent={ROOT}/agents/trqam.py", f"--env_name={TASK}", "--seed=5",
        f"--ogbench_dataset_dir={root}/data", f"--save_dir={root}/exp",
        "--bc_steps=4", "--offline_steps=4", "--online_steps=0", "--log_interval=2",
        "--eval_interval=2", "--eval_episodes=1", "--eval_workers=1",
        "--save_interval=2", "--keep_checkpoints=2",
        "--horizon_length=3", "--agent.action_chunking=True", "--agent.flow_steps=2",
        "--agent.actor_hidden_dims=(8,8)", "--agent.value_hidden_dims=(8,8)",
        "--agent.num_qs=2", "--agent.batch_size=8", "--agent.lr=0.01",
    ]  # fmt: skip
    assert program.main(["main.py", *flags]) == 0
    (config,) = root.glob(f"exp/Debug/{TASK}/*/config.json")
    lines = [
        line.split(",")
        for line in (config.parent / "eval.csv").read_text().splitlines()
    ]
    for cells in lines[1:]:
        cells[lines[0].index("success")] = "0.75" if cells[0] == "2" else "0.25"
    (config.parent / "eval.csv").write_text(
        "".join(",".join(cells) + "\n" for cells in lines)
    )
    return config.parent


def run(*words):
    return export_policy.main(["scripts/export_policy.py", *map(str, words)])


def assert_same(chunks, expected):
    np.testing.assert_allclose(chunks, expected, rtol=0, atol=1e-6)


def read(path):
    """Return the policy of a file, loaded by the reader in the file, and its about.json."""
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["policy.jax", "about.json", "reader.py"]
        archive.extract("reader.py", path.parent)
        about = json.loads(archive.read("about.json"))
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        return runpy.run_path("reader.py")["policy"], about
    finally:
        os.chdir(here)


def test_the_exported_policy_acts_like_load_policy_in_every_call(
    run_dir, tmp_path, capsys
):
    assert run(run_dir, f"--out={tmp_path}/a/new/folder/policy.zip") == 0
    first, second, _ = capsys.readouterr().out.splitlines()
    assert first == f"trqam on {TASK}, seed 5, step 4, success 25.0%"
    arguments = "observations float32[B,2], seed uint32[], call uint32[]"
    assert second == f"({arguments}) -> float32[B,3,2]"
    exported, about = read(tmp_path / "a" / "new" / "folder" / "policy.zip")
    assert os.listdir(tmp_path / "a" / "new" / "folder") == ["policy.zip", "reader.py"]
    seed = 2**32 - 1
    ours = load_policy(run_dir, seed)
    for call in range(3):
        assert_same(exported(OBSERVATIONS, seed, call), ours(OBSERVATIONS))
    assert_same(exported(OBSERVATIONS[:1], seed, 3)[0], ours(OBSERVATIONS[0]))
    config = json.loads((run_dir / "config.json").read_text())
    expected = {"task": TASK, "agent": "trqam", "seed": 5, "step": 4, "success": 0.25}
    expected |= {"commit": config["commit"], "trained_with": config["versions"]}
    expected |= {"data": {"name": "pointmaze-medium-navigate"} | config["dataset"]}
    expected |= {"observation_dim": 2, "action_dim": 2, "chunk_length": 3}
    expected |= {"platforms": ["cpu", "cuda", "tpu"]}
    assert {key: about[key] for key in expected} == expected
    assert about["versions"]["jax"] == jax.__version__
    check_names_no_place(tmp_path / "a" / "new" / "folder" / "policy.zip", run_dir)


def check_names_no_place(path, run_dir):
    """Check that the file has no paths of this machine: it may be given to others."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    for name, data in content.items():
        found = re.findall(rb"/(?:home|root|tmp|work|usr|Users)/[^\0\s]*", data)
        assert found == [], name
        for place in (ROOT, run_dir.parents[3]):
            assert str(place).encode() not in data, name


def test_load_policy_gives_chunks_of_the_trained_agent(run_dir, tmp_path):
    policy = load_policy(run_dir)
    one, many = policy(np.zeros(2, np.float32)), policy(np.zeros((5, 2), np.float32))
    assert (one.shape, many.shape) == ((3, 2), (5, 3, 2))
    assert np.abs(many).max() <= 1.0
    assert np.unique(many, axis=0).shape == many.shape  # fresh noise in every entry
    with pytest.raises(UserError, match="is not the folder of a run"):
        load_policy(tmp_path)


def test_a_policy_multiplies_with_the_precision_of_its_run(
    run_dir, tmp_path, monkeypatch
):
    copy = with_highest_precision(run_dir, tmp_path / "run")
    precisions = precisions_of_acting(monkeypatch)
    load_policy(copy)(OBSERVATIONS)
    assert run(copy, f"--out={tmp_path}/policy.zip") == 0
    load_policy(run_dir)(OBSERVATIONS)
    assert precisions == ["highest", "highest", None]


def test_best_and_step_choose_the_checkpoint(run_dir, tmp_path):
    chunks = {}
    for flag in ("--best", "--step=2"):
        assert run(run_dir, flag, f"--out={tmp_path}/policy.zip", "--overwrite") == 0
        policy, about = read(tmp_path / "policy.zip")
        chunks[flag] = policy(OBSERVATIONS, 0, 0)
        assert (about["step"], about["success"]) == (2, 0.75)
    np.testing.assert_array_equal(chunks["--best"], chunks["--step=2"])
    assert_same(chunks["--best"], load_policy(run_dir, best=True)(OBSERVATIONS))
    newest = load_policy(run_dir)(OBSERVATIONS)
    assert np.abs(newest - chunks["--best"]).max() > 1e-3


def test_without_success_the_return_is_printed_and_chooses_the_best_checkpoint(
    run_dir, tmp_path, capsys
):
    folder = shutil.copytree(run_dir, tmp_path / "run")
    (folder / "eval.csv").write_text(
        "step,episodes,return\n0,1,-9\n2,1,-2.5\n4,1,-3.5\n"
    )
    assert run(folder, "--best", f"--out={tmp_path}/policy.zip") == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line.endswith(", seed 5, step 2, mean return -2.5 (no success reported)")
    _, about = read(tmp_path / "policy.zip")
    assert (about["success"], about["return"]) == (None, -2.5)


def test_a_base_is_exported_too(run_dir, tmp_path, capsys):
    (base,) = run_dir.parents[2].glob("bc/*/bc_s5_*")
    assert run(base, f"--out={tmp_path}/base.zip") == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line == "bc on pointmaze-medium-navigate, seed 5, step 4, not evaluated"
    shutil.move(tmp_path / "base.zip", tmp_path / "policy.zip")
    policy, about = read(tmp_path / "policy.zip")
    assert_same(policy(OBSERVATIONS, 0, 0), load_policy(base)(OBSERVATIONS))
    assert about["success"] is None


BAD = {
    "a wrong width": (
        np.zeros((4, 3)),
        "observations have shape [4, 3]; this policy takes [2] or [B, 2]",
    ),
    "a wrong width of one": (
        np.zeros(3),
        "observations have shape [3]; this policy takes [2] or [B, 2]",
    ),
    "three axes": (
        np.zeros((1, 4, 2)),
        "observations have shape [1, 4, 2]; this policy takes [2] or [B, 2]",
    ),
    "a number": (0.5, "observations have shape []; this policy takes [2] or [B, 2]"),
    "NaN": (
        [[0.0, 0.0], [0.0, np.nan]],
        "observations must be finite; entry 1 of observation 1 is nan",
    ),
    "infinity": (
        [-np.inf, 0.0],
        "observations must be finite; entry 0 of observation 0 is -inf",
    ),
    "beyond float32": (
        [0.0, 1e300],
        "observations must be finite; entry 1 of observation 0 is inf",
    ),
}


def test_load_policy_refuses_impossible_observations_in_one_line(run_dir):
    policy, fresh = load_policy(run_dir), load_policy(run_dir)
    for observations, message in BAD.values():
        with pytest.raises(ValueError) as caught:
            policy(observations)
        assert str(caught.value) == message
    # A refused call uses up no noise.
    np.testing.assert_array_equal(policy(OBSERVATIONS), fresh(OBSERVATIONS))
    assert policy(OBSERVATIONS.astype(np.float64)).dtype == np.float32
    with pytest.raises(OverflowError, match="out of bounds for uint32"):
        load_policy(run_dir, seed=2**32)


def mistakes(run_dir, tmp_path):
    (tmp_path / "mine.zip").write_text("mine")
    out = f"--out={tmp_path}/new.zip"
    return {
        "no folder": ([out], "usage: "),
        "two folders": ([run_dir, run_dir, out], "usage: "),
        "no file": ([run_dir], "--out is missing"),
        "no run": ([tmp_path, out], "is not the folder of a run"),
        "a file that is there": (
            [run_dir, f"--out={tmp_path}/mine.zip"],
            "mine.zip exists; give another name, or --overwrite",
        ),
        "a folder": (
            [run_dir, f"--out={tmp_path}", "--overwrite"],
            "exists; give a file in it",
        ),
        "no such checkpoint": (
            [run_dir, out, "--step=3"],
            f"--step=3: {run_dir} has no such checkpoint; it has 2, 4",
        ),
        "two checkpoints": (
            [run_dir, out, "--step=2", "--best"],
            "--best and --step=2: give one of them",
        ),
        "a negative step": ([run_dir, out, "--step=-1"], "--step=-1"),
        "unknown flag": ([run_dir, out, "--steps=2"], "Did you mean: step"),
    }


def test_a_mistake_prints_one_line_and_leaves_no_files(run_dir, tmp_path, capsys):
    for words, hint in mistakes(run_dir, tmp_path).values():
        assert run(*words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and hint in line
    assert os.listdir(tmp_path) == ["mine.zip"]
    assert (tmp_path / "mine.zip").read_text() == "mine"


def test_a_file_stays_as_it_was_if_writing_fails(
    run_dir, tmp_path, monkeypatch, capsys
):
    def full(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "policy.zip").write_text("mine")
    monkeypatch.setattr("utils.files.os.fsync", full)
    assert run(run_dir, f"--out={tmp_path}/policy.zip", "--overwrite") == 1
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device\n"
    assert os.listdir(tmp_path) == ["policy.zip"]
    assert (tmp_path / "policy.zip").read_text() == "mine"


def test_help_names_every_flag(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert all(
        f"--{name}" in text for name in ("out", "step", "[no]best", "[no]overwrite")
    )
