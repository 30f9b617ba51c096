"""The state of a sweep's jobs and the time that they have left: read from the run folders
alone, whoever runs them.
"""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from configs.run_folder import Columns, read_columns, read_config
from envs.tasks import dataset_name
from sweeps.jobs import Job
from training.run import Run
from utils.errors import DamagedFile, printable
from utils.files import is_locked

STATES = ("finished", "running", "stopped", "failed", "missing")
PHASES = ("offline", "online")
Speeds = dict[tuple[str, str], list[float]]
"""Seconds per step that were measured, by agent and phase."""


class RunStatus(NamedTuple):
    """Where a run is, one of STATES, and how many steps it has done.

    A run is stopped if it was begun, has not finished and no process writes it; it failed if
    its job's log ends in an error, or if a file of its folder is damaged.
    """

    run: Run
    state: str
    step: int
    timing: Columns
    """The columns of timing.csv; {} where a file is damaged."""
    fault: str = ""
    """What is damaged."""


def run_status(run: Run) -> RunStatus:
    """Look into a run's folder."""
    try:
        return undamaged_status(run)
    except DamagedFile as error:
        return RunStatus(run, "failed", 0, {}, error.fault)


def undamaged_status(run: Run) -> RunStatus:
    """Look into a run's folder; raises DamagedFile."""
    begun = read_config(run.folder) is not None
    timing = read_columns(run.folder / "timing.csv")
    if run.is_done():
        return RunStatus(run, "finished", total_steps(run), timing)
    step = int(max(timing["step"], default=0))
    if is_locked(run.folder):
        return RunStatus(run, "running", step, timing)
    return RunStatus(run, "stopped" if begun else "missing", step, timing)


def job_status(job: Job) -> list[RunStatus]:
    """Look into the folders of a job's runs, and into its log if it has one."""
    found = [run_status(run) for run in job.runs]
    if not job.failure():
        return found
    unfinished = ("stopped", "missing")
    return [one._replace(state="failed") if one.state in unfinished else one for one in found]


def total_steps(run: Run) -> int:
    """Offline updates and online environment steps."""
    return sum(run.settings.flags[f"{phase}_steps"] for phase in PHASES)


def seconds_per_step(status: RunStatus) -> dict[str, float]:
    """The time of a step in each phase that has begun: training, and evaluations and
    checkpoints spread over the steps.
    """
    flags = status.run.settings.flags
    offline, total = flags["offline_steps"], total_steps(status.run)
    phases = {"offline": (0, offline, 1), "online": (offline, total, flags["utd_ratio"])}
    found = {
        phase: seconds_between(status.timing, first, last, updates)
        for phase, (first, last, updates) in phases.items()
    }
    return {phase: seconds for phase, seconds in found.items() if seconds is not None}


def seconds_between(timing: Columns, first: int, last: int, updates: int) -> float | None:
    """The time of a step after `first` and up to `last`, each of so many updates; None where no
    speed is known there.
    """
    inside = (first < timing["step"]) & (timing["step"] <= last)
    own = {name: values[inside] for name, values in timing.items()}
    rates = own["updates_per_s"][own["updates_per_s"] > 0]
    if not len(rates):
        return None
    besides = np.nansum(own["eval_seconds"]) + np.nansum(own["save_seconds"])
    return updates / float(np.median(rates)) + float(besides) / (max(own["step"]) - first)


def measured(found: Iterable[RunStatus]) -> Speeds:
    """The speeds that the runs' own files hold."""
    speeds: Speeds = defaultdict(list)
    for status in found:
        for phase, seconds in seconds_per_step(status).items() if status.timing else ():
            speeds[kind(status.run), phase].append(seconds)
    return speeds


def kind(run: Run) -> str:
    """Runs of one kind take the same time."""
    return f"{run.agent_name} {dataset_name(run.env_name)}"


def seconds_left(run: Run, step: int, speeds: Speeds) -> float | None:
    """Of a run that has done `step` steps, at the speed of its kind, or else of all; None where
    nothing was measured.
    """
    flags, left = run.settings.flags, 0.0
    ends = {"offline": flags["offline_steps"], "online": total_steps(run)}
    for phase, end in ends.items():
        steps = min(end - step, flags[f"{phase}_steps"])
        if steps > 0:
            same_phase = [
                seconds
                for (_, other), values in speeds.items()
                if other == phase
                for seconds in values
            ]
            known = speeds.get((kind(run), phase)) or same_phase
            if not known:
                return None
            left += steps * statistics.mean(known)
    return left


