"""Warnings about a run's lambda and path KL."""

from collections.abc import Sequence
from typing import Any

COLUMNS = {"dual/lam", "dual/path_kl", "dual/kl_budget"}


def concerns(
    lines: Sequence[dict[str, Any]], lambda_min: float, lambda_max: float, settled: bool
) -> dict[str, str]:
    """Return warnings by kind: lambda at a bound, or a path KL that misses its budget.

    lambda is judged by the newest line; the path KL is reported if it is off by half or more in
    every line. The texts hold no numbers, so that equal warnings of several runs are counted.
    Lines without the columns of the dual state give none.

    Args:
        lines: the newest lines of train.csv.
        lambda_min: the lower bound of lam.
        lambda_max: the upper bound of lam.
        settled: whether there are enough lines for lambda to have settled.
    """
    if not COLUMNS <= lines[-1].keys():
        return {}
    lam = lines[-1]["dual/lam"]
    pairs = [(line["dual/path_kl"], line["dual/kl_budget"]) for line in lines]
    above = all(kl > 1.5 * budget for kl, budget in pairs)
    below = all(kl < 0.5 * budget for kl, budget in pairs)
    found = {}
    if lam >= 0.999 * lambda_max:
        found["lambda_max"] = (
            "lambda is at its upper bound: raise --agent.lambda_max or --agent.lam_scale"
        )
    if lam <= 1.001 * lambda_min:
        found["lambda_min"] = (
            "lambda is at its lower bound, the KL budget unused: lower --agent.lambda_min"
        )
    if settled and (above or below):
        found["path_kl"] = (
            "the path KL stays off its budget by half or more: lambda has not settled"
            " (--agent.eta_lambda, --agent.dual_mode=closed_form)"
        )
    return found
