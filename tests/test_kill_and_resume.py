"""Killed and resumed runs equal uninterrupted ones, and tests/kill_and_resume.py sees faults."""

import json
import os
import shutil
import signal
import sys
import time

import numpy as np
import pytest

from tests import kill_and_resume as script
from tests.kill_and_resume import QUICK, THOROUGH, Failure, Kill, Life, Report
from training.checkpoints import Checkpoints

# ---------------------------------------------------------------- runs


@pytest.mark.ci
def test_a_run_with_three_kills_equals_an_uninterrupted_one(tmp_path):
    # lines are logged more often than runs are saved, so that SIGTERM has something to save
    report = script.check(tmp_path, kills=3, which="mixed", work=QUICK._replace(log=4))
    assert report.differences == []
    assert (
        report.signals == {"SIGKILL": 2, "SIGTERM": 1} and report.seconds_to_term < 30
    )
    assert report.rows == 6 + 61 + 3  # of the base, of the run, and evaluations
    assert report.arrays > 50 and report.replay_bytes > 200 * 4 * (29 + 8)


@pytest.mark.slow
def test_a_run_with_twenty_kills_equals_an_uninterrupted_one(tmp_path):
    report = script.check(tmp_path, kills=20, which="mixed")
    assert report.differences == []
    assert (
        report.where.total() == 20
        and report.where["save"] >= 3
        and report.resumes >= 10
    )
    assert min(report.signals.values()) >= 6 and report.seconds_to_term < 30


@pytest.mark.slow
def test_killed_runs_of_two_seeds_equal_uninterrupted_ones(tmp_path):
    report = script.check(tmp_path, kills=4, work=QUICK._replace(num_seeds=2))
    assert report.differences == []
    assert report.rows == 2 * (2 + 14 + 3) and report.where.total() == 4


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["trqam", "qam", "fql", "ifql"])
def test_killed_runs_with_lql_equal_uninterrupted_ones(tmp_path, agent):
    """Every byte is the same, up to balanced batches of sequences of chunks."""
    flags = [
        f"--agent=agents/{agent}.py",
        "--agent.lql_points=4",
        "--balanced_sampling",
    ]
    work = QUICK._replace(log=4, more=tuple(flags))
    report = script.check(tmp_path, kills=3, which="mixed", work=work)
    assert report.differences == [] and report.signals.total() == 3
    # of the base, offline, online once there is a sequence of 20 steps, and evaluations
    assert report.rows == 6 + 12 + 45 + 3


# ---------------------------------------------------------------- differences between runs

RUN = "Debug/task/trqam_s0_12345678"


