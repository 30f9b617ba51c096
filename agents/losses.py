"""The pieces that losses share: asking flow and critic, acting, the critic's target and loss,
flow matching, the actor's objective. Shapes as in `trqam.py`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from agents.flow import Velocity, euler_sample, flow_matching_loss
from agents.lql import Bootstrap, critic_loss_of_sequences
from utils.replay import Batch, chunks_per_sequence

Networks = dict[str, nn.Module]
"""By name."""
Loss = tuple[jax.Array, dict[str, jax.Array]]
"""A loss and its metrics, scalars by name."""
Values = Callable[[jax.Array], jax.Array]
"""a [..., B, D] -> Q_e(s, a) [E, ..., B], at given observations."""

Target = Any
"""The critic target: y [B], and for sequences of chunks a `Bootstrap` of y and v."""


class Losses:
    """How an agent acts and what its loss is made of; every method may be overridden."""

    if TYPE_CHECKING:  # of the agent
        config: Any
        params: dict[str, Any]
        target_params: dict[str, Any]
        step: jax.Array
        total_updates: int
        cloning: bool
        SCHEDULED: bool

        @classmethod
        def networks(cls, config: Any) -> Networks: ...

    def apply(
        self, name: str, params: dict, *inputs: jax.Array, method: str | None = None
    ) -> Any:
        """What the network of this name, or a method of it, returns at `params`, which may be a
        moving average.
        """
        module = self.networks(self.config)[name]
        return module.apply({"params": params}, *inputs, method=method)

    def velocity(self, params: dict, observations: jax.Array) -> Velocity:
        """Hook: the flow (x [..., B, D], t) -> v(s, x, t) [..., B, D] at s [B, O], for the
        parameters of the policy or of the base.
        """
        return lambda x, t: self.apply("base", params, observations, x, jnp.atleast_1d(t))

    def values(self, params: dict, observations: jax.Array) -> Values:
        """Hook: the function a [..., B, D] -> Q_e(s, a) [E, ..., B] at s [B, O], for the
        parameters of a critic.
        """
        return lambda actions: self.apply("critic", params, observations, actions)

    @property
    def has_critic(self) -> bool:
        """Whether the agent can be asked for values."""
        return "critic" in self.params

    def policy_value(self, q: jax.Array) -> jax.Array:
        """Hook: what the policy climbs, [...] of q [E, ...]: the mean of the ensemble."""
        return q.mean(axis=0)

    def expected_return(self, observations: jax.Array, actions: jax.Array) -> jax.Array:
        """`policy_value` [...] of the online critic at s [B, O] and a [..., B, D]."""
        return self.policy_value(self.values(self.params["critic"], observations)(actions))

    def preference(self, observations: jax.Array, actions: jax.Array) -> jax.Array:
        """Hook: what `best_of_n` compares, [...] at s [B, O] and a [..., B, D]."""
        return self.expected_return(observations, actions)

    def flow_sample(self, params: dict, observations: jax.Array, x0: jax.Array) -> jax.Array:
        """The end [..., B, D] of the flow at observations [B, O] from x0 [..., B, D]."""
        return euler_sample(self.velocity(params, observations), x0, self.config.flow_steps)

    @property
    def samples(self) -> int:
        """n: how many actions are drawn for each one taken."""
        return 1 if self.cloning else self.config.get("best_of_n", 1)

    @property
    def draws(self) -> int:
        """Hook: how many noise arrays [B, D] `act` takes; n if each sample needs one."""
        return self.samples

    def act(self, observations: jax.Array, x0: jax.Array) -> jax.Array:
        """Actions [B, D] in [-1, 1] at observations [B, O] from Gaussian noise x0 [draws, B,
        D]: of n samples the best by `preference`, which for n = 1 is not called.
        """
        if self.cloning:
            samples = self.flow_sample(self.params["base"], observations, x0)
        else:
            samples = self.sample(observations, x0)
        return self.best_of_n(observations, samples)

    def sample(self, observations: jax.Array, x0: jax.Array) -> jax.Array:
        """Hook: samples [n, B, D] of the policy at observations [B, O] from Gaussian noise x0
        [draws, B, D], not clipped. Without a policy the base acts.
        """
        actor = "policy" if "policy" in self.params else "base"
        return self.flow_sample(self.params[actor], observations, x0)

    def best_of_n(self, observations: jax.Array, samples: jax.Array) -> jax.Array:
        """Of samples [n, B, D] at observations [B, O], clipped, the best by `preference`; [B,
        D].
        """
        actions = jnp.clip(samples, -1.0, 1.0)
        if len(actions) == 1:
            return actions[0]
        best = jnp.argmax(self.preference(observations, actions), axis=0)
        return jnp.take_along_axis(actions, best[None, :, None], axis=0)[0]

    def progress(self) -> jax.Array:
        """The share of the run's updates that are done, in [0, 1], for schedules. An agent that
        asks sets SCHEDULED = True.
        """
        if not self.SCHEDULED:
            raise TypeError("progress() is for agents with SCHEDULED = True")
        return jnp.clip(self.step / max(1, self.total_updates), 0.0, 1.0)

    def flat_actions(self, batch: Batch) -> jax.Array:
        """The batch's actions as [B, D]: the chunk, or its first action without chunking."""
        actions = batch["actions"]
        chunked = self.config.action_chunking
        return actions.reshape(len(actions), -1) if chunked else actions[:, 0]

    def acting_target(self, batch: Batch, noise: dict) -> dict[str, jax.Array]:
        """next_actions [B, D] of the policy that acts, from next_action [draws, B, D] of the
        noise, and their td_target [B].
        """
        next_actions = self.act(batch["next_observations"][:, -1], noise["next_action"])
        return {"next_actions": next_actions, "td_target": self.td_target(batch, next_actions)}

    def td_target(self, batch: Batch, next_actions: jax.Array) -> Target:
        """Hook: y = R + gamma^H m (mean_e Q'_e(s', a') - rho std_e Q'_e(s', a')) [B], Q' the
        moving average of the critic.
        """
        s_next = batch["next_observations"][:, -1]
        return self.backup(batch, self.pessimistic_q(s_next, next_actions))

    def pessimistic_q(self, observations: jax.Array, actions: jax.Array) -> jax.Array:
        """mean_e Q'_e(s, a) - rho std_e Q'_e(s, a) of shape [B], at s [B, O] and a [B, D]."""
        return self.pessimistic(
            self.values(self.target_params["critic"], observations)(actions)
        )

    def pessimistic(self, q: jax.Array) -> jax.Array:
        """mean_e q_e - rho std_e q_e [B] of q [E, B]; where all members agree, the deviation
        has no gradient.
        """
        variance = q.var(axis=0)
        differ = variance > 0.0
        deviation = jnp.where(differ, jnp.sqrt(jnp.where(differ, variance, 1.0)), 0.0)
        return q.mean(axis=0) - self.config.rho * deviation

    def backup(self, batch: Batch, next_values: jax.Array) -> Target:
        """y = R + gamma^H m V(s') [B], from the values of the next observations [B]; for
        sequences of chunks with these values.
        """
        discount = self.config.discount**self.config.horizon_length
        y = batch["rewards"][:, -1] + discount * batch["masks"][:, -1] * next_values
        return y if chunks_per_sequence(self.config) == 1 else Bootstrap(y, next_values)

    def flow_loss(self, base: dict, batch: Batch, noise: dict) -> jax.Array:
        """Hook: the flow-matching loss of the base; it reads flow_x0 [B, D], flow_t [B, 1]."""
        velocity, actions = self.velocity(base, batch["observations"]), self.flat_actions(batch)
        valid = batch["valid"][:, -1]
        return flow_matching_loss(velocity, actions, noise["flow_x0"], noise["flow_t"], valid)

    def critic_loss(self, critic: dict, batch: Batch, td_target: Target) -> Loss:
        """Hook: mean_{E,B} (Q_e(s, a) - y)^2 valid, and its metrics; y is td_target [B]. For
        sequences of chunks LQL's: `lql.py`.
        """
        q = self.values(critic, batch["observations"])(self.flat_actions(batch))
        if chunks_per_sequence(self.config) > 1:
            return critic_loss_of_sequences(q, batch, td_target, self.config)
        loss = jnp.mean((q - td_target[None]) ** 2 * batch["valid"][None, :, -1])
        return loss, {
            "critic/loss": loss,
            "critic/q_mean": q.mean(),
            "critic/target_mean": td_target.mean(),
        }

    def critic_objective(
        self, critic: dict, observations: jax.Array, actions: jax.Array
    ) -> jax.Array:
        """-mean_B of `policy_value` at s [B, O] and a [B, D]: a gradient reaches the actions,
        none the critic.
        """
        q = self.values(jax.lax.stop_gradient(critic), observations)(actions)
        return -self.policy_value(q).mean()

    def pessimistic_value(
        self, critic: dict, observations: jax.Array, actions: jax.Array
    ) -> jax.Array:
        """mean_e Q_e(s, a) - rho std_e Q_e(s, a) [B] at s [B, O] and a [B, D]: a gradient
        reaches the actions, none the critic.
        """
        return self.pessimistic(
            self.values(jax.lax.stop_gradient(critic), observations)(actions)
        )

    def cloning_loss(self, params: dict, batch: Batch, noise: dict, fixed: dict) -> Loss:
        """`flow_loss` of the base alone."""
        loss = self.flow_loss(params["base"], batch, noise)
        return loss, {"flow/loss": loss}


def draw(key: jax.Array, **shapes: tuple[int, ...]) -> dict[str, jax.Array]:
    """Random draws by name, each of its shape: standard normal, or uniform on [0, 1) for times,
    whose names end in _t.
    """
    draws = {}
    for name, k in zip(shapes, jax.random.split(key, len(shapes)), strict=True):
        kind = jax.random.uniform if name.endswith("_t") else jax.random.normal
        draws[name] = kind(k, shapes[name])
    return draws
