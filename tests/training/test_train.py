"""Tests warnings before training."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from training import data


@pytest.mark.parametrize(
    ("installed", "made", "warnings"),
    [
        ("3.3.7", None, []),
        ("3.1.6", "3.2.4", []),
        (
            "3.3.7",
            "3.4.0",
            ["pointmaze-medium-navigate-v0.npz was made with mujoco 3.4.0"],
        ),
        ("3.5.1", None, ["mujoco is installed as 3.5.1"]),
        ("3.1.5", None, ["mujoco is installed as 3.1.5"]),
        ("3.10.0", None, ["mujoco is installed as 3.10.0"]),
    ],
)
def test_other_physics_is_reported_once(
    installed, made, warnings, tmp_path, monkeypatch, printed
):
    settings = (
        {} if made is None else {"collection": np.array(json.dumps({"mujoco": made}))}
    )
    np.savez(tmp_path / "pointmaze-medium-navigate-v0.npz", **settings)
    monkeypatch.setattr(data.importlib.metadata, "version", lambda name: installed)
    flags = {"ogbench_dataset_dir": str(tmp_path), "dataset": None}
    run = SimpleNamespace(
        env_name="pointmaze-medium-navigate-singletask-task1-v0",
        settings=SimpleNamespace(flags=flags),
    )
    for _ in range(2):
        data.warn_of_other_physics(run)
    lines = printed().err.splitlines()
    assert [line.partition(", whose contacts differ")[0] for line in lines] == [
        f"warning: {text}" for text in warnings
    ]
    run.env_name = "envs.probe:ProbeChain-v0"
    data.warn_of_other_physics(run)
    assert not printed().err


@pytest.mark.parametrize(
    ("deviations", "named"),
    [
        ([0.06, 0.5], None),
        ([0.5, 0.04, 0.5], "entries 1 of"),
        ([0.5, 0.0, 0.02], "entries 1, 2 of"),
    ],
)
def test_action_entries_that_hardly_vary_are_named(deviations, named, printed):
    actions = np.random.default_rng(0).normal(0, deviations, (30_000, len(deviations)))
    data.warn_of_narrow_actions(actions.astype(np.float32))
    warning = printed().err
    assert (
        f"warning: {named} the actions hardly vary" in warning if named else not warning
    )
