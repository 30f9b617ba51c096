"""A run with damaged checkpoints or a damaged replay file resumes from what is intact."""

import itertools
import os
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.chain_runs import (
    CUTS,
    NEWEST,
    files_below,
    folder_of,
    newest,
    train,
    truncate,
)
from training.checkpoints import Checkpoints


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 16
    path.write_bytes(content)


def same_trees(one, other):
    """Return whether two checkpoints, as `Checkpoints.readable` yields them, are the same."""
    same = jax.tree.map(
        lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), one[1], other[1]
    )
    return (
        jax.tree.structure(one[1]) == jax.tree.structure(other[1])
        and jax.tree.all(same)
        and one[2] == other[2]
    )


DAMAGE = {
    "truncated": truncate,
    "emptied": lambda path: os.truncate(path, 0),
    "flipped": lambda path: flip(path, path.stat().st_size // 2),
    "missing": Path.unlink,
}


@pytest.mark.slow
@pytest.mark.parametrize("phase", CUTS)
def test_any_damaged_file_of_a_checkpoint_is_noticed_or_changes_nothing(
    phase, enter_folder, printed
):
    """Damage each file of the newest checkpoint in each way, then read as a run does first."""
    enter_folder(phase)
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


def flip_arrays(checkpoint):
    (arrays,) = files_below(checkpoint / "state" / "d")
    DAMAGE["flipped"](arrays)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("phase", "damage"),
    [
        ("offline", flip_arrays),
        ("online", lambda checkpoint: truncate(checkpoint / "record" / "metadata")),
        ("online", lambda checkpoint: shutil.rmtree(checkpoint / "state")),
    ],
    ids=["arrays flipped", "record truncated", "arrays missing"],
)
def test_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(
    phase, damage, enter_folder, assert_undisturbed
):
    enter_folder(phase)
    step = NEWEST[phase]
    damage(newest())
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
    unreadable = folder_of() / "checkpoints.unreadable" / str(step)
    assert {path.name: path.read_bytes() for path in files_below(unreadable)} == damaged


@pytest.mark.ci
@pytest.mark.parametrize("how", ["truncated", "flipped", "missing"])
def test_a_damaged_replay_file_falls_back_to_where_it_is_intact(
    how, enter_folder, assert_undisturbed
):
    """The file had eight rows at the last checkpoint, four at the one before, and none after the
    offline phase.
    """
    enter_folder("online")
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


UNREADABLE = (
    "error: no checkpoint of {} can be read; delete that folder, and the same command begins it"
    " again"
)


@pytest.mark.ci
def test_nothing_is_deleted_if_no_checkpoint_can_be_read(
    enter_folder, assert_stops, assert_undisturbed
):
    enter_folder("online")
    folder = folder_of()
    for path in (folder / "checkpoints").glob("*/record/metadata"):
        truncate(path)
    before = {path: path.read_bytes() for path in files_below(folder)}
    for _ in range(2):
        assert assert_stops(1) == UNREADABLE.format(folder)
        assert {path: path.read_bytes() for path in files_below(folder)} == before
    shutil.rmtree(folder)
    assert train() == 0
    (folder / "done.json").unlink()
    assert_undisturbed()


def test_a_base_that_cannot_be_read_is_named_and_trained_again_once_it_is_deleted(
    enter_folder, assert_stops
):
    enter_folder("whole")
    shutil.rmtree(folder_of())
    (base,) = (path.parent for path in Path("exp/bc").glob("*/*/done.json"))
    for path in (base / "checkpoints").glob("*/record/metadata"):
        truncate(path)
    for flags in ([], ["--overwrite"]):
        assert assert_stops(1, *flags) == UNREADABLE.format(base)
    shutil.rmtree(base)
    assert train() == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_random_damage_changes_no_result(seed, enter_folder, assert_undisturbed):
    """Flip bits and cut files anywhere in the newest checkpoint and the replay file, then resume
    the run to its end.
    """
    rng = np.random.default_rng(seed)
    enter_folder(list(CUTS)[seed % 2])
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
