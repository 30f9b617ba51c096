"""Tests the window of metrics between two lines of train.csv, and warnings before training."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training import data
from training.updates import Window, updates_per_call


def test_a_window_sums_and_remembers_the_first_update_that_broke_each_metric():
    window = Window.create({"a": 0.5, "b": 0.0, "c": 0.0})
    values = {
        "a": [1.0, 2.0, 3.0, 4.0],
        "b": [1.0, np.nan, 2.0, np.inf],
        "c": [0.0, 0.0, -np.inf, np.nan],
    }
    add = jax.jit(Window.add)
    for step in range(4):
        window = add(
            window,
            {name: jnp.array(value[step]) for name, value in values.items()},
            jnp.array(11 + step),
        )
    # All metrics are in one array, so that one kernel adds them.
    assert window.sums.shape == window.broken.shape == (3,)
    assert window.by_name(window.sums[None])[0]["a"] == 10.5
    assert window.by_name(window.broken[None]) == [{"a": -1, "b": 12, "c": 13}]


def test_calls_have_one_length_that_crosses_no_interval():
    assert updates_per_call(1000, 0, 20, 50, 0) == 2
    assert updates_per_call(1000, 0, 100, 200, 0) == 4  # the most on a CPU
    assert updates_per_call(60, 45, 10, 40, 15) == 1


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
