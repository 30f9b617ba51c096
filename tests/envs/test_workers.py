"""Workers of environments: chunks, success, faults, and processes that end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from envs.workers import EnvWorkers, LocalEnvs, WorkerError, default_workers
from tests.envs.stand_ins import NoStart, Script, Scripted, Small
from utils.errors import UserError


def gone(pid: int) -> bool:
    """Whether a process has ended, even if it is not reaped yet."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
        )
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_gone(pids, seconds=10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if all(gone(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def start(name, slots=3):
    return EnvWorkers(Small(name), slots, workers=2)


def test_slots_run_in_their_process_without_jax_gl_or_threads():
    with start("counter") as workers:
        observations = workers.reset([0, 1, 2], [0, 1, 2])
        assert observations.shape == (3, 6) and observations.dtype == np.float32
        assert list(observations[:, 2]) == [
            workers.pids[0],
            workers.pids[1],
            workers.pids[0],
        ]
        assert os.getpid() not in observations[:, 2]
        np.testing.assert_array_equal(observations[:, 3:], [[0, 1, 1]] * 3)


def test_the_parents_environment_variables_do_not_change(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with start("counter", slots=1) as workers:
        assert workers.reset([0], [0])[0, 4] == 1
    assert os.environ["MUJOCO_GL"] == "osmesa" and "OMP_NUM_THREADS" not in os.environ


def test_chunks_run_open_loop_and_stop_at_the_end_of_the_episode():
    with start("counter") as workers:
        first = workers.reset([2, 0], [5, 6])
        # the seeds decide, not the slots
        np.testing.assert_array_equal(
            workers.reset([0, 2], [6, 5])[:, 0], first[::-1, 0]
        )
        chunks = np.arange(20, dtype=np.float32).reshape(2, 5, 2) / 20
        a, b = workers.run_chunks([2, 0], chunks)
        assert (a.length, a.done, a.success) == (5, False, 0.0)
        np.testing.assert_array_equal(a.observations[:, 1], [1, 2, 3, 4, 5])
        np.testing.assert_array_equal(a.observations[:, 0], np.repeat(first[0, 0], 5))
        np.testing.assert_array_equal(b.rewards, chunks[1, :, 0].astype(np.float64))
        (end,) = workers.run_chunks([2], chunks[:1])
        assert (end.length, end.truncated, end.terminated, end.done) == (
            2,
            True,
            False,
            True,
        )
        assert end.success == float(first[0, 0] > 0)


def test_slots_in_this_process_equal_those_in_workers():
    """They take single steps, as in the online phase."""
    rng, local = np.random.default_rng(0), LocalEnvs(Small("walk"))
    with start("walk", slots=2) as workers:
        np.testing.assert_array_equal(
            local.reset([1, 0], [3, 4]), workers.reset([1, 0], [3, 4])
        )
        for _ in range(20):
            chunks = rng.uniform(-1, 1, (2, 1, 2)).astype(np.float32)
            for ours, theirs in zip(
                local.run_chunks([0, 1], chunks),
                workers.run_chunks([0, 1], chunks),
                strict=True,
            ):
                np.testing.assert_array_equal(ours.observations, theirs.observations)
                np.testing.assert_array_equal(ours.rewards, theirs.rewards)
                assert ours[2:] == theirs[2:]
    local.close()


def everywhere(name):
    """Yield the result of a chunk of five steps in another process and in this one."""
    local = LocalEnvs(Scripted(name))
    with EnvWorkers(Scripted(name), slots=1, workers=1) as workers:
        for envs in (workers, local):
            envs.reset([0], [0])
            yield envs.run_chunks([0], np.zeros((1, 5, 1)))[0]
    local.close()


@pytest.mark.parametrize(
    ("name", "success", "any_step"),
    [
        ("in the middle", 0.0, 1.0),
        ("is_success", 1.0, 1.0),
        ("none", np.nan, np.nan),
        ("where it succeeds", np.nan, 1.0),
    ],
)
def test_success_of_the_last_step_and_of_any_step(name, success, any_step):
    for result in everywhere(name):
        assert result.length == 4 and result.truncated and not result.fault
        np.testing.assert_array_equal(
            [result.success, result.success_any], [success, any_step]
        )


@pytest.mark.parametrize(
    ("name", "length", "fault"),
    [
        ("nan reward", 3, "the reward is nan"),
        ("wide", 2, "the observation has the shape (3,) instead of (2,)"),
        ("half success", 2, "the success in info is of type <U4, not numeric: 'half'"),
    ],
)
def test_a_fault_ends_the_chunk_and_nothing_else(name, length, fault):
    """The other slots of a call return their results, and the processes keep running."""
    for result in everywhere(name):
        assert (result.fault, result.length, result.done) == (fault, length, False)
        assert np.isnan(result.observations[-1]).all() and np.isnan(result.rewards[-1])
        assert result.observations[:-1].tolist() == [[1.0, 2.0]] * (length - 1)
    with EnvWorkers(Scripted(name), slots=2, workers=2) as workers:
        workers.reset([0, 1], [0, 0])
        workers.run_chunks([0], np.zeros((1, length - 1, 1)))
        broken, intact = workers.run_chunks([0, 1], np.zeros((2, 1, 1)))
        assert broken.fault == fault and not intact.fault
        assert workers.reset([0], [0]).shape == (1, 2)


def test_an_exception_leaves_the_other_slots_alone(capsys):
    """Slot 1 fails in its third step, and in its next episode again."""
    with EnvWorkers(Small("raises"), slots=2, workers=1) as workers:
        for _ in range(2):
            workers.reset([0, 1], [0, 0])
            (broken,) = workers.run_chunks([1], np.zeros((1, 5, 2)))
            assert broken.fault == "ValueError: the cube melted"
            assert broken.length == 3 and not broken.done
            assert capsys.readouterr().err.count("in step\n") == 1
            (intact,) = workers.run_chunks([0], np.zeros((1, 2, 2)))
            assert not intact.fault and intact.length == 2


def test_a_reset_that_fails_is_a_fault_of_the_next_chunk():
    fault = "the observation of reset() has nan at index 0"
    with EnvWorkers(NoStart("none"), slots=2, workers=1) as workers:
        assert workers.reset([0, 1], [0, 0]).tolist() == [[0, 0], [0, 0]]
        results = workers.run_chunks([0, 1], np.zeros((2, 3, 1)))
        assert [(result.fault, result.length) for result in results] == [(fault, 1)] * 2


def test_an_episode_cut_at_our_limit_is_mentioned_once(printed, monkeypatch):
    monkeypatch.setattr("envs.workers._limits_warned_of", set())
    for result in everywhere("endless"):
        assert not result.done and not result.cut_at
    assert printed().err == ""
    local = LocalEnvs(Scripted("endless"))
    for seed in range(2):
        local.reset([0], [seed])
        (result,) = local.run_chunks([0], np.zeros((1, 9, 1)))
        assert (result.length, result.cut_at) == (6, 6)
        assert result.truncated and not result.terminated
    assert printed().err == (
        "warning: an episode of endless had not ended after 6 steps and was truncated: the "
        "environment has no time limit; gymnasium.register(..., max_episode_steps=N) sets one\n"
    )


@pytest.mark.parametrize("command", ["step", "reset"])
def test_an_error_of_an_environment_in_this_process_is_one_line(command, monkeypatch):
    def melt(*_, **__):
        raise ValueError("the cube\nmelted")

    local = LocalEnvs(Scripted("none"))
    local.reset([4], [0])
    monkeypatch.setattr(Script, command, melt)
    ask = {
        "step": lambda: local.run_chunks([4], np.zeros((1, 5, 1))),
        "reset": lambda: local.reset([4], [0]),
    }
    with pytest.raises(WorkerError) as caught:
        ask[command]()
    assert (
        caught.value.summary == "environment none (slot 4): ValueError: the cube melted"
    )


def test_an_unusable_observation_of_reset_is_one_line(monkeypatch):
    monkeypatch.setattr(Script, "reset", lambda *_, **__: (np.zeros(1), {}))
    with pytest.raises(WorkerError) as caught:
        LocalEnvs(Scripted("none")).reset([0], [0])
    fault = "the observation of reset() has the shape (1,) instead of (2,)"
    assert caught.value.summary == f"environment none (slot 0): {fault}"


def test_a_user_error_in_this_process_stays_a_user_error():
    with pytest.raises(UserError, match="^--env_name=no-such-env: did you mean"):
        LocalEnvs(Small("no-such-env")).reset([0], [0])


@pytest.mark.ci
@pytest.mark.parametrize(
    "name, message",
    [
        ("dies", r"environment worker [01] of dies died \(killed by signal 9\)"),
        ("exits", r"environment worker [01] of exits died \(exit code 3\)"),
        ("sleeps", r"the environment workers of sleeps gave no answer in 0.5 s"),
    ],
)
def test_a_broken_environment_is_a_clear_error_and_leaves_no_process(name, message):
    begin = time.monotonic()
    with start(name, slots=2) as workers:
        pids = workers.pids
        workers.reset([0, 1], [0, 0])
        workers.timeout = 0.5 if name == "sleeps" else 60.0
        with pytest.raises(WorkerError, match=message) as caught:
            workers.run_chunks([0, 1], np.zeros((2, 5, 2)))
        assert "\n" not in str(caught.value)
        with pytest.raises(
            WorkerError, match=f"the environment workers of {name} are closed"
        ):
            workers.reset([0], [0])
    assert wait_until_gone(pids) and time.monotonic() - begin < 30


def test_a_killed_worker_is_noticed_while_others_work():
    with start("counter", slots=2) as workers:
        workers.reset([0, 1], [0, 0])
        os.kill(workers.pids[1], signal.SIGKILL)
        with pytest.raises(
            WorkerError, match=r"worker 1 of counter died \(killed by signal 9\)"
        ):
            workers.run_chunks([0, 1], np.zeros((2, 5, 2)))


def test_a_user_error_in_a_worker_is_a_user_error_in_the_parent():
    with (
        start("no-such-env") as workers,
        pytest.raises(UserError, match="^--env_name=no-such-env: did you mean"),
    ):
        workers.reset([0], [0])


def test_close_ends_the_processes_even_after_an_exception():
    with pytest.raises(KeyError), start("counter") as workers:
        workers.reset([0, 1], [0, 1])
        raise KeyError
    assert all(gone(pid) for pid in workers.pids)
    workers.close()


def test_slots_out_of_range_are_refused():
    with (
        start("counter") as workers,
        pytest.raises(ValueError, match=r"slots \[3\] are not all in 0..2"),
    ):
        workers.reset([3], [0])


@pytest.mark.parametrize("end", ["kill", "exit", "raise"])
def test_workers_do_not_outlive_their_parent(end):
    script = (
        "import sys, time\n"
        "from envs.workers import EnvWorkers\n"
        "from tests.envs.stand_ins import Small\n"
        "workers = EnvWorkers(Small('counter'), slots=2, workers=2)\n"
        "workers.reset([0, 1], [0, 1])\n"
        "print(*workers.pids, flush=True)\n"
        f"if {end!r} == 'raise': raise SystemError\n"
        f"time.sleep(60 if {end!r} == 'kill' else 0)\n"
    )
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        if end == "kill":
            assert not any(gone(pid) for pid in pids)
            parent.kill()
        parent.wait(20)
        assert wait_until_gone(pids)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()


def test_default_workers_stay_within_cores_slots_and_episodes(monkeypatch):
    monkeypatch.setattr(
        os, "sched_getaffinity", lambda _: set(range(16)), raising=False
    )
    assert default_workers() == 8
    assert default_workers(episodes=3) == 3
    assert default_workers(episodes=50, slots=20) == 16
    assert default_workers(episodes=0) == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert default_workers() == 2
