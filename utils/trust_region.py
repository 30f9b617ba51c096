"""What a user should know about a run's lambda and path KL, decided in one place."""

from collections.abc import Sequence
from typing import Any


def concerns(
    rows: Sequence[dict[str, Any]], lambda_min: float, lambda_max: float, settled: bool
) -> dict[str, str]:
    """lambda on a bound in the newest row, and a path KL far off its budget in all.

    Args:
        rows: the newest rows of train.csv, with the columns of the dual state.
        lambda_min: the lower bound of lambda.
        lambda_max: the upper bound.
        settled: whether the rows are so many that lambda should have settled.
    """
    lam = rows[-1]["dual/lam"]
    kls = [row["dual/path_kl"] / row["dual/kl_budget"] for row in rows]
    found = {}
    if lam >= 0.999 * lambda_max:
        upper = f"lambda is at its upper bound {lam:.4g}"
        found["lambda_max"] = f"{upper}: raise --agent.lambda_max or lam_scale"
    if lam <= 1.001 * lambda_min:
        lower = f"lambda is at its lower bound {lam:.4g}"
        found["lambda_min"] = f"{lower}: the policy does not use its KL budget"
    if settled and (min(kls) > 1.5 or max(kls) < 0.5):
        found["path_kl"] = (
            f"for {len(rows)} rows of train.csv the path KL has been off its budget, now"
            f" {kls[-1]:.2f} times it: lambda has not settled (--agent.eta_lambda,"
            " --agent.dual_mode=closed_form)"
        )
    return found
