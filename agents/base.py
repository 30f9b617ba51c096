"""What all agents share, written once: state, optimiser, critic target, target networks,
best-of-n, the update.

An agent file defines a subclass of `Agent`, names it `AGENT`, and gives its defaults in
`get_config()`. The subclass fills in the hooks `draw_noise`, `fixed_quantities`, `loss` and,
where it has state of its own, `after_step`.
"""

import abc
from collections.abc import Callable, Collection
from typing import Any, ClassVar, Self

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax

from agents.flow import VelocityField, euler_sample, flow_matching_loss
from utils.errors import UserError
from utils.networks import MLP, apply_ensemble, condition, init_ensemble, init_mlp
from utils.replay import Batch


def common_config() -> ml_collections.ConfigDict:
    """The settings every agent reads, with the published defaults."""
    return ml_collections.ConfigDict(
        dict(
            lr=3e-4,
            batch_size=256,
            actor_hidden_dims=(512, 512, 512, 512),
            actor_layer_norm=False,
            horizon_length=5,  # H; the flag --horizon_length sets it
            action_chunking=False,  # every domain with H > 1 switches it on
            flow_steps=10,  # K
            discount=0.995,  # also accumulates rewards inside a chunk
        )
    )


def critic_config() -> ml_collections.ConfigDict:
    """`common_config` and what an agent with a critic reads besides."""
    config = common_config()
    config.update(
        dict(
            value_hidden_dims=(512, 512, 512, 512),
            value_layer_norm=True,
            num_qs=10,  # E
            rho=0.5,  # pessimism of the critic target, in standard deviations over the ensemble
            tau=0.005,  # step of the exponential moving averages
            best_of_n=1,
        )
    )
    return config


def check_choice(config: Any, key: str, choices: Collection[str]) -> None:
    """Raise UserError where the agent has the setting `key` and its value is none of the
    choices.
    """
    if key in config and config[key] not in choices:
        raise UserError(f"--agent.{key}={config[key]}: use one of {', '.join(choices)}")


