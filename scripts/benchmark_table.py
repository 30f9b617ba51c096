"""Everything about speed on this machine: seeds, precisions, sizes, data, evaluation, and the
hours of the whole table.

    python scripts/benchmark_table.py --out=results/speed_cpu.json
    python scripts/benchmark_table.py --out=results/speed.json --only=bc  # added to it
    python scripts/benchmark_table.py --out=tiny.json --tiny          # all of it, tiny networks

Each measurement is a process of scripts/benchmark.py or scripts/benchmark_data.py. What the
file holds already is not measured again, so that a run that was cut short goes on. At the end
the tables are printed as Markdown.
"""

import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import app, flags

from configs.domains import DOMAINS
from utils.files import read_json, write_json

FLAGS = flags.FLAGS
flags.DEFINE_string("out", None, "JSON file for the figures", required=True)
flags.DEFINE_list("only", [], "names of the measurements wanted; all of them if empty")
flags.DEFINE_boolean("tiny", False, "tiny networks and little data, to try the command itself")
flags.DEFINE_float("timeout", 1800.0, "seconds that one measurement may take")

TRQAM, BC = "--agent=agents/trqam.py", "--agent=agents/bc.py"
OTHERS = ("qam", "qam_edit", "qam_fql", "sqam", "fql", "ifql", "dsrl", "cgql")
WIDE_ACTOR, WIDE_CRITIC = (
    f"--agent.{kind}_hidden_dims=(1024,1024,1024,1024)" for kind in ("actor", "value")
)
MEASUREMENTS = {
    "trqam": [TRQAM, "--seeds=1,2,4,8", "--stages"],
    "trqam one by one": [TRQAM, "--seeds=1,8", "--updates=1", "--blocks=5"],
    "trqam 16 seeds": [TRQAM, "--seeds=16", "--blocks=5"],
    "bc": [BC, "--seeds=1,8"],
    "bc blocks of 20": [BC, "--seeds=1", "--updates=20"],
    "trqam 1 seed": [TRQAM, "--seeds=1"],
    "trqam scalar adjoint": [TRQAM, "--seeds=1", "--agent.adjoint=scalar"],
    **{name: [f"--agent=agents/{name}.py", "--seeds=1"] for name in OTHERS},
    "trqam highest": [TRQAM, "--seeds=1,8", "--matmul_precision=highest", "--blocks=5"],
    "trqam bfloat16": [TRQAM, "--seeds=1,8", "--matmul_precision=bfloat16", "--blocks=5"],
    "bc highest": [BC, "--seeds=1", "--matmul_precision=highest"],
    "trqam profile": [TRQAM, "--seeds=1", "--blocks=5", "--trace=FOLDER"],
    "trqam width 1024": [TRQAM, "--seeds=1,8", "--blocks=5", WIDE_ACTOR, WIDE_CRITIC],
    "trqam one by one width 1024": [
        TRQAM,
        "--seeds=1,8",
        "--updates=1",
        "--blocks=5",
        WIDE_ACTOR,
        WIDE_CRITIC,
    ],
    "bc width 1024": [BC, "--seeds=1,8", WIDE_ACTOR],
    "trqam K 5": [TRQAM, "--seeds=1", "--agent.flow_steps=5"],
    "trqam K 20": [TRQAM, "--seeds=1", "--agent.flow_steps=20", "--blocks=5"],
    "trqam 10M rows": [TRQAM, "--seeds=1", "--transitions=10_000_000", "--blocks=5"],
    "evaluation": [TRQAM, "--seeds=1", "--blocks=5", "--evaluate", "--episodes=50"],
    "data": ["--rows=1_000_000,10_000_000,100_000_000", "--readers=1,2,16"],
}
TINY = [
    "--agent.actor_hidden_dims=(16,16)",
    "--agent.batch_size=8",
    "--transitions=5000",
    "--blocks=5",
]
TINY_CRITIC = [
    "--agent.value_hidden_dims=(16,16)",
    "--agent.num_qs=2",
    "--agent.flow_steps=2",
    "--episodes=2",
]
TINY_DATA = ["--rows=10_000", "--readers=1", "--seconds=0.2", "--updates_per_call=2"]

TASKS, SEEDS = 5, 8  # of a domain, of a task
# of a domain and seed; of a task and seed
BC_UPDATES, OFFLINE_UPDATES, ONLINE_STEPS = 300_000, 1_000_000, 500_000
# of a run, of an evaluation; of an episode that fails, mean of the domains
EVALUATIONS, EPISODES, STEPS = 33, 50, 1025


def measure(words: list[str], tiny: bool) -> dict[str, Any]:
    """Run one measurement in a process of its own -> its JSON object; an error says what came
    instead.
    """
    data = words[0].startswith("--rows")
    script = Path(__file__).with_name("benchmark_data.py" if data else "benchmark.py")
    if tiny:
        more = TINY_DATA if data else TINY + (TINY_CRITIC if BC not in words else [])
        words = [word for word in words if "hidden_dims" not in word] + more
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            str(script),
            *(word.replace("FOLDER", folder) for word in words),
            "--json",
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=FLAGS.timeout, check=False
            )
        except subprocess.TimeoutExpired:
            return {"error": f"took longer than {FLAGS.timeout:g} s"}
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    if not lines:
        return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1]}
    # As anybody would give it, without the places of this machine.
    return json.loads(lines[-1]) | {
        "command": shlex.join(["python", f"scripts/{script.name}", *words, "--json"])
    }


