"""Fingerprints of datasets: a CRC-32 over all bytes, cached while the files do not change."""

import contextlib
import hashlib
import importlib.metadata
import json
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from envs.arrays import READER_VERSION
from utils.files import user_folder, write_json
from utils.progress import Counter

SETTLED_SECONDS = 2.0
"""Files changed this recently are not cached: a second change could leave the same time."""
_BLOCK = 1 << 26  # bytes between two updates of the progress bar


class Fingerprint(NamedTuple):
    """Identifies a dataset: equal fingerprints train equal agents."""

    transitions: int
    behaviour: str
    """Checksum of what behaviour cloning reads: observations, actions and trajectory ends."""
    task: str
    """Checksum of these, rewards and masks."""


def fingerprint(dataset: dict[str, np.ndarray]) -> Fingerprint:
    """Compute the fingerprint of a compact dataset (`envs.datasets.load_dataset`)."""
    of_behaviour = ("observations", "actions", "terminals", "rows")
    of_task = ("rewards", "masks")
    size = sum(dataset[name].nbytes for name in (*of_behaviour, *of_task))
    with Counter("checksum", size, kept=False, unit="B", unit_scale=True) as bar:
        behaviour = _crc(dataset, of_behaviour, bar)
        task = _crc(dataset, of_task, bar)
    return Fingerprint(len(dataset["rows"]), behaviour, f"{behaviour}-{task}")


def _crc(dataset: dict[str, np.ndarray], names: tuple[str, ...], bar: Counter) -> str:
    """Return the CRC-32 of the named arrays, their types and shapes in hexadecimal.

    Args:
        dataset: the arrays by name.
        names: those to read.
        bar: counts the bytes.
    """
    crc = 0
    for name in names:
        array = dataset[name]
        crc = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode(), crc)
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for start in range(0, len(content), _BLOCK):
            block = content[start : start + _BLOCK]
            crc = zlib.crc32(block.data, crc)
            bar.update(len(block))
    return f"{crc:08x}"


def cached_fingerprint(
    files: Sequence[Path],
    settings: dict[str, Any],
    load: Callable[[], dict[str, np.ndarray]],
) -> Fingerprint:
    """Return a dataset's fingerprint from the cache, or load the dataset and compute it.

    Args:
        files: the files of the dataset, recognised by inode, size and time of change.
        settings: JSON values that the dataset also depends on.
        load: returns the compact dataset.
    """
    identity = _identity(files)
    versions = [READER_VERSION, importlib.metadata.version("ogbench")]
    text = json.dumps([identity, settings, versions], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:24]
    folder = user_folder("XDG_CACHE_HOME", "~/.cache")
    if folder is None:
        return fingerprint(load())
    stored = folder / "trqam" / "fingerprints" / f"{key}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Fingerprint(**json.loads(stored.read_text()))
    computed = fingerprint(load())
    changed = max((time_ns for *_, time_ns in identity), default=0)
    settled = time.time() - changed / 1e9 > SETTLED_SECONDS
    if settled and _identity(files) == identity:
        # without a writable home the data is read again next time
        with contextlib.suppress(OSError):
            stored.parent.mkdir(parents=True, exist_ok=True)
            write_json(stored, computed._asdict())
    return computed


def _identity(files: Sequence[Path]) -> list[tuple[int, int, int, int]]:
    """Return device, inode, size and time of change of each file."""
    stats = [file.stat() for file in files]
    return [
        (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats
    ]
