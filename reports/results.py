"""What runs have measured, read from their folders, and what others have published: the input
of scripts/report.py.

Reads while runs are being written, changes nothing, and imports neither jax nor a simulator.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from configs.flags import LOGGING, PLACE, UNHASHED
from configs.methods import row_name
from configs.run_folder import (
    COLUMNS,
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
)
from envs.tasks import dataset_name, resolve_alias
from reports.published import AXES, Curves, read_curves
from utils.errors import DamagedFile, UserError, join_first, printable
from utils.files import expanded, read_json
from utils.logging import read_lines

ORIGINS = ("pretrained_actor_path", "ogbench_dataset_dir")  # where bases and data lie
NOT_A_METHOD = UNHASHED | set(ORIGINS)
RUNS, CURVES = "runs.json", "curves.csv"
"""The files of a study: configurations and warnings by run; evaluations and path KL by run."""


@dataclasses.dataclass(frozen=True)
class Result:
    """One seed of one method on one task. `method` is what a report calls the method beside its
    others.
    """

    method: str
    agent: str
    overrides: dict[str, Any]
    """What the command line set besides steps, intervals and places, by name."""
    env_name: str
    seed: int
    folder: Path
    config: dict[str, Any]
    evaluations: Columns
    training: Columns
    offline_steps: int
    online_steps: int
    concerns: dict[str, str] = dataclasses.field(default_factory=dict)
    """The agent's warnings at the end of the run, by kind."""

    @property
    def domain(self) -> str:
        """The dataset of the task, or a user's own environment."""
        try:
            return dataset_name(self.env_name)
        except UserError:
            return self.env_name

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.method} {self.env_name.removesuffix('-v0')} seed {self.seed}"

    @property
    def last_step(self) -> int:
        """The step of its last evaluation; -1 where there is none."""
        steps = self.evaluations["step"]
        return int(steps[-1]) if len(steps) else -1

    def phase(self, step: int) -> str:
        """offline or online."""
        return "offline" if step <= self.offline_steps else "online"

    def ends(self) -> dict[str, int]:
        """The last step of each of its phases."""
        ends = {"offline": self.offline_steps, "online": self.offline_steps + self.online_steps}
        return {
            phase: end
            for phase, end in ends.items()
            if (self.offline_steps, self.online_steps)[phase == "online"]
        }

    def success(self, step: int) -> float | None:
        """The success rate at a step; None if not evaluated there, NaN if none is reported."""
        return self._evaluated("success", step)

    def mean_return(self, step: int) -> float | None:
        """The mean return at a step; None where it was not evaluated there."""
        return self._evaluated("return", step)

    def _evaluated(self, column: str, step: int) -> float | None:
        found = np.flatnonzero(self.evaluations["step"] == step)
        return float(self.evaluations[column][found[-1]]) if len(found) else None

    @property
    def transitions(self) -> int | None:
        """Of the dataset."""
        return self.config.get("dataset", {}).get("transitions")

    @property
    def reward(self) -> str | None:
        """sparse, or default: as OGBench gives it."""
        sparse = self.config.get("flags", {}).get("sparse")
        return None if sparse is None else "sparse" if sparse else "default"

    @property
    def origins(self) -> dict[str, str]:
        """The names of the base and of the data's folder that the command line gave, without
        their places and the seed.
        """
        flags, sources = self.config.get("flags", {}), self.config.get("sources", {})
        given = {
            name: flags[name]
            for name in ORIGINS
            if sources.get(name) == "command line" and flags.get(name)
        }
        return {
            name: Path(path).name.replace(f"_s{self.seed}_", "_")
            for name, path in given.items()
        }

    def settings(self, step: int) -> dict[str, Any]:
        """What it was trained with until a step, by name, as far as its config.json says: no
        logging, no place, no seed.
        """
        found = self.config.get("flags", {}) | self.config.get("agent", {})
        found = {
            name: value
            for name, value in found.items()
            if name not in {*LOGGING, *PLACE, *ORIGINS}
        }
        found["pretrained_actor_path"] = self.origins.get("pretrained_actor_path", "none")
        found["offline_steps"] = min(self.offline_steps, step)
        found["online_steps"] = min(self.online_steps, max(0, step - self.offline_steps))
        return found if self.transitions is None else found | {"transitions": self.transitions}

    @property
    def discount(self) -> float | None:
        """Of the agent."""
        return self.config.get("agent", {}).get("discount")

    @property
    def given(self) -> str:
        """The overrides as text."""
        shown = {printable(name): _shown(value) for name, value in self.overrides.items()}
        return ", ".join(f"{name}={value}" for name, value in shown.items())

    @property
    def published_name(self) -> str:
        """What the papers call the method."""
        agent = self.config.get("agent", {})
        if self.agent == "qam":
            return (
                "QAM-E"
                if agent.get("edit_scale")
                else "QAM-F"
                if agent.get("fql_alpha")
                else "QAM"
            )
        if not self.config:
            return self.method
        return row_name(self.agent, agent) or self.agent.upper()

    def kl(self, step: int) -> Columns:
        """path KL, its budget and λ (with lam_scale) at the logs up to a step: NaN where there
        is none, empty without a KL.

        An agent that is given its `lam` steers towards no budget, whatever its log says.
        """
        kept = self.training["step"] <= step
        columns = {
            name.removeprefix("dual/"): values[kept] for name, values in self.training.items()
        }
        if np.isnan(columns["path_kl"]).all():
            return {}
        agent = self.config.get("agent", {})
        if "lam" in agent:
            columns["kl_budget"] = np.full_like(columns["kl_budget"], np.nan)
        return columns | {"lam": columns["lam"] * agent.get("lam_scale", 1.0)}


