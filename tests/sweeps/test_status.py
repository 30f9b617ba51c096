"""sweep.py --status counts the states of runs and estimates the time left."""

import contextlib
import fcntl
import os
import shutil
import threading

import pytest

from sweeps import engines
from sweeps.status import hours_text
from tests.sweeps.stub_jobs import TASK, planned, run
from utils.errors import RunError
from utils.files import is_locked, lock_of, write_json


def test_status_counts_states_and_estimates_the_time_left(tmp_path, capsys):
    flags = [
        "--env_name=scene", "--seeds=2", f"--save_dir={tmp_path}", "--offline_steps=1000", "--online_steps=100", "--start_training=10",
        "--utd_ratio=2", "--bc_steps=0",
    ]  # fmt: skip
    assert run(*flags, "--status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[-2].split() == ["all", "0", "0", "0", "0", "10"]
        and "not known before" in lines[-1]
    )
    assert list(tmp_path.iterdir()) == []

    finished, running, failed, early, stopped = planned(*flags, pack=2)
    for one in finished.runs:
        one.folder.mkdir(parents=True)
        write_json(
            one.folder / "done.json",
            {"bc_steps": 0, "offline_steps": 1000, "online_steps": 100},
        )
        # 2 s per offline step (with 100 s of evaluations and saves), 3 s per online step (two
        # updates of a second each)
        (one.folder / "timing.csv").write_text(
            "step,updates_per_s,save_seconds,eval_seconds\n500,0.5263157894736842,20.0,\n"
            "1000,0.5263157894736842,20.0,\n1000,,,60.0\n1100,1.0,100.0,\n"
        )
    for one in (*running.runs, *failed.runs, *stopped.runs):
        one.folder.mkdir(parents=True)
        write_json(one.folder / "config.json", one.config())
    for one in running.runs:
        # The last line is being written.
        (one.folder / "timing.csv").write_text(
            "step,updates_per_s\n500,0.5\n1000,0.5\n1050"
        )
    for job, error in ((failed, "the disk is full"), (early, "no data")):
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.log.write_text(f"== 2026-01-01 00:00:00 $ python main.py\nerror: {error}\n")
        engines.log_exit_code(job.log, 1)
    with contextlib.ExitStack() as stack:
        for one in running.runs:
            stack.enter_context(one.locked())
        assert run(*flags, "--status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["finished", "running", "stopped", "failed", "missing"]
    assert lines[1].split() == ["trqam", "scene-play", "2", "2", "2", "4", "0"]
    assert lines[2].split() == ["all", "2", "2", "2", "4", "0"]
    assert lines[3].split() == ["running", "91%", "0:05:00", "left", running.name]
    assert (
        lines[4] == f"failed   exit code 1: the disk is full  {failed.log}"
        and failed.log.exists()
    )
    assert lines[5] == f"failed   exit code 1: no data  {early.log}"
    # Ctrl-C stopped this run; its process wrote no log.
    assert (
        lines[6]
        == f"stopped  at step 0 of 1,100, the same command resumes it  {stopped.runs[0].folder}"
    )
    # three jobs of 1000 x 2 s and 100 x 3 s each, and 300 s of the running one
    assert (
        lines[7]
        == "time left (h:mm:ss): 2:00:00 for one job after the other; 2:00:00 for 1 at a time,"
        " as now"
    )
    assert len(lines) == 8


def test_the_speed_of_cloning_is_not_that_of_training(tmp_path, capsys):
    """A fork with its own flow loss clones a base of its own, which has its name."""
    fork = tmp_path / "mine.py"
    fork.write_text(
        "from agents.trqam import TRQAM\nclass Mine(TRQAM):\n"
        "    def flow_loss(self, *given):\n        return 2 * super().flow_loss(*given)\n"
        "get_config = Mine.get_config\nAGENT = Mine\n"
    )
    flags = [f"--agents={fork}", f"--env_name={TASK}", f"--save_dir={tmp_path}/exp",
             "--bc_steps=1000", "--offline_steps=1000", "--online_steps=0"]  # fmt: skip
    (job,) = planned(*flags)
    (base,) = job.bases
    base.folder.mkdir(parents=True)
    write_json(base.folder / "config.json", base.config())
    (base.folder / "timing.csv").write_text("step,updates_per_s\n500,100.0\n")
    assert run(*flags, "--status") == 0
    assert "not known before" in capsys.readouterr().out
    (one,) = job.runs
    one.folder.mkdir(parents=True)
    (one.folder / "timing.csv").write_text("step,updates_per_s\n500,1.0\n")
    assert run(*flags, "--status") == 0  # 5 s of cloning and 500 s of training are left
    assert "time left (h:mm:ss): 0:08:25 " in capsys.readouterr().out
    write_json(one.folder / "config.json", one.config())
    shutil.rmtree(base.folder)  # a run that has begun needs it no more
    assert run(*flags, "--status") == 0
    assert "time left (h:mm:ss): 0:08:20 " in capsys.readouterr().out


def test_status_finds_jobs_of_one_seed_each_as_engines_on_cores_run_them(
    tmp_path, capsys
):
    flags = [
        f"--env_name={TASK}",
        f"--save_dir={tmp_path}",
        "--seeds=2",
        "--bc_steps=0",
    ]
    first, _ = planned(*flags, pack=1)
    first.log.parent.mkdir(parents=True)
    first.log.write_text("error: no data\n")
    engines.log_exit_code(first.log, 1)
    assert run(*flags, "--status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["all", "0", "0", "0", "1", "1"]
    assert lines[3] == f"failed   exit code 1: no data  {first.log}"
    assert run(*flags, "--pack=2", "--status") == 0
    assert capsys.readouterr().out.splitlines()[2].split() == [
        "all",
        "0",
        "0",
        "0",
        "0",
        "2",
    ]


def test_status_follows_the_newest_log_after_more_seeds_were_asked_for(
    tmp_path, capsys
):
    flags = [f"--env_name={TASK}", f"--save_dir={tmp_path}", "--bc_steps=0"]
    (alone,) = planned(*flags, pack=1)
    (packed,) = planned(*flags, "--seeds=4", pack=4)
    for time, job in enumerate((alone, packed)):
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.log.write_text("error: out of memory\n")
        engines.log_exit_code(job.log, 1)
        os.utime(job.log, (time, time))
    assert run(*flags, "--seeds=4", "--status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["all", "0", "0", "0", "4", "0"]
    assert lines[3] == f"failed   exit code 1: out of memory  {packed.log}"


@pytest.mark.parametrize(
    ("newer", "state"), [("log", "failed"), ("timing.csv", "stopped")]
)
def test_an_old_error_does_not_hide_what_slurm_or_a_printed_command_did_since(
    newer, state, tmp_path, capsys
):
    """They write no log. A job of an engine that fails writes its log's last line at the end."""
    flags = [f"--env_name={TASK}", f"--save_dir={tmp_path}", "--bc_steps=0"]
    (job,) = planned(*flags)
    (one,) = job.runs
    one.folder.mkdir(parents=True)
    write_json(one.folder / "config.json", one.config())
    timing = one.folder / "timing.csv"
    timing.write_text("step,updates_per_s\n1000,0.5\n")
    job.log.parent.mkdir(parents=True)
    job.log.write_text("error: the disk is full\n== exit code 1\n")
    os.utime(job.log, (1000, 1000))
    for path in (one.folder / "config.json", timing):
        os.utime(path, (999, 999))
    os.utime(job.log if newer == "log" else timing, (1001, 1001))
    assert run(*flags, "--status") == 0
    assert capsys.readouterr().out.splitlines()[3].startswith(f"{state:8} ")


def test_a_run_in_its_last_evaluation_has_not_finished(tmp_path, capsys):
    flags = [f"--env_name={TASK}", f"--save_dir={tmp_path}", "--offline_steps=1000", "--online_steps=0", "--bc_steps=0"]  # fmt: skip
    ((one,),) = (job.runs for job in planned(*flags))
    one.folder.mkdir(parents=True)
    write_json(one.folder / "config.json", one.config())
    (one.folder / "timing.csv").write_text("step,updates_per_s\n1000,0.5\n")
    assert run(*flags, "--status") == 0
    *_, stopped, left = capsys.readouterr().out.splitlines()
    assert (
        stopped.startswith("stopped  at step 1,000 of 1,000") and "finished" not in left
    )


def test_the_time_left_is_never_zero_while_jobs_are_missing():
    assert [hours_text(seconds) for seconds in (0.2, 59.5, 61, 111_900, None)] == [
        "0:00:01",
        "0:01:00",
        "0:01:01",
        "31:05:00",
        "?",
    ]


def test_checking_a_lock_never_keeps_a_process_from_taking_it(tmp_path):
    (job,) = planned(f"--env_name={TASK}", f"--save_dir={tmp_path}")
    (one,) = job.runs
    assert not is_locked(one.folder)
    with one.locked():
        assert is_locked(one.folder)
        with (
            pytest.raises(RunError, match="is being written by another process"),
            one.locked(),
        ):
            pass
    with lock_of(one.folder).open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert not is_locked(one.folder)
        threading.Timer(0.1, fcntl.flock, (file, fcntl.LOCK_UN)).start()
        with one.locked():
            assert is_locked(one.folder)
