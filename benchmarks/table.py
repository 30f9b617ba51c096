"""All measurements, and the projected hours of all runs.

    python scripts/benchmark.py table --out=results/speed_cpu.json
    python scripts/benchmark.py table --out=results/speed.json --only=bc  # added to it
    python scripts/benchmark.py table --out=tiny.json --tiny          # all of it, tiny networks

Measures seeds, precisions, sizes, data on the host and evaluation, each in a process of another
benchmark. Measurements that the file already holds are skipped, so the same command resumes an
interrupted run. At the end it prints tables in Markdown.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from configs.agent_file import load_source
from configs.agent_source import ROOT
from configs.domains import DOMAINS
from utils.command_line import output_file, positive_float
from utils.errors import UserError
from utils.files import read_json, write_json

SCRIPT = "scripts/benchmark.py"

TRQAM = ("update", "--agent=agents/trqam.py")
BC = ("update", "--agent=agents/bc.py")
OTHERS = (
    *("qam", "qam_edit", "qam_fql", "sqam", "fql", "ifql", "dsrl", "cgql"),
    *("fedit", "fbrac", "bam", "fawac", "qsm", "dac", "rebrac", "rlpd"),
)
WIDE_ACTOR = "--agent.actor_hidden_dims=(1024,1024,1024,1024)"
WIDE_CRITIC = "--agent.value_hidden_dims=(1024,1024,1024,1024)"
MEASUREMENTS = {
    "trqam": [*TRQAM, "--seeds=1,2,4,8", "--stages"],
    "trqam one by one": [*TRQAM, "--seeds=1,8", "--updates=1", "--blocks=5"],
    "trqam 16 seeds": [*TRQAM, "--seeds=16", "--blocks=5"],
    "bc": [*BC, "--seeds=1,8"],
    "bc blocks of 20": [*BC, "--seeds=1", "--updates=20"],
    "trqam 1 seed": [*TRQAM, "--seeds=1"],
    "trqam scalar adjoint": [
        "update",
        "--agent=agents/trqam_scalar_adjoint.py",
        "--seeds=1",
    ],
    **{name: ["update", f"--agent=agents/{name}.py", "--seeds=1"] for name in OTHERS},
    "trqam highest": [
        *TRQAM,
        "--seeds=1,8",
        "--matmul_precision=highest",
        "--blocks=5",
    ],
    "bc highest": [*BC, "--seeds=1", "--matmul_precision=highest"],
    "trqam profile": [*TRQAM, "--seeds=1", "--blocks=5", "--trace=FOLDER"],
    "trqam width 1024": [*TRQAM, "--seeds=1,8", "--blocks=5", WIDE_ACTOR, WIDE_CRITIC],
    "trqam one by one width 1024": [
        *TRQAM,
        "--seeds=1,8",
        "--updates=1",
        "--blocks=5",
        WIDE_ACTOR,
        WIDE_CRITIC,
    ],
    "bc width 1024": [*BC, "--seeds=1,8", WIDE_ACTOR],
    "trqam K 5": [*TRQAM, "--seeds=1", "--agent.flow_steps=5"],
    "trqam K 20": [*TRQAM, "--seeds=1", "--agent.flow_steps=20", "--blocks=5"],
    "trqam 10M rows": [*TRQAM, "--seeds=1", "--transitions=10_000_000", "--blocks=5"],
    "evaluation": [*TRQAM, "--seeds=1", "--blocks=5", "--evaluate", "--episodes=50"],
    "data": ["data", "--rows=1_000_000,10_000_000,100_000_000", "--readers=1,2,16"],
}
TINY = [
    "--agent.actor_hidden_dims=(16,16)",
    "--agent.batch_size=8",
    "--transitions=5000",
    "--blocks=5",
    "--agent.value_hidden_dims=(16,16)",
    "--agent.num_qs=2",
    "--agent.flow_steps=2",
    "--episodes=2",
]
TINY_DATA = ["--rows=10_000", "--readers=1", "--seconds=0.2", "--updates_per_call=2"]

TASKS = 5  # per domain
SEEDS = 8  # per task
BC_UPDATES = 300_000  # per domain and seed
OFFLINE_UPDATES = 1_000_000  # per task and seed
ONLINE_STEPS = 500_000  # per task and seed
EVALUATIONS = 1 + (OFFLINE_UPDATES + ONLINE_STEPS) // 50_000  # per run, --eval_interval
EPISODES = 50  # per evaluation
STEPS = 1025  # of an episode that fails, mean over the domains


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this benchmark."""
    doc = "JSON file for the figures, written after each measurement"
    parser.add_argument(
        "--out", type=output_file, required=True, metavar="FILE", help=doc
    )
    doc = "comma-separated names of measurements; by default all"
    parser.add_argument("--only", default="", metavar="A,B", help=doc)
    doc = "tiny networks and little data, to try the command itself"
    parser.add_argument("--tiny", action="store_true", help=doc)
    doc = "seconds that one measurement may take (1800)"
    parser.add_argument(
        "--timeout", type=positive_float, default=1800.0, metavar="X", help=doc
    )


