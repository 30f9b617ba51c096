"""Diffusion actor-critic (DAC, arXiv 2405.20555), a baseline of QAM (arXiv 2601.14234): the
denoiser moves along the critic's gradient.

    q = mean_D (sqrt(1 - abar_t) G eps(s, x_t, t))             in the loss of `denoiser.py`

Descending q turns eps against G, so that denoising moves the action along G; alpha weighs
imitation against it.

    python main.py --env_name=cube-double --agent=agents/dac.py --agent.alpha=0.3
"""

import jax
import jax.numpy as jnp

from agents.denoiser import Denoising


class DAC(Denoising):
    """A denoiser that descends its product with G; samples are clipped to the actions' range
    inside each step.
    """

    OPTIONS = Denoising.OPTIONS | {
        "clip_sampler_before": Denoising.OPTIONS["clip_sampler_before"]._replace(default=True),
        "clip_sampler_after": Denoising.OPTIONS["clip_sampler_after"]._replace(default=False),
    }

    def guidance(self, eps: jax.Array, slope: jax.Array, deviation: jax.Array) -> jax.Array:
        """mean_D (sqrt(1 - abar_t) G eps)."""
        return jnp.mean(deviation * slope * eps, axis=-1)


get_config = DAC.get_config
AGENT = DAC
