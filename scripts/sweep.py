"""Many runs: agents x tasks x seeds x any grid of settings.

    python scripts/sweep.py --agents=trqam,qam --env_name=all50 --seeds=8 > jobs.txt
    python scripts/sweep.py --agents=trqam,qam --env_name=all50 --seeds=8 --slurm=table.sbatch
    python scripts/sweep.py --agents=trqam --env_name=scene --grid=agent.kl_budget=0.5,1
    python scripts/sweep.py --agents=trqam,qam --env_name=all50 --seeds=8 --engine=ray
    python scripts/sweep.py --agents=trqam,qam --env_name=all50 --seeds=8 --status
    python scripts/sweep.py --agents=table --env_name=all50 --seeds=12    # all methods

Every other flag is main.py's, for all runs (--run_group=table --offline_steps=500_000).
Finished runs are skipped and unfinished ones resume, whichever engine began them. What a job of
--engine=local or ray prints is in <save_dir>/<run_group>/sweep/; Slurm's is in its slurm-*.out,
and --status calls such a job stopped or missing, not failed. Jobs that train a domain's base
come before the jobs that only use it. The printed lines do not choose a GPU; on four GPUs:

    parallel -j4 'export CUDA_VISIBLE_DEVICES=$(({%} - 1)); eval {}' < jobs.txt
"""

import argparse
import itertools
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if __name__ == "__main__":  # before the other imports, which take a second
    from utils.early_signals import end_at_signals

    end_at_signals()

from configs.flags import parse_flags, with_flag_files  # noqa: E402
from configs.methods import METHODS, Method  # noqa: E402
from sweeps.engines import Engine, Local, Ray, gpus  # noqa: E402
from sweeps.jobs import Job, far_apart  # noqa: E402
from sweeps.run import run_jobs  # noqa: E402
from training.plan import plan  # noqa: E402
from utils.command_line import (  # noqa: E402
    Parser,
    at_least,
    refuse_control_characters,
    report_error,
    run_program,
)
from utils.errors import RunError, UserError  # noqa: E402
from utils.files import expanded  # noqa: E402
from utils.preemption import Preempted  # noqa: E402

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
READ_BY = {
    "jobs_per_device": ("local", "ray"),
    "ray_address": ("ray",),
    "retries": ("ray",),
}
"""Engines that read these flags of the sweep."""

SBATCH = """#!/bin/bash
#SBATCH --job-name=sweep
#SBATCH --array=0-{last}
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@60
# {command}
# Account, partition and time limit: here, or before this file's name on sbatch's command line,
# which comes first. A job that was cut short has saved; submit this file again and it resumes,
# while finished ones end at once.{bases}{later}
cd {cwd} || exit 1
mapfile -t jobs <<'JOBS'
{lines}
JOBS
number=$((${{SWEEP_FIRST:-0}} + ${{SLURM_ARRAY_TASK_ID:?submit this file with sbatch}}))
eval "exec ${{jobs[number]}}"
"""
BASES = """
# Tasks 0-{last} train the bases; to have no others wait for them:
#   sbatch --parsable --array=0-{last} FILE
#   sbatch --array={next}-{end} --dependency=afterany:ID FILE"""
LATER = """
# An array ends at {last} unless a cluster allows more. For the other jobs, with the same
# --dependency if there is one:"""
LAST_TASK = 1000
"""The largest index of an array unless a cluster sets another MaxArraySize."""


def parser() -> Parser:
    """The sweep's own flags."""
    result = Parser(
        prog="sweep.py",
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )

    def count(name: str, default: int | None, text: str, least: int = 1) -> None:
        result.add_argument(
            name, type=at_least(least), default=default, metavar="N", help=text
        )

    result.add_argument(
        "--agents",
        default="trqam",
        metavar="A,B",
        help="names in agents/, paths of agent files, or table: the 19 methods marked"
        " paper in configs/methods.csv",
    )
    result.add_argument(
        "--env_name", default="", metavar="A,B", help="tasks and domains, or all50"
    )
    count("--seeds", 1, "how many seeds")
    count("--first_seed", 0, "the first of them", least=0)
    text = "a setting and its values, KEY=A,B,C; may be given again: every combination is run"
    result.add_argument(
        "--grid", action="append", default=[], metavar="KEY=A,B", help=text
    )
    text = "print: a shell command a line; local: this machine's devices; ray: a Ray cluster"
    result.add_argument(
        "--engine", choices=("print", "local", "ray"), default="print", help=text
    )
    text = (
        "write a Slurm array script instead of printing the commands; exit code 1 if no job"
        " is left"
    )
    result.add_argument("--slurm", metavar="FILE", help=text)
    count(
        "--pack",
        None,
        "seeds per process; unset: all seeds of a task, but one if --engine=local finds no GPU",
    )
    count(
        "--jobs_per_device",
        1,
        "jobs per GPU, or per machine without GPUs",
    )
    result.add_argument(
        "--ray_address",
        default="auto",
        help="of the cluster (auto: RAY_ADDRESS, or the one of this machine)",
    )
    count(
        "--retries",
        3,
        "with ray: how often a job may be started again whose machine was lost",
        least=0,
    )
    result.add_argument(
        "--status",
        action="store_true",
        help="count finished, running, stopped and missing runs; estimate the time left",
    )
    return result


