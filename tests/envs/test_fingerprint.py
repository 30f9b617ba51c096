"""A dataset's fingerprint: every value counts, and unchanged files are not read again."""

import os
import time

import numpy as np
import pytest

from envs.fingerprint import Fingerprint, cached_fingerprint, fingerprint


def dataset(rows=30_000):
    rng = np.random.default_rng(0)
    values = {
        "observations": rng.normal(size=(rows, 3)).astype(np.float32),
        "rewards": np.zeros(rows, np.float32),
    }
    values |= {
        "actions": np.zeros((rows, 2), np.float32),
        "masks": np.ones(rows, np.float32),
    }
    return values | {
        "terminals": np.zeros(rows, np.float32),
        "rows": np.arange(rows - 1, dtype=np.int32),
    }


@pytest.mark.parametrize(
    "name", ["observations", "actions", "terminals", "rows", "rewards", "masks"]
)
def test_one_changed_value_changes_the_fingerprint(name):
    """Rewards and masks change the fingerprint of the task but not that of the behaviour.

    All tasks of a domain share the behaviour, and with it the pretrained base.
    """
    before, changed = dataset(), dataset()
    changed[name][12_345] += 1
    shared = name in ("rewards", "masks")
    assert (fingerprint(before).behaviour == fingerprint(changed).behaviour) is shared
    assert fingerprint(before).task != fingerprint(changed).task


def test_memory_maps_and_views_have_the_fingerprint_of_their_contents(tmp_path):
    in_memory = dataset()
    np.save(tmp_path / "observations.npy", in_memory["observations"])
    mapped = np.load(tmp_path / "observations.npy", mmap_mode="r")
    assert fingerprint(in_memory | {"observations": mapped}) == fingerprint(in_memory)
    strided = np.repeat(in_memory["observations"], 2, axis=0)[::2]
    assert fingerprint(in_memory | {"observations": strided}) == fingerprint(in_memory)


def test_the_checksum_is_of_all_blocks_and_shows_its_progress(printed, monkeypatch):
    expected = fingerprint(dataset())
    assert expected.behaviour == "cc66c789"
    monkeypatch.setattr("envs.fingerprint._BLOCK", 100_000)
    monkeypatch.setattr("utils.progress.SECONDS_PER_LINE", 0)
    assert fingerprint(dataset()) == expected
    assert "checksum: 100k/1.08MB in " in printed().err


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "data.npz"
    path.write_text("one")
    os.utime(path, (time.time() - 60, time.time() - 60))
    return path


def load(content=0):
    loads.append(content)
    return dataset(100) | {"masks": np.full(100, content, np.float32)}


loads: list[int] = []


def test_an_unchanged_file_is_read_once(file):
    loads.clear()
    first = cached_fingerprint([file], {"sparse": False}, load)
    assert cached_fingerprint([file], {"sparse": False}, load) == first == fingerprint(
        load()
    ) and isinstance(first, Fingerprint)
    assert len(loads) == 2  # by the first call, and here
    assert cached_fingerprint([file], {"sparse": True}, lambda: load(1)) != first


@pytest.mark.parametrize("change", ["size", "time", "inode"])
def test_a_changed_file_is_read_again(file, change):
    first = cached_fingerprint([file], {}, load)
    stat = file.stat()
    if change == "size":
        file.write_text("three")
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "time":
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    else:
        other = file.with_name("other")
        other.write_text("two")
        os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        os.replace(other, file)
    assert cached_fingerprint([file], {}, lambda: load(1)) != first


def test_a_fingerprint_of_a_file_written_just_now_is_not_cached(file):
    """Its next change might keep its size, inode and time."""
    os.utime(file)
    first = cached_fingerprint([file], {}, load)
    assert cached_fingerprint([file], {}, lambda: load(1)) != first


def test_a_damaged_cache_and_a_home_that_cannot_be_written_only_cost_time(
    file, monkeypatch
):
    first = cached_fingerprint([file], {}, load)
    (stored,) = file.parent.glob("cache/trqam/fingerprints/*.json")
    for content in ("", "{}", "[1]", "\x00"):
        stored.write_text(content)
        assert cached_fingerprint([file], {}, load) == first
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert cached_fingerprint([file], {}, load) == first
