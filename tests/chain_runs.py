"""Short runs of main.py on the 6-step environment envs.probe:ProbeChain-v0."""

import contextlib
import itertools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

import main as program
from training import updates
from training.checkpoints import Checkpoints

ROOT = Path(__file__).resolve().parents[1]


# Episodes have six steps, so step 20 is in the middle of the second online one.
ENV_NAME = "envs.probe:ProbeChain-v0"


OFFLINE, LAST = 12, 24


FLAGS = [
    f"--env_name={ENV_NAME}", "--dataset=data.npz", "--save_dir=exp", "--horizon_length=2", "--agent.action_chunking=True",
    "--bc_steps=4", f"--offline_steps={OFFLINE}", f"--online_steps={LAST - OFFLINE}", "--start_training=4",
    "--log_interval=6", "--eval_interval=12", "--save_interval=4", "--eval_episodes=1", "--eval_workers=1",
    "--agent.actor_hidden_dims=(8,8)", "--agent.value_hidden_dims=(8,8)", "--agent.num_qs=2", "--agent.flow_steps=2",
    "--agent.batch_size=8",
]  # fmt: skip


# The call of updates before which a run is cut: after step 10 or 21.
CUTS = {"offline": 6, "online": 12}


# The newest checkpoint at that point.
NEWEST = {"offline": 8, "online": 20}


class Cut(BaseException):
    """Ends a run in this process as a kill would."""


def cut(replay=None):
    raise Cut


def train(*flags):
    """Start or resume the run in the working directory; return the exit code."""
    return program.main(["main.py", *FLAGS, *flags])


@contextlib.contextmanager
def before_updates(call, do):
    """Call `do` with the replay before the given call of updates, counted from 1.

    From then on the run uses the replay that `do` returns.
    """
    calls, real = itertools.count(1), updates.train_block

    def block(agent, window, replay, *rest):
        if not agent.cloning and (number := next(calls)) >= call:
            replay = do(replay) if number == call else block.replay(replay)
        return real(agent, window, replay, *rest)

    block.replay = lambda replay: replay
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(updates, "train_block", block)
        yield


def at_update(call, do):
    """Train, calling `do` before the given call of updates; return the exit code."""

    def wrapped(replay):
        do()
        return replay

    with before_updates(call, wrapped):
        return train()


def folder_of(place=Path()):
    (config,) = place.glob("exp/Debug/*/*/config.json")
    return config.parent


def wait_for(path, seconds=60.0):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.02)


def newest(place=Path()):
    checkpoints = Checkpoints(folder_of(place) / "checkpoints")
    return checkpoints.folder / str(checkpoints.steps()[-1])


def result(place=Path()):
    """Everything that a run stores except wall times, by name."""
    folder = folder_of(place)
    tree, record = Checkpoints(folder / "checkpoints").read(LAST)
    arrays = {
        jax.tree_util.keystr(k): (v.dtype, v.tobytes())
        for k, v in jax.tree_util.tree_leaves_with_path(tree)
    }
    files = {
        name: (folder / name).read_bytes()
        for name in ("train.csv", "eval.csv", "replay.bin", "done.json")
    }
    return arrays | files | {"record": record}


def errors(stderr):
    """The messages without the lines of progress, each on one line."""
    progress = r"  step \w+/\w+ (offline|online)(  |$)|\S+/\S+ transitions in "
    lines = stderr.replace("\n  ", " ").splitlines()  # a wrapped message on one line
    return [line for line in lines if not re.search(progress, line)]


def start_process(call):
    """Start a process that evaluates a call of this module.

    Like the process of an ordinary user, it cannot write to read-only folders.
    """
    drop = (
        ["setpriv", "--inh-caps=-dac_override", "--bounding-set=-dac_override"]
        if os.geteuid() == 0
        else []
    )
    command = [
        *drop,
        sys.executable,
        "-c",
        f"from tests.chain_runs import *; sys.exit({call})",
    ]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    )


def in_a_process(call):
    """Wait for the end of such a process; return its exit code and the lines of `errors`."""
    with start_process(call) as process:
        try:
            _, stderr = process.communicate(timeout=200)
        finally:
            process.kill()
    return process.returncode, errors(stderr)


def files_below(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)
