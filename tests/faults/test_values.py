"""NaN and a malicious pickle stop a run; a clock that goes backwards does not."""

import itertools
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from envs.probe import ProbeChain
from tests.chain_runs import ENV_NAME, before_updates, folder_of
from training.checkpoints import Checkpoints


@pytest.mark.ci
@pytest.mark.parametrize(
    "phase, call, update, at, good",
    [("offline", 6, 11, 12, 8), ("online", 11, 17, 22, 20)],
)
def test_rewards_of_nan_stop_the_run(
    phase, call, update, at, good, enter_folder, assert_stops, assert_undisturbed
):
    """They are NaN from one update on, which the next log, save or action notices."""
    enter_folder()

    def poisoned(replay):
        return replay.replace(
            stored=replay.stored.replace(rewards=replay.stored.rewards * np.nan)
        )

    with before_updates(call, poisoned):
        line = assert_stops(1)
    assert (
        line
        == f"error: critic/loss is not finite since update {update}, seen at step {at} of"
        f" {folder_of()}; the last good checkpoint is that of step {good}"
    )
    assert_good(good, assert_undisturbed)


def assert_good(step, assert_undisturbed):
    tree, _ = Checkpoints(folder_of() / "checkpoints").read(step)
    assert jax.tree.all(jax.tree.map(lambda leaf: np.isfinite(leaf).all(), tree))
    assert f"resumed at step {step}: {folder_of()}" in assert_undisturbed()


@pytest.mark.ci
def test_an_environment_that_returns_nan_stops_the_run(
    enter_folder, assert_stops, assert_undisturbed, monkeypatch
):
    """The run stops before NaN reaches the replay, where it would remain after the run resumes
    from the checkpoint that the error names.
    """
    enter_folder()
    real, steps = ProbeChain.step, itertools.count(1)

    def step(env, action):
        observation, *others = real(env, action)
        # ten steps check that episodes repeat; evaluations are in another process
        if next(steps) == 10 + 8:
            observation = observation * np.nan
        return observation, *others

    with monkeypatch.context() as patch:
        patch.setattr(ProbeChain, "step", step)
        line = assert_stops(1)
    fault = "the observation has nan at index 0 in the step after step 19"
    assert (
        line
        == f"error: environment {ENV_NAME}: {fault} of {folder_of()}; the last good"
        " checkpoint is that of step 16"
    )
    assert_good(16, assert_undisturbed)


def test_a_malicious_pickle_is_refused_and_does_nothing(enter_folder, assert_stops):
    enter_folder()
    # builtins.open("made", "w")
    Path("evil.pkl").write_bytes(b"cbuiltins\nopen\n(Vmade\nVw\ntR.")
    line = assert_stops(2, "--pretrained_actor_path=evil.pkl")
    assert line.startswith(
        "error: --pretrained_actor_path=evil.pkl: refused, because the file asks for"
        " 'builtins.open'"
    )
    assert {path.name for path in Path().iterdir()} == {"data.npz", "evil.pkl"}


def test_a_clock_that_goes_backwards_changes_no_result(
    enter_folder, assert_undisturbed, monkeypatch
):
    """The clock jumps an hour back and then runs backwards. Only wall times are wrong."""
    enter_folder("online")
    for name in ("time", "perf_counter", "monotonic"):
        real = getattr(time, name)
        turn = 2 * real() - 3600
        monkeypatch.setattr(time, name, lambda real=real, turn=turn: turn - real())
    assert_undisturbed()
