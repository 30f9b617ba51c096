"""Writes the jobs of a sweep as the script of a Slurm array."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from sweeps.jobs import Job, is_done, shell
from utils.errors import UserError

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
# which overrides it. A job that was cut short has saved; submit this file again to resume it,
# while finished ones end at once.{bases}{later}
cd {cwd} || exit 1
mapfile -t jobs <<'JOBS'
{lines}
JOBS
number=$((${{SWEEP_FIRST:-0}} + ${{SLURM_ARRAY_TASK_ID:?submit this file with sbatch}}))
eval "exec ${{jobs[number]}}"
"""
BASES = """
# Tasks 0-{last} train the bases, for which others wait; to begin those when these have ended:
#   sbatch --parsable --array=0-{last} FILE
#   sbatch --array={next}-{end} --dependency=afterany:ID FILE"""
LATER = """
# An array ends at {last} unless a cluster allows more. For the other jobs, with the same
# --dependency if there is one:"""
LAST_TASK = 1000
"""The largest index of an array unless a cluster sets another MaxArraySize."""


def slurm_script(jobs: Sequence[Job], argv: Sequence[str]) -> str:
    """Return the script of an array with one task for each job.

    argv: the command line of the sweep, which the script mentions.
    """
    end = min(len(jobs) - 1, LAST_TASK)
    last_base = last_to_train(jobs)
    bases = later = ""
    if 0 <= last_base < end:
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


def last_to_train(jobs: Sequence[Job]) -> int:
    """Return the index of the last job that trains a base; -1 if none does."""
    first: dict[Path, int] = {}
    for i, job in enumerate(jobs):
        for base in () if job.has_begun() else job.bases:
            if not is_done(base):
                first.setdefault(base.folder, i)
    return max(first.values(), default=-1)


def later_arrays(count: int) -> list[str]:
    """Return the options of sbatch for those of `count` jobs that do not fit into one array."""
    size = LAST_TASK + 1
    return [
        f"--export=ALL,SWEEP_FIRST={first} --array=0-{min(size, count - first) - 1}"
        for first in range(size, count, size)
    ]


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
