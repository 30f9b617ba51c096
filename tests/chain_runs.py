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


# episodes of six steps: step 20 is in the middle of the second one
ENV_NAME = "envs.probe:ProbeChain-v0"


OFFLINE, LAST = 12, 24


FLAGS = [
    f"--env_name={ENV_NAME}", "--dataset=data.npz", "--save_dir=exp", "--horizon_length=2", "--agent.action_chunking=True",
    "--bc_steps=4", f"--offline_steps={OFFLINE}", f"--online_steps={LAST - OFFLINE}", "--start_training=4",
    "--log_interval=6", "--eval_interval=12", "--save_interval=4", "--eval_episodes=1", "--eval_workers=1",
    "--agent.actor_hidden_dims=(8,8)", "--agent.value_hidden_dims=(8,8)", "--agent.num_qs=2", "--agent.flow_steps=2",
    "--agent.batch_size=8",
]  # fmt: skip


# before which call of updates: after steps 10 and 21, checkpoints at 8 and 20
CUTS = {"offline": 6, "online": 12}


NEWEST = {"offline": 8, "online": 20}


class Cut(BaseException):
    """Ends a run as a kill would, in this process."""


def cut(replay=None):
    raise Cut


def train(*flags):
    """The run below the working directory, from wherever it stands; returns the exit code."""
    return program.main(["main.py", *FLAGS, *flags])


@contextlib.contextmanager
def before_updates(call, do):
    """Do something before a call of updates, the first of which has number 1; what it returns
    is the replay from then on.
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
    """Train, and do something before a call of updates."""

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
    """All that a run leaves, wall times apart, by name."""
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
    """The messages besides the lines of progress; an error is one of them and names what is to
    be done.
    """
    progress = r"  step \w+/\w+ (offline|online)(  |$)|\S+/\S+ transitions in "
    lines = stderr.replace("\n  ", " ").splitlines()  # a wrapped message on one line
    return [line for line in lines if not re.search(progress, line)]


def start_process(call):
    """Evaluate a call of this module's in a process that, as an ordinary user's, may not write
    where nobody may.
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
    """The same to its end: exit code and the lines of `errors`; it ends without waiting for
    anything.
    """
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
