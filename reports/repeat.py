"""Whether the other seeds of the same settings predict a run."""

import numpy as np

from reports.results import Result, differing_settings
from reports.statistics import prediction_half
from reports.summary import Report


def repeats(report: Report, earlier: list[Result]) -> list[tuple[str, bool]]:
    """For each run of a report a line on whether the other seeds of its agent, settings and
    task in `earlier` predict it, and whether they do.

    They do if its success lies in the 95 % prediction interval of one more run at that step. A
    dataset of the same size with other content is mentioned but does not count as a different
    setting.
    """
    return [repeat(result, earlier) for result in report.results]


def repeat(result: Result, earlier: list[Result]) -> tuple[str, bool]:
    """The line of one run, and whether it lies inside the interval."""
    step, own = result.last_step, result.evaluations["success"][-1]
    name = f"{result.agent} {result.env_name.removesuffix('-v0')} seed {result.seed}"
    if np.isnan(own):
        return f"{name}: it reports no success to compare", False
    others = other_seeds(result, earlier)
    same = same_settings(result, others, step)
    rates = np.array([r.success(step) for r in same])
    if len(rates) < 2:
        return f"{name}: {too_few(result, others, step)}", False
    half = prediction_half(rates, float(result.evaluations["episodes"][-1]))
    inside = bool(abs(own - rates.mean()) <= half)
    word = "inside" if inside else "OUTSIDE"
    interval = f"95 % prediction interval of {len(rates)} seeds"
    where = f"{word} {100 * rates.mean():.1f} ± {100 * half:.1f} ({interval})"
    data = "; the data were not the same" if differing_data(result, same) else ""
    end = max(result.ends().values(), default=step)
    rest = f" of {end:,}, not finished" if step < end else ""
    return f"{name}, step {step:,}{rest}: {100 * own:.1f} % is {where}{data}", inside


def too_few(result: Result, others: list[Result], step: int) -> str:
    """Say that there are too few seeds, and in what the settings of the others differ."""
    text = f"fewer than two other seeds of the same settings are evaluated at step {step:,}"
    differing = differing_settings([r.settings(step) for r in (result, *others)])
    if differing:
        text += f"; there are others with {', '.join(differing)}"
    return text


def other_seeds(result: Result, earlier: list[Result]) -> list[Result]:
    """The runs of the same agent, command line and task with another seed."""
    key = (result.agent, result.overrides, result.env_name)
    same = [r for r in earlier if (r.agent, r.overrides, r.env_name) == key]
    return [r for r in same if r.seed != result.seed]


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