# ------------------------------------------------------------------------------------- reading


def run_folders(
    folders: Iterable[str | os.PathLike], notes: list[str] | None = None
) -> list[Path]:
    """Every folder of a run or of a study at or below the given ones, once each, also through
    links; raises UserError for a given one that is not there.

    notes: where folders that cannot be read are named.
    """
    notes = [] if notes is None else notes
    left = [expanded(folder) for folder in folders]
    for folder in left:
        if not folder.is_dir():
            raise UserError(f"{printable(folder)}: there is no such folder")
    found: list[Path] = []
    seen: set[str] = set()
    for folder in left:  # which grows: links come last, so that runs go by their own path
        runs, links = search(folder, seen, notes)
        found += runs
        left += links
    return found


def search(folder: Path, seen: set[str], notes: list[str]) -> tuple[list[Path], list[Path]]:
    """The folders of runs and studies at or below one, and the links to other folders.

    Args:
        folder: where to begin.
        seen: the folders that were searched, with all links resolved: they are not searched
            again. Grows.
        notes: where folders that cannot be read are named. Grows.
    """

    def unreadable(error: OSError) -> None:
        notes.append(f"left out: {printable(error.filename)} cannot be read ({error.strerror})")

    runs, links = [], []
    for place, below, files in os.walk(folder, onerror=unreadable):
        real = os.path.realpath(place)
        is_run = bool({"config.json", RUNS} & {*files, *below})
        if is_run and real not in seen:
            runs.append(Path(place))
        if is_run or real in seen:
            below.clear()  # of a run: checkpoints and films
        seen.add(real)
        below.sort()
        links += [path for name in below if is_followed(path := Path(place, name))]
    return runs, links


def is_followed(path: Path) -> bool:
    """Whether a folder is a link to another place, and not to one that holds the link."""
    if not path.is_symlink():
        return False
    target, place = os.path.realpath(path), os.path.realpath(path.parent)
    return os.path.commonpath([target, place]) != target


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
    return result_of(folder, config, read_evaluations(folder), training, read_concerns(folder))


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
    flags, agent = config["flags"], printable(Path(config["agent_file"]).stem)
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
    path, curves = folder / RUNS, folder / CURVES
    stored = read_json(path) or {}
    header, *lines = read_lines(curves) or [[]]
    lines_of: dict[str, list[list[str]]] = {name: [] for name in stored}
    for line in lines:
        lines_of.setdefault(line[0] if line else "", []).append(line)
    if unknown := lines_of.keys() - stored.keys():
        raise DamagedFile(curves, f"{abridged(min(unknown))} is no run of {RUNS}")
    return [
        kept_result(folder, name, run, header, lines_of[name]) for name, run in stored.items()
    ]


