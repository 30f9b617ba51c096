"""Fixtures for the tests of main.py: small datasets, and no network."""

import shutil

import numpy as np
import pytest

from envs import download
from envs.collect import collect_random
from envs.probe import write_dataset
from tests.tiny_runs import ROOT, TASK


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Work in the project's folder; downloads meet a closed port and fail at once."""
    monkeypatch.setattr(download, "HOSTS", ("http://127.0.0.1:9",))
    monkeypatch.setattr("envs.dataset_files.HOSTS", ("http://127.0.0.1:9",))
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Return a folder of datasets.

    good/ holds a small dataset of TASK, truncated/ and shapes/ damaged copies of it, other/ a
    dataset of another environment, short/ episodes of one step, and empty/ nothing.
    """
    root = tmp_path_factory.mktemp("data")
    good = collect_random(TASK, root / "good", 300)
    for name in ("truncated", "shapes", "other"):
        shutil.copytree(root / "good", root / name)
    content = good.read_bytes()
    (root / "truncated" / good.name).write_bytes(content[: len(content) // 2])
    with np.load(good) as file:
        arrays = dict(file)
    np.savez(
        root / "shapes" / good.name, **(arrays | {"actions": arrays["actions"][:-5]})
    )
    wide = np.concatenate([arrays["observations"]] * 2, axis=1)
    np.savez(root / "other" / good.name, **(arrays | {"observations": wide}))
    for name in ("short", "empty"):
        (root / name).mkdir()
    write_dataset("envs.probe:ProbeReward-v0", root / "short" / "x.npz", 20)
    return root
