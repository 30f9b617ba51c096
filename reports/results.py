"""What runs have measured, read from their folders, and what others have published: the input
of scripts/report.py.

Reads while runs are being written, changes nothing, and imports neither jax nor a simulator.
"""

import csv
import dataclasses
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from configs.flags import LOGGING, PLACE, UNHASHED
from envs.tasks import dataset_name, resolve_alias
from reports.published import AXES, Curves, read_curves
from utils.errors import RunError, UserError, join_first
from utils.files import read_json

COLUMNS = {
    "eval.csv": ("step", "success", "episodes", "return"),
    "train.csv": ("step", "dual/path_kl", "dual/kl_budget", "dual/lam"),
}
ORIGINS = ("pretrained_actor_path", "ogbench_dataset_dir")  # where bases and data lie
NOT_A_METHOD = UNHASHED | set(ORIGINS)
# other agents are published under their own names
PUBLISHED_AS = {"qam_edit": "QAM-E", "qam_fql": "QAM-F"}

Columns = dict[str, np.ndarray]


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
        return ", ".join(f"{name}={_shown(value)}" for name, value in self.overrides.items())

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
        if self.agent == "cgql":
            return {"mse": "CGQL-M", "linex": "CGQL-L"}.get(agent.get("mode"), "CGQL")
        return PUBLISHED_AS.get(self.agent, self.agent.upper()) if self.config else self.method

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


def read_columns(path: Path, names: tuple[str, ...]) -> Columns:
    """Columns of a CSV file that may be being written, NaN where a cell or a column is absent;
    whole lines only.
    """
    content = path.read_bytes() if path.exists() else b""
    lines = csv.reader(
        io.StringIO(content[: content.rfind(b"\n") + 1].decode(errors="replace"), newline="")
    )
    header = next(lines, [])
    places = [header.index(name) if name in header else None for name in names]
    table = [
        [_number(line[i]) if i is not None and i < len(line) else np.nan for i in places]
        for line in lines
    ]
    array = np.array(table, np.float64).reshape(-1, len(names))
    return dict(zip(names, array[np.isfinite(array[:, 0])].T, strict=True))


def read_evaluations(path: Path) -> Columns:
    """The columns of an eval.csv; success is NaN throughout where the environment reports none.

    An environment may report it in successful episodes alone: then it is 0 where it is absent.
    Rows of 0 beside absent ones are of earlier versions, which wrote 0 for an environment
    without success.
    """
    columns = read_columns(path, COLUMNS["eval.csv"])
    success = columns["success"]
    if np.isnan(success).any():
        success = (
            np.nan_to_num(success) if (success > 0).any() else np.full_like(success, np.nan)
        )
    return columns | {"success": success}


def _number(cell: str) -> float:
    try:
        return float(cell or "nan")
    except ValueError:
        return np.nan


def run_folders(folders: Iterable[str | os.PathLike]) -> list[Path]:
    """Every folder with a config.json at or below the given ones, once each; raises UserError
    for one that is not there.
    """
    found = {}
    for folder in map(Path, folders):
        if not folder.expanduser().is_dir():
            raise UserError(f"{folder}: there is no such folder")
        for place, below, files in os.walk(folder.expanduser()):
            below.sort()
            if "config.json" in files:
                below.clear()  # checkpoints and films
                found[os.path.realpath(place)] = Path(place)
    return list(found.values())


def read_run(folder: Path) -> Result | None:
    """The result in a run folder; None for a config.json of something else. Raises RunError for
    a damaged one.
    """
    config = read_json(folder / "config.json") or {}
    if not {"agent_file", "flags", "agent", "sources"} <= set(config):
        return None
    flags, file = config["flags"], Path(config["agent_file"])
    values = flags | {f"agent.{key}": value for key, value in config["agent"].items()}
    given = {
        name for name, source in config["sources"].items() if source == "command line"
    } - NOT_A_METHOD
    overrides = {name: values[name] for name in sorted(given) if name in values}
    presets = sorted(
        {source for source in config["sources"].values() if source.startswith("preset ")}
    )
    if presets:
        overrides["preset"] = presets[0].removeprefix("preset ")
    # Two files of one name are two agents if their code differs. An older version recorded only
    # the path.
    source = config.get("source")
    if source and not source["of_checkout"]:
        overrides["agent_source"] = source["digest"][:8]
    elif not source and file.parent.name != "agents":
        overrides["agent_file"] = str(file)
    return Result(
        method=file.stem,
        agent=file.stem,
        overrides={name.removeprefix("agent."): value for name, value in overrides.items()},
        env_name=resolve_alias(flags["env_name"]),
        seed=flags["seed"],
        folder=folder,
        config=config,
        evaluations=read_evaluations(folder / "eval.csv"),
        training=read_columns(folder / "train.csv", COLUMNS["train.csv"]),
        offline_steps=flags["offline_steps"],
        online_steps=flags["online_steps"],
    )


