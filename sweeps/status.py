"""How the jobs of a sweep stand, and how long they will take: read from the run folders alone,
whoever runs them.
"""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from envs.tasks import dataset_name
from sweeps.jobs import Job
from training.run import Run
from utils.files import is_locked
from utils.logging import read_rows

STATES = ("finished", "running", "stopped", "failed", "missing")
PHASES = ("offline", "online")
Speeds = dict[tuple[str, str], list[float]]
"""Seconds per step that were measured, by agent and phase."""


class Standing(NamedTuple):
    """Where a run is, one of STATES, and how many steps it has done.

    A run is stopped if it was begun, has not finished and no process writes it; it failed if
    its job's log ends in an error.
    """

    run: Run
    state: str
    step: int


def standing(run: Run) -> Standing:
    """Look into a run's folder."""
    if run.is_done():
        return Standing(run, "finished", total_steps(run))
    step = max((row["step"] for row in timing(run)), default=0)
    if is_locked(run.folder):
        return Standing(run, "running", step)
    return Standing(
        run, "stopped" if (run.folder / "config.json").exists() else "missing", step
    )


def standings(job: Job) -> list[Standing]:
    """Look into the folders of a job's runs, and into its log if it has one."""
    places = [standing(run) for run in job.runs]
    if job.failure():
        places = [
            place._replace(state="failed") if place.state in ("stopped", "missing") else place
            for place in places
        ]
    return places


def total_steps(run: Run) -> int:
    """Offline updates and online environment steps."""
    return sum(run.settings.flags[f"{phase}_steps"] for phase in PHASES)


def timing(run: Run) -> list[dict[str, Any]]:
    """The rows of timing.csv."""
    return read_rows(run.folder / "timing.csv")


def seconds_per_step(run: Run) -> dict[str, float]:
    """Of the phases that have begun: training, and evaluations and checkpoints spread over the
    steps.
    """
    flags, rows = run.settings.flags, timing(run)
    bounds = {
        "offline": (0, flags["offline_steps"]),
        "online": (flags["offline_steps"], total_steps(run)),
    }
    found = {}
    for phase, (first, last) in bounds.items():
        own = [row for row in rows if first < row["step"] <= last]
        rates = [row["updates_per_s"] for row in own if row.get("updates_per_s", 0.0) > 0]
        if rates:
            besides = sum(
                row.get(name, 0.0) for row in own for name in ("eval_seconds", "save_seconds")
            )
            updates = flags["utd_ratio"] if phase == "online" else 1
            found[phase] = updates / statistics.median(rates) + besides / (
                max(row["step"] for row in own) - first
            )
    return found


def measured(runs: Iterable[Run]) -> Speeds:
    """What the runs' own files tell of their speed."""
    speeds: Speeds = defaultdict(list)
    for run in runs:
        for phase, seconds in seconds_per_step(run).items():
            speeds[kind(run), phase].append(seconds)
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


def most(values: Iterable[float | None]) -> float | None:
    """The largest; None where one is not known."""
    values = list(values)
    known = [value for value in values if value is not None]
    return max(known, default=0.0) if len(known) == len(values) else None


def report(jobs: Sequence[Job]) -> list[str]:
    """Lines: how many runs stand where by agent and domain, what runs, what failed and why, and
    the time left.

    The seeds of one job count once in the time left. Bases that are still to be trained count
    with what they need.
    """
    by_job = {job: standings(job) for job in jobs}
    everything = [place for places in by_job.values() for place in places]
    lines = table(everything)

    bases = {
        base.folder: [standing(other) for other in job.bases]
        for job in jobs
        if not job.is_done()
        for base in job.bases
    }
    begun = [
        place.run
        for place in [*everything, *(place for places in bases.values() for place in places)]
    ]
    speeds = measured({run.folder: run for run in begun}.values())

    def left(places: Sequence[Standing]) -> float | None:
        unfinished = [place for place in places if place.state != "finished"]
        return most(seconds_left(place.run, place.step, speeds) for place in unfinished)

    lines += [
        line
        for job, places in by_job.items()
        if (line := unfinished_job(job, places, left(places)))
    ]
    groups = {
        tuple(place.run.folder for place in places): places
        for places in [*by_job.values(), *bases.values()]
    }
    running = sum(
        any(place.state == "running" for place in places) for places in by_job.values()
    )
    return [*lines, time_left([left(places) for places in groups.values()], running)]


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


def unfinished_job(job: Job, places: Sequence[Standing], seconds: float | None) -> str | None:
    """One line about a job that runs, was stopped or failed; None for others."""
    states = {place.state for place in places}
    step, total = min(place.step for place in places), total_steps(job.runs[0])
    if "running" in states:
        return f"running  {step / max(1, total):4.0%}  {clock(seconds):>9} left  {job.name}"
    if "failed" in states:
        return f"failed   {job.failure()}  {job.log}"
    if "stopped" in states:
        return (
            f"stopped  at step {step:,} of {total:,}, the same command goes on "
            f" {job.runs[0].folder}"
        )
    return None


def table(places: Sequence[Standing]) -> list[str]:
    """One line for each agent and domain, and their sum."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for place in places:
        counts[kind(place.run)][place.state] += 1
    counts["all"] = sum(counts.values(), Counter())
    width = max(map(len, counts))
    rows = [
        f"{name:{width}}" + "".join(f"{count[state]:>10}" for state in STATES)
        for name, count in counts.items()
    ]
    return [" " * width + "".join(f"{state:>10}" for state in STATES), *rows]
