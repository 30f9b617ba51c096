"""Reading what runs have measured, from their folders, from studies and from published files.

Reads while runs are being written, changes nothing, and imports neither jax nor a simulator.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from configs.run_folder import (
    COLUMNS,
    COMMAND_LINE,
    PRESET,
    Columns,
    abridged,
    check_config,
    checked_columns,
    checked_concerns,
    checked_evaluations,
    read_columns,
    read_concerns,
    read_done,
    read_evaluations,
    values_by_name,
)
from envs.tasks import resolve_alias
from reports.naming import name_methods, without_doubles
from reports.published_pickles import AXES, Curves, read_curves
from reports.results import CURVES, NOT_A_METHOD, RUNS, Result
from utils.csv_log import read_cells
from utils.errors import DamagedFile, UserError, join_first, printable
from utils.files import expanded, read_json


def run_folders(
    folders: Iterable[str | os.PathLike], notes: list[str] | None = None
) -> list[Path]:
    """Find all run and study folders at or below the given ones, following links, each once.

    Raises UserError for a given one that is not there.

    notes: where folders that cannot be read are named.
    """
    notes = [] if notes is None else notes
    left = [expanded(folder) for folder in folders]
    for folder in left:
        if not folder.is_dir():
            raise UserError(f"{printable(folder)}: there is no such folder")
    found: list[Path] = []
    seen: set[str] = set()
    # `left` grows: links come last, so that runs go by their own path
    for folder in left:
        runs, links = search(folder, seen, notes)
        found += runs
        left += links
    return found


def search(
    top: Path, seen: set[str], notes: list[str]
) -> tuple[list[Path], list[Path]]:
    """The folders of runs and studies at or below one, and the links to other folders.

    Args:
        top: the folder where to begin.
        seen: the folders that were searched, with all links resolved: they are not searched
            again. Grows.
        notes: where folders that cannot be read are named. Grows.
    """

    def unreadable(error: OSError) -> None:
        notes.append(
            f"left out: {printable(error.filename)} cannot be read ({error.strerror})"
        )

    runs, links = [], []
    for folder, below, files in os.walk(top, onerror=unreadable):
        real = os.path.realpath(folder)
        holds_runs = RUNS in {*files, *below} or is_run_folder(Path(folder))
        if holds_runs and real not in seen:
            runs.append(Path(folder))
        if holds_runs or real in seen:
            below.clear()  # of a run: checkpoints and films
        seen.add(real)
        below.sort()
        links += [path for name in below if is_followed(path := Path(folder, name))]
    return runs, links


def is_run_folder(folder: Path) -> bool:
    """Whether a folder has the config.json of a run, or one that cannot be read."""
    try:
        config = read_json(folder / "config.json")
    except DamagedFile:
        return True
    return config is not None and is_run(folder, config)


def is_followed(path: Path) -> bool:
    """Whether a folder is a link, and not to a folder that holds the link."""
    if not path.is_symlink():
        return False
    target, parent = os.path.realpath(path), os.path.realpath(path.parent)
    return os.path.commonpath([target, parent]) != target


def read_run(folder: Path) -> Result | None:
    """The result in a run folder; None for a config.json of something else. Raises DamagedFile
    for a file that is not what a run writes.
    """
    config = read_json(folder / "config.json") or {}
    if not is_run(folder, config):
        return None
    check_config(folder / "config.json", config)
    read_done(folder)
    training = read_columns(folder / "train.csv")
    return result_of(
        folder, config, read_evaluations(folder), training, read_concerns(folder)
    )


def result_of(
    folder: Path,
    config: dict[str, Any],
    evaluations: Columns,
    training: Columns,
    concerns: dict[str, str],
) -> Result:
    """The result of a run.

    Args:
        folder: of the run.
        config: its config.json, checked.
        evaluations: the columns of its eval.csv.
        training: the columns of its train.csv.
        concerns: the agent's warnings.
    """
    flags = with_names_of_paths(config["flags"])
    config = config | {"flags": flags}
    agent = printable(Path(config["agent_file"]).stem)
    return Result(
        method=agent,
        agent=agent,
        overrides=overrides_of(config),
        env_name=printable(resolve_alias(flags["env_name"])),
        seed=flags["seed"],
        folder=folder,
        config=config,
        evaluations=evaluations,
        training=training,
        offline_steps=flags["offline_steps"],
        online_steps=flags["online_steps"],
        concerns=concerns,
    )


def read_study(folder: Path) -> list[Result]:
    """The results of the runs in a folder of `reports.export`; raises DamagedFile."""
    path = folder / CURVES
    stored = read_json(folder / RUNS) or {}
    header, *lines = read_cells(path) or [[]]
    names = dict.fromkeys((*COLUMNS["eval.csv"], *COLUMNS["train.csv"]))
    columns = checked_columns(path, tuple(names), header, lines)
    run_of_line = np.array([line[0] if line else "" for line in lines], dtype=str)
    if unknown := set(run_of_line.tolist()) - stored.keys():
        raise DamagedFile(path, f"{abridged(min(unknown))} is not a run of {RUNS}")
    return [
        kept_result(
            folder,
            name,
            run,
            {column: cells[run_of_line == name] for column, cells in columns.items()},
        )
        for name, run in stored.items()
    ]


def kept_result(folder: Path, name: str, run: Any, columns: Columns) -> Result:
    """The result of one run of a study; raises DamagedFile.

    Args:
        folder: of the study.
        name: the run's task and folder.
        run: its entry in the file of runs.
        columns: of the file of curves, with the run's lines alone.
    """
    config = run.get("config") if isinstance(run, dict) else None
    if not isinstance(config, dict):
        raise DamagedFile(folder / RUNS, f"{abridged(name)} has no config")
    check_config(folder / RUNS, config)
    concerns = checked_concerns(folder / RUNS, run.get("concerns", {}))
    parts = []
    for names in (COLUMNS["eval.csv"], COLUMNS["train.csv"]):
        there = np.any([np.isfinite(columns[column]) for column in names[1:]], axis=0)
        parts.append({column: columns[column][there] for column in names})
    evaluations = checked_evaluations(folder / CURVES, parts[0])
    return result_of(folder / name, config, evaluations, parts[1], concerns)


def is_run(folder: Path, config: dict[str, Any]) -> bool:
    """Whether a folder belongs to a run, even a damaged one, by its config.json or the files
    beside it.
    """
    entries = {"agent_file", "flags", "agent", "sources"} & config.keys()
    beside = (*COLUMNS, "done.json", "checkpoints")
    return bool(entries) or any(os.path.lexists(folder / name) for name in beside)


def with_names_of_paths(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags, with the paths of the base and of the dataset reduced to their names, because
    the same files may lie elsewhere.
    """
    names = ("pretrained_actor_path", "dataset")
    paths = {name: flags[name] for name in names if flags.get(name)}
    return flags | {name: Path(path).name for name, path in paths.items()}