def tiny_words(words: list[str]) -> list[str]:
    """Return the arguments of a measurement with tiny networks and little data."""
    if words[0] == "data":
        return words + TINY_DATA
    settings = load_source(ROOT / words[1].removeprefix("--agent=")).module.get_config()
    known = tuple(f"--agent.{key}=" for key in settings)
    tiny = [
        word
        for word in TINY
        if not word.startswith("--agent.") or word.startswith(known)
    ]
    return [word for word in words if "hidden_dims" not in word] + tiny


def measure(words: list[str], timeout: float) -> dict[str, Any]:
    """Run one measurement in a separate process.

    Returns its JSON object, or {"error": message}.

    words: the arguments of scripts/benchmark.py; timeout: in seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        placed = [word.replace("FOLDER", folder) for word in words]
        command = [sys.executable, str(ROOT / SCRIPT), *placed, "--json"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            return {"error": f"took longer than {timeout:g} s"}
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    if not lines:
        return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1]}
    # without the temporary folder, so that the command can be repeated
    return json.loads(lines[-1]) | {
        "command": shlex.join(["python", SCRIPT, *words, "--json"])
    }


def measure_missing(
    measurements: dict[str, list[str]],
    out: Path,
    tiny: bool,
    seconds_left: Callable[[], float | None],
) -> dict[str, Any]:
    """Run the measurements that a file lacks, and return all of its figures.

    A failed measurement counts as missing, as does one of networks of another size.

    Args:
        measurements: the arguments of scripts/benchmark.py by name.
        out: the file, written after each measurement.
        tiny: whether to shrink the networks and the data.
        seconds_left: returns how long the next one may take; None: it waits for another run.
    """
    found = read_json(out) or {}
    for name, words in measurements.items():
        kept = found.get(name, {"error": "missing"})
        if "error" not in kept and kept.get("tiny", False) == tiny:
            continue
        timeout, start = seconds_left(), time.perf_counter()
        if timeout is None:
            message = f"{name}: no time left; the same command again measures it"
            print(message, file=sys.stderr)
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        found[name] = measure(tiny_words(words) if tiny else words, timeout)
        if tiny:
            found[name]["tiny"] = True
        write_json(out, found)
        took, error = time.perf_counter() - start, found[name].get("error", "")
        print(f"{name}: {took:.0f} s {error}", file=sys.stderr, flush=True)
    return found


SPEED_COLUMNS = (
    "measurement",
    "seeds",
    "block",
    "GFLOP per update",
    "updates/s",
    "seed-updates/s",
    "of peak",
    "peak GB, process",
)
EVALUATION_COLUMNS = (
    "workers",
    "seconds",
    "env_steps",
    "steps_per_s",
    "policy_rows",
    "policy_calls",
)
DATA_COLUMNS = (
    "rows",
    "readers",
    "fastest_updates_per_s",
    "paced_updates_per_s",
    "paced_waiting",
)


def format_figure(value: float | None, form: str) -> str:
    """Format a figure, or return a dash for None."""
    return "-" if value is None else format(value, form)


def rows_of(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return one table line for each measurement of updates and number of seeds."""
    lines: list[tuple[str, ...]] = []
    for name, result in found.items():
        for i, speed in enumerate(result.get("by_seeds", [])):
            cells = (
                name,
                str(speed["seeds"]),
                str(result["updates_per_block"]),
                format_figure(result["gflop_per_update"], ".1f"),
                f"{speed['updates_per_s']:.4g}",
                f"{speed['seed_updates_per_s']:.4g}",
                format_figure(speed["fraction_of_peak"], ".2f"),
                "" if i else f"{result['peak_memory_bytes'] / 1e9:.1f}",
            )
            lines.append(cells)
    return lines


