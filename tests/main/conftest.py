"""Data for these runs, and no network."""

import shutil

import numpy as np
import pytest

from envs import download
from envs.collect import collect_random
from tests.tiny_runs import ROOT, TASK


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Downloads meet a closed port of this machine at once."""
    monkeypatch.setattr(download, "HOSTS", ("http://127.0.0.1:9",))
    monkeypatch.setattr("envs.dataset_files.HOSTS", ("http://127.0.0.1:9",))
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A small dataset of TASK, and broken relatives of it, each in a folder of its own."""
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
    (root / "empty").mkdir()
    return root