def overrides_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return what the command line set, by name, except steps, intervals and paths.

    Includes the preset, and the digest of an agent file outside the checkout.
    """
    values = values_by_name(config["flags"], config["agent"])
    sources = config["sources"]
    given = {name for name, source in sources.items() if source == COMMAND_LINE}
    overrides = {
        name.removeprefix("agent."): values[name]
        for name in sorted(given - NOT_A_METHOD)
        if name in values
    }
    presets = sorted(name for name in sources.values() if name.startswith(PRESET))
    if presets:
        overrides["preset"] = presets[0].removeprefix(PRESET)
    return overrides | source_of(config)


def source_of(config: dict[str, Any]) -> dict[str, str]:
    """The override that names an agent file outside the checkout: two files of one name are two
    agents if their code differs. A config.json without an entry is of the checkout's agents.
    """
    source = config.get("source", {"of_checkout": True})
    return {} if source["of_checkout"] else {"agent_source": source["digest"][:8]}


def curves_results(path: Path, curves: Curves) -> list[Result]:
    """The results of the seeds of published learning curves."""
    steps, offline, online = curves.schedule
    method, task = printable(curves.method), printable(curves.task)
    found = []
    for seed, rates in enumerate(curves.success.T):
        known = np.isfinite(rates)
        columns = {"step": steps[known].astype(float), "success": rates[known]}
        columns["episodes"] = np.full(known.sum(), np.nan)
        nothing = {column: np.zeros(0) for column in COLUMNS["train.csv"]}
        found.append(
            Result(
                method=method,
                agent=method,
                overrides={},
                env_name=task,
                seed=seed,
                folder=path,
                config={},
                evaluations=columns,
                training=nothing,
                offline_steps=offline,
                online_steps=online,
            )
        )
    return found


def read_all(
    paths: Iterable[str],
    pickle_interval: int,
    pickle_axes: str = AXES[0],
) -> tuple[list[Result], list[str]]:
    """Every result below folders and in pickle files, named apart, and notes on what was read.

    Args:
        paths: folders, and exp_data pickles (.pkl).
        pickle_interval: steps between the evaluations in a pickle.
        pickle_axes: the axes of the arrays in a pickle, one of AXES.

    Raises UserError where there is no result at all.
    """
    paths = [str(expanded(path)) for path in paths]
    pickles = list(dict.fromkeys(path for path in paths if path.endswith(".pkl")))
    results, notes = read_runs([path for path in paths if path not in pickles])
    for pickle in map(Path, pickles):
        all_curves, read_as = read_curves(pickle, pickle_interval, pickle_axes)
        for curves in all_curves:
            results += curves_results(pickle, curves)
        notes += read_as
    if not results:
        raise no_result(paths, notes)
    fill_success(results)
    return without_doubles(name_methods(results), notes), notes


def fill_success(results: list[Result]) -> None:
    """Count a missing success as 0 where another run of the same environment has succeeded.

    An environment may report success only in successful episodes: a run that never succeeds
    then reports none.
    """
    reporting = {r.env_name for r in results if (r.evaluations["success"] > 0).any()}
    for result in results:
        if result.env_name in reporting:
            success = result.evaluations["success"]
            result.evaluations["success"] = np.nan_to_num(success)


def no_result(paths: list[str], notes: list[str]) -> UserError:
    """The error for paths without a result, with the first reason why a run is left out."""
    nothing = f"no run with an evaluation in {', '.join(map(printable, paths))}"
    why = f" ({join_first(notes, 1)})" if notes else ""
    return UserError(f"{nothing}{why}; train one with main.py, or give another folder")


def read_runs(folders: Iterable[str]) -> tuple[list[Result], list[str]]:
    """The results of the evaluated runs below folders, and notes on the others."""
    results: list[Result] = []
    notes: list[str] = []
    for folder in run_folders(folders, notes):
        try:
            results += read_results(folder)
        except DamagedFile as error:
            notes.append(f"left out: {error.fault}")
    without = [result for result in results if result.last_step < 0]
    if without:
        names = join_first(result.name for result in without)
        notes.append(
            f"{len(without)} runs have no evaluation yet and are left out: {names}"
        )
    return [result for result in results if result.last_step >= 0], notes


def read_results(folder: Path) -> list[Result]:
    """The results in the folder of a run or a study, without bases; raises DamagedFile."""
    is_study = os.path.lexists(folder / RUNS)
    results = read_study(folder) if is_study else [read_run(folder)]
    return [result for result in results if result and not is_base(result)]


def is_base(result: Result) -> bool:
    """Whether the run only made a base for others, and evaluated nothing."""
    return result.only_clones and not result.config["flags"].get("eval_episodes")