def clock(seconds: float | None) -> str:
    """Hours, minutes and seconds, such as 31:05:00."""
    if seconds is None:
        return "?"
    minutes, left = divmod(math.ceil(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{left:02d}"


def longest_left(found: Sequence[RunStatus], speeds: Speeds) -> float | None:
    """The time that runs which train together have left; None where it is not known of one."""
    unfinished = [status for status in found if status.state != "finished"]
    times = [seconds_left(status.run, status.step, speeds) for status in unfinished]
    known = [seconds for seconds in times if seconds is not None]
    return max(known, default=0.0) if len(known) == len(times) else None


def report(jobs: Sequence[Job]) -> list[str]:
    """Lines: how many runs are in which state by agent and domain, what runs, what failed and
    why, and the time left.

    The seeds of one job count once in the time left. Bases that are still to be trained count
    with what they need.
    """
    by_job = {job: job_status(job) for job in jobs}
    of_bases = base_status(jobs)
    of_jobs = list(by_job.values())
    every_run = [status for found in of_jobs for status in found]
    groups = group_by_folders([*of_jobs, *of_bases])
    by_folder = {status.run.folder: status for found in groups for status in found}
    speeds = measured(by_folder.values())
    lines = table(every_run)
    for job, found in by_job.items():
        lines += unfinished_job(job, found, longest_left(found, speeds))
    running = sum(any(status.state == "running" for status in found) for found in of_jobs)
    return [*lines, time_left([longest_left(found, speeds) for found in groups], running)]


def base_status(jobs: Sequence[Job]) -> list[list[RunStatus]]:
    """Look into the folders of the bases that unfinished jobs start from."""
    return [[run_status(base) for base in job.bases] for job in jobs if not job.is_done()]


def group_by_folders(found: Iterable[list[RunStatus]]) -> list[list[RunStatus]]:
    """The same without those that are of the same folders as an earlier one."""
    groups = {tuple(status.run.folder for status in group): group for group in found if group}
    return list(groups.values())


def time_left(times: Sequence[float | None], running: int) -> str:
    """One line: the time that jobs with these seconds left take, and with as many at a time as
    are running.
    """
    unfinished = [seconds for seconds in times if seconds != 0.0]
    if not unfinished:
        return "all finished"
    if None in unfinished:
        return "time left: not known before the first rows of timing.csv are there"
    needed = sum(seconds for seconds in unfinished if seconds is not None)
    together = f"; {clock(needed / running)} for {running} at a time, as now" if running else ""
    return f"time left (h:mm:ss): {clock(needed)} of one job after the other{together}"


def unfinished_job(job: Job, found: Sequence[RunStatus], seconds: float | None) -> list[str]:
    """The lines about a job that runs, was stopped or failed; none about others.

    Args:
        job: the job.
        found: the state of its runs.
        seconds: the time that it has left; None where that is not known.
    """
    states = {status.state for status in found}
    step, total = min(status.step for status in found), total_steps(job.runs[0])
    lines = [f"failed   {status.fault}" for status in found if status.fault]
    if "running" in states:
        lines.append(
            f"running  {step / max(1, total):4.0%}  {clock(seconds):>9} left  {job.name}"
        )
    elif "failed" in states and (failure := job.failure()):
        lines.append(f"failed   {printable(failure)}  {job.log}")
    elif "stopped" in states:
        remedy = f"the same command goes on  {job.runs[0].folder}"
        lines.append(f"stopped  at step {step:,} of {total:,}, {remedy}")
    return lines


def table(found: Sequence[RunStatus]) -> list[str]:
    """One line for each agent and domain, and their sum."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for status in found:
        counts[kind(status.run)][status.state] += 1
    counts["all"] = sum(counts.values(), Counter())
    width = max(map(len, counts))
    rows = [
        f"{name:{width}}" + "".join(f"{count[state]:>10}" for state in STATES)
        for name, count in counts.items()
    ]
    return [" " * width + "".join(f"{state:>10}" for state in STATES), *rows]
