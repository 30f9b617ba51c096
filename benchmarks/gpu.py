"""The first measurements of a GPU, in 8 minutes.

    python scripts/benchmark.py gpu                  # results/speed_<device>.json
    python scripts/benchmark.py gpu --tiny --out=tiny.json

Each measurement is a process of another benchmark: the candidates of
training/compile_options.py in turns; 1, 2, 4, 8 and 16 seeds; networks of width 1024, one
update at a time and cloning, for the hours of the table; an evaluation of 50 episodes. The file
keeps what was measured: a run that was cut short resumes, and a measurement for which no time
is left is named and waits for the next run. It runs on a CPU too, but takes longer.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import table
from configs.agent_source import ROOT
from utils.command_line import output_file, positive_float
from utils.errors import RunError

SECONDS = 480.0
LEAST = 20.0  # seconds; with less no measurement starts
FAST = "--blocks=5"
MEASUREMENTS = {
    "compile options": [*table.TRQAM, "--seeds=1,8", "--candidates", FAST],
    "trqam": [*table.TRQAM, "--seeds=1,2,4,8,16", FAST],
    "evaluation": [*table.TRQAM, "--seeds=1", FAST, "--evaluate", "--episodes=50"],
} | {
    name: [*table.MEASUREMENTS[name], FAST]
    for name in (
        *("trqam one by one", "bc", "trqam width 1024", "bc width 1024"),
        "trqam one by one width 1024",
    )
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this benchmark."""
    doc = "JSON file for the figures (results/speed_<device>.json)"
    parser.add_argument("--out", type=output_file, metavar="FILE", help=doc)
    doc = "seconds for all measurements of this run (480)"
    parser.add_argument(
        "--seconds", type=positive_float, default=SECONDS, metavar="X", help=doc
    )
    doc = "tiny networks and little data, to try the command itself"
    parser.add_argument("--tiny", action="store_true", help=doc)


def device_file() -> Path:
    """results/speed_<device>.json; another process asks, since the one that opens a GPU keeps
    most of its memory. Raises RunError where JAX finds no device.
    """
    program = "import jax; print(jax.devices()[0].device_kind)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RunError(
            f"JAX finds no device: {(done.stderr.strip() or 'no reason')[-200:]}"
        )
    kind = done.stdout.strip().splitlines()[-1].lower()
    return ROOT / "results" / f"speed_{re.sub('[^a-z0-9]+', '_', kind).strip('_')}.json"


def fastest_options(found: dict[str, Any]) -> str:
    """The speeds of the compile options relative to training's, as a sentence."""
    rows = found.get("compile options", {}).get("by_seeds", [])
    base = {
        row["seeds"]: row["updates_per_s"]
        for row in rows
        if row["compiled_as"] == "training"
    }
    ratios = [
        f"{row['compiled_as']} {row['updates_per_s'] / base[row['seeds']]:.2f} ({row['seeds']}"
        " seeds)"
        for row in rows
        if row["compiled_as"] != "training"
    ]
    if not ratios:
        return ""
    return f"speed relative to training's options: {', '.join(ratios)}"


def run(options: argparse.Namespace) -> None:
    """Measure what is missing while time is left, and print the tables."""
    out, deadline = options.out or device_file(), time.monotonic() + options.seconds

    def seconds_left() -> float | None:
        left = deadline - time.monotonic()
        return left if left >= LEAST else None

    found = table.measure_missing(MEASUREMENTS, out, options.tiny, seconds_left)
    print(table.tables(found))
    print(fastest_options(found))
    print(f"kept in {json.dumps(str(out))}")
