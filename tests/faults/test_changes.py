"""A run resumes only if its settings and data are unchanged; its version may change."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from configs.flags import parse_flags
from envs.probe import write_dataset
from tests.chain_runs import ENV_NAME, FLAGS, folder_of, newest, train, truncate
from training.plan import plan


def test_a_changed_config_is_refused_and_the_difference_is_shown(
    enter_folder, assert_stops, assert_undisturbed
):
    enter_folder("online")
    path = folder_of() / "config.json"
    intact = path.read_text()
    config = json.loads(intact)
    config["agent"]["lr"] = 0.5
    path.write_text(json.dumps(config))
    line = assert_stops(2)
    assert (
        line
        == f"error: {folder_of()} holds a run with other settings (--agent.lr: stored 0.5, now"
        " 0.0003); give another --run_group, or delete that folder"
    )
    path.write_text(intact)
    assert_undisturbed()


@pytest.mark.ci
@pytest.mark.parametrize(
    "name, name_of_run", {"config.json": "online", "done.json": "whole"}.items()
)
def test_a_damaged_json_file_is_reported_with_a_remedy_that_works(
    name, name_of_run, enter_folder, assert_stops, assert_undisturbed
):
    enter_folder(name_of_run)
    path = folder_of() / name
    truncate(path)
    line = assert_stops(1)
    assert line.startswith(f"error: {path} is damaged (")
    assert line.endswith("); delete it, and the same command resumes the run")
    path.unlink()
    assert any(line.startswith("resumed at step ") for line in assert_undisturbed())


def rewrite(change):
    """Return a function that changes the arrays of an npz file in place."""

    def rewritten(path):
        with np.load(path) as file:
            arrays = dict(file)
        change(arrays)
        np.savez(path, **arrays)

    return rewritten


def one_observation(arrays):
    arrays["observations"][41] += 0.25  # of 70 rows


def relabelled(arrays):
    arrays["rewards"] *= -100


def recorded_wrongly(arrays):
    arrays["masks"][:] = np.where(np.arange(70) == 30, 0, arrays["masks"])


CHANGED = "--dataset: dataset changed since {folder} started "


DATASETS = {
    "truncated": (truncate, "--dataset: data.npz is damaged ("),
    "vanished": (Path.unlink, "--dataset: data.npz does not exist"),
    "another": (
        lambda path: write_dataset(ENV_NAME, path, 66),
        CHANGED
        + "(60 -> 66 transitions): restore it, choose another --run_group, or delete that folder",
    ),
    "of the same length": (
        lambda path: write_dataset(ENV_NAME, path, 60, seed=1),
        CHANGED + "(as many transitions, but other values): restore it",
    ),
    "one observation": (rewrite(one_observation), CHANGED),
    "rewards": (rewrite(relabelled), CHANGED),
    "masks": (rewrite(recorded_wrongly), CHANGED),
}


@pytest.mark.ci
@pytest.mark.parametrize("how", DATASETS)
def test_changed_data_is_refused_and_the_run_resumes_with_the_original(
    how, enter_folder, assert_stops, assert_undisturbed
):
    enter_folder("online")
    shutil.copy("data.npz", "kept.npz")
    damage, message = DATASETS[how]
    damage(Path("data.npz"))
    assert assert_stops(2).startswith(f"error: {message.format(folder=folder_of())}")
    assert newest().name == "20"
    os.replace("kept.npz", "data.npz")
    assert_undisturbed()


@pytest.mark.parametrize(
    "how", ["of the same length", "one observation", "rewards", "masks"]
)
def test_a_finished_run_is_compared_with_its_data(
    how, enter_folder, assert_stops, printed
):
    enter_folder("whole")
    assert train() == 0 and "finished already: " in printed().out
    DATASETS[how][0](Path("data.npz"))
    assert assert_stops(2).startswith(f"error: {CHANGED.format(folder=folder_of())}")
    Path("data.npz").unlink()
    assert (
        train() == 0 and "(its data is not here and was not compared)" in printed().out
    )


@pytest.mark.ci
def test_the_base_depends_on_the_content_of_the_data(enter_folder):
    """The path and the rewards do not count; other actions in the same file make another base."""
    enter_folder("whole")
    bases = {path.parent.name for path in Path("exp/bc").glob("*/*/done.json")}
    shutil.copy("data.npz", "elsewhere.npz")
    assert train("--dataset=elsewhere.npz") == 0
    rewrite(relabelled)(Path("elsewhere.npz"))
    assert train("--dataset=elsewhere.npz", "--run_group=relabelled") == 0
    assert {
        path.parent.name for path in Path("exp/bc").glob("*/*/done.json")
    } == bases and len(bases) == 1
    rewrite(lambda arrays: arrays.update(actions=-arrays["actions"]))(Path("data.npz"))
    for flags in (["--run_group=mended"], ["--overwrite"]):
        assert train(*flags) == 0
        assert len(list(Path("exp/bc").glob("*/*/done.json"))) == 2


def test_a_sweep_finds_the_base_without_reading_the_data(enter_folder):
    enter_folder("whole")
    (run,) = plan(parse_flags(["main.py", *FLAGS]))
    (base,) = (path.parent for path in Path("exp/bc").glob("*/*/done.json"))
    assert run.expected_base().folder == base and run.expected_base().is_done()
    (other,) = plan(parse_flags(["main.py", *FLAGS, "--bc_steps=5"]))
    assert not other.expected_base().folder.exists()
    truncate(base / "config.json")
    assert not run.expected_base().folder.exists()


def test_a_run_resumes_if_flags_were_added_or_removed(enter_folder, assert_undisturbed):
    """Flags that one of the versions does not know have their defaults."""
    enter_folder("online")
    path = folder_of() / "config.json"
    config = json.loads(path.read_text())
    for name in ("dataset_layout", "action_scale"):
        del config["flags"][name], config["sources"][name]
    config["flags"]["of_old"], config["sources"]["of_old"] = 7, "default"
    path.write_text(json.dumps(config))
    assert_undisturbed()
