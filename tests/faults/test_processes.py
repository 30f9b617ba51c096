"""Other processes: a killed worker, evaluations beside the training, a second writer."""

import itertools
import os
import signal
import time
from pathlib import Path

import pytest

from envs.workers import EnvWorkers
from tests.chain_runs import (
    ENV_NAME,
    OFFLINE,
    before_updates,
    errors,
    folder_of,
    newest,
    result,
    start_process,
    train,
    wait_for,
)
from training import evaluator
from training.checkpoints import Checkpoints
from utils.logging import read_rows


@pytest.mark.ci
def test_a_killed_worker(stand, assert_stops, assert_undisturbed, monkeypatch):
    """In the evaluation at the end of the offline phase: six steps are three chunks, and so was
    the evaluation at step 0.
    """
    stand()
    real, calls = EnvWorkers.run_chunks, itertools.count(1)

    def run_chunks(workers, *args):
        if next(calls) == 5:
            os.kill(workers.pids[0], signal.SIGKILL)
        return real(workers, *args)

    with monkeypatch.context() as patch:
        patch.setattr(EnvWorkers, "run_chunks", run_chunks)
        line = assert_stops(1)
    assert (
        line == f"error: environment worker 0 of {ENV_NAME} died (killed by signal 9)"
    )
    assert newest().name == str(OFFLINE)
    assert any(
        line.startswith(f"resumed at step {OFFLINE}: ") for line in assert_undisturbed()
    )


@pytest.mark.ci
def test_an_evaluation_beside_the_training_is_done_again_with_the_agent_that_it_had(
    stand, assert_undisturbed, monkeypatch
):
    """A signal comes in the online phase, while that at the end of the offline phase is still
    running.
    """
    stand()
    real, calls = evaluator.evaluate, itertools.count(1)

    def evaluate(policy, workers, *args, **kwargs):
        while next(calls) > 1 and not workers._closed:
            time.sleep(0.01)
        return real(policy, workers, *args, **kwargs)

    with (
        monkeypatch.context() as patch,
        before_updates(
            9, lambda replay: os.kill(os.getpid(), signal.SIGTERM) or replay
        ),
    ):
        patch.setattr(evaluator, "evaluate", evaluate)
        assert train("--eval_async") == 143
    assert [row["step"] for row in read_rows(folder_of() / "eval.csv")] == [0]
    tree, record = Checkpoints(folder_of() / "checkpoints").read(int(newest().name))
    assert (
        record["step"] == 19
        and record["evaluating"] == OFFLINE
        and "evaluating" in tree
    )
    assert_undisturbed()


@pytest.mark.ci
def test_a_run_with_evaluations_beside_the_training_is_the_same(stand, runs):
    stand()
    assert train("--eval_async") == 0
    ours, theirs = result(), result(runs / "whole")
    # where its last evaluation is running
    assert [name for name in ours if ours[name] != theirs.get(name)] == ["record"]
    of_evaluations = {"evaluated_at", "evaluating", "rows", "success", "return"}
    assert {
        key for key in ours["record"] if ours["record"][key] != theirs["record"][key]
    } <= of_evaluations


@pytest.mark.ci
def test_a_second_writer_leaves_the_first_alone(
    stand, assert_stops, assert_undisturbed
):
    stand("offline")
    with start_process(
        'at_update(3, lambda: (open("waits", "w").close(), wait_for(Path("go"))))'
    ) as first:
        try:
            wait_for(Path("waits"))
            line = assert_stops(1)
            Path("go").touch()
            _, stderr = first.communicate(timeout=200)
        finally:
            first.kill()
    assert (
        line
        == f"error: {folder_of()} is being written by another process; wait for it to end"
    )
    assert (first.returncode, errors(stderr)) == (0, [])
    (done,) = Path().glob("exp/Debug/*/*/done.json")
    done.unlink()
    assert_undisturbed()