def kept_result(
    folder: Path, name: str, run: Any, header: list[str], lines: list[list[str]]
) -> Result:
    """The result of one run of a study; raises DamagedFile.

    Args:
        folder: of the study.
        name: the run's task and folder.
        run: its entry in the file of runs.
        header: the names of the columns of the file of curves.
        lines: the run's lines there.
    """
    config = run.get("config") if isinstance(run, dict) else None
    if not isinstance(config, dict):
        raise DamagedFile(folder / RUNS, f"{abridged(name)} has no config")
    check_config(folder / RUNS, config)
    concerns = checked_concerns(folder / RUNS, run.get("concerns", {}))
    path, parts = folder / CURVES, []
    for columns in (COLUMNS["eval.csv"], COLUMNS["train.csv"]):
        found = checked_columns(path, columns, header, lines)
        there = np.any([np.isfinite(found[column]) for column in columns[1:]], axis=0)
        parts.append({column: cells[there] for column, cells in found.items()})
    evaluations, training = checked_evaluations(path, parts[0]), parts[1]
    return result_of(folder / name, config, evaluations, training, concerns)


def is_run(folder: Path, config: dict[str, Any]) -> bool:
    """Whether a folder is of a run, damaged or not: config.json says so, or what lies beside
    it.
    """
    entries = {"agent_file", "flags", "agent", "sources"} & config.keys()
    beside = (*COLUMNS, "done.json", "checkpoints")
    return bool(entries) or any(os.path.lexists(folder / name) for name in beside)


def overrides_of(config: dict[str, Any]) -> dict[str, Any]:
    """What the command line set besides steps, intervals and places, by name; the preset; and
    what tells an agent file outside the checkout from others of its name.
    """
    values = config["flags"] | {f"agent.{key}": value for key, value in config["agent"].items()}
    sources = config["sources"]
    given = {name for name, source in sources.items() if source == "command line"}
    overrides = {
        name.removeprefix("agent."): values[name]
        for name in sorted(given - NOT_A_METHOD)
        if name in values
    }
    presets = sorted(source for source in sources.values() if source.startswith("preset "))
    if presets:
        overrides["preset"] = presets[0].removeprefix("preset ")
    return overrides | source_of(config)


def source_of(config: dict[str, Any]) -> dict[str, str]:
    """The override that names an agent file outside the checkout: two files of one name are two
    agents if their code differs. An older version recorded only the path.
    """
    source, file = config.get("source"), Path(config["agent_file"])
    if source:
        return {} if source["of_checkout"] else {"agent_source": source["digest"][:8]}
    return {} if file.parent.name == "agents" else {"agent_file": str(file)}


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
    places: Iterable[str],
    pickle_interval: int,
    pickle_axes: str = AXES[0],
) -> tuple[list[Result], list[str]]:
    """Every result below folders and in pickle files, named apart, and notes on what was read.

    Args:
        places: folders, and exp_data pickles (.pkl).
        pickle_interval: steps between the evaluations in a pickle.
        pickle_axes: the axes of the arrays in a pickle, one of AXES.

    Raises UserError where there is no result at all.
    """
    places = [str(expanded(place)) for place in places]
    pickles = list(dict.fromkeys(place for place in places if place.endswith(".pkl")))
    results, notes = read_runs([place for place in places if place not in pickles])
    for path in map(Path, pickles):
        found, read_as = read_curves(path, pickle_interval, pickle_axes)
        results += [result for curves in found for result in curves_results(path, curves)]
        notes += read_as
    if not results:
        raise no_result(places, notes)
    return without_doubles(name_methods(results), notes), notes


def no_result(places: list[str], notes: list[str]) -> UserError:
    """The error for places without a result, with the first reason why a run is left out."""
    nothing = f"no run with an evaluation in {', '.join(map(printable, places))}"
    why = f" ({join_first(notes, 1)})" if notes else ""
    return UserError(f"{nothing}{why}; train one with main.py, or give another folder")


def without_doubles(results: list[Result], notes: list[str]) -> list[Result]:
    """The first result of each method, task and seed; the others are named in `notes`."""
    kept: dict[tuple[str, str, int], Result] = {}
    twice = []
    for result in results:
        key = (result.method, result.env_name, result.seed)
        if kept.setdefault(key, result) is not result:
            twice.append(str(result.folder))
    if twice:
        doubles = f"{len(twice)} runs have the method, task and seed of another"
        notes.append(f"{doubles} and are left out: {join_first(twice)}")
    return list(kept.values())


def read_runs(folders: Iterable[str]) -> tuple[list[Result], list[str]]:
    """The results of the evaluated runs below folders, and notes on the others."""
    results: list[Result] = []
    without: list[Result] = []
    notes: list[str] = []
    for folder in run_folders(folders, notes):
        try:
            kept = os.path.lexists(folder / RUNS)
            found = read_study(folder) if kept else [read_run(folder)]
        except DamagedFile as error:
            notes.append(f"left out: {error.fault}")
            continue
        for result in found:
            if result is not None and not is_base(result):
                (results if result.last_step >= 0 else without).append(result)
    if without:
        names = join_first(result.name for result in without)
        notes.append(f"{len(without)} runs have no evaluation yet and are left out: {names}")
    return results, notes


