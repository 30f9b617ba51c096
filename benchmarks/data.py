"""The speed of reading batches from a dataset on the host.

    python scripts/benchmark.py data --rows=1_000_000,10_000_000 --readers=1,4,16 --folder=/tmp

Threads read rows of memory-mapped files with the dimensions of cube-quadruple (O 55, A 5). The
files are sparse, so that 100 million rows need no disk space, and the first access to a page
reads nothing. --written fills the files and drops them from the page cache before each
measurement, so that every page is read from disk. The files are deleted at the end.
"""

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.common import TRAJECTORY, add_output, trajectories
from utils.command_line import at_least, each_at_least, existing_folder, positive_float
from utils.prefetch import Block, OnHost, Prefetch
from utils.replay import BatchSpec, Replay

WIDTHS = {"observations": 55, "actions": 5}
SPEC = BatchSpec(batch_size=256, horizon=5, discount=0.99)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this benchmark."""
    parser.add_argument(
        "--rows",
        type=each_at_least(TRAJECTORY),
        default=[1_000_000, 10_000_000, 100_000_000],
        metavar="N,N",
        help="sizes of the dataset (1, 10 and 100 million)",
    )
    parser.add_argument(
        "--readers",
        type=each_at_least(1),
        default=[1, 2, 4, 8, 16, 32],
        metavar="N,N",
        help="numbers of reading threads (1,2,4,8,16,32)",
    )
    doc = "seeds that train in one program, each on batches of its own (1)"
    parser.add_argument("--seeds", type=at_least(1), default=1, metavar="N", help=doc)
    doc = "updates in a block (100)"
    parser.add_argument(
        "--updates_per_call", type=at_least(1), default=100, metavar="N", help=doc
    )
    doc = "updates per second of the training that is imitated (2500)"
    parser.add_argument(
        "--demand", type=positive_float, default=2_500.0, metavar="X", help=doc
    )
    doc = "length of a measurement (5)"
    parser.add_argument(
        "--seconds", type=positive_float, default=5.0, metavar="X", help=doc
    )
    doc = "write the rows to disk and read them from there"
    parser.add_argument("--written", action="store_true", help=doc)
    doc = "where the files are while it runs (the system's temporary folder)"
    parser.add_argument("--folder", type=existing_folder, metavar="FOLDER", help=doc)
    add_output(parser)


def mapped(folder: Path) -> dict[str, np.ndarray]:
    """Open the memory-mapped columns in a folder."""
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in WIDTHS}


def synthetic(folder: Path, rows: int, written: bool = False) -> dict[str, np.ndarray]:
    """Create a dataset with memory-mapped observations and actions.

    Args:
        folder: the folder of the files.
        rows: the number of rows.
        written: whether to fill the files; otherwise they are sparse.
    """
    for name, width in WIDTHS.items():
        path = folder / f"{name}.npy"
        shape = (rows, width)
        array = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        for start in range(0, rows if written else 0, 100_000):
            array[start : start + 100_000] = start
        array.flush()
    return trajectories(rows) | mapped(folder)


def drop_from_page_cache(folder: Path) -> None:
    """Drop a folder's files from the page cache, except pages that a process still maps."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(
    dataset: dict[str, np.ndarray],
    options: argparse.Namespace,
    readers: int,
    demand: float | None,
    first: int,
) -> dict[str, float]:
    """Read blocks for --seconds, at full speed or at the speed of a training.

    Returns updates_per_s and "waiting", the share of the time spent waiting for a block.

    Args:
        dataset: columns by name.
        options: the flags.
        readers: number of reading threads.
        demand: updates per second of the training; None: full speed.
        first: number of the first update; other updates read other pages.
    """
    updates_per_call = options.updates_per_call
    updates = 0
    data = OnHost(dataset, None)
    keys = jax.random.key_data(jax.random.split(jax.random.key(0), options.seeds))
    blocks = (
        Block(first + i * updates_per_call, updates_per_call) for i in itertools.count()
    )
    with Prefetch(data, Replay(data.stored), keys, SPEC, blocks, readers) as feed:
        jax.block_until_ready(next(feed))  # compiles
        start = time.perf_counter()
        waited = feed.waited
        while (now := time.perf_counter()) - start < options.seconds:
            jax.block_until_ready(next(feed))
            updates += updates_per_call
            # sleeps for as long as a device would train on this block
            if demand:
                time.sleep(
                    max(0.0, now + updates_per_call / demand - time.perf_counter())
                )
        taken = time.perf_counter() - start
        return {
            "updates_per_s": updates / taken,
            "waiting": (feed.waited - waited) / taken,
        }


def measure_rows(
    folder: Path, rows: int, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Measure a dataset with each number of readers, at full speed and at --demand.

    Args:
        folder: the folder for its files.
        rows: the number of rows.
        options: the flags.
    """
    dataset = synthetic(folder, rows, options.written)
    # first updates, whose pages no earlier measurement has read
    numbers = itertools.count(0, 10_000_000)
    for readers in options.readers:
        result: dict[str, Any] = {"rows": rows, "readers": readers}
        for label, demand in (("fastest", None), ("paced", options.demand)):
            if options.written:
                dataset |= mapped(folder)
                drop_from_page_cache(folder)
            figures = measure(dataset, options, readers, demand, next(numbers))
            result |= {f"{label}_{figure}": value for figure, value in figures.items()}
        yield result


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every size with every number of readers and print a table."""
    found = []
    print("rows         readers  updates/s  at the demand of  updates/s  waiting")
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            for result in measure_rows(Path(name), rows, options):
                found.append(result)
                print(
                    f"{rows:<12,} {result['readers']:<8}"
                    f" {result['fastest_updates_per_s']:<10.0f}"
                    f" {options.demand:<17.0f} {result['paced_updates_per_s']:<10.0f}"
                    f" {result['paced_waiting']:.1%}",
                    flush=True,
                )
    return {"written": options.written, "seeds": options.seeds, "measurements": found}
