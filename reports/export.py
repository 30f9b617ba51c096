"""Exports a study: what a report reads of its runs, in two files without local paths."""

import csv
import io
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from configs.run_folder import COLUMNS, COMMAND_LINE, PRESET, values_by_name
from reports.reading import read_study
from reports.results import CURVES, RUNS, Result, real_folder, shown_value
from utils.errors import DamagedFile, UserError, join_first, printable
from utils.files import read_json, write_json, write_text

NOT_KEPT = {
    "save_dir",
    "run_group",
    "ogbench_dataset_dir",
    "robomimic_dataset_dir",
    "compilation_cache_dir",
    "arrays_dir",
}


def export(results: list[Result], out: Path) -> int:
    """Write what a report reads of the runs, with each run's command and without local paths,
    into `out`: runs.json and curves.csv. Returns the number of runs.

    Raises UserError, before anything is written, for runs of one name in several folders, for
    a folder that holds other runs, and for a file that is a link out of its run.
    """
    results = [result for result in results if result.config]
    runs = {run_name(result): result for result in results}
    if len(runs) < len(results):
        raise UserError(
            "--export: several folders hold a run of the same name; export each of them to a"
            " folder of its own"
        )
    check_place(out, runs)
    check_nothing_is_lost(out, runs)
    for result in results:
        check_inside(real_folder(result))
    out.mkdir(parents=True, exist_ok=True)
    kept = {name: {"config": kept_config(r.config)} for name, r in runs.items()}
    for name, result in runs.items():
        kept[name] |= {"concerns": result.concerns} if result.concerns else {}
    write_json(out / RUNS, kept)
    write_curves(runs, out / CURVES)
    return len(runs)


def check_place(out: Path, runs: dict[str, Result]) -> None:
    """Raise UserError for a place that is no folder or that holds run folders, which reports
    would no longer find: they do not look for runs below a study.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--export={out}: it is no folder; give another one")
    place = out.resolve()
    for result in runs.values():
        folder = real_folder(result)
        if folder.is_dir() and folder.is_relative_to(place):
            raise UserError(
                f"--export={out}: it holds the run {printable(folder)}, which reports would no"
                " longer find; give a folder of its own"
            )


def check_nothing_is_lost(out: Path, runs: dict[str, Result]) -> None:
    """Raise UserError if a folder holds runs that an export of others would replace."""
    if lost := sorted(names_in(out) - runs.keys()):
        raise UserError(
            f"--export={out}: it holds other runs, {join_first(lost)}; give another folder,"
            " or list this one too among the folders to read"
        )
    shorter = [
        name
        for name, steps in steps_in(out).items()
        if not steps <= set(runs[name].evaluations["step"].tolist())
    ]
    if shorter:
        raise UserError(
            f"--export={out}: it holds evaluations that the runs no longer have, of"
            f" {join_first(shorter)}; give another folder, or delete it first"
        )


def steps_in(out: Path) -> dict[str, set[float]]:
    """Return the evaluated steps of each run that a folder holds; {} if it is damaged."""
    try:
        before = read_study(out)
    except DamagedFile:
        return {}
    return {run_name(r): set(r.evaluations["step"].tolist()) for r in before}


def names_in(out: Path) -> set[str]:
    """Return the names of the runs that a folder holds. Raises UserError if it is damaged."""
    try:
        before = read_json(out / RUNS)
    except DamagedFile as error:
        raise UserError(
            f"--export={out}: {error.fault}; restore the file, or give another folder"
        ) from error
    if before is None and (out / CURVES).exists():
        raise UserError(
            f"--export={out}: it holds {CURVES} but no {RUNS}; restore it, or give another"
            " folder"
        )
    return set(before or {})


def run_name(result: Result) -> str:
    """The name of a run among others: its task and its folder."""
    folder = real_folder(result)
    return f"{folder.parent.name}/{folder.name}"


def check_inside(folder: Path) -> None:
    """Raise UserError for a file that is a link to one outside its run."""
    for name in ("config.json", "train.csv", "eval.csv", "concerns.json"):
        target = (folder / name).resolve()
        if not target.is_relative_to(folder):
            raise UserError(
                f"--export: {printable(folder / name)} is a link to a place outside its run;"
                " put a copy there, or remove it"
            )


def kept_config(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json without local paths, and with the run's command."""
    flags = config["flags"]
    return config | {
        "agent_file": shown_file(config),
        "flags": {name: value for name, value in flags.items() if name not in NOT_KEPT},
        "command": command(config),
    }


def write_curves(runs: dict[str, Result], path: Path) -> None:
    """Write the evaluations and the columns of train.csv that a report reads: a line for each
    run and step, sorted, with empty cells for what is absent.
    """
    names = [*COLUMNS["eval.csv"], *COLUMNS["train.csv"][1:]]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["run", *names])
    for run, result in runs.items():
        lines: dict[int, dict[str, float]] = {}
        for columns in (result.evaluations, result.training):
            for i, step in enumerate(columns["step"]):
                cells = {n: values[i] for n, values in columns.items() if n != "step"}
                lines.setdefault(int(step), {}).update(cells)
        for step, cells in sorted(lines.items()):
            shown = [shown_number(name, cells.get(name)) for name in names[1:]]
            if any(shown):
                writer.writerow([run, step, *shown])
    write_text(path, file.getvalue())


def shown_number(name: str, cell: float | None) -> str:
    """Nine digits, all of them for success, so that equal rates stay equal; nothing for what is
    absent or NaN.
    """
    if cell is None or np.isnan(cell):
        return ""
    return repr(float(cell)) if name == "success" else f"{cell:.9g}"


def shown_file(config: dict[str, Any]) -> str:
    """The agent file and its folder: agents/trqam.py."""
    return "/".join(Path(config["agent_file"]).parts[-2:])


def command(config: dict[str, Any]) -> str:
    """The command that makes a run of this config.json, without local paths."""
    if "command" in config:
        return config["command"]
    flags, sources = config["flags"], config["sources"]
    values = values_by_name(flags, config["agent"])
    shown_first = {
        "agent": shown_file(config),
        "env_name": values["env_name"],
        "seed": values["seed"],
    }
    presets = {source for source in sources.values() if source.startswith(PRESET)}
    words = [f"--{name}={value}" for name, value in shown_first.items()]
    words += [f"--preset={preset.removeprefix(PRESET)}" for preset in presets]
    words += [
        f"--{name}={shown_value(values[name])}"
        for name, source in sources.items()
        if is_repeated(name, source) and name in values
    ]
    return shlex.join(["python", "main.py", *words])


def is_repeated(name: str, source: str) -> bool:
    """Whether the command of a run gives a flag besides agent, task, seed and preset."""
    # --horizon_length sets agent.horizon_length
    shown_first = ("env_name", "seed", "num_seeds", "agent.horizon_length")
    return source == COMMAND_LINE and name not in (*shown_first, *NOT_KEPT)