def hours(found: dict[str, Any]) -> dict[str, float]:
    """Return the projected hours of the results table on one such machine, by part.

    Parts whose speed was not measured are left out. Networks have the width of their domain.
    Online, a call has one update, because each environment step is followed by an update. All
    environments are assumed to be as fast as puzzle-4x4.
    """
    tasks = len(DOMAINS) * TASKS
    parts: dict[str, float] = {}
    for part, agent, updates in (
        ("behaviour cloning", "bc", SEEDS * BC_UPDATES),
        ("updates offline", "trqam", SEEDS * TASKS * OFFLINE_UPDATES),
        ("updates online", "trqam one by one", SEEDS * TASKS * ONLINE_STEPS),
    ):
        rates = {
            512: best_rate(found, agent),
            1024: best_rate(found, f"{agent} width 1024"),
        }
        if all(rates.values()):
            needed = sum(updates / rates[domain.width] for domain in DOMAINS.values())
            parts[part] = needed / 3600
    measured_all = len(parts) == 3
    evaluations = found.get("evaluation", {}).get("evaluation", [])
    speeds = {figures["workers"]: figures["steps_per_s"] for figures in evaluations}
    if 1 in speeds:
        online = tasks * ONLINE_STEPS / speeds[1] / 3600
        parts["environment steps online, all seeds side by side"] = online
        training = sum(parts.values())
        steps = tasks * SEEDS * EVALUATIONS * EPISODES * STEPS
        parts["evaluation, if every episode failed"] = (
            steps / max(speeds.values()) / 3600
        )
        if measured_all:
            total = sum(parts.values())
            parts["training alone"] = training
            parts["training, then evaluation"] = total
    return parts


def best_rate(found: dict[str, Any], name: str) -> float:
    """Return the highest updates per second of all seeds together; 0 if not measured."""
    speeds = found.get(name, {}).get("by_seeds", [])
    return max((speed["seed_updates_per_s"] for speed in speeds), default=0.0)


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = (header, ("---",) * len(header), *rows)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def numbers_table(columns: tuple[str, ...], rows: list[dict[str, float]]) -> str:
    """Return a Markdown table of these columns, with four digits."""
    return table(columns, [tuple(f"{row[key]:.4g}" for key in columns) for row in rows])


def details(name: str, result: dict[str, Any]) -> Iterator[str]:
    """Yield the other results of a measurement as texts and Markdown tables."""
    if "error" in result:
        yield f"{name}: {result['error']}"
    if stages := result.get("stage_seconds"):
        rows = [(stage, f"{1e3 * taken:.3g}") for stage, taken in stages.items()]
        yield table((f"{name}: stage", "ms"), rows)
    if profile := result.get("profile"):
        yield f"{name}: the device is at work {profile['device_busy']:.1%} of the time"
        shares = [(kind, f"{share:.1%}") for kind, share in profile["shares"].items()]
        yield table(("kernels", "share"), shares)
    if evaluations := result.get("evaluation"):
        yield numbers_table(EVALUATION_COLUMNS, evaluations)
    if measurements := result.get("measurements"):
        yield numbers_table(DATA_COLUMNS, measurements)


def tables(found: dict[str, Any]) -> str:
    """Return all tables as Markdown."""
    texts = [table(SPEED_COLUMNS, rows_of(found))]
    for name, result in found.items():
        texts.extend(details(name, result))
    if parts := hours(found):
        what = f"the whole table ({len(DOMAINS) * TASKS} tasks, {SEEDS} seeds): hours"
        rows = [(part, f"{value:.4g}") for part, value in parts.items()]
        texts.append(table((what, ""), rows))
    return "\n\n".join(texts)


def wanted_names(only: str) -> list[str]:
    """Return the measurements that --only names; raise UserError for an unknown one."""
    names = only.split(",") if only else list(MEASUREMENTS)
    for name in names:
        if name not in MEASUREMENTS:
            known = ", ".join(MEASUREMENTS)
            raise UserError(
                f"--only={only}: no measurement is called {name!r}; give {known}"
            )
    return [name for name in MEASUREMENTS if name in names]


def run(options: argparse.Namespace) -> None:
    """Run the missing measurements and print the tables."""
    wanted = {name: MEASUREMENTS[name] for name in wanted_names(options.only)}
    found = measure_missing(wanted, options.out, options.tiny, lambda: options.timeout)
    print(tables(found))
