"""Measure how fast batches come from data on the host: memory-mapped rows, looked up by
threads.

    python scripts/benchmark_data.py --rows=1_000_000,10_000_000,100_000_000 --readers=1,4,16
    --folder=/tmp

The rows have the widths of cube-quadruple (O 55, A 5) and lie in sparse files, so that 100
million of them take no disk: a first access to a page is then a page fault without reading.
--written fills the files and drops them from the page cache before each measurement: then every
page comes from the disk. The files are deleted at the end.
"""

import itertools
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.prefetch import Block, OnHost, Prefetch  # noqa: E402
from utils.replay import Replay  # noqa: E402

# rows of a trajectory, with that of its final state
OBSERVATION_DIM, ACTION_DIM, TRAJECTORY = 55, 5, 1001
CONFIG = SimpleNamespace(batch_size=256, horizon_length=5)

FLAGS = flags.FLAGS
flags.DEFINE_list("rows", ["1_000_000", "10_000_000", "100_000_000"], "sizes of the dataset")
flags.DEFINE_list("readers", ["1", "2", "4", "8", "16", "32"], "numbers of reading threads")
flags.DEFINE_integer("seeds", 1, "seeds that train in one program, each on batches of its own")
flags.DEFINE_integer("updates_per_call", 100, "updates in a block")
flags.DEFINE_float("demand", 2_500.0, "updates per second of the training that is imitated")
flags.DEFINE_float("seconds", 5.0, "length of a measurement")
flags.DEFINE_bool("written", False, "write the rows to disk and read them from there")
flags.DEFINE_string(
    "folder", None, "where the files lie while it runs (default: the system's temporary folder)"
)
flags.DEFINE_bool("json", False, "end with one JSON object on the last line")


def synthetic(folder: Path, rows: int, written: bool = False) -> dict[str, np.ndarray]:
    """A dataset with memory-mapped observations and actions, in sparse files unless they are to
    be `written`.
    """
    numbers = np.arange(rows // TRAJECTORY * TRAJECTORY, dtype=np.int32)
    terminals = np.zeros(rows, np.float32)
    terminals[TRAJECTORY - 2 :: TRAJECTORY] = 1.0
    dataset: dict[str, np.ndarray] = {
        "rewards": -np.ones(rows, np.float32),
        "masks": np.ones(rows, np.float32),
        "terminals": terminals,
    }
    dataset["rows"] = numbers[numbers % TRAJECTORY < TRAJECTORY - 1]
    for name, width in (("observations", OBSERVATION_DIM), ("actions", ACTION_DIM)):
        array = np.lib.format.open_memmap(
            folder / f"{name}.npy", "w+", np.float32, (rows, width)
        )
        if written:
            for start in range(0, rows, 100_000):
                array[start : start + 100_000] = start
        array.flush()
        dataset[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
    return dataset


def forget(folder: Path) -> None:
    """Drop a folder's files from the page cache; what processes still map stays."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(
    dataset: dict[str, np.ndarray],
    readers: int,
    demand: float | None = None,
    seconds: float = 5.0,
    seeds: int = 1,
    updates_per_call: int = 100,
    first: int = 0,
) -> dict[str, float]:
    """Read blocks for some seconds, as fast as they come or as training at `demand` updates per
    second would.

    Returns updates_per_s, and waiting: the share of the time for which the reader of the blocks
    waited for one. `first` is the number of the first update: other updates read other pages.
    """
    data, keys = (
        OnHost(dataset, None),
        jax.random.key_data(jax.random.split(jax.random.key(0), seeds)),
    )
    blocks = (Block(first + i * updates_per_call, updates_per_call) for i in itertools.count())
    with Prefetch(data, Replay(data.stored), keys, CONFIG, blocks, readers) as feed:
        jax.block_until_ready(next(feed))  # compiles
        start, waited, updates = time.perf_counter(), feed.waited, 0
        while (now := time.perf_counter()) - start < seconds:
            jax.block_until_ready(next(feed))
            updates += updates_per_call
            # the training of this block, on a device that leaves the processor alone
            if demand:
                time.sleep(max(0.0, now + updates_per_call / demand - time.perf_counter()))
        taken = time.perf_counter() - start
        return {"updates_per_s": updates / taken, "waiting": (feed.waited - waited) / taken}


def main(_: list[str]) -> None:
    """Measure every size with every number of readers and print a table."""
    found: list[dict[str, Any]] = []
    print("rows         readers  updates/s  at the demand of  updates/s  waiting")
    for rows in map(int, FLAGS.rows):
        with tempfile.TemporaryDirectory(dir=FLAGS.folder) as name:
            folder = Path(name)
            dataset = synthetic(folder, rows, FLAGS.written)
            # pages that no measurement before has read
            numbers = itertools.count(0, 10_000_000)
            for readers in map(int, FLAGS.readers):
                result: dict[str, float] = {"rows": rows, "readers": readers}
                for label, demand in (("fastest", None), ("paced", FLAGS.demand)):
                    if FLAGS.written:
                        dataset |= {
                            key: np.load(folder / f"{key}.npy", mmap_mode="r")
                            for key in ("observations", "actions")
                        }
                        forget(folder)
                    figures = measure(
                        dataset,
                        readers,
                        demand,
                        FLAGS.seconds,
                        FLAGS.seeds,
                        FLAGS.updates_per_call,
                        next(numbers),
                    )
                    result |= {f"{label}_{figure}": value for figure, value in figures.items()}
                found.append(result)
                print(
                    f"{rows:<12,} {readers:<8} {result['fastest_updates_per_s']:<10.0f}"
                    f" {FLAGS.demand:<17.0f} {result['paced_updates_per_s']:<10.0f}"
                    f" {result['paced_waiting']:.1%}",
                    flush=True,
                )
    if FLAGS.json:
        print(
            json.dumps(
                {
                    "cores": os.cpu_count(),
                    "written": FLAGS.written,
                    "seeds": FLAGS.seeds,
                    "measurements": found,
                }
            )
        )


if __name__ == "__main__":
    app.run(main)