def curves_results(path: Path, curves: Curves) -> list[Result]:
    """The results of the seeds of published learning curves."""
    steps, offline, online = curves.schedule
    found = []
    for seed, rates in enumerate(curves.success.T):
        known = np.isfinite(rates)
        columns = {"step": steps[known].astype(float), "success": rates[known]}
        columns["episodes"] = np.full(known.sum(), np.nan)
        nothing = {column: np.zeros(0) for column in COLUMNS["train.csv"]}
        found.append(
            Result(
                method=curves.method,
                agent=curves.method,
                overrides={},
                env_name=curves.task,
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
    places = [str(Path(place).expanduser()) for place in places]
    pickles = list(dict.fromkeys(place for place in places if place.endswith(".pkl")))
    results, notes = read_runs([place for place in places if place not in pickles])
    for path in map(Path, pickles):
        found, read_as = read_curves(path, pickle_interval, pickle_axes)
        results += [result for curves in found for result in curves_results(path, curves)]
        notes += read_as
    if not results:
        nothing = f"no run with an evaluation in {', '.join(places)}"
        raise UserError(f"{nothing}; train one with main.py, or give another folder")
    return without_doubles(name_methods(results), notes), notes


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
    for folder in run_folders(folders):
        try:
            result = read_run(folder)
        except RunError as error:
            notes.append(f"left out: {str(error).partition('; delete')[0]}")
            continue
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
            found.append(f"{name} {' and '.join(sorted(values))}")
    return found


# ------------------------------------------------------------------------------------- methods


def name_methods(results: list[Result]) -> list[Result]:
    """The same results, each method called by its agent and by the overrides in which it
    differs from others of that agent.

    Runs of one method, task and seed are told apart by the place: its name, or where that is
    not enough its path; those of one place by the names of the base and of the data that they
    were given, or else by the hash in the folder's name.
    """
    settings = [dict(result.overrides) for result in results]
    for apart in (
        lambda result: {"in": place_of(result).name},
        lambda result: {"in": str(place_of(result))},
        lambda result: result.origins,
        lambda result: {"hash": result.folder.name.rpartition("_")[2]},
    ):
        members: dict[str, list[int]] = {}
        for i, result in enumerate(results):
            members.setdefault(_text([result.agent, settings[i]]), []).append(i)
        for same in members.values():
            collide = len({(results[i].env_name, results[i].seed) for i in same}) < len(same)
            if collide and len({_text(apart(results[i])) for i in same}) > 1:
                for i in same:
                    settings[i] |= apart(results[i])
    differing: dict[str, set[str]] = {}
    for agent in {result.agent for result in results}:
        variants = [
            own for result, own in zip(results, settings, strict=True) if result.agent == agent
        ]
        keys = {key for own in variants for key in own}
        differing[agent] = {
            key for key in keys if len({_text(own.get(key)) for own in variants}) > 1
        }
    named = []
    for result, own in zip(results, settings, strict=True):
        words = [
            f"{key}={_shown(own[key])}" if key != "in" else f"in {own[key]}"
            for key in own
            if key in differing[result.agent]
        ]
        named.append(dataclasses.replace(result, method=" ".join([result.agent, *words])))
    return named


def place_of(result: Result) -> Path:
    """The folder of a run's group, or a pickle."""
    return result.folder.parents[1] if result.config else result.folder


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _shown(value: Any) -> str:
    return _text(value).replace(" ", "") if isinstance(value, list) else str(value)