def shown(value: float | None, form: str) -> str:
    """A figure, or a dash for one that could not be had."""
    return "-" if value is None else format(value, form)


def rows_of(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row for each measurement of updates and number of seeds."""
    rows: list[tuple[str, ...]] = []
    for name, result in found.items():
        for i, row in enumerate(result.get("by_seeds", [])):
            rows.append(
                (
                    name,
                    str(row["seeds"]),
                    str(result["updates_per_block"]),
                    shown(result["gflop_per_update"], ".1f"),
                    f"{row['updates_per_s']:.4g}",
                    f"{row['seed_updates_per_s']:.4g}",
                    shown(row["fraction_of_peak"], ".2f"),
                    "" if i else f"{result['peak_memory_bytes'] / 1e9:.1f}",
                )
            )
    return rows


def hours(found: dict[str, Any]) -> dict[str, float]:
    """Projected hours of the whole table on one such machine, for each part that can be
    projected from what was measured.

    Networks have the width of their domain. Online, an update follows each environment step, so
    a call has one update. The environments step at the speed of puzzle-4x4, which was measured.
    """
    tasks, parts = len(DOMAINS) * TASKS, {}

    def rate(name: str) -> float:
        return max(
            (row["seed_updates_per_s"] for row in found.get(name, {}).get("by_seeds", [])),
            default=0.0,
        )

    for part, agent, updates in (
        ("behaviour cloning", "bc", SEEDS * BC_UPDATES),
        ("updates offline", "trqam", SEEDS * TASKS * OFFLINE_UPDATES),
        ("updates online", "trqam one by one", SEEDS * TASKS * ONLINE_STEPS),
    ):
        rates = {512: rate(agent), 1024: rate(f"{agent} width 1024")}
        if all(rates.values()):
            parts[part] = (
                sum(updates / rates[domain.width] for domain in DOMAINS.values()) / 3600
            )
    measured_all = len(parts) == 3
    speeds = {
        row["workers"]: row["steps_per_s"]
        for row in found.get("evaluation", {}).get("evaluation", [])
    }
    if 1 in speeds:
        parts["environment steps online, all seeds side by side"] = (
            tasks * ONLINE_STEPS / speeds[1] / 3600
        )
        training = sum(parts.values())
        steps = tasks * SEEDS * EVALUATIONS * EPISODES * STEPS
        parts["evaluation, if every episode failed"] = steps / max(speeds.values()) / 3600
        if measured_all:
            parts |= {
                "training alone": training,
                "training, then evaluation": sum(parts.values()),
            }
    return parts


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    return "\n".join(
        "| " + " | ".join(row) + " |" for row in (header, ("---",) * len(header), *rows)
    )


def report(found: dict[str, Any]) -> str:
    """All tables as Markdown."""
    header = (
        "measurement",
        "seeds",
        "block",
        "GFLOP per update",
        "updates/s",
        "seed-updates/s",
        "of peak",
        "peak GB, process",
    )
    texts = [table(header, rows_of(found))]
    for name, result in found.items():
        if "error" in result:
            texts.append(f"{name}: {result['error']}")
        if seconds := result.get("stage_seconds"):
            texts.append(
                table(
                    (f"{name}: stage", "ms"),
                    [(stage, f"{1e3 * taken:.3g}") for stage, taken in seconds.items()],
                )
            )
        if profile := result.get("profile"):
            texts.append(
                f"{name}: the device is at work {profile['device_busy']:.1%} of the time"
            )
            texts.append(
                table(
                    ("kernels", "share"),
                    [(kind, f"{share:.1%}") for kind, share in profile["shares"].items()],
                )
            )
        if evaluations := result.get("evaluation"):
            names = (
                "workers",
                "seconds",
                "env_steps",
                "steps_per_s",
                "policy_rows",
                "policy_calls",
            )
            texts.append(
                table(names, [tuple(f"{row[key]:.4g}" for key in names) for row in evaluations])
            )
        if measurements := result.get("measurements"):
            columns = (
                "rows",
                "readers",
                "fastest_updates_per_s",
                "paced_updates_per_s",
                "paced_waiting",
            )
            texts.append(
                table(
                    columns,
                    [tuple(f"{row[key]:.4g}" for key in columns) for row in measurements],
                )
            )
    if parts := hours(found):
        what = f"the whole table ({len(DOMAINS) * TASKS} tasks, {SEEDS} seeds): hours"
        texts.append(
            table((what, ""), [(part, f"{value:.4g}") for part, value in parts.items()])
        )
    return "\n\n".join(texts)


def main(_: list[str]) -> None:
    """Measure what is wanted and missing, print the tables."""
    unknown = set(FLAGS.only) - set(MEASUREMENTS)
    if unknown:
        raise app.UsageError(
            f"--only: no measurement is called {sorted(unknown)}; there are:"
            f" {', '.join(MEASUREMENTS)}"
        )
    out = Path(FLAGS.out)
    found = read_json(out) or {}
    for name, words in MEASUREMENTS.items():
        if name in (FLAGS.only or MEASUREMENTS) and "error" in found.get(name, {"error": ""}):
            start = time.perf_counter()
            found[name] = measure(words, FLAGS.tiny)
            write_json(out, found)
            print(
                f"{name}: {time.perf_counter() - start:.0f} s {found[name].get('error', '')}",
                file=sys.stderr,
                flush=True,
            )
    print(report(found))


if __name__ == "__main__":
    app.run(main)
