"""A denoising diffusion policy, written once for QSM and DAC. Shapes as in `trqam.py`.

    abar_t = prod_{i<=t} (1 - beta_i),  t = 1..T, abar_0 = 1
    t ~ U{1..T},  n ~ N(0, I),  x_t = sqrt(abar_t) a + sqrt(1 - abar_t) n
    G = grad_x mean_e Q'_e(s, x) at x_t, constant
    y = R + gamma^H m (mean_e Q'_e(s', a') - rho std_e Q'_e(s', a'))
    descend  critic loss + alpha mean_B b + mean_B q,  b = mean_D (n - eps(s, x_t, t))^2,
             with q by method
    act:     x_T ~ N(0, I), and for t = T..1 with z ~ N(0, I)
             xh = (x - sqrt(1 - abar_t) eps(s, x, t)) / sqrt(abar_t)
             x <- xh or, with clip_sampler_before, clipped xh's posterior mean
             x <- x + sqrt(beta_t) z where t > 1, clipped with clip_sampler_after

As published: the critic reads x_t as if it were an action; without clip_sampler_before x is xh
itself; and `valid` is an exponent: an invalid chunk adds 1 to each mean, and no gradient.
"""

import abc
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from agents.base import Agent, Loss
from agents.flow import loop
from agents.options import CLIP_GRAD, without
from utils.errors import UserError
from utils.networks import mlp
from utils.options import Option
from utils.replay import Batch


def vp_betas(steps: int) -> np.ndarray:
    """beta_1..beta_T of the variance-preserving process from 0.1 to 10 (arXiv 2011.13456)."""
    first, last, i = 0.1, 10.0, np.arange(1, steps + 1)
    return 1.0 - np.exp(-first / steps - (last - first) * (2 * i - 1) / (2 * steps**2))


def cosine_betas(steps: int) -> np.ndarray:
    """Those of the cosine schedule (arXiv 2102.09672), at most 0.999."""
    kept = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.clip(1.0 - kept[1:] / kept[:-1], 0.0, 0.999)


def linear_betas(steps: int) -> np.ndarray:
    """1e-4 to 2e-2 (arXiv 2006.11239)."""
    return np.linspace(1e-4, 2e-2, steps)


SCHEDULES = {"vp": vp_betas, "cosine": cosine_betas, "linear": linear_betas}


