"""Trust Region Q-Adjoint Matching (arXiv 2605.27079): fine-tune a flow policy with a critic, on
a KL budget.

Notation
    s, a, x          observation [B, O], action (chunk) [B, D], point of the flow [B, D]
    K, h, t_k        flow steps, step size 1/K, time grid k/K for k = 0..K-1
    v_th(s, x, t)    policy velocity, trained
    v_b(s, x, t)     base velocity: the moving average of the cloned one, constant
    Q_e(s, a)        critic ensemble, E members
    Q'_e             its moving average
    g_k              noise of the memoryless process
    D_k              v_th - v_b at (x_k, t_k)
    lambda           trust-region parameter, lam_scale * lam; lam is the adapted state
    epsilon          kl_budget, nats per environment action

One update
    a' ~ policy(s')
    y = R + gamma^H m (mean_e Q'_e(s', a') - rho std_e Q'_e(s', a'))         td_target
    x_0..x_K ~ memoryless process of v_th, no gradient                       memoryless_rollout
    adj_K = -grad_a mean_e Q'_e(s, clip x_K)                                 terminal_gradient
    adj_k = adj_{k+1} + h d/dx(2 v_b - x/(t_k+h))^T adj_{k+1}                lean_adjoint
            or, with adjoint=scalar, adj_k = t_k adj_K                       scalar_adjoint
    descend  critic loss + flow-matching loss of the base
             + mean_B sum_k || 2 D_k / sigma_k + sigma_k adj_k ||^2       adjoint_matching_loss
             sigma_k = g_k / sqrt(lambda)
    KL = (1/H) mean_B sum_k (2h / g_k^2) ||D_k||^2                           path_kl
    lam <- clip(lam + eta (ema(min(KL, c epsilon)) - epsilon))               descend_dual

The policy so trained samples from  p(a|s) ~ base(a|s) exp(mean_e Q(s, a) / lambda)  while KL
stays on epsilon. A fork overrides one method of `TRQAM`: see `trqam_fixed_lambda.py`. What the
rollout has computed, the loss does not compute again; the same update without any such care is
tests/agents/straightforward.py, which the tests compare.

    python main.py --env_name=puzzle-4x4 --agent=agents/trqam.py --agent.kl_budget=0.5
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections

from agents.base import Agent, action_values, check_choice, critic_config, draw
from agents.flow import (
    Velocity,
    VelocityField,
    euler_step,
    evaluate,
    recall,
    time_grid,
    unrolled,
)
from utils.networks import Layers
from utils.replay import Batch

# ----------------------------------------------------------------------------------- equations


def memoryless_noise(t: jax.Array, h: float) -> jax.Array:
    """g(t) with g^2 = 2 (1 - t + h) / (t + h): the noise under which x_0 and x_K are
    independent. Shape of t.
    """
    return jnp.sqrt(2.0 * (1.0 - t + h) / (t + h))


class Rollout(NamedTuple):
    """A memoryless rollout, and what was computed on its way and need not be computed again."""

    xs: jax.Array
    """x_0..x_{K-1}, [K, B, D]."""
    x_final: jax.Array
    """x_K [B, D], not clipped."""
    policy: Layers | None
    """v_th(x_k, t_k) [K, B, D], as the last entry, behind what `recall` needs besides; None
    where it was not needed.
    """
    base: jax.Array
    """v_b(x_k, t_k), [K, B, D]."""
    samples: jax.Array
    """Euler samples of the policy [n, B, D], not clipped."""


def memoryless_rollout(
    policy: Velocity,
    base: Velocity,
    x0: jax.Array,
    noise: jax.Array,
    samples_x0: jax.Array | None = None,
) -> Rollout:
    """Simulate the controlled process.

    x_{k+1} = x_k + h (2 v_th(x_k, t_k) - x_k / (t_k + h)) + sqrt(h) g_k eps_k,   k = 0..K-2
    x_K     = x_{K-1} + h v_b(x_{K-1}, t_{K-1})      no noise, and the base, as published

    x0 [B, D]; noise eps [K, B, D], whose last row is unused. The paper writes the diffusion as
    sqrt(lambda) sigma with sigma = g / sqrt(lambda): the same process, so lambda is not here
    but in the loss.

    The policy is called at [n + 1, B, D]: its ordinary Euler samples from `samples_x0` [n, B,
    D] (none by default) take the first n rows along, at observations of their own if the policy
    has such.
    """
    flow_steps = noise.shape[0]
    h, ts = 1.0 / flow_steps, time_grid(flow_steps)
    samples_x0 = jnp.zeros((0, *x0.shape)) if samples_x0 is None else samples_x0

    def step(
        carry: tuple[jax.Array, jax.Array], inputs: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple, tuple]:
        (samples, x), (t, eps) = carry, inputs
        layers = evaluate(policy, jnp.concatenate([samples, x[None]]), t)
        samples = euler_step(samples, layers[-1][:-1], flow_steps)
        layers = tuple(layer[-1] for layer in layers)
        drift = 2.0 * layers[-1] - x / (t + h)
        return (samples, x + h * drift + jnp.sqrt(h) * memoryless_noise(t, h) * eps), (
            x,
            layers,
        )

    (samples, _), (xs, layers) = jax.lax.scan(
        step, (samples_x0, x0), (ts, noise), unroll=unrolled(flow_steps)
    )
    velocities = base(xs, ts[:, None, None])
    return Rollout(
        xs, euler_step(xs[-1], velocities[-1], flow_steps), layers, velocities, samples
    )


def terminal_gradient(
    q_mean: Callable[[jax.Array], jax.Array], x: jax.Array, clip: bool = True
) -> jax.Array:
    """adj_K = -grad_x q(clip(x, -1, 1)) of shape [B, D]; q_mean maps actions [B, D] to mean_e
    Q'_e, shape [B].

    Without `clip` the gradient is that of q at x itself, for theory with unbounded actions.
    """
    return -jax.grad(lambda a: q_mean(jnp.clip(a, -1.0, 1.0) if clip else a).sum())(x)


def lean_adjoint(base: Velocity, xs: jax.Array, adjoint: jax.Array) -> jax.Array:
    """Carry the terminal adjoint [B, D] back along xs [K, B, D]; returns adj_0..adj_{K-1} as
    [K, B, D].

    adj_k = adj_{k+1} + h [d/dx (2 v_b(x, t_k + h) - x / (t_k + h))]^T adj_{k+1}  at x_k. The
    velocity is read at t_k + h here and at t_k in the loss, as published. Source: arXiv
    2409.08861.
    """
    flow_steps = xs.shape[0]
    h, ts = 1.0 / flow_steps, time_grid(flow_steps)
    # all steps at once; only the recursion has to wait
    layers = evaluate(base, xs, ts[:, None, None] + h)

    def step(
        adjoint: jax.Array, inputs: tuple[jax.Array, jax.Array, Layers]
    ) -> tuple[jax.Array, jax.Array]:
        t, x, known = inputs
        _, transpose = jax.vjp(lambda x: 2.0 * recall(base, x, t + h, known) - x / (t + h), x)
        adjoint = adjoint + h * transpose(adjoint)[0]
        return adjoint, adjoint

    _, adjoints = jax.lax.scan(
        step, adjoint, (ts, xs, layers), reverse=True, unroll=unrolled(flow_steps)
    )
    return adjoints


def scalar_adjoint(ts: jax.Array, adjoint: jax.Array) -> jax.Array:
    """adj_k = t_k adj_K as [K, B, D], for times ts [K] and the terminal adjoint [B, D]: nothing
    differentiates the flow.

    What `lean_adjoint` gives where the base velocity does not depend on x. Source: SQAM (arXiv
    2610.10437).
    """
    return ts[:, None, None] * adjoint[None]


def step_and_noise(flow_steps: int, ts: jax.Array | None = None) -> tuple[float, jax.Array]:
    """h = 1/K and g_k [K, 1, 1], at the times ts [K]: the time grid unless they are given."""
    h = 1.0 / flow_steps
    return h, memoryless_noise(time_grid(flow_steps) if ts is None else ts, h)[:, None, None]


def adjoint_matching_loss(
    delta: jax.Array, adjoints: jax.Array, lam: jax.Array | float, ts: jax.Array | None = None
) -> jax.Array:
    """mean_B sum_k || 2 D_k / sigma_k + sigma_k adj_k ||^2 with sigma_k = g_k / sqrt(lam).

    delta [K, B, D] is D_k with the gradient to the policy; adjoints [K, B, D] are constants;
    lam is floored at 1e-8. Minimised by D_k = -(g_k^2 / 2 lam) E[adj_k | x_k].
    """
    _, g = step_and_noise(len(delta), ts)
    sigma = g / jnp.sqrt(jnp.maximum(lam, 1e-8))
    return jnp.mean(jnp.sum((2.0 * delta / sigma + sigma * adjoints) ** 2, axis=(0, 2)))


def path_kl(delta: jax.Array, ts: jax.Array | None = None) -> jax.Array:
    """KL between the path measures of policy and base (Girsanov): mean_B sum_k (2h / g_k^2)
    ||D_k||^2, in nats.

    delta [K, B, D]. Exact for k <= K-2; the last, noise-free step's term is kept as published.
    """
    h, g = step_and_noise(len(delta), ts)
    return jnp.mean(jnp.sum(2.0 * h / g**2 * delta**2, axis=(0, 2)))


def path_kl_bound(
    adjoints: jax.Array, lam: jax.Array | float, ts: jax.Array | None = None
) -> jax.Array:
    """S / (2 lam^2), S = mean_B sum_k h g_k^2 ||adj_k||^2: the most the path KL is at the
    loss's minimiser (Jensen).

    adjoints [K, B, D]; in nats. A measured path KL above it says that the policy lags behind
    lambda.
    """
    h, g = step_and_noise(len(adjoints), ts)
    return jnp.mean(jnp.sum(h * g**2 * adjoints**2, axis=(0, 2))) / (2.0 * lam**2)


class Dual(flax.struct.PyTreeNode):
    """State of the trust region: lam, the moving average of the path KL, and the budget
    (traced, so it may change).
    """

    lam: jax.Array
    kl_ema: jax.Array
    kl_budget: jax.Array


def average_kl(dual: Dual, kl: jax.Array, kl_clip_coef: float, kl_ema_coef: float) -> jax.Array:
    """kl_ema <- (1 - kappa) kl_ema + kappa min(KL, c epsilon)."""
    clipped = jnp.minimum(kl, kl_clip_coef * dual.kl_budget)
    return (1.0 - kl_ema_coef) * dual.kl_ema + kl_ema_coef * clipped


def descend_dual(dual: Dual, kl: jax.Array, config: Any) -> Dual:
    """The paper's dual descent: lam <- clip(lam + eta (kl_ema - epsilon), lambda_min,
    lambda_max).
    """
    kl_ema = average_kl(dual, kl, config.kl_clip_coef, config.kl_ema_coef)
    lam = jnp.clip(
        dual.lam + config.eta_lambda * (kl_ema - dual.kl_budget),
        config.lambda_min,
        config.lambda_max,
    )
    return dual.replace(lam=lam, kl_ema=kl_ema)


def rescale_dual(dual: Dual, kl: jax.Array, config: Any) -> Dual:
    """Ours, `dual_mode=closed_form`: for given adjoints KL ~ lam^-2, so lam <- clip(lam (kl_ema
    / epsilon)^(gain/2)).

    The ratio is clipped to [1/c, c]. Scale-free, where the additive step needs eta tuned to the
    size of lambda. The gain is small because the adjoints move with lambda and the policy lags
    behind it.
    """
    kl_ema = average_kl(dual, kl, config.kl_clip_coef, config.kl_ema_coef)
    ratio = jnp.clip(kl_ema / dual.kl_budget, 1.0 / config.kl_clip_coef, config.kl_clip_coef)
    lam = jnp.clip(
        dual.lam * ratio ** (0.5 * config.dual_gain), config.lambda_min, config.lambda_max
    )
    return dual.replace(lam=lam, kl_ema=kl_ema)


DUAL_STEPS = {"descent": descend_dual, "closed_form": rescale_dual}
ADJOINTS = ("lean", "scalar")

# ----------------------------------------------------------------------------------- the agent


class TRQAM(Agent):
    """Critic, policy and base under one Adam; the dual state beside them."""

    dual: Any
    """A Dual; None in a subclass that adapts nothing."""

    @classmethod
    def init_state(cls, config: Any) -> dict[str, Any]:
        """lam starts at 1; the KL average at 0 for descent, at the budget for the closed form
        (policy = base, KL 0).
        """
        check_choice(config, "dual_mode", DUAL_STEPS)
        check_choice(config, "adjoint", ADJOINTS)
        kl_ema = 0.0 if config.dual_mode == "descent" else config.kl_budget
        return {
            "dual": Dual(
                *(jnp.array(value, jnp.float32) for value in (1.0, kl_ema, config.kl_budget))
            )
        }

    def with_kl_budget(self, kl_budget: float) -> Self:
        """The agent with another KL budget; nothing is compiled again. Without a dual state:
        the base class's error.
        """
        if self.dual is None:
            return super().with_kl_budget(kl_budget)
        return self.replace(dual=self.dual.replace(kl_budget=jnp.array(kl_budget, jnp.float32)))

    def draw_noise(self, key: jax.Array, batch_size: int) -> dict[str, jax.Array]:
        """next_action [n, B, D], flow_x0 [B, D], flow_t [B, 1], sde_x0 [B, D], sde_noise [K, B,
        D].
        """
        shape = (batch_size, self.flat_action_dim)
        return draw(
            key,
            next_action=(self.samples, *shape),
            flow_x0=shape,
            flow_t=(batch_size, 1),
            sde_x0=shape,
            sde_noise=(len(self.times()), *shape),
        )

    def fixed_quantities(self, batch: Batch, noise: dict[str, jax.Array]) -> dict[str, Any]:
        """The critic target, the memoryless rollout xs and its adjoints, both [K, B, D], and
        the rollout's velocities.
        """
        s, s_next = batch["observations"], batch["next_observations"][:, -1]
        at, samples_x0 = self.wanted_samples(batch, noise)
        # These samples and the rollout at s take the same steps in time, hence one call of the
        # policy for all.
        policy = VelocityField(self.params["policy"], jnp.concatenate([at, s[None]]))
        base = VelocityField(self.target_params["base"], s)
        rollout = self.rollout(policy, base, noise, samples_x0)
        q = action_values(self.target_params["critic"], s)
        terminal = terminal_gradient(
            lambda a: q(a).mean(axis=0), rollout.x_final, self.config.clip_adj
        )
        next_actions = self.next_actions(s_next, rollout.samples, noise)
        return {
            "next_actions": next_actions,
            "td_target": self.td_target(batch, next_actions),
            "xs": rollout.xs,
            "x_final": rollout.x_final,
            "adjoints": self.adjoints(base, rollout.xs, self.terminal_scale() * terminal),
            "policy": rollout.policy,
            "base": rollout.base,
            "samples": rollout.samples,
        }

    def times(self) -> jax.Array:
        """Hook: t_k [K], the times of the states in the loss."""
        return time_grid(self.config.flow_steps)

    def wanted_samples(
        self, batch: Batch, noise: dict[str, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        """Hook: observations [n, B, O] and x0 [n, B, D] of the Euler samples of the policy;
        here those of the backup.
        """
        s_next = batch["next_observations"][:, -1]
        return jnp.broadcast_to(s_next, (self.samples, *s_next.shape)), noise["next_action"]

    def next_actions(
        self, s_next: jax.Array, samples: jax.Array, noise: dict[str, jax.Array]
    ) -> jax.Array:
        """Hook: a' [B, D] of the backup at s' [B, O], from the wanted samples [n, B, D]."""
        return self.best_of_n(s_next, samples)

    def rollout(
        self,
        policy: Velocity,
        base: Velocity,
        noise: dict[str, jax.Array],
        samples_x0: jax.Array,
    ) -> Rollout:
        """Hook: the states at `times` that the loss reads, the end whose value is to rise, and
        the wanted samples.
        """
        return memoryless_rollout(policy, base, noise["sde_x0"], noise["sde_noise"], samples_x0)

    def adjoints(self, base: Velocity, xs: jax.Array, terminal: jax.Array) -> jax.Array:
        """Hook: adj_k [K, B, D] at the states xs [K, B, D], from adj_K [B, D]."""
        lean = self.config.adjoint == "lean"
        return (
            lean_adjoint(base, xs, terminal) if lean else scalar_adjoint(self.times(), terminal)
        )

    def loss(
        self, params: dict, batch: Batch, noise: dict, fixed: dict
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """critic_loss + flow_loss + adj_loss; each network is reached by one of them."""
        s = batch["observations"]
        critic_loss, metrics = self.critic_loss(params["critic"], batch, fixed["td_target"])
        flow_loss = self.flow_loss(params["base"], batch, noise)
        policy, ts, lam = VelocityField(params["policy"], s), self.times(), self.trust_region()
        delta = recall(policy, fixed["xs"], ts[:, None, None], fixed["policy"]) - fixed["base"]
        adj_loss = adjoint_matching_loss(delta, fixed["adjoints"], lam, ts)
        per_action = self.config.horizon_length if self.config.action_chunking else 1
        return critic_loss + flow_loss + adj_loss, metrics | {
            "flow/loss": flow_loss,
            "adjoint/loss": adj_loss,
            "adjoint/clipped": jnp.mean(jnp.abs(fixed["x_final"]) > 1.0),
            "dual/path_kl": path_kl(delta, ts) / per_action,
            "dual/kl_bound": path_kl_bound(fixed["adjoints"], lam, ts) / per_action,
        }

    def trust_region(self) -> jax.Array | float:
        """Hook: lambda in the adjoint-matching loss."""
        return self.config.lam_scale * self.dual.lam

    def terminal_scale(self) -> float:
        """Hook: factor of the terminal adjoint."""
        return 1.0

    def concerns(self, rows: list[dict[str, Any]]) -> dict[str, str]:
        """lambda on a bound in the newest row, and a path KL off its budget by half and more in
        PATIENCE rows.
        """
        found = {}
        if self.dual is not None:
            lam, kl = (
                rows[-1]["dual/lam"],
                [row["dual/path_kl"] / row["dual/kl_budget"] for row in rows],
            )
            if lam >= 0.999 * self.config.lambda_max:
                found["lambda_max"] = (
                    f"lambda is at its upper bound {lam:.4g}: raise --agent.lambda_max or"
                    " lam_scale"
                )
            if lam <= 1.001 * self.config.lambda_min:
                found["lambda_min"] = (
                    f"lambda is at its lower bound {lam:.4g}: the policy does not use its KL"
                    " budget"
                )
            if len(rows) >= self.PATIENCE and (min(kl) > 1.5 or max(kl) < 0.5):
                found["path_kl"] = (
                    f"for {len(rows)} rows of train.csv the path KL has been off its budget,"
                    f" now {kl[-1]:.2f} times it: lambda has not settled (--agent.eta_lambda,"
                    " --agent.dual_mode=closed_form)"
                )
        return found

    def dual_step(self, kl: jax.Array) -> Dual:
        """Hook: the next dual state from this update's path KL."""
        return DUAL_STEPS[self.config.dual_mode](self.dual, kl, self.config)

    def after_step(self, metrics: dict[str, jax.Array]) -> tuple[Self, dict[str, jax.Array]]:
        """The dual step, with the path KL measured on the way of this update."""
        agent = self.replace(dual=self.dual_step(metrics["dual/path_kl"]))
        return agent, metrics | {
            "dual/lam": agent.dual.lam,
            "dual/kl_ema": agent.dual.kl_ema,
            "dual/kl_budget": agent.dual.kl_budget,
        }


def get_config() -> ml_collections.ConfigDict:
    """The published defaults (arXiv 2605.27079 and its code); `dual_mode`, `dual_gain` and
    `adjoint` are ours.
    """
    config = critic_config()
    config.update(
        dict(
            clip_grad=True,  # one global-norm clip at 1.0 over all networks
            clip_adj=True,  # clip x_K to the action range inside the terminal gradient
            adjoint="lean",  # or scalar
            lam_scale=3.0,  # lambda = lam_scale * lam
            kl_budget=1.0,  # epsilon, nats per environment action
            dual_mode="descent",  # or closed_form
            eta_lambda=0.01,  # step of descent
            dual_gain=0.03,  # step of closed_form
            kl_ema_coef=0.1,  # kappa
            kl_clip_coef=2.0,  # c
            lambda_min=0.01,
            lambda_max=100.0,
        )
    )
    return config


AGENT = TRQAM
