"""Run folders as main.py leaves them, with numbers that a test chooses."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

FLAGS = {
    "run_group": "sweep",
    "offline_steps": 1_000_000,
    "online_steps": 0,
    "eval_episodes": 50,
    "sparse": False,
}
AGENT = {
    "discount": 0.995,
    "lam_scale": 3.0,
    "lambda_min": 0.01,
    "lambda_max": 100.0,
    "kl_budget": 1.0,
}


def write_run(
    root: Path,
    env_name: str,
    seed: int,
    success: dict[int, float],
    agent: str = "trqam",
    kl: list[tuple[int, float, float]] | None = None,
    given: dict[str, Any] | None = None,
    hashed: str = "44136fa3",
    columns: int = 6,
    **changed: Any,
) -> Path:
    """Write a run with success rates by step; return its folder.

    `kl` are the lines (step, path KL, lam) of train.csv, and `given` is what the command line
    set.
    """
    given = given or {}
    flags = FLAGS | changed | {"env_name": env_name, "seed": seed}
    flags |= {
        key: value for key, value in given.items() if not key.startswith("agent.")
    }
    settings = AGENT | {
        key[6:]: value for key, value in given.items() if key.startswith("agent.")
    }
    folder = root / flags["run_group"] / env_name / f"{agent}_s{seed}_{hashed}"
    folder.mkdir(parents=True)
    sources = {
        name: "default" for name in (*flags, *(f"agent.{key}" for key in settings))
    }
    sources |= {name: "command line" for name in ("env_name", "seed", *given)}
    config = {
        "agent_file": f"agents/{agent}.py",
        "flags": flags,
        "agent": settings,
        "sources": sources,
    }
    config |= {
        "versions": {"jax": "0.10.2"},
        "commit": "c0ffee",
        "device": "cpu",
        "dataset": {"transitions": 1_000_000, "crc": 7},
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_csv(
        folder / "eval.csv",
        ("step", "episodes", "success"),
        [(step, 50, rate) for step, rate in success.items()],
    )
    if kl:
        others = [f"loss/{i}" for i in range(columns - 5)]
        header = (
            "step",
            "phase",
            *others,
            "dual/path_kl",
            "dual/kl_budget",
            "dual/lam",
        )
        lines = [
            (
                step,
                "offline",
                *[0.12345678] * len(others),
                value,
                settings["kl_budget"],
                lam,
            )
            for step, value, lam in kl
        ]
        write_csv(folder / "train.csv", header, lines)
    return folder


def write_csv(path: Path, header: tuple[str, ...], lines: list[tuple]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *lines])


def write_table(
    root: Path,
    tasks: list[str],
    seeds: int,
    level: dict[str, float],
    evaluations: int,
    logs: int,
    columns: int = 6,
) -> np.ndarray:
    """Write a run of every method, task and seed; return the final success [methods, tasks, seeds].

    Success grows linearly from 0. For method m, task t and seed s it ends at
    level[m] + (t mod 5 - 2) / 50 + (s mod 4 - 1.5) / 50. BC and QAM have no KL budget.
    """
    final = np.zeros((len(level), len(tasks), seeds))
    steps = [(k + 1) * 1_000_000 // logs for k in range(logs)]
    kl = [
        (step, 1.0 + 0.05 * (-1) ** k + 2.0 / (k + 1), 1.0 + k / logs)
        for k, step in enumerate(steps)
    ]
    for i, (method, base) in enumerate(level.items()):
        for j, task in enumerate(tasks):
            for s in range(seeds):
                final[i, j, s] = base + (j % 5 - 2) / 50 + (s % 4 - 1.5) / 50
                success = {
                    k * 1_000_000 // evaluations: final[i, j, s] * k / evaluations
                    for k in range(evaluations + 1)
                }
                write_run(
                    root,
                    task,
                    s,
                    success,
                    method,
                    None if method in ("bc", "qam") else kl,
                    columns=columns,
                )
    return final