class TimeFeatures(nn.Module):
    """concat(cos f, sin f) [..., size], f = 2 pi t w, at t [..., 1]; w is trained."""

    size: int

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        shape = (self.size // 2, 1)
        w = self.param("kernel", nn.initializers.normal(0.2), shape)
        f = 2.0 * jnp.pi * t @ w.T
        return jnp.concatenate([jnp.cos(f), jnp.sin(f)], axis=-1)


class MishMLP(nn.Module):
    """An MLP with mish on the concatenation of its inputs [..., N]; its result has the width
    `outputs` or, with 0, that of the first input.
    """

    hidden_dims: Sequence[int]
    outputs: int
    layer_norm: bool

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        width = self.outputs or inputs[0].shape[-1]
        return mlp(inputs, self.hidden_dims, width, self.layer_norm, activation=jax.nn.mish)


class Denoising(Agent):
    """Critic and denoiser, which reads an encoded time, under one Adam."""

    OPTIONS = without(Agent.OPTIONS, "flow_steps", "best_of_n") | {
        "clip_grad": CLIP_GRAD,
        "alpha": Option(1.0, "weight of the denoising loss", at_least=0),
        "diffusion_steps": Option(10, "T, steps of the diffusion", above=0),
        "beta_schedule": Option("vp", "noise of the steps", choices=(*SCHEDULES,)),
        "time_dim": Option(64, "features of the time, an even number", above=0),
        "clip_sampler_before": Option(False, "clip the estimate, and step from its posterior"),
        "clip_sampler_after": Option(True, "clip after each step"),
    }

    INPUTS = {"critic": "sa", "time_features": "t", "time_encoder": "f", "denoiser": "asc"}
    TARGETS = ("critic",)

    @classmethod
    def check(cls, config: Any) -> None:
        """Raise UserError for values that no run can use."""
        super().check(config)
        if config.time_dim % 2:
            raise UserError(f"--agent.time_dim={config.time_dim}: give an even number")

    @classmethod
    def widths(cls, config: Any) -> dict[str, int]:
        """t, its features f, and their code c."""
        return {"t": 1, "f": config.time_dim, "c": config.actor_hidden_dims[-1]}

    @classmethod
    def networks(cls, config: Any) -> dict[str, nn.Module]:
        """Critic, the two networks of the time, and the denoiser."""
        *hidden, code = config.actor_hidden_dims
        return {
            "critic": cls.critic_network(config),
            "time_features": TimeFeatures(config.time_dim),
            "time_encoder": MishMLP(hidden, code, False),
            "denoiser": MishMLP(config.actor_hidden_dims, 0, config.actor_layer_norm),
        }

    def eps(self, params: dict, s: jax.Array, x: jax.Array, t: jax.Array) -> jax.Array:
        """eps(s, x, t) [B, D] at s [B, O], x [B, D] and integer times t [B, 1] or [1, 1]."""
        features = self.apply("time_features", params["time_features"], t)
        code = self.apply("time_encoder", params["time_encoder"], features)
        return self.apply("denoiser", params["denoiser"], x, s, code)

    def betas(self) -> jax.Array:
        """beta_t [T + 1], with beta_0 = 0."""
        betas = SCHEDULES[self.config.beta_schedule](self.config.diffusion_steps)
        return jnp.asarray(np.concatenate([[0.0], betas]), jnp.float32)

    @property
    def draws(self) -> int:
        """x_T, and z of T steps."""
        return 1 + self.config.diffusion_steps

    def sample(self, observations: jax.Array, x0: jax.Array) -> jax.Array:
        """One sample [1, B, D] from x0 [1 + T, B, D]; the last z is unused."""
        config, betas = self.config, self.betas()
        kept = jnp.cumprod(1.0 - betas)

        def step(x: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            t, z = inputs
            eps = self.eps(self.params, observations, x, t[None, None].astype(jnp.float32))
            clean = (x - jnp.sqrt(1.0 - kept[t]) * eps) / jnp.sqrt(kept[t])
            if config.clip_sampler_before:
                share = jnp.sqrt(kept[t - 1]) * betas[t] * jnp.clip(clean, -1.0, 1.0)
                rest = jnp.sqrt(1.0 - betas[t]) * (1.0 - kept[t - 1]) * x
                clean = (share + rest) / (1.0 - kept[t])
            x = clean + jnp.where(t > 1, jnp.sqrt(betas[t]), 0.0) * z
            return jnp.clip(x, -1.0, 1.0) if config.clip_sampler_after else x, None

        steps = config.diffusion_steps
        inputs = (jnp.arange(steps, 0, -1), x0[1:])
        return loop(step, x0[0], inputs)[0][None]

    def noise_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """next_action [1, B, D] and next_noise [T, B, D] of the backup, and of the loss ddpm_t
        [B] and ddpm_noise [B, D].
        """
        shape = (batch_size, self.flat_action_dim)
        return {
            "next_action": (1, *shape),
            "next_noise": (self.config.diffusion_steps, *shape),
            "ddpm_t": (batch_size,),
            "ddpm_noise": shape,
        }

    def draw_noise(self, key: jax.Array, batch_size: int) -> dict[str, jax.Array]:
        """All draws of one update; ddpm_t is uniform on 1..T."""
        noise = super().draw_noise(key, batch_size)
        t = 1 + (self.config.diffusion_steps * noise["ddpm_t"]).astype(jnp.int32)
        return noise | {"ddpm_t": t}

    def fixed_quantities(self, batch: Batch, noise: dict) -> dict[str, jax.Array]:
        """The critic target, x_t and G [B, D], and sqrt(1 - abar_t) [B, 1]."""
        kept = jnp.cumprod(1.0 - self.betas())[noise["ddpm_t"]][:, None]
        x_t = jnp.sqrt(kept) * self.flat_actions(batch)
        x_t = x_t + jnp.sqrt(1.0 - kept) * noise["ddpm_noise"]
        q = self.values(self.target_params["critic"], batch["observations"])
        slope = jax.grad(lambda x: q(x).mean(axis=0).sum())(x_t)
        draws = jnp.concatenate([noise["next_action"], noise["next_noise"]])
        fixed = {"x_t": x_t, "slope": slope, "deviation": jnp.sqrt(1.0 - kept)}
        return self.acting_target(batch, noise | {"next_action": draws}) | fixed

    def loss(self, params: dict, batch: Batch, noise: dict, fixed: dict) -> Loss:
        """critic_loss + alpha times the denoising loss + actor_loss, the mean of q."""
        critic_loss, metrics = self.critic_loss(params["critic"], batch, fixed["td_target"])
        t = noise["ddpm_t"][:, None].astype(jnp.float32)
        eps = self.eps(params, batch["observations"], fixed["x_t"], t)
        errors = jnp.mean((noise["ddpm_noise"] - eps) ** 2, axis=-1)
        guidance = self.guidance(eps, fixed["slope"], fixed["deviation"])
        valid = batch["valid"][:, -1] > 0.0
        denoising_loss = jnp.mean(jnp.where(valid, errors, 1.0))
        actor_loss = jnp.mean(jnp.where(valid, guidance, 1.0))
        own = {"actor/denoising_loss": denoising_loss, "actor/loss": actor_loss}
        return critic_loss + self.config.alpha * denoising_loss + actor_loss, metrics | own

    @abc.abstractmethod
    def guidance(self, eps: jax.Array, slope: jax.Array, deviation: jax.Array) -> jax.Array:
        """Hook: q [B] of eps and the slope G, both [B, D], and sqrt(1 - abar_t) [B, 1]."""
