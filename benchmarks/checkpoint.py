"""The bytes and seconds that a checkpoint costs.

    python scripts/benchmark.py checkpoint --out=results/checkpoint_cost.json

Saves full-size TRQAM (or another --agent, with --agent.KEY) with an online replay of 500,000
transitions at the first save. Each save is timed twice: how long it blocks training, and until
it is on disk. The share of the training time assumes --updates_per_s between two saves.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.common import (
    ACTION_DIM,
    OBSERVATION_DIM,
    add_agent,
    add_output,
    chosen_agent,
)
from configs.flags import define_flags
from training.checkpoints import Checkpoints, agent_tree
from training.replay_file import ReplayFile
from utils.command_line import at_least, positive_float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this benchmark."""
    add_agent(parser)
    doc = "number of saves; the first one is not part of the median (6)"
    parser.add_argument("--saves", type=at_least(2), default=6, metavar="N", help=doc)
    doc = "online transitions before the first save (500,000)"
    parser.add_argument(
        "--transitions", type=at_least(1), default=500_000, metavar="N", help=doc
    )
    doc = "updates and online transitions between two saves (as in main.py)"
    parser.add_argument("--save_interval", type=at_least(1), metavar="N", help=doc)
    doc = "assumed training speed for the share of time (600)"
    parser.add_argument(
        "--updates_per_s", type=positive_float, default=600.0, metavar="X", help=doc
    )
    add_output(parser)


def size(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def with_random_numbers(agent: Any, rng: np.random.Generator) -> Any:
    """Fill an agent with random numbers, since Orbax would compress the zeros of a new Adam."""

    def random(leaf: Any) -> np.ndarray:
        return rng.standard_normal(leaf.shape).astype(leaf.dtype)

    return jax.device_put(jax.tree.map(random, agent))


def append_random(replay: ReplayFile, count: int, rng: np.random.Generator) -> None:
    """Append random online transitions, in episodes of 1,000.

    Args:
        replay: the file to extend.
        count: the number of transitions.
        rng: the random generator.
    """
    for step in range(count):
        s = rng.standard_normal((2, OBSERVATION_DIM))
        replay.append(
            {
                "observations": s[0],
                "actions": rng.standard_normal(ACTION_DIM),
                "next_observations": s[1],
                "rewards": 0.0,
                "masks": 0.0,
                "terminals": float(step % 1000 == 999),
            }
        )


def measure(
    agent: Any, folder: Path, new_transitions: list[int]
) -> list[dict[str, float]]:
    """Measure the bytes and seconds of consecutive saves.

    Args:
        agent: the agent to save.
        folder: where to save it.
        new_transitions: the number of new online transitions before each save.
    """
    rng = np.random.default_rng(0)
    result = []
    agent = with_random_numbers(agent, rng)
    replay = ReplayFile(folder / "replay.bin", OBSERVATION_DIM, ACTION_DIM)
    rows = 0
    with Checkpoints(folder / "checkpoints", keep=2) as checkpoints:
        for save, count in enumerate(new_transitions, 1):
            append_random(replay, count, rng)
            start = time.perf_counter()
            record = {"replay": replay.position()}
            checkpoints.save(save, {"agent": agent_tree(agent)}, record)
            blocked = time.perf_counter() - start
            checkpoints.wait()
            result.append(
                {
                    "new_online_transitions": replay.rows - rows,
                    "checkpoint_bytes": size(folder / "checkpoints" / str(save)),
                    "replay_bytes": (replay.rows - rows) * replay.dtype.itemsize,
                    "blocked_seconds": blocked,
                    "seconds_to_disk": time.perf_counter() - start,
                }
            )
            rows = replay.rows
    replay.close()
    return result


def print_saves(saves: list[dict[str, float]]) -> None:
    """Print a table of the saves."""
    print(
        f"{'save':>4} {'online rows':>12} {'checkpoint MB':>14} {'replay MB':>10}"
        f" {'blocks s':>9} {'on disk s':>10}"
    )
    for number, save in enumerate(saves, 1):
        print(
            f"{number:4d} {save['new_online_transitions']:12d}"
            f" {save['checkpoint_bytes'] / 1e6:14.1f} {save['replay_bytes'] / 1e6:10.1f}"
            f" {save['blocked_seconds']:9.2f} {save['seconds_to_disk']:10.2f}"
        )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, and print a table and the share of the training time."""
    agent = chosen_agent(options)
    published = define_flags(["main.py", f"--agent={agent.file}"])[
        "save_interval"
    ].default
    interval = options.save_interval or published
    between = [options.transitions, *[interval] * (options.saves - 1)]
    with tempfile.TemporaryDirectory(prefix="checkpoint-cost-") as folder:
        saves = measure(agent.create(0), Path(folder), between)
    print_saves(saves)
    blocked = statistics.median(save["blocked_seconds"] for save in saves[1:])
    share = blocked / (blocked + interval / options.updates_per_s)
    print(
        f"every {interval} updates, at {options.updates_per_s:g} updates/s: {share:.2%} of"
        " the time (median of later saves)"
    )
    return {
        "agent": agent.file,
        "save_interval": interval,
        "updates_per_s": options.updates_per_s,
        "share_of_time": share,
        "saves": saves,
    }
