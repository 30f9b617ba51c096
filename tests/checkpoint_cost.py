"""What a checkpoint costs: bytes and seconds of saves of full-size TRQAM beside a
500,000-transition online replay.

    python tests/checkpoint_cost.py --updates_per_s=600 --json=results/checkpoint_cost.json

Each save is timed twice: how long it keeps training from going on, and until all of it is on
disk. The share of the training time is of the default save interval, at `--updates_per_s` (the
faster the training, the larger the share).
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np

from agents import trqam
from configs.flags import define_flags
from training.checkpoints import Checkpoints, agent_tree
from training.replay_file import ReplayFile

OBSERVATION_DIM, ACTION_DIM = 83, 5  # puzzle-4x4


def full_size() -> trqam.TRQAM:
    """The paper's networks: 512x4, 10 critics, chunks of 5 actions."""
    config = trqam.get_config()
    config.action_chunking = True
    return trqam.TRQAM.create(jax.random.key(0), OBSERVATION_DIM, ACTION_DIM, config)


def size(folder: Path) -> int:
    """Bytes below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(
    folder: Path, saves: int, before_first: int, between: int
) -> list[dict[str, float]]:
    """Save `saves` times with online transitions in between -> bytes and seconds of each save."""
    rng = np.random.default_rng(0)
    # Random numbers everywhere, because Orbax compresses, and the moments of a fresh Adam are
    # zeros.
    agent = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(leaf.dtype), full_size()
    )
    agent = jax.device_put(agent)
    replay, rows, result = ReplayFile(folder / "replay.bin", OBSERVATION_DIM, ACTION_DIM), 0, []
    zeros = {name: 0.0 for name in ("rewards", "masks")}
    with Checkpoints(folder / "checkpoints", keep=2) as checkpoints:
        for save in range(saves):
            for step in range(between if save else before_first):
                s = rng.standard_normal((2, OBSERVATION_DIM))
                ends = {"terminals": float(step % 1000 == 999), "next_observations": s[1]}
                replay.append(
                    zeros
                    | ends
                    | {
                        "observations": s[0],
                        "actions": rng.standard_normal(ACTION_DIM),
                    }
                )
            start = time.perf_counter()
            record = {"replay": replay.position()}
            checkpoints.save(save + 1, {"agent": agent_tree(agent)}, record)
            blocked = time.perf_counter() - start
            checkpoints.wait()
            result.append(
                {
                    "new_online_transitions": replay.rows - rows,
                    "checkpoint_bytes": size(folder / "checkpoints" / str(save + 1)),
                    "replay_bytes": (replay.rows - rows) * replay.dtype.itemsize,
                    "blocked_seconds": blocked,
                    "seconds_to_disk": time.perf_counter() - start,
                }
            )
            rows = replay.rows
    replay.close()
    return result


def main() -> None:
    """Measure, print a table, and write the figures where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--saves", type=int, default=6)
    parser.add_argument(
        "--updates_per_s",
        type=float,
        default=600.0,
        help="speed of training that the share is of",
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    interval = define_flags(["main.py", "--agent=agents/trqam.py"])["save_interval"].default
    folder = Path(tempfile.mkdtemp(prefix="checkpoint-cost-"))
    try:
        saves = measure(folder, arguments.saves, 500_000, interval)
    finally:
        shutil.rmtree(folder)
    print(
        f"{'save':>4} {'online rows':>12} {'checkpoint MB':>14} {'replay MB':>10}"
        f" {'blocks s':>9} {'on disk s':>10}"
    )
    for number, save in enumerate(saves, 1):
        values = (
            save["checkpoint_bytes"] / 1e6,
            save["replay_bytes"] / 1e6,
            save["blocked_seconds"],
            save["seconds_to_disk"],
        )
        print(
            "{:4d} {:12d} {:14.1f} {:10.1f} {:9.2f} {:10.2f}".format(
                number, save["new_online_transitions"], *values
            )
        )
    blocked = statistics.median(save["blocked_seconds"] for save in saves[1:])
    share = blocked / (blocked + interval / arguments.updates_per_s)
    print(
        f"every {interval} updates, at {arguments.updates_per_s:g} updates/s: {share:.2%} of"
        " the time (median of later saves)"
    )
    if arguments.json:
        summary = {
            "command": " ".join(["python", *sys.argv]),
            "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores",
            "versions": {"jax": jax.__version__, "python": platform.python_version()},
            "save_interval": interval,
            "updates_per_s": arguments.updates_per_s,
            "share_of_time": share,
            "saves": saves,
        }
        arguments.json.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