class Agent(flax.struct.PyTreeNode, abc.ABC):
    """State of an agent and its pure update. Frozen; every method returns a new agent.

    params: trained networks by name; target_params: their moving averages, outside the
    optimiser; step: updates done. D = action_dim * H with action chunking, else action_dim.
    """

    params: dict[str, Any]
    target_params: dict[str, Any]
    opt_state: optax.OptState
    step: jax.Array
    config: ml_collections.FrozenConfigDict = flax.struct.field(pytree_node=False)

    NETWORKS: ClassVar[tuple[str, ...]] = ("critic", "policy", "base")
    TARGETS: ClassVar[tuple[str, ...]] = ("critic", "base")
    ACTOR = "policy"  # the velocity field that acts
    STARTS_FROM_BASE = True  # whether behaviour cloning comes first
    PATIENCE = 10  # rows of train.csv that `concerns` looks at

    # ---------------------------------------------------------------- construction

    @classmethod
    def create(
        cls,
        key: jax.Array,
        observation_dim: int,
        action_dim: int,
        config: ml_collections.ConfigDict,
    ) -> Self:
        """A fresh agent; observation_dim is O, action_dim is A of one environment step."""
        config = ml_collections.FrozenConfigDict(config)
        flat = action_dim * (config.horizon_length if config.action_chunking else 1)
        names = cls.networks(config)
        keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
        params = {
            name: cls.init_network(name, keys[name], observation_dim, flat, config)
            for name in names
        }
        if "policy" in params:
            params["policy"] = params["base"]
        return cls(
            # Copies, because the training loop donates buffers and a buffer can be donated only
            # once.
            params=jax.tree.map(jnp.array, params),
            target_params=jax.tree.map(jnp.array, {name: params[name] for name in cls.TARGETS}),
            opt_state=cls.optimiser(config).init(params),
            step=jnp.zeros((), jnp.int32),
            config=config,
            **cls.init_state(config),
        )

    @classmethod
    def networks(cls, config: Any) -> tuple[str, ...]:
        """Hook: the names of the trained networks, where they depend on the settings."""
        return cls.NETWORKS

    @classmethod
    def init_network(
        cls, name: str, key: jax.Array, observation_dim: int, flat_action_dim: int, config: Any
    ) -> dict:
        """Fresh parameters of one network by name; all but those named here are velocities on
        concat(s, x, t).
        """
        s, a = observation_dim, flat_action_dim
        match name:
            case "temperature":
                return {"log_alpha": jnp.zeros(())}
            case "critic" | "latent_critic" | "value":
                mlp = MLP(config.value_hidden_dims, 1, config.value_layer_norm)
                return (
                    init_mlp(key, mlp, s)
                    if name == "value"
                    else init_ensemble(key, mlp, s + a, config.num_qs)
                )
            case "editor" | "noise_actor":
                # tanh-Gaussian: mean and log-std. Published without LayerNorm, whatever
                # actor_layer_norm is.
                mlp = MLP(config.actor_hidden_dims, 2 * a, layer_norm=False, heads=2)
                return init_mlp(key, mlp, s + a if name == "editor" else s)
        inputs = s + a if name == "one_step_actor" else s + a + 1
        return init_mlp(key, MLP(config.actor_hidden_dims, a, config.actor_layer_norm), inputs)

    @classmethod
    def init_state(cls, config: Any) -> dict[str, Any]:
        """Hook: further fields of the agent's state."""
        return {}

    @classmethod
    def optimiser(cls, config: Any) -> optax.GradientTransformation:
        """One Adam over all networks with, where the agent has `clip_grad`, one global-norm
        clip over their sum.
        """
        adam = optax.adam(config.lr)
        return (
            optax.chain(optax.clip_by_global_norm(1.0), adam)
            if config.get("clip_grad", False)
            else adam
        )

    def with_base(self, base: dict) -> Self:
        """The agent with every actor started from a behaviour-cloned base; the optimiser stays
        fresh.
        """
        starts = {
            name: jax.tree.map(jnp.array, base)
            for name in ("policy", "base")
            if name in self.params
        }
        targets = (
            {"base": jax.tree.map(jnp.array, base)} if "base" in self.target_params else {}
        )
        return self.replace(
            params=self.params | starts, target_params=self.target_params | targets
        )

    def with_kl_budget(self, kl_budget: float) -> Self:
        """The agent with another KL budget; only agents with a trust region have one."""
        raise UserError(
            f"--kl_budget_online={kl_budget}: this agent has no KL budget; leave the flag out"
        )

    # ---------------------------------------------------------------- acting

    @property
    def flat_action_dim(self) -> int:
        """D."""
        return self.params["base"][f"Dense_{len(self.config.actor_hidden_dims)}"]["bias"].shape[
            -1
        ]

    @property
    def samples(self) -> int:
        """n: how many actions are drawn for each one taken."""
        return self.config.get("best_of_n", 1)

    @property
    def draws(self) -> int:
        """Hook: how many rows of noise [draws, B, D] `act` takes: n, or more where a sample
        needs more than one.
        """
        return self.samples

    def act(self, observations: jax.Array, x0: jax.Array) -> jax.Array:
        """Actions [B, D] in [-1, 1] at observations [B, O] from Gaussian noise x0 [draws, B,
        D].

        With n > 1 the best by the mean of the online critic; with n = 1 the critic is not
        called.
        """
        return self.best_of_n(observations, self.sample(observations, x0))

    def sample(self, observations: jax.Array, x0: jax.Array) -> jax.Array:
        """Hook: samples [n, B, D] of the policy at observations [B, O] from Gaussian noise x0
        [draws, B, D], not clipped.
        """
        return euler_sample(
            VelocityField(self.params[self.ACTOR], observations), x0, self.config.flow_steps
        )

    def best_of_n(self, observations: jax.Array, samples: jax.Array) -> jax.Array:
        """Of samples [n, B, D] at observations [B, O], clipped, the best by the mean of the
        online critic; [B, D].
        """
        actions = jnp.clip(samples, -1.0, 1.0)
        if len(actions) == 1:
            return actions[0]
        q = action_values(self.params["critic"], observations)(self.critic_input(actions))
        best = jnp.argmax(q.mean(axis=0), axis=0)
        return jnp.take_along_axis(actions, best[None, :, None], axis=0)[0]

    # ---------------------------------------------------------------- learning

    def draw_noise(self, key: jax.Array, batch_size: int) -> dict[str, jax.Array]:
        """Hook: every random draw of one update, by name, so that an update is a function of
        batch and noise alone.

        Here those of the flow-matching loss: flow_x0 [B, D] and flow_t [B, 1].
        """
        return draw(key, flow_x0=(batch_size, self.flat_action_dim), flow_t=(batch_size, 1))

    @abc.abstractmethod
    def fixed_quantities(
        self, batch: Batch, noise: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """Hook: what the loss treats as constant (targets, rollouts), computed from the state
        before the update.
        """

    @abc.abstractmethod
    def loss(
        self, params: dict, batch: Batch, noise: dict, fixed: dict
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Hook: the sum that one optimiser step descends, and the metrics on the way."""

    def after_step(self, metrics: dict[str, jax.Array]) -> tuple[Self, dict[str, jax.Array]]:
        """Hook: update of the agent's own state from this update's metrics."""
        return self, metrics

    def concerns(self, rows: list[dict[str, Any]]) -> dict[str, str]:
        """Hook: what a user should know about the newest PATIENCE rows of train.csv, by kind;
        each kind is told once.
        """
        return {}

    def update(self, batch: Batch, key: jax.Array) -> tuple[Self, dict[str, jax.Array]]:
        """One update on a batch, with all randomness from `key`; metrics are scalars."""
        agent, metrics, _ = self.update_with_noise(
            batch, self.draw_noise(key, batch["observations"].shape[0])
        )
        return agent, metrics

    def update_with_noise(
        self, batch: Batch, noise: dict[str, jax.Array]
    ) -> tuple[Self, dict, dict]:
        """One update with the random draws given; also returns the fixed quantities, which
        parity tests compare.
        """
        fixed = self.fixed_quantities(batch, noise)
        grads, metrics = jax.grad(self.loss, has_aux=True)(self.params, batch, noise, fixed)
        updates, opt_state = self.optimiser(self.config).update(
            grads, self.opt_state, self.params
        )
        agent = self.replace(
            params=optax.apply_updates(self.params, updates),
            # The averages move towards the parameters from before the Adam step, as published.
            target_params=optax.incremental_update(
                {name: self.params[name] for name in self.TARGETS},
                self.target_params,
                self.config.get("tau", 0.0),
            ),
            opt_state=opt_state,
            step=self.step + 1,
        )
        agent, metrics = agent.after_step(metrics | {"grad_norm": optax.tree.norm(grads)})
        return agent, metrics, fixed

    # ---------------------------------------------------------------- shared pieces of losses

    def flat_actions(self, batch: Batch) -> jax.Array:
        """The batch's actions as [B, D]: the whole chunk, or its first action without action
        chunking.
        """
        actions = batch["actions"]
        return (
            actions.reshape(actions.shape[0], -1)
            if self.config.action_chunking
            else actions[:, 0]
        )

    def critic_input(self, actions: jax.Array) -> jax.Array:
        """Hook: what the critic reads besides the observation, from actions [..., D]."""
        return actions

    def acting_target(self, batch: Batch, noise: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """next_actions [B, D] of the policy that acts, from next_action [n, B, D] of the noise,
        and their td_target [B].
        """
        next_actions = self.act(batch["next_observations"][:, -1], noise["next_action"])
        return {"next_actions": next_actions, "td_target": self.td_target(batch, next_actions)}

    def td_target(self, batch: Batch, next_actions: jax.Array) -> jax.Array:
        """y = R + gamma^H m (mean_e Q'_e(s', a') - rho std_e Q'_e(s', a')) of shape [B], Q' the
        target critic.
        """
        return self.backup(
            batch, self.pessimistic_q(batch["next_observations"][:, -1], next_actions)
        )

    def pessimistic_q(self, observations: jax.Array, actions: jax.Array) -> jax.Array:
        """mean_e Q'_e(s, a) - rho std_e Q'_e(s, a) of shape [B], at s [B, O] and a [B, D]."""
        q = q_values(self.target_params["critic"], observations, self.critic_input(actions))
        return q.mean(axis=0) - self.config.rho * q.std(axis=0)

    def backup(self, batch: Batch, next_values: jax.Array) -> jax.Array:
        """R + gamma^H m V(s') of shape [B], from the values of the next observations [B]."""
        discount = self.config.discount**self.config.horizon_length
        return batch["rewards"][:, -1] + discount * batch["masks"][:, -1] * next_values

    def flow_loss(self, base: dict, batch: Batch, noise: dict[str, jax.Array]) -> jax.Array:
        """The flow-matching loss of the base, which reads flow_x0 [B, D] and flow_t [B, 1] of
        the noise.
        """
        velocity, actions = VelocityField(base, batch["observations"]), self.flat_actions(batch)
        return flow_matching_loss(
            velocity, actions, noise["flow_x0"], noise["flow_t"], batch["valid"][:, -1]
        )

    def critic_loss(
        self, critic: dict, batch: Batch, td_target: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """mean_{E,B} (Q_e(s, a) - y)^2 valid, and its metrics."""
        q = q_values(critic, batch["observations"], self.critic_input(self.flat_actions(batch)))
        loss = jnp.mean((q - td_target[None]) ** 2 * batch["valid"][None, :, -1])
        return loss, {
            "critic/loss": loss,
            "critic/q_mean": q.mean(),
            "critic/target_mean": td_target.mean(),
        }


def draw(key: jax.Array, **shapes: tuple[int, ...]) -> dict[str, jax.Array]:
    """Random draws by name, each of its shape: standard normal, or uniform on [0, 1) for times,
    whose names end in _t.
    """
    keys = jax.random.split(key, len(shapes))
    kinds = {
        name: jax.random.uniform if name.endswith("_t") else jax.random.normal
        for name in shapes
    }
    return {
        name: kinds[name](k, shape)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def q_values(critic: dict, observations: jax.Array, actions: jax.Array) -> jax.Array:
    """Q_e(s, a) of shape [E, ...] for s [..., O] and a [..., D]."""
    return apply_ensemble(critic, jnp.concatenate([observations, actions], axis=-1))


def action_values(critic: dict, observations: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """The function a [..., B, D] -> Q_e(s, a) [E, ..., B] at fixed s [B, O], whose share of the
    work is done once.
    """
    conditioned = jax.vmap(condition, in_axes=(0, None))(critic, observations)
    return lambda actions: apply_ensemble(conditioned, actions)
