"""Reports the state of a sweep's jobs and the remaining time, only from their run folders."""

import itertools
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
from training.stored import changed_since
from utils.errors import DamagedFile, UserError, printable
from utils.files import is_locked

STATES = ("finished", "running", "stopped", "failed", "missing")
PHASES = ("offline", "online")
Speeds = dict[tuple[str, str], list[float]]
"""Measured seconds per step, by (agent and dataset, phase); a base's phase is cloning."""


class RunStatus(NamedTuple):
    """The state of a run, one of STATES, and how many steps it has done.

    A run is "stopped" if it has begun, has not finished and no process writes it. It is
    "failed" if its job's log ends with a newer error, a file in its folder is damaged, or it
    has finished with other settings.
    """

    run: Run
    state: str
    step: int
    timing: Columns
    """The columns of timing.csv; {} if a file is damaged."""
    fault: str = ""
    """A message about the damaged file, or the other settings."""


def run_status(run: Run) -> RunStatus:
    """Read the state of a run from its folder."""
    try:
        return undamaged_status(run)
    except DamagedFile as error:
        return RunStatus(run, "failed", 0, {}, error.fault)


def undamaged_status(run: Run) -> RunStatus:
    """Read the state of a run from its folder; raise DamagedFile."""
    begun = read_config(run.folder) is not None
    timing = read_columns(run.folder / "timing.csv")
    if run.is_done():
        return finished_status(run, timing)
    step = int(max(timing["step"], default=0))
    if is_locked(run.folder):
        return RunStatus(run, "running", step, timing)
    return RunStatus(run, "stopped" if begun else "missing", step, timing)


def finished_status(run: Run, timing: Columns) -> RunStatus:
    """Return the state of a finished run: failed if `main.py` would refuse it."""
    try:
        changed_since(run)
    except UserError as error:
        return RunStatus(run, "failed", 0, timing, str(error))
    return RunStatus(run, "finished", total_steps(run), timing)


def job_status(job: Job) -> list[RunStatus]:
    """Read the states of a job's runs from their folders and from the job's log."""
    found = [run_status(run) for run in job.runs]
    if job.failure():
        for i, status in enumerate(found):
            if status.state in ("stopped", "missing"):
                found[i] = status._replace(state="failed")
    return found


def total_steps(run: Run) -> int:
    """Return the number of offline updates and online environment steps."""
    return sum(run.settings.flags[f"{phase}_steps"] for phase in PHASES)


def seconds_per_step(status: RunStatus) -> dict[str, float]:
    """Return the mean time of a step in each phase that has begun.

    It includes evaluations and checkpoints.
    """
    flags = status.run.settings.flags
    offline = flags["offline_steps"]
    total = total_steps(status.run)
    phases = {
        "offline": (0, offline, 1),
        "online": (offline, total, flags["utd_ratio"]),
    }
    found = {}
    for phase, (first, last, updates) in phases.items():
        seconds = seconds_between(status.timing, first, last, updates)
        if seconds is not None:
            found[phase] = seconds
    return found


def seconds_between(
    timing: Columns, first: int, last: int, updates: int
) -> float | None:
    """Return the mean time of the steps first + 1 .. last; None if nothing was measured there.

    Args:
        timing: the columns of timing.csv.
        first: the step before the first one that counts.
        last: the last step that counts.
        updates: updates per step.
    """
    inside = (first < timing["step"]) & (timing["step"] <= last)
    own = {name: values[inside] for name, values in timing.items()}
    rates = own["updates_per_s"][own["updates_per_s"] > 0]
    if not len(rates):
        return None
    other = np.nansum(own["eval_seconds"]) + np.nansum(own["save_seconds"])
    return updates / float(np.median(rates)) + float(other) / (max(own["step"]) - first)


def measure_speeds(found: Iterable[RunStatus]) -> Speeds:
    """Return the speeds in the timing.csv of runs."""
    speeds: Speeds = defaultdict(list)
    for status in found:
        for phase, seconds in seconds_per_step(status).items() if status.timing else ():
            speeds[speed_key(status.run, phase)].append(seconds)
    return speeds


def speed_key(run: Run, phase: str) -> tuple[str, str]:
    """Return the key in `Speeds` of a run's phase; cloning is faster than fine-tuning."""
    return agent_and_dataset(run), "cloning" if run.cloning else phase


def agent_and_dataset(run: Run) -> str:
    """Return 'AGENT DATASET'; runs with the same value need the same time."""
    return f"{run.agent_name} {dataset_name(run.env_name)}"


def seconds_left(run: Run, step: int, speeds: Speeds) -> float | None:
    """Return the remaining time of a run after `step` steps; None if no speed was measured.

    The speed is that of runs with the same agent and dataset, or else that of all runs.

    Args:
        run: the run.
        step: how many steps it has done.
        speeds: the measured seconds per step.
    """
    flags = run.settings.flags
    left = 0.0
    ends = {"offline": flags["offline_steps"], "online": total_steps(run)}
    for phase, end in ends.items():
        steps = min(end - step, flags[f"{phase}_steps"])
        if steps > 0:
            key = speed_key(run, phase)
            known = speeds.get(key) or of_phase(speeds, key[1])
            if not known:
                return None
            left += steps * statistics.mean(known)
    return left


