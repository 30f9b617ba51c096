"""Twelve faults that meet a run: each is one clear line, loses nothing and executes nothing.

All on whole runs of `main.py` with tiny networks: the fault comes, is taken away again, the
same command is given once more, and the run ends with the bytes of one that nothing disturbed.
"""

import contextlib
import errno
import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import main as program
from configs.flags import parse_flags
from envs.probe import ProbeChain, write_dataset
from envs.workers import EnvWorkers
from training import evaluator, updates
from training.checkpoints import Checkpoints
from training.plan import plan
from utils.logging import read_rows

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


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the run undisturbed, and cut short in either phase."""
    root = tmp_path_factory.mktemp("runs")
    for name in ("whole", *CUTS):
        (root / name).mkdir()
        write_dataset(ENV_NAME, root / name / "data.npz", 60)
        with contextlib.chdir(root / name):
            if name == "whole":
                assert train() == 0
            else:
                with before_updates(CUTS[name], cut), pytest.raises(Cut):
                    train()
                assert newest().name == str(NEWEST[name])
    return root


@pytest.fixture
def stand(runs, tmp_path, monkeypatch):
    """Go to a copy of one of `runs`, or to a new place with the data alone."""
    places = itertools.count()

    def go(name=None, place=None):
        place = place or tmp_path / f"place{next(places)}"
        if name is None:
            place.mkdir()
            shutil.copy(runs / "whole" / "data.npz", place)
        else:
            shutil.copytree(runs / name, place, dirs_exist_ok=True)
        monkeypatch.chdir(place)

    return go


@pytest.fixture
def assert_undisturbed(runs, capsys):
    """Give the command (again) and compare what it leaves with the undisturbed run; returns the
    lines it printed.
    """

    def check(code=0):
        capsys.readouterr()
        assert train() == code
        captured = capsys.readouterr()
        assert errors(captured.err) == []
        ours, theirs = result(), result(runs / "whole")
        assert [
            name
            for name in ours.keys() | theirs.keys()
            if ours.get(name) != theirs.get(name)
        ] == []
        return captured.out.replace(
            "\n  ", " "
        ).splitlines()  # a wrapped message on one line

    return check


def errors(stderr):
    """The messages besides the lines of progress; an error is one of them and names what is to
    be done.
    """
    progress = r"  step \w+/\w+ (offline|online)(  |$)|\S+/\S+ transitions in "
    lines = stderr.replace("\n  ", " ").splitlines()  # a wrapped message on one line
    return [line for line in lines if not re.search(progress, line)]


@pytest.fixture
def assert_stops(capsys):
    """The command ends with an exit code and one line of error, which is returned."""

    def check(code, *flags):
        capsys.readouterr()
        assert train(*flags) == code
        captured = capsys.readouterr()
        (line,) = errors(captured.err)
        assert line.startswith("error: ")
        assert "Traceback" not in captured.out
        return line

    return check


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 16
    path.write_bytes(content)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def files_below(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def same_trees(one, other):
    """Whether two checkpoints as `Checkpoints.readable` gives them are the same."""
    same = jax.tree.map(
        lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), one[1], other[1]
    )
    return (
        jax.tree.structure(one[1]) == jax.tree.structure(other[1])
        and jax.tree.all(same)
        and one[2] == other[2]
    )


# -------------------------------------------------------------- 1-3: what is stored is damaged


DAMAGE = {
    "truncated": truncate,
    "emptied": lambda path: os.truncate(path, 0),
    "flipped": lambda path: flip(path, path.stat().st_size // 2),
    "missing": Path.unlink,
}


@pytest.mark.slow
@pytest.mark.parametrize("phase", CUTS)
def test_any_damaged_file_of_a_checkpoint_is_noticed_or_changes_nothing(
    phase, stand, printed
):
    """What a run does first, for every file of the newest checkpoint."""
    stand(phase)
    folder = folder_of() / "checkpoints"
    with Checkpoints(folder, keep=2) as checkpoints:
        good = {step: (step, *checkpoints.read(step)) for step in checkpoints.steps()}
    shutil.copytree(folder, "kept")
    names = [path.relative_to(newest()) for path in files_below(newest())]
    noticed = set()
    for name, how in itertools.product(names, DAMAGE):
        DAMAGE[how](newest() / name)
        with Checkpoints(folder, keep=2) as checkpoints:
            found = next(checkpoints.readable())
        assert same_trees(found, good[found[0]])
        lines = printed().out.splitlines()
        if found[0] == NEWEST[phase]:
            assert lines == []
        else:
            noticed.add(how)
            assert found[0] == NEWEST[phase] - 4
            (line,) = lines
            assert re.fullmatch(
                rf"checkpoint \S+/{NEWEST[phase]} cannot be read \(.+\); falling back to the"
                r" one before",
                line,
            )
        shutil.rmtree(folder)
        shutil.copytree("kept", folder)
    assert noticed == set(DAMAGE)


@pytest.mark.ci
@pytest.mark.parametrize("phase, how", list(zip(itertools.cycle(CUTS), DAMAGE)))
def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    phase, how, stand, assert_undisturbed
):
    stand(phase)
    (arrays,) = files_below(newest() / "state" / "d")
    DAMAGE[how](arrays if phase == "offline" else newest() / "record" / "metadata")
    assert_falls_back(NEWEST[phase], assert_undisturbed)


def assert_falls_back(step, assert_undisturbed):
    damaged = {path.name: path.read_bytes() for path in files_below(newest())}
    line, resumed = [
        line
        for line in assert_undisturbed()
        if "falling back" in line or "resumed" in line
    ]
    assert re.fullmatch(
        rf"checkpoint \S+/{step} cannot be read \(.+\); falling back to the one before",
        line,
    )
    assert resumed.startswith(f"resumed at step {step - 4}: ")
    aside = folder_of() / "checkpoints.unreadable" / str(step)
    assert {path.name: path.read_bytes() for path in files_below(aside)} == damaged


@pytest.mark.ci
def test_a_checkpoint_without_its_arrays_is_one_that_cannot_be_read(
    stand, assert_undisturbed
):
    stand("online")
    shutil.rmtree(newest() / "state")
    assert_falls_back(20, assert_undisturbed)


@pytest.mark.ci
@pytest.mark.parametrize("how", ["truncated", "flipped", "missing"])
def test_damaged_replay_falls_back_to_where_it_is_whole(how, stand, assert_undisturbed):
    """Eight rows stood there at the last checkpoint, four at the one before, and none after the
    offline phase.
    """
    stand("online")
    DAMAGE[how](folder_of() / "replay.bin")
    lines = [
        line
        for line in assert_undisturbed()
        if "falling back" in line or "resumed" in line
    ]
    assert re.match(
        r"(the first \d rows of )?\S+/replay.bin (are not what was written|is missing); falling"
        r" back",
        lines[0],
    )
    assert lines[-1].startswith("resumed at step ")


@pytest.mark.ci
def test_where_nothing_can_be_read_nothing_is_deleted(
    stand, assert_stops, assert_undisturbed
):
    stand("online")
    folder = folder_of()
    for path in (folder / "checkpoints").glob("*/record/metadata"):
        truncate(path)
    before = {path: path.read_bytes() for path in files_below(folder)}
    for _ in range(2):
        line = assert_stops(1)
        assert line.startswith(
            f"error: no checkpoint of {folder} can be read; --overwrite deletes the run"
        )
        assert {path: path.read_bytes() for path in files_below(folder)} == before
    assert train("--overwrite") == 0
    (folder / "done.json").unlink()
    assert_undisturbed()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_random_damage_changes_no_result(seed, stand, assert_undisturbed):
    """Flips and cuts anywhere in the newest checkpoint and in the replay, resumed to the end."""
    rng = np.random.default_rng(seed)
    stand(list(CUTS)[seed % 2])
    files = [
        path
        for path in [*files_below(newest()), folder_of() / "replay.bin"]
        if path.is_file() and path.stat().st_size
    ]
    for path in rng.choice(files, rng.integers(1, 4), replace=False):
        for place in rng.integers(path.stat().st_size, size=rng.integers(1, 4)):
            flip(path, place)
        if rng.random() < 0.3:
            os.truncate(path, rng.integers(path.stat().st_size))
    assert_undisturbed()


# ---------------------------------------------------------------- 4, 6: what cannot be written


class Limit:
    """No file may grow beyond a size: what every user can have in place of a full disk."""

    reason = os.strerror(errno.EFBIG)

    def __init__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self, size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, self.before[1]))

    def free(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


class Disk:
    """A small file system of its own, full but for a few bytes; for who may mount one."""

    reason = os.strerror(errno.ENOSPC)

    def __init__(self, place):
        place.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], check=True
        )
        self.place = place

    def fill(self, size):
        with (
            contextlib.suppress(OSError),
            (self.place / "filler").open("wb", buffering=0) as file,
        ):
            while file.write(bytes(4096)):
                pass

    def free(self):
        (self.place / "filler").unlink()

    def unmount(self):
        subprocess.run(["umount", "--lazy", self.place], check=True)


def may_mount():
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    with contextlib.suppress(OSError):
        return (
            os.geteuid() == 0
            and subprocess.run(command, capture_output=True).returncode == 0
        )
    return False


@pytest.fixture(params=["limit", *["disk"] * may_mount()])
def disk(request, tmp_path):
    if request.param == "limit":
        limit = Limit()
        yield limit
        limit.free()
    else:
        disk = Disk(tmp_path / "disk")
        yield disk
        os.chdir(ROOT)
        disk.unmount()


@contextlib.contextmanager
def full(disk, call, size):
    """The disk is full from a call of updates on, to the end of the block; `size()` is how
    large files may be nonetheless.
    """

    def fill(replay):
        disk.fill(size())
        return replay

    with before_updates(call, fill):
        yield
    disk.free()


@pytest.mark.ci
@pytest.mark.parametrize("phase", CUTS)
def test_a_checkpoint_that_does_not_fit(
    phase, disk, stand, assert_stops, assert_undisturbed
):
    stand(phase, getattr(disk, "place", None))
    step, before = (
        newest().name,
        {path: path.read_bytes() for path in files_below(newest())},
    )
    with full(disk, 1, lambda: 4000):
        line = assert_stops(1)
    if "cannot write a checkpoint" in line:
        assert line.startswith(
            f"error: cannot write a checkpoint in {folder_of().absolute()}/checkpoints ("
        )
        assert line.endswith(
            f"); the last good checkpoint is that of step {step}: make room or mend it, and"
            " give the same command again"
        )
    else:  # on a full disk a log may be the first that does not fit
        assert isinstance(disk, Disk)
        assert line.endswith(f"(checkpoints in {folder_of()} are intact)")
    assert disk.reason in line
    assert {path: path.read_bytes() for path in before} == before
    assert_undisturbed()


@pytest.mark.ci
@pytest.mark.parametrize("name, call", {"train.csv": 8, "replay.bin": 10}.items())
def test_a_log_that_cannot_be_written(
    name, call, stand, assert_stops, assert_undisturbed
):
    """Before call 8 of the updates comes step 18, of a row of train.csv; before call 10 comes
    step 20, of a save.
    """
    stand()

    def size():
        wait_for(folder_of() / "checkpoints" / "16")  # it is written in the background
        return (folder_of() / name).stat().st_size

    with full(Limit(), call, size):
        line = assert_stops(1)
    place = f"(checkpoints in {folder_of()} are intact)"
    assert line == f"error: [Errno {errno.EFBIG}] {Limit.reason} {place}"
    assert newest().name == "16"
    assert_undisturbed()


@pytest.mark.ci
@pytest.mark.parametrize("from_the_start", [True, False])
def test_a_read_only_folder(from_the_start, stand, assert_undisturbed):
    """Seen before anything is done, and noticed where it becomes one while the run goes on."""
    stand("online")
    checkpoints, before = (
        folder_of() / "checkpoints",
        {path: path.read_bytes() for path in files_below(folder_of())},
    )
    newest_before = {path: path.read_bytes() for path in files_below(newest())}
    if from_the_start:
        subprocess.run(["chmod", "-R", "a-w", folder_of()], check=True)
        code, lines = in_a_process("train()")
        assert (code, lines) == (
            2,
            [
                f"error: --save_dir=exp: cannot write to {folder_of()}; give another folder"
            ],
        )
        assert {path: path.read_bytes() for path in files_below(folder_of())} == before
    else:
        code, (line,) = in_a_process(
            f"at_update(1, lambda: os.chmod({str(checkpoints)!r}, 0o555))"
        )
        assert code == 1
        assert line.startswith(
            f"error: cannot write a checkpoint in {checkpoints.absolute()} (PermissionError: "
        )
        assert "; the last good checkpoint is that of step 20: " in line
        assert {
            path: path.read_bytes() for path in files_below(newest())
        } == newest_before
    subprocess.run(["chmod", "-R", "u+w", folder_of()], check=True)
    assert_undisturbed()


def at_update(call, do):
    """Train, and do something before a call of updates."""

    def wrapped(replay):
        do()
        return replay

    with before_updates(call, wrapped):
        return train()


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
        f"from tests.test_faults import *; sys.exit({call})",
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


# ---------------------------------------------------------------- 5, 7: other processes


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


# ----------------------------------------------- 8, 9: what the run was begun with has changed


def test_another_config_is_refused_with_the_difference(
    stand, assert_stops, assert_undisturbed
):
    stand("online")
    path = folder_of() / "config.json"
    whole = path.read_text()
    config = json.loads(whole)
    config["agent"]["lr"] = 0.5
    path.write_text(json.dumps(config))
    line = assert_stops(2)
    assert (
        line
        == f"error: {folder_of()} holds a run with other settings (--agent.lr: stored 0.5, now"
        " 0.0003); give another --run_group, or --overwrite to delete it"
    )
    path.write_text(whole)
    assert_undisturbed()


@pytest.mark.ci
@pytest.mark.parametrize(
    "name, name_of_run", {"config.json": "online", "done.json": "whole"}.items()
)
def test_a_damaged_json_file_says_what_to_do_and_that_helps(
    name, name_of_run, stand, assert_stops, assert_undisturbed
):
    stand(name_of_run)
    path = folder_of() / name
    truncate(path)
    line = assert_stops(1)
    assert line.startswith(f"error: {path} is damaged (")
    assert line.endswith("); delete it, and the same command resumes the run")
    path.unlink()
    assert any(line.startswith("resumed at step ") for line in assert_undisturbed())


def rewrite(change):
    """Change the arrays of a npz file in place."""

    def rewritten(path):
        with np.load(path) as file:
            arrays = dict(file)
        change(arrays)
        np.savez(path, **arrays)

    return rewritten


def one_observation(arrays):
    arrays["observations"][41] += 0.25  # of 70 rows


def relabelled(arrays):
    arrays["rewards"] *= -100


def recorded_wrongly(arrays):
    arrays["masks"][:] = np.where(np.arange(70) == 30, 0, arrays["masks"])


CHANGED = "--dataset: dataset changed since {folder} started "
DATASETS = {
    "truncated": (truncate, "--dataset: data.npz is damaged ("),
    "vanished": (Path.unlink, "--dataset: data.npz does not exist"),
    "another": (
        lambda path: write_dataset(ENV_NAME, path, 66),
        CHANGED
        + "(60 -> 66 transitions): restore it, choose another --run_group, or --overwrite",
    ),
    "of the same length": (
        lambda path: write_dataset(ENV_NAME, path, 60, seed=1),
        CHANGED + "(as many transitions, but other values): restore it",
    ),
    "one observation": (rewrite(one_observation), CHANGED),
    "rewards": (rewrite(relabelled), CHANGED),
    "masks": (rewrite(recorded_wrongly), CHANGED),
}


@pytest.mark.ci
@pytest.mark.parametrize("how", DATASETS)
def test_other_data_is_refused_and_brought_back_it_goes_on(
    how, stand, assert_stops, assert_undisturbed
):
    stand("online")
    shutil.copy("data.npz", "kept.npz")
    damage, message = DATASETS[how]
    damage(Path("data.npz"))
    assert assert_stops(2).startswith(f"error: {message.format(folder=folder_of())}")
    assert newest().name == "20"
    os.replace("kept.npz", "data.npz")
    assert_undisturbed()


@pytest.mark.parametrize(
    "how", ["of the same length", "one observation", "rewards", "masks"]
)
def test_a_finished_run_looks_at_its_data(how, stand, assert_stops, printed):
    stand("whole")
    assert train() == 0 and "finished already: " in printed().out
    DATASETS[how][0](Path("data.npz"))
    assert assert_stops(2).startswith(f"error: {CHANGED.format(folder=folder_of())}")
    Path("data.npz").unlink()
    assert (
        train() == 0 and "(its data is not here and was not compared)" in printed().out
    )


@pytest.mark.ci
def test_the_base_follows_the_content_of_the_data(stand):
    """Not its path: other actions in the same file make another base, the same content
    elsewhere shares one.
    """
    stand("whole")
    bases = {path.parent.name for path in Path("exp/bc").glob("*/*/done.json")}
    shutil.copy("data.npz", "elsewhere.npz")
    assert train("--dataset=elsewhere.npz") == 0
    rewrite(relabelled)(Path("elsewhere.npz"))
    assert train("--dataset=elsewhere.npz", "--run_group=relabelled") == 0
    assert {
        path.parent.name for path in Path("exp/bc").glob("*/*/done.json")
    } == bases and len(bases) == 1
    rewrite(lambda arrays: arrays.update(actions=-arrays["actions"]))(Path("data.npz"))
    for flags in (["--run_group=mended"], ["--overwrite"]):
        assert train(*flags) == 0
        assert len(list(Path("exp/bc").glob("*/*/done.json"))) == 2


def test_a_sweep_finds_the_base_without_reading_the_data(stand):
    stand("whole")
    (run,) = plan(parse_flags(["main.py", *FLAGS]))
    (base,) = (path.parent for path in Path("exp/bc").glob("*/*/done.json"))
    assert run.expected_base().folder == base and run.expected_base().is_done()
    (other,) = plan(parse_flags(["main.py", *FLAGS, "--bc_steps=5"]))
    assert not other.expected_base().folder.exists()
    truncate(base / "config.json")
    assert not run.expected_base().folder.exists()


def test_a_run_of_an_older_version_goes_on(stand, assert_undisturbed):
    """Its checksum is of a sample, and flags that came later stand at their defaults."""
    stand("online")
    path = folder_of() / "config.json"
    config = json.loads(path.read_text())
    config["dataset"]["crc"] = 123456789
    for name in ("dataset_layout", "action_scale"):
        del config["flags"][name], config["sources"][name]
    config["flags"]["of_old"], config["sources"]["of_old"] = 7, "default"
    path.write_text(json.dumps(config))
    assert_undisturbed()


# ---------------------------------------------------------- 10: a file that would do something


def test_a_malicious_pickle_does_nothing(stand, assert_stops):
    stand()
    # builtins.open("made", "w")
    Path("evil.pkl").write_bytes(b"cbuiltins\nopen\n(Vmade\nVw\ntR.")
    line = assert_stops(2, "--pretrained_actor_path=evil.pkl")
    assert line.startswith(
        "error: --pretrained_actor_path=evil.pkl: refused, because the file asks for"
        " 'builtins.open'"
    )
    assert {path.name for path in Path().iterdir()} == {"data.npz", "evil.pkl"}


# ---------------------------------------------------------------- 11: numbers that are none


@pytest.mark.ci
@pytest.mark.parametrize(
    "phase, call, update, at, good",
    [("offline", 6, 11, 12, 8), ("online", 11, 17, 22, 20)],
)
def test_rewards_that_are_no_numbers(
    phase, call, update, at, good, stand, assert_stops, assert_undisturbed
):
    """From one update on: the next row or save, or the next action in the environment, comes to
    see it.
    """
    stand()

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


FAULTS = {
    "reward is nan": 1,
    "observation has nan at index 0": 0,
}  # and the place in a step


@pytest.mark.ci
@pytest.mark.parametrize("fault", FAULTS)
def test_an_environment_that_gives_no_numbers(
    fault, stand, assert_stops, assert_undisturbed, monkeypatch
):
    """Before they reach the replay, in which they would outlast the checkpoint that is named."""
    stand()
    place = FAULTS[fault]
    real, steps = ProbeChain.step, itertools.count(1)

    def step(env, action):
        given = list(real(env, action))
        if next(steps) == 8:  # the steps of evaluations are taken in another process
            given[place] = given[place] * np.nan
        return tuple(given)

    with monkeypatch.context() as patch:
        patch.setattr(ProbeChain, "step", step)
        line = assert_stops(1)
    assert (
        line
        == f"error: environment {ENV_NAME}: the {fault} in the step after step 19 of "
        f"{folder_of()}; the last good checkpoint is that of step 16"
    )
    assert_good(16, assert_undisturbed)


# ---------------------------------------------------------------- 12: the clock


def test_a_clock_that_goes_backwards(stand, assert_undisturbed, monkeypatch):
    """An hour back and backwards from there on: wall times go wrong, and nothing else."""
    stand("online")
    for name in ("time", "perf_counter", "monotonic"):
        real = getattr(time, name)
        turn = 2 * real() - 3600
        monkeypatch.setattr(time, name, lambda real=real, turn=turn: turn - real())
    assert_undisturbed()
