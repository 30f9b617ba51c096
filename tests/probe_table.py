"""What every agent reaches on the probe environment whose best action is a = s, with several
seeds.

    python tests/probe_table.py --seeds=3 --csv=results/probe.csv
    python tests/probe_table.py --seeds=3 --csv=results/probe.csv "--only=qsm;dac"  # again

1,500 updates of tiny networks on 3,000 uniformly random actions (envs/probe.py, ProbeReward);
the figure is mean |a - s|, which is 0.67 for uniform actions. It is 0 for no agent that keeps
to its data: behaviour cloning shows where they start from, and DSRL's target entropy is a
spread of some 0.17 alone.
"""

import argparse
import csv
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agents import bc
from envs.probe import ProbeReward
from tests.agents.test_optimum import AGENTS, FLOWS, distance_from_optimum
from tests.envs.test_probe import train_on_probe


def read_rows(path: str) -> list[list[str]]:
    """The rows of a table that was written before, without its header."""
    with Path(path).open(newline="") as file:
        return list(csv.reader(file))[1:]


def main(arguments: list[str]) -> None:
    """Train, print, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--csv", help="file for the table")
    parser.add_argument(
        "--only", help="agents, with semicolons between them; others are kept"
    )
    given = parser.parse_args(arguments)
    header = ["agent", "settings", *(f"seed {seed}" for seed in range(given.seeds))]
    rows = []
    kept = {row[0]: row for row in read_rows(given.csv)} if given.only else {}
    for name, (module, settings) in ({"bc": (bc, {})} | FLOWS | AGENTS).items():
        if given.only and name not in given.only.split(";"):
            rows += [kept[name]] if name in kept else []
            continue
        with tempfile.TemporaryDirectory() as folder:
            agents = [
                train_on_probe(Path(folder), module, ProbeReward, seed=seed, **settings)
                for seed in range(given.seeds)
            ]
        words = " ".join(f"{key}={value}" for key, value in settings.items())
        rows.append(
            [name, words, *(f"{distance_from_optimum(agent):.3f}" for agent in agents)]
        )
        print(*rows[-1], sep="  ", flush=True)
    if given.csv:
        with Path(given.csv).open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])


if __name__ == "__main__":
    main(sys.argv[1:])
