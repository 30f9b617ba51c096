"""Q-score matching (QSM, arXiv 2312.11752) on a diffusion clone, a baseline of QAM (arXiv
2601.14234): the denoiser's score is drawn to the critic's gradient.

    q = mean_D (-inv_temp G - eps(s, x_t, t))^2                in the loss of `denoiser.py`

eps is minus the score of the noisy actions times their deviation; q asks for inv_temp G
whatever the deviation.

    python main.py --env_name=cube-double --agent=agents/qsm.py --agent.inv_temp=1
"""

import jax
import jax.numpy as jnp

from agents.denoiser import Denoising
from utils.options import Option


class QSM(Denoising):
    """A denoiser that is drawn to -inv_temp G."""

    OPTIONS = Denoising.OPTIONS | {
        "inv_temp": Option(1.0, "inverse temperature: factor of the gradient", at_least=0),
    }

    def guidance(self, eps: jax.Array, slope: jax.Array, deviation: jax.Array) -> jax.Array:
        """mean_D (-inv_temp G - eps)^2."""
        return jnp.mean((-self.config.inv_temp * slope - eps) ** 2, axis=-1)


get_config = QSM.get_config
AGENT = QSM
