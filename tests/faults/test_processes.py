"""Runs survive a killed worker, a signal during an evaluation, and a second writer."""

import itertools
import os
import shutil
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
from utils.csv_log import read_csv


@pytest.mark.ci
def test_a_killed_worker_stops_the_run_and_the_command_resumes_it(
    enter_folder, assert_stops, assert_undisturbed, monkeypatch
):
    """The worker dies in the evaluation at the end of the offline phase. Every evaluation has
    three calls, one for each chunk of two steps, so call 5 is in the second evaluation.
    """
    enter_folder()
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
def test_an_interrupted_evaluation_is_repeated_with_the_agent_that_it_had(
    enter_folder, assert_undisturbed, monkeypatch
):
    """SIGTERM comes in the online phase, while the evaluation at the end of the offline phase
    is still running.
    """
    enter_folder()
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
    assert [row["step"] for row in read_csv(folder_of() / "eval.csv")] == [0]
    tree, record = Checkpoints(folder_of() / "checkpoints").read(int(newest().name))
    assert (
        record["step"] == 19
        and record["evaluating"] == OFFLINE
        and "evaluating" in tree
    )
    assert_undisturbed()


@pytest.mark.ci
def test_extending_a_finished_run_keeps_its_last_evaluation(enter_folder):
    enter_folder()
    flags = ["--bc_steps=0", "--online_steps=0", "--eval_interval=4", "--eval_async"]
    assert train(*flags, "--offline_steps=10") == 0
    assert train(*flags, "--offline_steps=12") == 0
    steps = [line["step"] for line in read_csv(folder_of() / "eval.csv")]
    assert steps == [0, 4, 8, 10, 12]


@pytest.mark.ci
def test_a_run_that_resumes_needs_no_base(enter_folder):
    """As on another machine, where only its folder was copied."""
    enter_folder("offline")
    shutil.rmtree("exp/bc")
    assert train("--online_steps=0") == 0
    assert not list(Path("exp/bc").glob("*/*/config.json"))


@pytest.mark.ci
def test_evaluations_during_the_training_do_not_change_the_run(enter_folder, runs):
    enter_folder()
    assert train("--eval_async") == 0
    ours, theirs = result(), result(runs / "whole")
    # The record says that its last evaluation is still running.
    assert [name for name in ours if ours[name] != theirs.get(name)] == ["record"]
    of_evaluations = {"evaluated_at", "evaluating", "rows", "success", "return"}
    assert {
        key for key in ours["record"] if ours["record"][key] != theirs["record"][key]
    } <= of_evaluations


@pytest.mark.ci
def test_a_second_writer_leaves_the_first_alone(
    enter_folder, assert_stops, assert_undisturbed
):
    enter_folder("offline")
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
