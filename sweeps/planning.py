"""Plans the jobs of a sweep: agents x tasks x seeds x a grid of settings."""

import argparse
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from configs.agent_file import load_source
from configs.agent_source import ROOT
from configs.flags import parse_flags
from configs.methods import METHODS, Method
from configs.settings import PHASES, missing_phases
from sweeps.jobs import Job, far_apart
from training.plan import plan
from utils.errors import UserError
from utils.files import expanded

TABLE = "table"  # of --agents
OURS = {
    "agent": "--agents=NAME,NAME",
    "seed": "--first_seed=N",
    "num_seeds": "--seeds=N",
    "env_name": "--env_name=NAME",
    "dry_run": "--engine=print, or --status",
    "overwrite": "another --run_group, or delete the folders",
}
"""Flags of main.py that a sweep sets itself, and what to give instead."""


def plan_jobs(
    options: argparse.Namespace, flags: Sequence[str], pack: int
) -> list[Job]:
    """Return all jobs of a sweep; raise UserError, as main.py would, for any mistake in them.

    Args:
        options: the sweep's own flags.
        flags: main.py's, for all runs.
        pack: the maximum of seeds in a job, which are of one task.
    """
    refuse_own_flags(flags)
    refuse_repeated_keys(options.grid, flags)
    jobs = []
    methods, grid = listed_agents(options.agents), grid_points(options.grid)
    for (agent, settings), point in itertools.product(methods, grid):
        words = [*settings, *flags, *point]
        words = with_its_phases(agent, words) if len(methods) > 1 else words
        jobs.extend(jobs_of_agent(agent, words, options, pack))
    refuse_shared_folders(jobs)
    return far_apart(jobs)


def refuse_own_flags(flags: Sequence[str]) -> None:
    """Raise UserError for a flag of main.py that a sweep sets itself."""
    for word in flags:
        name = name_of(word)
        if word.startswith("-") and name.removeprefix("no") in OURS:
            raise UserError(
                f"--{name}: a sweep sets it; use {OURS[name.removeprefix('no')]}"
            )


def refuse_repeated_keys(grid: Sequence[str], flags: Sequence[str]) -> None:
    """Raise UserError for a key of a grid that another grid or a flag sets too."""
    keys = [name_of(axis) for axis in grid]
    given = [*keys, *(name_of(word) for word in flags if word.startswith("-"))]
    for key in keys:
        if given.count(key) > 1:
            raise UserError(
                f"--grid={key}: {key} is given twice; list all of its values once,"
                f" --grid={key}=A,B"
            )


def name_of(word: str) -> str:
    """Return the name in --NAME=VALUE or NAME=VALUE."""
    return word.lstrip("-").partition("=")[0]


def refuse_shared_folders(jobs: Sequence[Job]) -> None:
    """Raise UserError if two runs of a sweep would be in one folder."""
    folders: set[Path] = set()
    for run in (run for job in jobs for run in job.runs):
        if run.folder in folders:
            raise UserError(
                f"--grid, --agents: two of these runs would share {run.folder}; leave one out."
                " For other steps or intervals, start another sweep with another --run_group"
            )
        folders.add(run.folder)


def jobs_of_agent(
    agent: str, flags: Sequence[str], options: argparse.Namespace, pack: int
) -> list[Job]:
    """Return the jobs of one agent with one set of settings.

    Args:
        agent: its file.
        flags: main.py's, with those of the settings.
        options: the sweep's own flags.
        pack: the maximum of seeds in a job.
    """
    seeds = [f"--seed={options.first_seed}", f"--num_seeds={options.seeds}"]
    # a preset may name one
    tasks = [f"--env_name={options.env_name}"] if options.env_name else []
    words = ["sweep.py", f"--agent={agent}", *tasks, *seeds, *flags]
    runs = plan(parse_flags(words))
    jobs = []
    for task, of_task in itertools.groupby(runs, key=lambda run: run.env_name):
        together = list(of_task)
        for first in range(0, len(together), pack):
            part = tuple(together[first : first + pack])
            words = [f"--agent={agent}", f"--env_name={task}", f"--seed={part[0].seed}"]
            words += [f"--num_seeds={len(part)}"] if len(part) > 1 else []
            jobs.append(Job((project_path("main.py"), *words, *flags), part))
    return jobs


def listed_agents(names: str) -> list[tuple[str, list[str]]]:
    """Return the file of each agent and the settings that it is run with, without repetition.

    names: names or paths of agents, separated by commas; 'table' stands for every method that
    configs/methods.csv marks as the papers'.
    """
    given = [name for name in names.split(",") if name]
    if not given:
        raise UserError("--agents: give at least one agent, such as trqam")
    listed: list[tuple[str, list[str]]] = []
    for name in given:
        if name == TABLE:
            listed += [table_row(method) for method in METHODS]
        else:
            file = name if name.endswith(".py") else project_path(f"agents/{name}.py")
            listed.append((file, []))
    return [pair for i, pair in enumerate(listed) if pair not in listed[:i]]


def table_row(method: Method) -> tuple[str, list[str]]:
    """Return the agent file of a method of the table, and its settings as flags."""
    settings = [f"--agent.{key}={value}" for key, value in method.settings.items()]
    return project_path(f"agents/{method.agent}.py"), settings


def with_its_phases(agent: str, words: Sequence[str]) -> list[str]:
    """Return flags without the lengths of phases that an agent lacks (RLPD's offline_steps)."""
    if not expanded(agent).is_file():  # planning its runs says so
        return list(words)
    module = load_source(agent).module
    missing = missing_phases(module.AGENT, module.get_config())
    lengths = {f"--{PHASES[phase]}" for phase in missing}
    kept = []
    rest = iter(words)
    for word in rest:
        name, equals, _ = word.partition("=")
        if name not in lengths:
            kept.append(word)
        elif not equals:
            next(rest, None)  # --offline_steps 10
    return kept


def project_path(name: str) -> str:
    """Return the path of a file of the project, as seen from the current folder."""
    return name if Path.cwd() == ROOT else str(ROOT / name)


def grid_points(grid: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the flags of every combination; commas inside brackets belong to the value."""
    axes = []
    for axis in grid:
        key, equals, values = axis.lstrip("-").partition("=")
        split = re.split(r",(?![^(\[]*[)\]])", values)
        if not equals or not all(split):
            raise UserError(
                f"--grid={axis}: write KEY=A,B,C, for example --grid=agent.kl_budget=0.5,1,2"
            )
        if key in OURS:
            raise UserError(f"--grid={axis}: a sweep sets --{key}; use {OURS[key]}")
        axes.append([f"--{key}={value}" for value in split])
    return list(itertools.product(*axes))
