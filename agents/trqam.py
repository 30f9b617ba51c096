"""Trust Region Q-Adjoint Matching (arXiv 2605.27079): fine-tune a flow within a KL budget.

Notation
    s, a, x          observation [B, O], action (chunk) [B, D], point of the flow [B, D]
    K, h, t_k        flow steps, step size 1/K, time grid k/K for k = 0..K-1
    v_th(s, x, t)    policy velocity, trained
    v_b(s, x, t)     base velocity, no gradient: the moving average of the cloned one, whose
                     cloning continues on every batch, online transitions included
    Q_e(s, a), Q'_e  critic ensemble of E members, its moving average
    g_k, D_k         noise of the memoryless process; v_th - v_b at (x_k, t_k)
    lambda           trust-region parameter, lam_scale * lam; lam is the adapted state
    epsilon          kl_budget, nats per environment action

One update
    a' ~ policy(s')
    y = R + gamma^H m (mean_e Q'_e(s', a') - rho std_e Q'_e(s', a'))         td_target
    x_0..x_K ~ memoryless process of v_th, no gradient                       memoryless_rollout
    adj_K = -grad_a mean_e Q'_e(s, clip x_K)                                 terminal_gradient
    adj_k = adj_{k+1} + h d/dx(2 v_b - x/(t_k+h))^T adj_{k+1}                lean_adjoint
    descend  critic loss + flow-matching loss of the base
             + mean_B sum_k || 2 D_k / sigma_k + sigma_k adj_k ||^2       adjoint_matching_loss
             sigma_k = g_k / sqrt(lambda)
    KL = (1/H) mean_B sum_k (2h / g_k^2) ||D_k||^2                       path_kl / H
    lam <- clip(lam + eta (ema(min(KL, c epsilon)) - epsilon))               descend_dual

The trained policy samples from  p(a|s) ~ base(a|s) exp(mean_e Q(s, a) / lambda)  while KL
stays at epsilon. A fork overrides one method of `TRQAM`: see `trqam_fixed_lambda.py`.

    python main.py --env_name=puzzle-4x4 --agent=agents/trqam.py --agent.kl_budget=0.5
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import flax.struct
import jax
import jax.numpy as jnp

from agents.base import Agent, Loss, Networks
from agents.flow import Velocity, loop, memoryless_noise, simulate, step_and_noise, time_grid
from agents.options import CLIP_GRAD
from utils.errors import UserError
from utils.options import Option
from utils.replay import Batch, chunk_length
from utils.trust_region import concerns


class Rollout(NamedTuple):
    """States of the controlled process and the two velocities there."""

    xs: jax.Array  # x_k [K, B, D], the states in the loss
    x_final: jax.Array  # x_K [B, D], not clipped: the end whose value is to rise
    policy: jax.Array  # v_th(x_k, t_k) [K, B, D], with its gradient to the parameters
    base: jax.Array  # v_b(x_k, t_k) [K, B, D]


def memoryless_rollout(
    policy: Velocity, base: Velocity, x0: jax.Array, noise: jax.Array, constant: bool = True
) -> Rollout:
    """Simulate the controlled process. Velocities have a gradient; states unless `constant`.

    x_{k+1} = x_k + h (2 v_th(x_k, t_k) - x_k / (t_k + h)) + sqrt(h) g_k eps_k,   k = 0..K-2
    x_K     = x_{K-1} + h v_b(x_{K-1}, t_{K-1})      no noise, and the base, as published

    x0 [B, D]; noise eps [K, B, D], whose last entry is unused. The paper writes the diffusion
    as sqrt(lambda) sigma with sigma = g / sqrt(lambda): the same process, so lambda is not
    here but in the loss.
    """
    flow_steps = noise.shape[0]
    h, ts = 1.0 / flow_steps, time_grid(flow_steps)

    def step(x: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, tuple]:
        t, eps = inputs
        velocity = policy(x, t)
        drift = 2.0 * (jax.lax.stop_gradient(velocity) if constant else velocity) - x / (t + h)
        x_next = x + h * drift + jnp.sqrt(h) * memoryless_noise(t, h) * eps
        return x_next, (x, velocity)

    xs, velocities = simulate(step, x0, (ts, noise), policy, constant)
    of_base = base(xs, ts[:, None, None])
    return Rollout(xs, xs[-1] + h * of_base[-1], velocities, of_base)


def terminal_gradient(
    q_mean: Callable[[jax.Array], jax.Array], x: jax.Array, clip: bool = True
) -> jax.Array:
    """adj_K = -grad_x q(clip(x, -1, 1)) [B, D] for q_mean: a [B, D] -> mean_e Q'_e(s, a) [B];
    without `clip` the gradient at x itself, for theory with unbounded actions.
    """
    return -jax.grad(lambda a: q_mean(jnp.clip(a, -1.0, 1.0) if clip else a).sum())(x)


def lean_adjoint(base: Velocity, xs: jax.Array, adjoint: jax.Array) -> jax.Array:
    """adj_0..adj_{K-1} [K, B, D] along xs [K, B, D], from the terminal adjoint [B, D].

    adj_k = adj_{k+1} + h [d/dx (2 v_b(x, t_k + h) - x / (t_k + h))]^T adj_{k+1}  at x_k. The
    velocity is read at t_k + h here, at t_k in the loss, as published (arXiv 2409.08861).
    """
    flow_steps = xs.shape[0]
    h, ts = 1.0 / flow_steps, time_grid(flow_steps)

    def linearised(x: jax.Array, t: jax.Array) -> Callable:
        return jax.vjp(lambda x: 2.0 * base(x, t + h) - x / (t + h), x)[1]

    # at all states at once; only the recursion has to wait
    transposes = jax.vmap(linearised)(xs, ts)

    def step(adjoint: jax.Array, transpose: Callable) -> tuple[jax.Array, jax.Array]:
        adjoint = adjoint + h * transpose(adjoint)[0]
        return adjoint, adjoint

    return loop(step, adjoint, transposes, reverse=True)[1]


def adjoint_matching_loss(
    delta: jax.Array, adjoints: jax.Array, lam: jax.Array | float, ts: jax.Array
) -> jax.Array:
    """mean_B sum_k || 2 D_k / sigma_k + sigma_k adj_k ||^2 with sigma_k = g_k / sqrt(lam).

    delta [K, B, D] is D_k with the gradient to the policy; adjoints [K, B, D] are constants;
    lam is floored at 1e-8; ts are the times t_k [K]. Minimised by D_k = -(g_k^2 / 2 lam)
    E[adj_k | x_k].
    """
    _, g = step_and_noise(ts)
    sigma = g / jnp.sqrt(jnp.maximum(lam, 1e-8))
    return jnp.mean(jnp.sum((2.0 * delta / sigma + sigma * adjoints) ** 2, axis=(0, 2)))


def path_kl(delta: jax.Array, ts: jax.Array) -> jax.Array:
    """KL between the paths of policy and base (Girsanov), in nats: mean_B sum_k (2h / g_k^2)
    ||D_k||^2 of delta [K, B, D] at times ts [K]. As published, the noise-free last step counts.
    """
    h, g = step_and_noise(ts)
    return jnp.mean(jnp.sum(2.0 * h / g**2 * delta**2, axis=(0, 2)))


def path_kl_bound(adjoints: jax.Array, lam: jax.Array | float, ts: jax.Array) -> jax.Array:
    """mean_B sum_k h g_k^2 ||adj_k||^2 / (2 lam^2) of adjoints [K, B, D] at times ts [K]:
    an upper bound of the path KL at the loss's minimiser (Jensen); above it the policy lags.
    """
    h, g = step_and_noise(ts)
    return jnp.mean(jnp.sum(h * g**2 * (adjoints / lam) ** 2, axis=(0, 2))) / 2.0


class Dual(flax.struct.PyTreeNode):
    """State of the trust region; all of it is traced, so the budget may change."""

    lam: jax.Array
    kl_ema: jax.Array
    kl_budget: jax.Array

    def next_kl_ema(self, kl: jax.Array, config: Any) -> jax.Array:
        """kl_ema <- (1 - kappa) kl_ema + kappa min(KL, c epsilon)."""
        clipped = jnp.minimum(kl, config.kl_clip_coef * self.kl_budget)
        return (1.0 - config.kl_ema_coef) * self.kl_ema + config.kl_ema_coef * clipped

    def with_lam(self, lam: jax.Array, kl_ema: jax.Array, config: Any) -> Self:
        """The state with another lam, clipped to its bounds, and another average."""
        lam = jnp.clip(lam, config.lambda_min, config.lambda_max)
        return self.replace(lam=lam, kl_ema=kl_ema)


def descend_dual(dual: Dual, kl: jax.Array, config: Any) -> Dual:
    """The paper's dual descent: lam <- clip(lam + eta (kl_ema - epsilon))."""
    kl_ema = dual.next_kl_ema(kl, config)
    lam = dual.lam + config.eta_lambda * (kl_ema - dual.kl_budget)
    return dual.with_lam(lam, kl_ema, config)


