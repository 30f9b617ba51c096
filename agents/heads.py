"""Actors other than flows, and their losses, written once. Shapes as in `trqam.py`.

one-step actor   mu(s, z) imitates the flow from noise z and climbs the critic        QAM-F, FQL
tanh-Gaussian    a = tanh(mean + std n), n ~ N(0, I), with a temperature alpha
                                                                      QAM-E, FEdit, DSRL, RLPD
deterministic    mu(s) in (-1, 1), from a small last layer                                ReBRAC
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from utils.networks import mlp, xavier

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0


# ------------------------------------------------------------------------------ one-step actor


class OneStepActor(nn.Module):
    """mu(s, z) [..., D], not clipped, at s [..., O] and noise z [..., D]."""

    hidden_dims: Sequence[int]
    layer_norm: bool

    @nn.compact
    def __call__(self, s: jax.Array, z: jax.Array) -> jax.Array:
        return mlp((s, z), self.hidden_dims, z.shape[-1], self.layer_norm)


def distillation_loss(actions: jax.Array, flow_actions: jax.Array) -> jax.Array:
    """mean_{B,D} (mu - clip flow)^2 of the actor's actions and of the flow's from the same
    noise, both [B, D].

    The flow's are clipped to [-1, 1] here and constant; the actor's are not clipped. Source:
    FQL (arXiv 2502.02538), eq. 8.
    """
    return jnp.mean((actions - jnp.clip(jax.lax.stop_gradient(flow_actions), -1.0, 1.0)) ** 2)


# ------------------------------------------------------------------------------- tanh-Gaussian


def two_heads(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
    """A kernel [inputs, 2 D] of two Xavier-uniform blocks, each drawn for its own width D."""
    blocks = [xavier(k, (shape[0], shape[1] // 2), dtype) for k in jax.random.split(key)]
    return jnp.concatenate(blocks, axis=1)


class TanhGaussian(nn.Module):
    """Reparametrised actions [..., D] and their log-probabilities [...], from inputs [..., N]
    of which the last is standard normal noise [..., D].

    Mean and log-std are the halves of one output. There is no LayerNorm, as published.
    """

    hidden_dims: Sequence[int]

    def __call__(self, *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        return squash(*self.moments(*inputs), inputs[-1])

    def log_prob(self, *inputs: jax.Array) -> jax.Array:
        """log p(a) [...] of actions a [..., D], the last of the inputs, inside (-1, 1)."""
        mean, log_std = self.moments(*inputs)
        std = jnp.exp(jnp.clip(log_std, LOG_STD_MIN, LOG_STD_MAX))
        return squash(mean, log_std, (jnp.arctanh(inputs[-1]) - mean) / std)[1]

    @nn.compact
    def moments(self, *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log-std before tanh, of the shape of the last input, [..., D]."""
        shape = inputs[-1].shape
        outputs = mlp(inputs[:-1], self.hidden_dims, 2 * shape[-1], False, two_heads)
        mean, log_std = jnp.split(outputs, 2, axis=-1)
        return jnp.broadcast_to(mean, shape), jnp.broadcast_to(log_std, shape)


class Temperature(nn.Module):
    """The logarithm of the entropy temperature alpha, a scalar."""

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.param("log_alpha", nn.initializers.zeros, ())


def squash(
    mean: jax.Array, log_std: jax.Array, noise: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """a = tanh(u), u = mean + std n, of shape [..., D], and log p(a) = log N(u) - sum_D log(1 -
    tanh(u)^2), of shape [...].

    log_std is clipped to [-20, 2]. The log-slope is 2 (log 2 - u - softplus(-2u)), finite where
    tanh rounds to 1. Source: SAC (arXiv 1812.05905), appendix C.
    """
    log_std = jnp.clip(log_std, LOG_STD_MIN, LOG_STD_MAX)
    u = mean + jnp.exp(log_std) * noise
    log_normal = -0.5 * noise**2 - log_std - 0.5 * math.log(2.0 * math.pi)
    log_slope = 2.0 * (math.log(2.0) - u - jax.nn.softplus(-2.0 * u))
    return jnp.tanh(u), jnp.sum(log_normal - log_slope, axis=-1)


def temperature_loss(
    log_alpha: jax.Array, log_probs: jax.Array, target_entropy: float
) -> jax.Array:
    """alpha (H - H_target) with the entropy H = -mean log_probs constant: alpha rises while H
    is below its target.

    log_alpha is the scalar of the network "temperature". Source: SAC (arXiv 1812.05905), eq.
    18.
    """
    return jnp.exp(log_alpha) * (-jax.lax.stop_gradient(log_probs).mean() - target_entropy)


def entropy_loss(
    log_alpha: jax.Array, log_probs: jax.Array, target_entropy: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """alpha mean log_probs, which the actor descends at constant alpha, plus
    `temperature_loss`; and their metrics.
    """
    actor_loss = jnp.exp(jax.lax.stop_gradient(log_alpha)) * log_probs.mean()
    alpha_loss = temperature_loss(log_alpha, log_probs, target_entropy)
    return actor_loss + alpha_loss, {
        "entropy/alpha": jnp.exp(log_alpha),
        "entropy/mean": -log_probs.mean(),
        "entropy/loss": actor_loss,
        "entropy/alpha_loss": alpha_loss,
    }


# ------------------------------------------------------------------------------- deterministic


class DeterministicActor(nn.Module):
    """mu(s) + noise [..., D], not clipped, at s [..., O] and noise [..., D]; mu = tanh(MLP).

    The last layer starts at a tenth of Xavier's bound, so that mu starts near 0.
    """

    hidden_dims: Sequence[int]
    layer_norm: bool

    @nn.compact
    def __call__(self, s: jax.Array, noise: jax.Array) -> jax.Array:
        small = nn.initializers.variance_scaling(0.01, "fan_avg", "uniform")
        outputs = mlp((s,), self.hidden_dims, noise.shape[-1], self.layer_norm, small)
        return jnp.broadcast_to(jnp.tanh(outputs), noise.shape) + noise
