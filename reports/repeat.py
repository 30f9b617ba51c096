"""Whether the other seeds of the same settings predict a run."""

import numpy as np

from reports.results import Result, differing_settings
from reports.statistics import prediction_half
from reports.summary import Report


def repeats(
    report: Report, earlier: list[Result], at: str = "final"
) -> list[tuple[str, bool]]:
    """For each run of a report a line on whether the other seeds of its agent, settings and
    task in `earlier` predict it, and whether they do.

    They do if its success lies in the 95 % prediction interval of one more run at that step. A
    dataset of the same size with other content is mentioned but does not count as a different
    setting.

    Args:
        report: of the runs.
        earlier: the other seeds, and other runs.
        at: the step to compare at, "last" for that of the last evaluation, or "final" for the
            ends of the phases.
    """
    return [
        repeat(result, earlier, step)
        for result in report.results
        for step in steps_to_compare(result, at)
    ]


def steps_to_compare(result: Result, at: str) -> list[int]:
    """The steps at which a run is compared; `at` as in `repeats`. A run that has not finished
    is compared at its last step too.
    """
    if at not in ("final", "last"):
        return [int(at)]
    ends = result.ends().values() if at == "final" else ()
    reached = [end for end in ends if result.success(end) is not None]
    return sorted({*reached, result.last_step})


def repeat(result: Result, earlier: list[Result], step: int) -> tuple[str, bool]:
    """The line of one run, and whether it lies inside the interval."""
    own = result.success(step)
    name = f"{result.agent} {result.env_name.removesuffix('-v0')} seed {result.seed}"
    if own is None:
        return f"{name}: it was not evaluated at step {step:,}", False
    if np.isnan(own):
        return f"{name}: it reports no success to compare", False
    others = other_seeds(result, earlier)
    same = same_settings(result, others, step)
    rates = np.array([r.success(step) for r in same], float)
    rates = rates[np.isfinite(rates)]
    if len(rates) < 2:
        return f"{name}: {too_few(result, others, step)}", False
    half = prediction_half(rates, result.episodes(step))
    inside = bool(abs(own - rates.mean()) <= half)
    word = "inside" if inside else "OUTSIDE"
    interval = f"95 % prediction interval of {len(rates)} seeds"
    where = f"{word} {100 * rates.mean():.1f} ± {100 * half:.1f} ({interval})"
    data = "; the data were not the same" if differing_data(result, same) else ""
    end = max(result.ends().values(), default=step)
    rest = f" of {end:,}, not finished" if result.last_step < end else ""
    return f"{name}, step {step:,}{rest}: {100 * own:.1f} % is {where}{data}", inside


def too_few(result: Result, others: list[Result], step: int) -> str:
    """Say that there are too few seeds, and in what the settings of the others differ."""
    text = f"fewer than two other seeds of the same settings are evaluated at step {step:,}"
    differing = differing_settings([r.settings(step) for r in (result, *others)])
    if differing:
        text += f"; there are others with {', '.join(differing)}"
    return text


def other_seeds(result: Result, earlier: list[Result]) -> list[Result]:
    """The runs of the same agent and task with another seed."""

    def agent_and_task(run: Result) -> tuple:
        return run.agent, run.overrides.get("agent_source"), run.env_name

    ours = agent_and_task(result)
    return [r for r in earlier if agent_and_task(r) == ours and r.seed != result.seed]


def same_settings(result: Result, others: list[Result], step: int) -> list[Result]:
    """The runs whose settings until a step are those of `result`, if evaluated there: the first
    of each seed.
    """
    found = []
    for other in others:
        differing = differing_settings([result.settings(step), other.settings(step)])
        if not differing and other.success(step) is not None:
            found.append(other)
    return list({other.seed: other for other in reversed(found)}.values())


def differing_data(result: Result, others: list[Result]) -> bool:
    """Whether runs record different data. A run without a record matches any."""
    return len({r.fingerprint for r in (result, *others)} - {()}) > 1
