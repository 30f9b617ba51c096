"""Copies of runs that hold what a report reads, and no places."""

import csv
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from reports.results import Result, _shown
from utils.errors import UserError
from utils.files import write_json

NOT_KEPT = {
    "save_dir",
    "run_group",
    "ogbench_dataset_dir",
    "compilation_cache_dir",
    "arrays_dir",
}


def export(results: list[Result], out: Path) -> int:
    """Copy what a report reads of each run (no checkpoints, no other columns, no places) below
    `out` -> how many.

    The copies are run folders, <out>/<env_name>/<agent>_s<seed>_<hash>/, and their config.json
    holds the run's command. Raises UserError for a run of the same name in several places.
    """
    runs = {
        (result.folder.parent.name, result.folder.name): result
        for result in results
        if result.config
    }
    if len(runs) < sum(bool(result.config) for result in results):
        raise UserError(
            "--export: runs of one name lie in several of the folders; export them one after"
            " the other"
        )
    for (task, name), result in runs.items():
        folder = out / task / name
        folder.mkdir(parents=True, exist_ok=True)
        flags = {
            key: value
            for key, value in without_place(result.config["flags"]).items()
            if key not in NOT_KEPT
        }
        file = "/".join(Path(result.config["agent_file"]).parts[-2:])
        kept = {"agent_file": file, "flags": flags, "command": command(result.config)}
        write_json(folder / "config.json", result.config | kept)
        for copied in ("eval.csv", "done.json"):
            if (result.folder / copied).exists():
                shutil.copyfile(result.folder / copied, folder / copied)
        columns = [
            column for column, values in result.training.items() if np.isfinite(values).any()
        ]
        with (folder / "train.csv").open("w", newline="") as log:
            writer = csv.writer(log, lineterminator="\n")
            writer.writerow(columns)
            for row in zip(*(result.training[column] for column in columns), strict=True):
                writer.writerow(
                    [f"{value:.6g}" if i else int(value) for i, value in enumerate(row)]
                )
    return len(runs)


def without_place(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags, with the name alone of the base that a run started from."""
    base = flags.get("pretrained_actor_path")
    return flags | {"pretrained_actor_path": Path(base).name} if base else flags


def command(config: dict[str, Any]) -> str:
    """The command that makes a run of this config.json, without its places: of a base, only the
    name is left.
    """
    if "command" in config:
        return config["command"]
    values = without_place(config["flags"]) | {
        f"agent.{key}": value for key, value in config["agent"].items()
    }
    given = [
        name
        for name, source in config["sources"].items()
        if source == "command line" and name not in NOT_KEPT
    ]
    presets = {
        source.removeprefix("preset ")
        for source in config["sources"].values()
        if source.startswith("preset ")
    }
    file = Path(config["agent_file"])
    words = [
        f"--agent={'/'.join(file.parts[-2:])}",
        f"--env_name={values['env_name']}",
        f"--seed={values['seed']}",
    ]
    words += [f"--preset={preset}" for preset in presets]
    words += [
        f"--{name}={_shown(values[name])}"
        for name in given
        if name not in ("env_name", "seed", "num_seeds")
    ]
    return shlex.join(["python", "main.py", *words])
