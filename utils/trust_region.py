"""What a user should know about a run's lambda and path KL."""

from collections.abc import Sequence
from typing import Any


def concerns(
    rows: Sequence[dict[str, Any]], lambda_min: float, lambda_max: float, settled: bool
) -> dict[str, str]:
    """What is amiss by kind: lambda on a bound in the newest row, or a path KL that is off its
    budget by half or more in every row. The sentences hold no numbers, so that those of several
    runs can be counted.

    Args:
        rows: the newest rows of train.csv, with the columns of the dual state.
        lambda_min: the lower bound of lambda.
        lambda_max: the upper bound.
        settled: whether there are enough rows for lambda to have settled.
    """
    lam = rows[-1]["dual/lam"]
    ratios = [row["dual/path_kl"] / row["dual/kl_budget"] for row in rows]
    found = {}
    if lam >= 0.999 * lambda_max:
        found["lambda_max"] = (
            "lambda is at its upper bound: raise --agent.lambda_max or --agent.lam_scale"
        )
    if lam <= 1.001 * lambda_min:
        found["lambda_min"] = (
            "lambda is at its lower bound: the policy does not use its KL budget"
        )
    if settled and (min(ratios) > 1.5 or max(ratios) < 0.5):
        found["path_kl"] = (
            "the path KL stays off its budget by half or more: lambda has not settled"
            " (--agent.eta_lambda, --agent.dual_mode=closed_form)"
        )
    return found