def rescale_dual(dual: Dual, kl: jax.Array, config: Any) -> Dual:
    """Ours, dual_mode=closed_form: lam <- clip(lam (kl_ema / epsilon)^(gain/2)), the ratio in
    [1/c, c], because KL ~ lam^-2 at fixed adjoints. Its step does not depend on lambda's scale.
    The gain is small because the adjoints move with lambda and the policy lags behind it.
    """
    kl_ema, limit = dual.next_kl_ema(kl, config), config.kl_clip_coef
    ratio = jnp.clip(kl_ema / dual.kl_budget, 1.0 / limit, limit)
    return dual.with_lam(dual.lam * ratio ** (0.5 * config.dual_gain), kl_ema, config)


DUAL_STEPS = {"descent": descend_dual, "closed_form": rescale_dual}


class TRQAM(Agent):
    """Critic, policy and base under one Adam; the dual state beside them."""

    OPTIONS = Agent.OPTIONS | {
        "clip_grad": CLIP_GRAD,
        "clip_adj": Option(True, "clip x_K to the action range in the terminal gradient"),
        "lam_scale": Option(3.0, "lambda = lam_scale lam", above=0),
        "kl_budget": Option(1.0, "path KL to keep, nats per environment action", above=0),
        "dual_mode": Option("descent", "how lam follows the path KL", choices=(*DUAL_STEPS,)),
        "eta_lambda": Option(0.01, "step of the dual descent", above=0),
        "dual_gain": Option(0.03, "step of dual_mode=closed_form", above=0),
        "kl_ema_coef": Option(0.1, "step of the path KL's moving average", above=0, at_most=1),
        "kl_clip_coef": Option(2.0, "clip of the path KL in its average, in budgets", above=1),
        "lambda_min": Option(0.01, "lower bound of lam", above=0),
        "lambda_max": Option(100.0, "upper bound of lam", above=0),
    }

    dual: Any  # a Dual; None in a subclass that adapts nothing

    @classmethod
    def networks(cls, config: Any) -> Networks:
        """Critic, base, and a policy of the same kind as the base."""
        shared = super().networks(config)
        return shared | {"policy": shared["base"]}

    @classmethod
    def check(cls, config: Any) -> None:
        """Raise UserError for values that no run can use, and for bounds in the wrong order."""
        super().check(config)
        low, high = config.get("lambda_min", 1.0), config.get("lambda_max", 1.0)
        if low > high:
            raise UserError(f"--agent.lambda_min={low} lies above --agent.lambda_max={high}")

    @classmethod
    def init_state(cls, config: Any) -> dict[str, Any]:
        """lam starts at 1, the KL average at 0 or, for the closed form, at the budget."""
        kl_ema = config.kl_budget if config.get("dual_mode") == "closed_form" else 0.0
        kl_ema, kl_budget = jnp.float32(kl_ema), jnp.float32(config.kl_budget)
        return {"dual": Dual(lam=jnp.float32(1.0), kl_ema=kl_ema, kl_budget=kl_budget)}

    def with_kl_budget(self, kl_budget: float) -> Self:
        """The agent with another KL budget; nothing is compiled again."""
        if self.dual is None:
            return super().with_kl_budget(kl_budget)
        return self.replace(dual=self.dual.replace(kl_budget=jnp.array(kl_budget, jnp.float32)))

    def noise_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Besides: sde_x0 [B, D] and sde_noise [K, B, D]."""
        shape = (batch_size, self.flat_action_dim)
        own = {"sde_x0": shape, "sde_noise": (len(self.times()), *shape)}
        return super().noise_shapes(batch_size) | own

    def times(self) -> jax.Array:
        """Hook: t_k [K], the times of the states in the loss."""
        return time_grid(self.config.flow_steps)

    def rollout(self, policy: Velocity, base: Velocity, noise: dict, fixed: dict) -> Rollout:
        """Hook: the states at `times` that the loss reads, and the velocities there."""
        return memoryless_rollout(policy, base, noise["sde_x0"], noise["sde_noise"])

    def adjoints(self, base: Velocity, xs: jax.Array, terminal: jax.Array) -> jax.Array:
        """Hook: adj_k [K, B, D] at the states xs [K, B, D], from adj_K [B, D]."""
        return lean_adjoint(base, xs, terminal)

    def matching(self, policy: dict, s: jax.Array, noise: dict, fixed: dict) -> tuple:
        """The rollout of the policy's parameters at s [B, O], and the adjoints [K, B, D]."""
        base = self.velocity(self.target_params["base"], s)
        rollout = self.rollout(self.velocity(policy, s), base, noise, fixed)
        q = self.values(self.target_params["critic"], s)
        terminal = terminal_gradient(
            lambda a: self.policy_value(q(a)), rollout.x_final, self.config.clip_adj
        )
        return rollout, self.adjoints(base, rollout.xs, self.terminal_scale() * terminal)

    def loss(self, params: dict, batch: Batch, noise: dict, fixed: dict) -> Loss:
        """critic_loss + flow_loss + adj_loss; each network is reached by one of them."""
        critic_loss, metrics = self.critic_loss(params["critic"], batch, fixed["td_target"])
        flow_loss = self.flow_loss(params["base"], batch, noise)
        s, ts, lam = batch["observations"], self.times(), self.trust_region()
        rollout, adjoints = self.matching(params["policy"], s, noise, fixed)
        delta = rollout.policy - rollout.base
        adj_loss = adjoint_matching_loss(delta, adjoints, lam, ts)
        per_action = chunk_length(self.config)
        return critic_loss + flow_loss + adj_loss, metrics | {
            "flow/loss": flow_loss,
            "adjoint/loss": adj_loss,
            "adjoint/clipped": jnp.mean(jnp.abs(rollout.x_final) > 1.0),
            "dual/path_kl": path_kl(delta, ts) / per_action,
            "dual/kl_bound": path_kl_bound(adjoints, lam, ts) / per_action,
        }

    def trust_region(self) -> jax.Array | float:
        """Hook: lambda in the adjoint-matching loss; an array broadcasts to [K, B, D]."""
        return self.config.lam_scale * self.dual.lam

    def terminal_scale(self) -> float:
        """Hook: factor of the terminal adjoint."""
        return 1.0

    def concerns(self, lines: list[dict[str, Any]]) -> dict[str, str]:
        """lambda on a bound, and a path KL that stays off its budget."""
        config, full = self.config, len(lines) >= self.PATIENCE
        return concerns(lines, config.lambda_min, config.lambda_max, full) if self.dual else {}

    def dual_step(self, kl: jax.Array) -> Dual:
        """Hook: the next dual state from this update's path KL."""
        return DUAL_STEPS[self.config.dual_mode](self.dual, kl, self.config)

    def after_step(self, metrics: dict[str, jax.Array]) -> tuple[Self, dict[str, jax.Array]]:
        """The dual step, from the path KL that this update's loss measured."""
        agent = self.replace(dual=self.dual_step(metrics["dual/path_kl"]))
        names = ("lam", "kl_ema", "kl_budget")
        return agent, {f"dual/{name}": getattr(agent.dual, name) for name in names} | metrics


get_config = TRQAM.get_config
AGENT = TRQAM