def plan_jobs(
    options: argparse.Namespace, flags: Sequence[str], pack: int
) -> list[Job]:
    """All jobs, each of up to `pack` seeds of one task; raises UserError, as main.py would, for
    anything wrong in them.
    """
    for word in flags:
        name = word.lstrip("-").partition("=")[0]
        if word.startswith("-") and name.removeprefix("no") in OURS:
            raise UserError(
                f"--{name}: a sweep sets it; use {OURS[name.removeprefix('no')]}"
            )
    jobs = []
    methods, grid = listed_agents(options.agents), grid_points(options.grid)
    for (agent, settings), point in itertools.product(methods, grid):
        words = [*settings, *flags, *point]
        words = with_its_phases(agent, words) if len(methods) > 1 else words
        jobs.extend(jobs_of_agent(agent, words, options, pack))
    folders: set[Path] = set()
    for job in jobs:
        for run in job.runs:
            if run.folder in folders:
                raise UserError(
                    f"--grid, --agents: two of these runs would share {run.folder}; a grid over"
                    " steps or intervals needs a sweep with its own --run_group for each value"
                )
            folders.add(run.folder)
    return far_apart(jobs)


def jobs_of_agent(
    agent: str, flags: Sequence[str], options: argparse.Namespace, pack: int
) -> list[Job]:
    """The jobs of one agent with one set of settings."""
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
            jobs.append(Job((beside("main.py"), *words, *flags), part))
    return jobs


def listed_agents(names: str) -> list[tuple[str, list[str]]]:
    """The file of each agent given by name or path, and the settings that it is run with, once
    each; with 'table', of every method that configs/methods.csv marks as the papers'.
    """
    given = [name for name in names.split(",") if name]
    if not given:
        raise UserError("--agents: give at least one agent, such as trqam")
    listed: list[tuple[str, list[str]]] = []
    for name in given:
        if name == TABLE:
            listed += [table_row(method) for method in METHODS]
        else:
            file = name if name.endswith(".py") else beside(f"agents/{name}.py")
            listed.append((file, []))
    return [pair for i, pair in enumerate(listed) if pair not in listed[:i]]


def table_row(method: Method) -> tuple[str, list[str]]:
    """The agent file of a row of the table, and its settings as flags."""
    settings = [f"--agent.{key}={value}" for key, value in method.settings.items()]
    return beside(f"agents/{method.agent}.py"), settings


def with_its_phases(agent: str, words: Sequence[str]) -> list[str]:
    """The words without the lengths of phases that an agent has not: RLPD's --offline_steps."""
    from configs.agent_file import load_source
    from configs.settings import PHASES, missing_phases

    if not Path(agent).is_file():  # planning its runs says so
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


def beside(name: str) -> str:
    """A file of the project, as seen from the current folder."""
    return name if Path.cwd() == ROOT else str(ROOT / name)


def grid_points(grid: Sequence[str]) -> list[tuple[str, ...]]:
    """Flags of every combination; commas inside brackets belong to the value."""
    axes = []
    for axis in grid:
        key, equals, values = axis.lstrip("-").partition("=")
        split = re.split(r",(?![^(]*\))", values)
        if not equals or not all(split):
            raise UserError(
                f"--grid={axis}: write KEY=A,B,C, for example --grid=agent.kl_budget=0.5,1,2"
            )
        if key in OURS:
            raise UserError(f"--grid={axis}: a sweep sets --{key}; use {OURS[key]}")
        axes.append([f"--{key}={value}" for value in split])
    return list(itertools.product(*axes))


def shell(job: Job, python: str) -> str:
    """The job as a line for a shell in the current folder; raises UserError where it would be
    several.
    """
    refuse_control_characters([python, *job.words])
    return shlex.join([python, *job.words])


def slurm_script(jobs: Sequence[Job], argv: Sequence[str]) -> str:
    """The script of an array with one task for each job."""
    end = min(len(jobs) - 1, LAST_TASK)
    needed = {tuple(base.folder for base in job.bases) for job in jobs if job.bases}
    last_base = len(needed) - 1
    bases = later = ""
    if needed and last_base < end:
        bases = BASES.format(last=last_base, next=last_base + 1, end=end)
    if arrays := later_arrays(len(jobs)):
        commands = [f"\n#   sbatch {options} FILE" for options in arrays]
        later = LATER.format(last=end) + "".join(commands)
    # not a bare python, which would depend on the environment in which the file is submitted
    lines = "\n".join(shell(job, sys.executable) for job in jobs)
    command = shlex.join(["python", *argv])
    return SBATCH.format(
        last=end,
        command=command,
        bases=bases,
        later=later,
        cwd=shlex.quote(os.getcwd()),
        lines=lines,
    )


