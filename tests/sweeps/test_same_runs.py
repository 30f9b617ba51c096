"""Every engine trains the same runs from the same sweep."""

import os
import re
import signal
import subprocess
import sys

import pytest

from envs.collect import collect_random
from tests.sweeps.stub_jobs import (
    ROOT,
    TASK,
    gone,
    plain_environ,
    planned,
    printed,
    process,
    run,
    stop_a_sweep,
    wait_for,
)
from utils.files import exclusive_folder

TASKS = [f"pointmaze-medium-navigate-singletask-task{i}-v0" for i in (1, 2, 3)]


TWELVE = [
    "--agents=trqam,qam", f"--env_name={','.join(TASKS)}", "--seeds=2", "--pack=2", "--preset=smoke", "--bc_steps=8",
    "--offline_steps=8", "--online_steps=24", "--start_training=4", "--log_interval=4", "--save_interval=4",
    "--eval_interval=0", "--eval_episodes=1", "--eval_workers=1", "--horizon_length=5", "--agent.action_chunking=True",
]  # fmt: skip


def flags_in(save_dir, data):
    return [*TWELVE, f"--save_dir={save_dir}", f"--ogbench_dataset_dir={data}"]


def logs_of(save_dir):
    """Return the bytes of every CSV file below save_dir by its path, but for timing.csv."""
    files = sorted(
        path for path in save_dir.glob("smoke/*/*_s*_*/*.csv") if path.stem != "timing"
    )
    assert len(list(save_dir.glob("smoke/*/*_s*_*/done.json"))) == 12
    return {str(path.relative_to(save_dir)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Train the twelve runs with --engine=local, once for all processes of pytest. Returns the
    folder with the data, the runs and the printed output.
    """
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "sweep"
    folder.mkdir(exist_ok=True)
    with exclusive_folder(folder):
        if not (folder / "printed").exists():
            collect_random(TASK, folder / "data", 300)
            flags = [
                *flags_in(folder / "exp", folder / "data"),
                "--engine=local",
                "--jobs_per_device=2",
            ]
            with process(sys.executable, "scripts/sweep.py", *flags) as sweeping:
                (folder / "output").write_text(sweeping.communicate()[0])
            assert sweeping.returncode == 0, (folder / "output").read_text()
            (folder / "output").rename(folder / "printed")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_local_engine_finishes_twelve_runs(local, capsys):
    logs = logs_of(local / "exp")
    assert len(logs) == 24 and all(logs.values())
    training = [log for name, log in logs.items() if name.endswith("train.csv")]
    assert len(set(training)) == 12  # no two runs are the same
    stdout = (local / "printed").read_text()
    assert (
        stdout.startswith("6 jobs of 6, 12 runs\n")
        and "[6/6] finished: " in stdout
        and "FAILED" not in stdout
    )
    assert not re.search(
        "waiting for",
        "".join(path.read_text() for path in local.glob("exp/smoke/sweep/*.log")),
    )
    flags = flags_in(local / "exp", local / "data")
    assert printed(capsys, *flags) == []
    assert run(*flags, "--status") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "all finished"


@pytest.mark.slow
def test_main_accepts_printed_commands_from_a_shell(capsys):
    assert (
        run(
            "--agents=trqam,qam",
            "--env_name=all50",
            "--seeds=8",
            "--grid=agent.actor_hidden_dims=(8,8),(16,)",
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    for line in (lines[0], lines[-1]):
        done = subprocess.run(
            ["bash", "-c", f"{line} --dry_run"],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr
        assert [
            line.split()[1:] for line in done.stdout.splitlines() if "  seeds " in line
        ] == [["seeds", "0-7"]]


@pytest.fixture
def cluster():
    """Start a Ray cluster of two nodes. Yields its address, the id of the second node, and a
    function that kills that node.

    The cluster ignores SIGINT, like every program that a script starts in the background.
    """
    # Ray must not kill jobs because of the memory that other programs use.
    environ = plain_environ() | {
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    streams = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
        "text": True,
    }
    command = [
        "sh",
        "-c",
        'trap "" INT; exec "$@"',
        "sh",
        sys.executable,
        "tests/scripts/two_ray_nodes.py",
    ]
    with subprocess.Popen(command, cwd=ROOT, env=environ, **streams) as nodes:

        def kill():
            nodes.stdin.write("kill\n")
            nodes.stdin.flush()
            assert nodes.stdout.readline() == "killed\n"

        address, doomed = nodes.stdout.readline().split()
        yield address, doomed, kill
    assert nodes.returncode == 0  # Popen has closed its input and waited.


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_ray_engine_gives_the_same_runs_even_if_a_node_is_killed(
    local, cluster, tmp_path
):
    address, doomed, kill = cluster
    flags = [
        *flags_in(tmp_path, local / "data"),
        "--engine=ray",
        f"--ray_address={address}",
    ]
    jobs = planned(*flags, pack=2)
    with process(sys.executable, "scripts/sweep.py", *flags) as sweeping:

        def caught():
            """Return a job that has begun its training on the node, or None."""
            assert sweeping.poll() is None, sweeping.stdout.read()
            here = [
                job
                for job in jobs
                if job.log.is_file() and f"node {doomed} " in job.log.read_text()
            ]
            saved = [
                job
                for job in here
                if all(run.newest_checkpoint() >= 0 for run in job.runs)
            ]
            return next((job for job in saved if not job.is_done()), None)

        job = wait_for(caught, 900)
        kill()
        stdout, _ = sweeping.communicate()
    assert sweeping.returncode == 0, stdout
    assert "[6/6] finished: " in stdout and "FAILED" not in stdout
    nodes = re.findall(r"^== \S+ \S+ node (\w+) ", job.log.read_text(), re.MULTILINE)
    assert nodes[0] == doomed and len(set(nodes)) == 2
    assert "resumed at step" in job.log.read_text()
    assert logs_of(tmp_path) == logs_of(local / "exp")


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_when_a_sweep_on_ray_is_stopped_its_jobs_save_and_exit(
    cluster, tmp_path, signum
):
    engine = f"Ray(dict(os.environ), 1, {cluster[0]!r}, 3)"
    code, stdout, log, pid = stop_a_sweep(tmp_path, engine, signum)
    assert "Traceback" not in stdout and code == 128 + signum
    assert gone(pid) and log.read_text().endswith("saved\n== exit code 143\n")
