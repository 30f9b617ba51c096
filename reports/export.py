"""Copies of runs that hold what a report reads, and no places."""

import csv
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from reports.results import Result, _shown, real_folder
from utils.errors import UserError, printable
from utils.files import write_json

COPIED = ("eval.csv", "done.json")
NOT_KEPT = {
    "save_dir",
    "run_group",
    "ogbench_dataset_dir",
    "compilation_cache_dir",
    "arrays_dir",
}


def export(results: list[Result], out: Path) -> int:
    """Copy what a report reads of each run (no checkpoints, no other columns, no places) below
    `out`; returns the number of runs.

    The copies are run folders, <out>/<env_name>/<agent>_s<seed>_<hash>/, and their config.json
    holds the run's command. Raises UserError, before anything is written, for runs of one name
    in several places and for a file that is a link out of its run.
    """
    results = [result for result in results if result.config]
    folders = [real_folder(result) for result in results]
    names = [Path(folder.parent.name, folder.name) for folder in folders]
    runs = dict(zip(names, results, strict=True))
    if len(runs) < len(results):
        raise UserError(
            "--export: runs of one name lie in several of the folders; export them one after"
            " the other"
        )
    for folder in folders:
        check_inside(folder)
    for name, result in runs.items():
        export_run(result, out / name)
    return len(runs)


def check_inside(folder: Path) -> None:
    """Raise UserError for a file to copy that is a link to a place outside its run."""
    for name in ("config.json", "train.csv", *COPIED):
        target = (folder / name).resolve()
        if not target.is_relative_to(folder):
            raise UserError(
                f"--export: {printable(folder / name)} is a link to a place outside its run;"
                " put a copy there, or remove it"
            )


def export_run(result: Result, out: Path) -> None:
    """Copy what a report reads of one run into a folder, which is made."""
    out.mkdir(parents=True, exist_ok=True)
    flags = without_place(result.config["flags"])
    kept = {
        "agent_file": shown_file(result.config),
        "flags": {name: value for name, value in flags.items() if name not in NOT_KEPT},
        "command": command(result.config),
    }
    write_json(out / "config.json", result.config | kept)
    for name in COPIED:
        if (result.folder / name).exists():
            shutil.copyfile(result.folder / name, out / name)
    write_training(result, out / "train.csv")


def write_training(result: Result, path: Path) -> None:
    """Write the columns of train.csv that a report reads, those that have any number."""
    columns = [name for name, cells in result.training.items() if np.isfinite(cells).any()]
    with path.open("w", newline="") as log:
        writer = csv.writer(log, lineterminator="\n")
        writer.writerow(columns)
        for step, *cells in zip(*(result.training[name] for name in columns), strict=True):
            writer.writerow([int(step), *(f"{cell:.6g}" for cell in cells)])


def without_place(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags, with the name alone of the base that a run started from."""
    base = flags.get("pretrained_actor_path")
    return flags | {"pretrained_actor_path": Path(base).name} if base else flags


def shown_file(config: dict[str, Any]) -> str:
    """The agent file without its place: agents/trqam.py."""
    return "/".join(Path(config["agent_file"]).parts[-2:])


def command(config: dict[str, Any]) -> str:
    """The command that makes a run of this config.json, without its places: of a base, only the
    name is left.
    """
    if "command" in config:
        return config["command"]
    flags, sources = without_place(config["flags"]), config["sources"]
    values = flags | {f"agent.{key}": value for key, value in config["agent"].items()}
    shown_first = {
        "agent": shown_file(config),
        "env_name": values["env_name"],
        "seed": values["seed"],
    }
    presets = {source for source in sources.values() if source.startswith("preset ")}
    words = [f"--{name}={value}" for name, value in shown_first.items()]
    words += [f"--preset={preset.removeprefix('preset ')}" for preset in presets]
    words += [
        f"--{name}={_shown(values[name])}"
        for name, source in sources.items()
        if is_repeated(name, source) and name in values
    ]
    return shlex.join(["python", "main.py", *words])


def is_repeated(name: str, source: str) -> bool:
    """Whether the command of a run gives a flag besides agent, task, seed and preset."""
    shown_first = ("env_name", "seed", "num_seeds")
    return source == "command line" and name not in (*shown_first, *NOT_KEPT)