def later_arrays(count: int) -> list[str]:
    """The options of sbatch for the jobs that do not fit into the first array of `count`."""
    size = LAST_TASK + 1
    return [
        f"--export=ALL,SWEEP_FIRST={first} --array=0-{min(size, count - first) - 1}"
        for first in range(size, count, size)
    ]


def sweep(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Do what the command line asks for; returns the exit code."""
    refuse_control_characters(argv)
    options, flags = parser().parse_known_args(with_flag_files(argv[1:]))
    check_options(options)
    if options.status:
        from sweeps.status import status_lines

        print("\n".join(status_lines(jobs_as_run(options, flags))))
        return 0
    jobs = plan_jobs(options, flags, options.pack or default_pack(options, environ))
    left = [job for job in jobs if not job.is_done()]
    if options.slurm or options.engine != "print":
        check_left(left, jobs, options)
    return start(left, options, argv, environ) if left else 0


def check_options(options: argparse.Namespace) -> None:
    """Raise UserError for flags of the sweep that would change nothing."""
    if options.slurm and (options.engine != "print" or options.status):
        other = "--status" if options.status else f"--engine={options.engine}"
        raise UserError(
            f"--slurm={options.slurm}: Slurm runs the jobs then; leave {other} out"
        )
    for name, engines in READ_BY.items():
        given = getattr(options, name) != parser().get_default(name)
        if given and not options.status and options.engine not in engines:
            raise UserError(
                f"--{name}: only --engine={' or '.join(engines)} reads it; leave it out"
            )


def default_pack(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """How many seeds train in one program: one on this machine's cores, else all."""
    return 1 if options.engine == "local" and not gpus(environ) else options.seeds


def jobs_as_run(options: argparse.Namespace, flags: Sequence[str]) -> list[Job]:
    """The jobs as they were last started: all seeds in one process, or each in its own,
    whichever wrote the newer log.
    """
    packs = [options.pack] if options.pack else [options.seeds, 1]
    return max((plan_jobs(options, flags, pack) for pack in packs), key=newest_log)


def newest_log(jobs: Sequence[Job]) -> int:
    """When the newest log of jobs was written, in ns; 0 without any."""
    logs = [job.log for job in jobs if job.log.is_file()]
    return max((log.stat().st_mtime_ns for log in logs), default=0)


def check_left(
    left: Sequence[Job], jobs: Sequence[Job], options: argparse.Namespace
) -> None:
    """Print what is left to do; raises RunError for a Slurm script of nothing."""
    if options.slurm and not left:
        raise RunError(
            f"--slurm={options.slurm}: nothing is left to submit, all {len(jobs)} jobs have"
            " finished; not written"
        )
    runs = sum(len(job.runs) for job in left)
    others = "; the others have finished" if len(left) < len(jobs) else ""
    print(f"{len(left)} jobs of {len(jobs)}, {runs} runs{others}", flush=True)


def start(
    left: Sequence[Job],
    options: argparse.Namespace,
    argv: Sequence[str],
    environ: Mapping[str, str],
) -> int:
    """Print, write or run the jobs that are left; returns the exit code.

    Args:
        left: the jobs.
        options: the flags of this script.
        argv: its command line, which a Slurm script mentions.
        environ: what the jobs see.
    """
    if options.slurm:
        write_script(expanded(options.slurm), slurm_script(left, argv), len(left))
        return 0
    if options.engine == "print":
        active = shutil.which("python") == sys.executable
        python = "python" if active else sys.executable
        print("\n".join(shell(job, python) for job in left))
        return 0
    print(f"what they print: {left[0].log.parent}/", flush=True)
    engine: Engine
    if options.engine == "local":
        engine = Local(environ, options.jobs_per_device)
    else:
        engine = Ray(
            environ, options.jobs_per_device, options.ray_address, options.retries
        )
    return int(run_jobs(left, engine) > 0)


def write_script(path: Path, text: str, count: int) -> None:
    """Write a script of `count` jobs and print the commands that submit it."""
    try:
        path.write_text(text, encoding=sys.getfilesystemencoding())
    except OSError as error:
        raise UserError(
            f"--slurm={path}: cannot be written ({error.strerror}); give another file"
        ) from error
    file = f"./{path}" if str(path).startswith("-") else str(path)
    for options in ("", *later_arrays(count)):
        print(shlex.join(["sbatch", *options.split(), file]))


def main(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Answer mistakes and signals; `environ` is what the jobs see. Returns the exit code."""
    if {"--help", "-help", "-h"} & set(argv):
        print(parser().format_help())
        return 0
    try:
        return sweep(argv, environ)
    except (UserError, RunError, OSError) as error:
        return report_error(error)
    except Preempted as signal:
        print(f"stopped by {signal}; the same command resumes", file=sys.stderr)
        return signal.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    users = dict(os.environ)
    # resolving settings takes no memory on a device that the jobs need
    os.environ["JAX_PLATFORMS"] = "cpu"
    # commands in the bytes that a shell takes
    run_program(lambda: main(sys.argv, users), sys.getfilesystemencoding())