def save(folder, tree, record):
    with Checkpoints(folder / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(8, tree, record)


def tree():
    return {
        "agent": {
            "lam": np.float32(0.5),
            "params": np.arange(6, dtype=np.float32).reshape(2, 3),
        }
    }


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A --save_dir with one finished run in it."""
    place = tmp_path_factory.mktemp("alone")
    folder = place / RUN
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"flags": {"save_dir": str(place), "seed": 0}})
    )
    (folder / "done.json").write_text('{"offline_steps": 8}')
    (folder / "train.csv").write_text("step,loss\n4,0.25\n8,0.125\n")
    (folder / "eval.csv").write_text("step,success\n8,1.0\n")
    (folder / "replay.bin").write_bytes(bytes(range(64)))
    save(folder, tree(), {"step": 8, "rows": {"train": 2}})
    return place


def change(name, old, new):
    def damage(folder):
        content = (folder / name).read_bytes()
        assert old in content
        (folder / name).write_bytes(content.replace(old, new))

    return damage


def recheckpoint(change_tree=lambda tree: tree, rows=2):
    def damage(folder):
        shutil.rmtree(folder / "checkpoints")
        save(folder, change_tree(tree()), {"step": 8, "rows": {"train": rows}})

    return damage


def flip_a_bit(tree):
    tree["agent"]["params"].view(np.uint32)[1, 2] ^= 1
    return tree


def widen(tree):
    return {"agent": tree["agent"] | {"lam": np.zeros(1, np.float32)}}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            change("train.csv", b"0.125", b"0.126"),
            "train.csv line 3: '8,0.125' left alone, '8,0.126' killed",
        ),
        (
            change("train.csv", b"4,0.25\n", b""),
            "train.csv line 2: '4,0.25' left alone, '8,0.125' killed",
        ),
        (
            change("eval.csv", b"8,1.0\n", b"8,1.0\n8,1.0\n"),
            "eval.csv line 3: '' left alone, '8,1.0' killed",
        ),
        (
            change("replay.bin", b"\x07", b"\x17"),
            "replay.bin: 64 and 64 bytes, different from byte 7 on",
        ),
        (
            change("replay.bin", b"\x3f", b""),
            "replay.bin: 64 and 63 bytes, different from byte 63 on",
        ),
        (change("config.json", b'"seed": 0', b'"seed": 1'), "config.json flags/seed"),
        (lambda folder: (folder / "done.json").unlink(), "done.json value"),
        (
            lambda folder: shutil.rmtree(folder / "checkpoints"),
            "checkpoint is that of step 8 left alone, -1 killed",
        ),
        (
            recheckpoint(flip_a_bit),
            "checkpoint: agent/params differs in 1 of 6 numbers",
        ),
        (recheckpoint(widen), "checkpoint: agent/lam is float32() and float32(1,)"),
        (
            recheckpoint(lambda tree: tree | {"more": np.ones(1)}),
            "checkpoint: more is in one of them alone",
        ),
        (recheckpoint(rows=3), "checkpoint: rows/train of its record"),
        (shutil.rmtree, f"{RUN} is in one place alone"),
    ],
)
def test_a_difference_is_noticed(run_folder, tmp_path, damage, message):
    other = tmp_path / "killed"
    shutil.copytree(run_folder, other)
    damage(other / RUN)
    report = Report()
    script.compare(run_folder, other, report)
    assert any(message in difference for difference in report.differences), (
        report.differences
    )


def test_equal_runs_have_no_difference_and_are_counted(run_folder, tmp_path):
    other = tmp_path / "killed"
    shutil.copytree(run_folder, other)
    change("config.json", str(run_folder).encode(), b"elsewhere")(other / RUN)
    report = Report()
    script.compare(run_folder, other, report)
    assert report.differences == []
    assert (report.rows, report.arrays, report.replay_bytes) == (3, 2, 64)
    script.compare(tmp_path / "nothing", tmp_path / "neither", report)
    assert report.differences == ["there is no run to compare"]


# ---------------------------------------------------------------- faults of killed processes


def life_of(folder, program):
    """A process that runs a Python program instead of main.py."""
    return Life([sys.executable, "-c", program], folder, QUICK, folder)


def kill_at_once(process, which, moment="start-up"):
    return process.kill(Kill(which, moment, position=0, delay=0.5))


@pytest.mark.parametrize(
    ("program", "which", "message"),
    [
        (
            "print('enough')",
            signal.SIGKILL,
            "ended with 0 before it could be killed\n  | enough",
        ),
        (
            "import sys; sys.exit(3)",
            signal.SIGKILL,
            "ended with 3 before it could be killed",
        ),
        (
            (
                "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_:"
                " sys.exit(0)); time.sleep(60)"
            ),
            signal.SIGTERM,
            "ended with 0 after SIGTERM",
        ),
        (
            (
                "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
                " time.sleep(60)"
            ),
            signal.SIGTERM,
            "still running 1 s after SIGTERM",
        ),
        (
            "import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)",
            signal.SIGKILL,
            "1 processes outlive it by 0.5 s",
        ),
    ],
)
def test_a_process_that_misbehaves_is_noticed_and_ended(
    tmp_path, monkeypatch, program, which, message
):
    monkeypatch.setattr(script, "TERM_TIMEOUT", 1.0)
    monkeypatch.setattr(script, "ORPHAN_TIMEOUT", 0.5)
    with (
        pytest.raises(Failure, match="process output-0") as failure,
        life_of(tmp_path / "run", program) as process,
    ):
        kill_at_once(process, which)
    assert message in str(failure.value)
    process.process.wait(10)
    for _ in range(100):  # a killed process is listed until it is reaped
        if not script.group(process.process.pid):
            break
        time.sleep(0.1)
    assert script.group(process.process.pid) == []


def test_sigterm_without_a_checkpoint_is_noticed(tmp_path):
    """The program logs step 8 and ends with the right exit code, but stores no checkpoint."""
    program = f"""if True:
    import os, signal, time
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    time.sleep(0.3)
    os.makedirs({str(tmp_path / RUN)!r})
    open({str(tmp_path / RUN / "train.csv")!r}, "w").write("step,loss\\n8,1.0\\n")
    time.sleep(60)"""
    with pytest.raises(
        Failure, match=r"SIGTERM \(.*\): at step 8 or later, last checkpoint -1"
    ):
        with life_of(tmp_path, program) as process:
            kill_at_once(process, signal.SIGTERM, "training")


def test_lost_work_is_noticed(tmp_path):
    """The program begins from nothing at every start."""
    program = f"""if True:
    import os, time
    folder = {str(tmp_path / RUN)!r}
    os.makedirs(folder, exist_ok=True)
    for last in (8, 160):
        open(folder + "/part", "w").write("step,loss\\n" + "".join(f"{{step}},1.0\\n" for step in range(8, last + 8, 8)))
        os.replace(folder + "/part", folder + "/train.csv")
        time.sleep(0.3)
    time.sleep(60)"""
    kills = [Kill(signal.SIGKILL, "training", position=100, delay=0)] * 2
    with pytest.raises(
        Failure,
        match="trqam_s0_12345678 was at step 160 at least and resumed from step 0",
    ):
        script.kill_and_resume(
            lambda: life_of(tmp_path, program), kills, Report(), max_lost=56
        )


def test_processes_of_a_group_are_found():
    assert any(str(os.getpid()) in line for line in script.group(os.getpgid(0)))


def test_the_plan_spreads_kills_over_phases_and_moments():
    planned = script.plan(20, "mixed", THOROUGH, np.random.default_rng(0))
    positions = [kill.position for kill in planned]
    assert positions == sorted(positions) and 0 < positions[0] < 3 * THOROUGH.bc
    assert 0.8 * script.life(THOROUGH) < positions[-1] < 0.95 * script.life(THOROUGH)
    assert sum(kill.moment == "save" for kill in planned) >= 5
    assert {kill.moment for kill in planned} == set(script.MOMENTS)
    assert {kill.signal for kill in planned} == {signal.SIGKILL, signal.SIGTERM}
