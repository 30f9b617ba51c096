"""What every agent reaches, with several seeds, on the probe whose best action is a = s.

    python tests/probe_table.py --seeds=3 --csv=results/probe.csv
    python tests/probe_table.py --seeds=3 --csv=results/probe.csv "--only=qsm;dac"  # only two

Tiny networks are trained for 1,500 updates on 3,000 uniformly random actions (ProbeReward in
envs/probe.py). The figure is mean |a - s|, which is 0.67 for uniform actions. No agent that
stays close to its data reaches 0: behaviour cloning shows where they start, and the target
entropy of DSRL alone is a spread of about 0.17.
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


def read_cells(path: str) -> list[list[str]]:
    """The lines of a table that was written earlier, without its header."""
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
    options = parser.parse_args(arguments)
    header = ["agent", "settings", *(f"seed {seed}" for seed in range(options.seeds))]
    lines = []
    kept = {line[0]: line for line in read_cells(options.csv)} if options.only else {}
    for name, (module, settings) in ({"bc": (bc, {})} | FLOWS | AGENTS).items():
        if options.only and name not in options.only.split(";"):
            lines += [kept[name]] if name in kept else []
            continue
        with tempfile.TemporaryDirectory() as folder:
            agents = [
                train_on_probe(Path(folder), module, ProbeReward, seed=seed, **settings)
                for seed in range(options.seeds)
            ]
        words = " ".join(f"{key}={value}" for key, value in settings.items())
        lines.append(
            [name, words, *(f"{distance_from_optimum(agent):.3f}" for agent in agents)]
        )
        print(*lines[-1], sep="  ", flush=True)
    if options.csv:
        with Path(options.csv).open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *lines])


if __name__ == "__main__":
    main(sys.argv[1:])