def is_base(result: Result) -> bool:
    """Whether the run only made a base for others, and evaluated nothing."""
    flags = result.config["flags"]
    cloning = result.agent == "bc" or flags.get("bc_only")
    return bool(cloning) and not flags.get("eval_episodes")


def unlike(settings: list[dict[str, Any]]) -> list[str]:
    """In what settings differ, with the values: "bc_steps 10000 and 20". Where one says
    nothing, it agrees.
    """
    found = []
    for name in sorted({name for own in settings for name in own}):
        values = {_shown(own[name]) for own in settings if name in own}
        if len(values) > 1:
            found.append(f"{printable(name)} {' and '.join(sorted(values))}")
    return found


# ------------------------------------------------------------------------------------- methods


PLACE_OF_RUN = "in"
"""The setting that tells runs of one method apart by their group's folder."""


def name_methods(results: list[Result]) -> list[Result]:
    """The same results, each method called by its agent and by the settings in which it differs
    from others of that agent.
    """
    settings = distinct_settings(results)
    by_agent: dict[str, list[dict[str, Any]]] = {}
    for result, own in zip(results, settings, strict=True):
        by_agent.setdefault(result.agent, []).append(own)
    differing = {agent: differing_keys(variants) for agent, variants in by_agent.items()}
    return [
        dataclasses.replace(result, method=method_name(result.agent, own, differing))
        for result, own in zip(results, settings, strict=True)
    ]


def distinct_settings(results: list[Result]) -> list[dict[str, Any]]:
    """The overrides of each result, and what else tells runs of one method, task and seed
    apart.

    That is the place: its name, or where that is not enough its path; for runs of one place the
    names of the base and of the data that they were given, or else the hash in the folder's
    name.
    """
    settings = [dict(result.overrides) for result in results]
    tell_apart(results, settings, lambda result: {PLACE_OF_RUN: place_of(result).name})
    tell_apart(results, settings, lambda result: {PLACE_OF_RUN: str(place_of(result))})
    tell_apart(results, settings, lambda result: result.origins)
    tell_apart(results, settings, lambda r: {"hash": real_folder(r).name.rpartition("_")[2]})
    return settings


def tell_apart(
    results: list[Result],
    settings: list[dict[str, Any]],
    more_of: Callable[[Result], dict[str, str]],
) -> None:
    """Add to the settings of the runs that are still of one method, task and seed.

    Args:
        results: all runs.
        settings: theirs; some grow.
        more_of: what is added to the settings of a run, where it differs between them.
    """
    members: dict[str, list[int]] = {}
    for i, result in enumerate(results):
        members.setdefault(_text([result.agent, settings[i]]), []).append(i)
    for same in members.values():
        if len({(results[i].env_name, results[i].seed) for i in same}) == len(same):
            continue
        more = {i: more_of(results[i]) for i in same}
        if len(set(map(_text, more.values()))) > 1:
            for i in same:
                settings[i] |= more[i]


def differing_keys(settings: list[dict[str, Any]]) -> set[str]:
    """The names of the settings that are not the same in all."""
    names = {name for own in settings for name in own}
    return {name for name in names if len({_text(own.get(name)) for own in settings}) > 1}


def method_name(agent: str, settings: dict[str, Any], differing: dict[str, set[str]]) -> str:
    """What a report calls a method; `differing` names the settings that it shows, by agent."""
    shown = {name: value for name, value in settings.items() if name in differing[agent]}
    words = [
        f"in {_shown(value)}" if name == PLACE_OF_RUN else f"{printable(name)}={_shown(value)}"
        for name, value in shown.items()
    ]
    return " ".join([agent, *words])


def real_folder(result: Result) -> Path:
    """The run folder with its own name, even where it was given as "." or by a link."""
    return Path(os.path.realpath(result.folder))


def place_of(result: Result) -> Path:
    """The folder of a run's group, or a pickle."""
    return (
        Path(os.path.abspath(result.folder)).parent.parent if result.config else result.folder
    )


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _shown(value: Any) -> str:
    return printable(_text(value).replace(" ", "") if isinstance(value, list) else value)