def of_phase(speeds: Speeds, phase: str) -> list[float]:
    """Return the speeds of all agents and datasets in a phase."""
    lists = [values for (_, other), values in speeds.items() if other == phase]
    return list(itertools.chain.from_iterable(lists))


def hours_text(seconds: float | None) -> str:
    """Return a time as 31:05:00 (hours, minutes, seconds); "?" for None."""
    if seconds is None:
        return "?"
    minutes, left = divmod(math.ceil(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{left:02d}"


def longest_left(found: Sequence[RunStatus], speeds: Speeds) -> float | None:
    """Return the remaining time of runs that train together; None if it is unknown for one."""
    longest = 0.0
    for status in found:
        if status.state != "finished":
            seconds = seconds_left(status.run, status.step, speeds)
            if seconds is None:
                return None
            longest = max(longest, seconds)
    return longest


def status_lines(jobs: Sequence[Job]) -> list[str]:
    """Return the lines of a status report.

    They count the runs in each state by agent and domain, list running, failed and stopped
    jobs, and give the remaining time. The seeds of a job train together, so they count once in
    the remaining time. Bases that have to be trained first count too.
    """
    by_job = {job: job_status(job) for job in jobs}
    of_bases = base_status(jobs)
    of_jobs = list(by_job.values())
    every_run = [status for found in of_jobs for status in found]
    groups = group_by_folders([*of_jobs, *of_bases])
    by_folder = {status.run.folder: status for found in groups for status in found}
    speeds = measure_speeds(by_folder.values())
    lines = table(every_run)
    for job, found in by_job.items():
        lines += unfinished_job(job, found, longest_left(found, speeds))
    running = sum(map(is_running, of_jobs))
    times = [longest_left(found, speeds) for found in filter(is_unfinished, groups)]
    return [*lines, time_left(times, running)]


def is_unfinished(found: Iterable[RunStatus]) -> bool:
    """Whether any of these runs has not finished."""
    return any(status.state != "finished" for status in found)


def is_running(found: Iterable[RunStatus]) -> bool:
    """Whether any of these runs is written now."""
    return any(status.state == "running" for status in found)


def base_status(jobs: Sequence[Job]) -> list[list[RunStatus]]:
    """Read the states of the bases that jobs have yet to start from."""
    return [
        [run_status(base) for base in job.bases]
        for job in jobs
        if not (job.is_done() or job.has_begun())
    ]


def group_by_folders(found: Iterable[list[RunStatus]]) -> list[list[RunStatus]]:
    """Remove empty groups, and repeated groups with the same folders."""
    groups = {
        tuple(status.run.folder for status in group): group for group in found if group
    }
    return list(groups.values())


def time_left(times: Sequence[float | None], running: int) -> str:
    """Return a line with the remaining time of all jobs.

    Args:
        times: the remaining seconds of each unfinished job; None if unknown.
        running: how many jobs run at the same time now.
    """
    if not times:
        return "all finished"
    known = [seconds for seconds in times if seconds is not None]
    if len(known) < len(times):
        return "time left: not known before the first lines of timing.csv are written"
    needed = sum(known)
    together = (
        f"; {hours_text(needed / running)} for {running} at a time, as now"
        if running
        else ""
    )
    return f"time left (h:mm:ss): {hours_text(needed)} for one job after the other{together}"


def unfinished_job(
    job: Job, found: Sequence[RunStatus], seconds: float | None
) -> list[str]:
    """Return the lines about a running, stopped or failed job; [] for any other.

    Args:
        job: the job.
        found: the state of its runs.
        seconds: its remaining time; None if unknown.
    """
    states = {status.state for status in found}
    step = min(status.step for status in found)
    total = total_steps(job.runs[0])
    lines = [f"failed   {status.fault}" for status in found if status.fault]
    if "running" in states:
        lines.append(
            f"running  {step / max(1, total):4.0%}  {hours_text(seconds):>9} left  {job.name}"
        )
    elif "failed" in states and (failure := job.failure()):
        lines.append(f"failed   {printable(failure)}  {job.log}")
    elif "stopped" in states:
        remedy = f"the same command resumes it  {job.runs[0].folder}"
        lines.append(f"stopped  at step {step:,} of {total:,}, {remedy}")
    return lines


def table(found: Sequence[RunStatus]) -> list[str]:
    """Return a header, one line per agent and domain, and a line with their sums."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for status in found:
        counts[agent_and_dataset(status.run)][status.state] += 1
    counts["all"] = sum(counts.values(), Counter())
    width = max(map(len, counts))
    lines = [" " * width + "".join(f"{state:>10}" for state in STATES)]
    for name, count in counts.items():
        numbers = "".join(f"{count[state]:>10}" for state in STATES)
        lines.append(f"{name:{width}}{numbers}")
    return lines
