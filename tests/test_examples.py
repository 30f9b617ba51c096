"""The files in examples/ do what the README says about them."""

import subprocess
import sys
from pathlib import Path

import pytest

from utils.logging import read_csv

ROOT = Path(__file__).resolve().parents[1]


def python(*words: str) -> str:
    """Run a command in the project's root; return what it prints, on one line."""
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return " ".join((done.stdout + done.stderr).split())


@pytest.mark.ci
def test_the_example_of_a_users_environment_and_data_trains(tmp_path):
    python("examples/own_environment.py", str(tmp_path / "reach.npz"))
    output = python(
        "main.py", "--env_name=examples.own_environment:Reach-v0", f"--dataset={tmp_path}/reach.npz", "--preset=smoke",
        f"--save_dir={tmp_path}/exp",
    )  # fmt: skip
    assert (
        "22,611 transitions in 1,000 trajectories, layout flat (it holds next_observations,"
        " truncations)" in output
    )
    assert (
        "left out" not in output
        and "cube-double" not in output
        and "TRQAM paper" not in output
    )
    (log,) = tmp_path.glob(
        "exp/smoke/examples.own_environment_Reach-v0/trqam_s0_*/eval.csv"
    )
    assert {row["step"] for row in read_csv(log)} >= {0, 20, 60} and all(
        "success" in row for row in read_csv(log)
    )


def test_the_guide_quotes_the_reader_of_an_exported_policy():
    reader = (
        (ROOT / "examples" / "run_exported_policy.py")
        .read_text()
        .partition('"""\n\n')[2]
    )
    assert reader.strip() and reader in (ROOT / "docs" / "policies.md").read_text()
