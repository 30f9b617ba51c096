"""Tests warnings before training."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from tests.tiny_runs import unwrapped
from training import data
from utils.errors import UserError


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


def check_chunks(lengths, horizon, offline_steps=1, needs_base=False):
    """Check data with trajectories of these lengths for a run."""
    terminals = np.zeros(sum(lengths), np.float32)
    terminals[np.cumsum(lengths) - 1] = 1
    arrays = {"terminals": terminals, "rows": np.arange(len(terminals))}
    settings = SimpleNamespace(
        flags={"offline_steps": offline_steps},
        agent=SimpleNamespace(horizon_length=horizon),
    )
    run = SimpleNamespace(settings=settings, needs_base=lambda: needs_base)
    data.check_chunks(run, data.TaskData(arrays, None))


@pytest.mark.parametrize(
    ("lengths", "horizon", "share", "fits"),
    [
        ([1] * 9, 1, None, None),
        ([1, 2, 3] * 9, 2, None, None),
        ([6] * 9, 5, "36%", 4),
        ([1] * 97 + [5], 5, "1%", 1),
        ([1000] * 3, 5, None, None),
    ],
)
def test_chunks_that_seldom_fit_into_a_trajectory_are_reported(
    lengths, horizon, share, fits, printed
):
    check_chunks(lengths, horizon)
    warning = unwrapped(printed().err)
    assert bool(warning) is bool(share)
    if share:
        assert f"--horizon_length={horizon}: only {share} of the chunks" in warning
        assert f"--horizon_length={fits} uses half of them or more" in warning


@pytest.mark.parametrize(("lengths", "fits"), [([1] * 9, 1), ([3] * 9, 2)])
def test_data_without_a_trajectory_as_long_as_a_chunk_is_refused(
    lengths, fits, printed
):
    longest = f"has more than {lengths[0]} transitions.*give --horizon_length={fits}$"
    for phase in ({}, {"offline_steps": 0, "needs_base": True}):
        with pytest.raises(UserError, match=f"--horizon_length=5: .*{longest}"):
            check_chunks(lengths, 5, **phase)
    check_chunks(lengths, 5, offline_steps=0)  # online there may be longer ones
    assert "only 0% of the chunks" in unwrapped(printed().err)
