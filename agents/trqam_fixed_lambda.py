"""A worked fork: TRQAM with lambda frozen, the ablation "no dual step".

Copy this file, override one hook of `TRQAM` (here `dual_step`), describe new settings in
`OPTIONS`, and train it by its path; nothing else has to be edited:

    python main.py --env_name=cube-double --agent=agents/trqam_fixed_lambda.py --agent.lam=0.3
"""

from typing import Any

import jax
import jax.numpy as jnp

from agents import trqam
from agents.options import without
from utils.options import Option

DUAL_OPTIONS = ("dual_mode", "eta_lambda", "dual_gain", "lambda_min", "lambda_max")


class FixedLambdaTRQAM(trqam.TRQAM):
    """lambda = lam for the whole run, as reports show it; the path KL is averaged and logged,
    never acted on; kl_budget only clips the average.
    """

    OPTIONS = without(trqam.TRQAM.OPTIONS, *DUAL_OPTIONS) | {
        "lam": Option(1.0, "lam for the whole run; lambda = lam_scale lam", above=0),
        "lam_scale": trqam.TRQAM.OPTIONS["lam_scale"]._replace(default=1.0),
    }

    @classmethod
    def init_state(cls, config: Any) -> dict[str, Any]:
        """TRQAM's dual state, started at the `lam` that the run keeps."""
        dual = super().init_state(config)["dual"]
        return {"dual": dual.replace(lam=jnp.array(config.lam, jnp.float32))}

    def concerns(self, lines: list[dict[str, Any]]) -> dict[str, str]:
        """None: nothing here steers the path KL."""
        return {}

    def dual_step(self, kl: jax.Array) -> trqam.Dual:
        """The hook: lam stays, only the average of the path KL moves."""
        return self.dual.replace(kl_ema=self.dual.next_kl_ema(kl, self.config))


get_config = FixedLambdaTRQAM.get_config
AGENT = FixedLambdaTRQAM
