"""What all agents share: state, optimiser, moving averages, cloning, the update.

An agent file defines a subclass of `Agent`, names it `AGENT`, and gives its defaults in
`get_config()`. The subclass fills in the hooks `networks`, `noise_shapes`, `fixed_quantities`,
`loss` and, where it has state of its own, `after_step`; more hooks are in losses.py.
"""

import abc
from typing import Any, ClassVar, Self

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import linen as nn

from agents.initialising import fresh_params, policy_matches_base
from agents.losses import Loss, Losses, Networks, draw
from agents.optimising import clip_norm, gradient_norm
from agents.options import COMMON, CRITIC, check_sequences
from utils.errors import UserError
from utils.networks import Critic, VelocityField, ensemble
from utils.options import Options, check, defaults
from utils.replay import Batch, chunk_length


class Agent(Losses, flax.struct.PyTreeNode, abc.ABC, kw_only=True):
    """State of an agent and its pure update. Frozen; every method returns a new agent.

    params: trained networks by name; target_params: their moving averages, outside the
    optimiser; step: updates done; flat_action_dim: D = A H with action chunking, else A.
    An agent that is `cloning` has the base alone, trains it on `flow_loss` and acts by it.
    """

    params: dict[str, Any]
    target_params: dict[str, Any]
    opt_state: optax.OptState
    step: jax.Array
    config: ml_collections.FrozenConfigDict = flax.struct.field(pytree_node=False)
    flat_action_dim: int = flax.struct.field(pytree_node=False)
    total_updates: int = flax.struct.field(pytree_node=False, default=0)
    cloning: bool = flax.struct.field(pytree_node=False, default=False)

    OPTIONS: ClassVar[Options] = COMMON | CRITIC
    """Its settings: defaults, descriptions for --help, and ranges."""
    INPUTS: ClassVar[dict[str, str]] = {
        "critic": "sa",
        "value": "s",
        "base": "sat",
        "policy": "sat",
        "actor": "sa",
        "temperature": "",
    }
    """What each network reads: observation s, action or point of the flow a, time t."""
    TARGETS: ClassVar[tuple[str, ...]] = ("critic", "base")
    FLAGS: ClassVar[dict[str, Any]] = {}
    """Flags of the program that its runs set, unless a preset or the command line does."""
    POLICY_FROM_BASE = True  # whether a policy that is not cloned starts as the base does
    CLONES_ALONE = False  # whether all its updates are those of cloning
    SCHEDULED = False  # whether it reads `progress`, so that its runs cannot be extended
    PATIENCE = 10  # lines of train.csv that `concerns` looks at

    # ---------------------------------------------------------------- construction

    @classmethod
    def networks(cls, config: Any) -> Networks:
        """Hook: the trained networks by name. A fork may return modules of its own."""
        base = VelocityField(config.actor_hidden_dims, config.actor_layer_norm)
        return {"critic": cls.critic_network(config), "base": base}

    @classmethod
    def critic_network(cls, config: Any) -> nn.Module:
        """Hook: the ensemble of critics, (s, a) -> [E, ..., B]."""
        critics = ensemble(Critic, config.num_qs)
        return critics(config.value_hidden_dims, config.value_layer_norm)

    @classmethod
    def value_network(cls, config: Any) -> nn.Module:
        """V(s), of the critics' kind."""
        return Critic(config.value_hidden_dims, config.value_layer_norm)

    @classmethod
    def widths(cls, config: Any) -> dict[str, int]:
        """Hook: the widths of what networks read besides s and a, by the letters of INPUTS."""
        return {"t": 1}

    @classmethod
    def phases(cls, config: Any) -> tuple[str, ...]:
        """Hook: which of cloning, offline and online training a run has; without a base, no
        cloning.
        """
        cloning = ("cloning",) if "base" in cls.networks(config) else ()
        return (*cloning, "offline", "online")

    @classmethod
    def get_config(cls) -> ml_collections.ConfigDict:
        """The defaults of its settings."""
        return defaults(cls.OPTIONS)

    @classmethod
    def check(cls, config: Any) -> None:
        """Hook: raise UserError for settings that the agent cannot start with."""
        check(cls.OPTIONS, config)
        check_sequences(config)

    @classmethod
    def init_state(cls, config: Any) -> dict[str, Any]:
        """Hook: further fields of the agent's state."""
        return {}

    @classmethod
    def init_params(
        cls, key: jax.Array, observation_dim: int, flat_action_dim: int, config: Any
    ) -> dict[str, Any]:
        """Hook: fresh parameters of every network."""
        widths = {"s": observation_dim, "a": flat_action_dim} | cls.widths(config)
        return fresh_params(key, cls.networks(config), cls.INPUTS, widths)

    @classmethod
    def create(
        cls,
        key: jax.Array,
        observation_dim: int,
        action_dim: int,
        config: ml_collections.ConfigDict,
        total_updates: int = 0,
        cloning: bool = False,
    ) -> Self:
        """A fresh agent; action_dim is A of one step, total_updates is of the complete run."""
        config = ml_collections.FrozenConfigDict(config)
        flat = action_dim * chunk_length(config)
        params = cls.init_params(key, observation_dim, flat, config)
        if cls.POLICY_FROM_BASE and policy_matches_base(params):
            params["policy"] = params["base"]
        params = {"base": params["base"]} if cloning else params
        averaged = [] if cloning else cls.TARGETS
        if missing := [name for name in averaged if name not in params]:
            raise UserError(
                f"TARGETS names {missing[0]}, which networks(config) does not give: list those"
                " with a moving average"
            )
        agent = cls(
            params=params,
            target_params={name: params[name] for name in averaged},
            opt_state=cls.optimiser(config, cloning).init(params),
            step=jnp.zeros((), jnp.int32),
            config=config,
            flat_action_dim=flat,
            total_updates=total_updates,
            cloning=cloning,
            **cls.init_state(config),
        )
        # Copies: the training loop donates buffers, and each can be donated only once. The type
        # is explicit: a number of Python would have a weak one, and be compiled twice.
        return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.result_type(leaf)), agent)

    @classmethod
    def optimiser(cls, config: Any, cloning: bool = False) -> optax.GradientTransformation:
        """Hook: one Adam over all networks; where the agent has `clip_grad`, the norm of their
        joint gradient is clipped to 1, but not while cloning, which trains the base alone.
        """
        adam = optax.adam(config.lr)
        if cloning or not config.get("clip_grad", False):
            return adam
        return optax.chain(clip_norm(), adam)

    def with_base(self, base: dict) -> Self:
        """The agent with its base, and a policy of the same shapes, started from a
        behaviour-cloned base; the optimiser stays fresh.
        """
        fields = {"base", "policy"} if policy_matches_base(self.params) else {"base"}

        def started(networks: dict) -> dict:
            names = fields & networks.keys()
            return networks | {name: jax.tree.map(jnp.array, base) for name in names}

        return self.replace(
            params=started(self.params), target_params=started(self.target_params)
        )

    def with_kl_budget(self, kl_budget: float) -> Self:
        """The agent with another KL budget; only agents with a trust region have one."""
        raise UserError(
            f"--kl_budget_online={kl_budget}: this agent has no KL budget; leave the flag out"
        )

    # ---------------------------------------------------------------- learning

    def noise_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Hook: the shape of every random draw of one update, by name: next_action [draws, B,
        D] of the backup, and those of `flow_loss`. They are standard normal or, where a name
        ends in _t, uniform on [0, 1).
        """
        next_action = (self.draws, batch_size, self.flat_action_dim)
        return {"next_action": next_action} | self.flow_noise_shapes(batch_size)

    def flow_noise_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Hook: those of `flow_loss`, flow_x0 [B, D] and flow_t [B, 1]."""
        return {"flow_x0": (batch_size, self.flat_action_dim), "flow_t": (batch_size, 1)}

    def draw_noise(self, key: jax.Array, batch_size: int) -> dict[str, jax.Array]:
        """All draws of one update, so that it is a function of batch and noise alone."""
        shapes = self.flow_noise_shapes if self.cloning else self.noise_shapes
        return draw(key, **shapes(batch_size))

    def fixed_quantities(self, batch: Batch, noise: dict) -> dict[str, jax.Array]:
        """Hook: what the loss treats as constant, from the state before the update; here the
        next actions and the critic target.
        """
        return {} if self.cloning else self.acting_target(batch, noise)

    @abc.abstractmethod
    def loss(self, params: dict, batch: Batch, noise: dict, fixed: dict) -> Loss:
        """Hook: the sum that one optimiser step descends, and its metrics."""

    def averaging_step(self, name: str) -> jax.Array | float:
        """Hook: the step of this network's moving average in this update; 0 freezes it."""
        return self.config.get("tau", 0.0)

    def after_step(self, metrics: dict[str, jax.Array]) -> tuple[Self, dict[str, jax.Array]]:
        """Hook: update of the agent's own state from this update's metrics."""
        return self, metrics

    def concerns(self, lines: list[dict[str, Any]]) -> dict[str, str]:
        """Hook: what a user should know about the newest PATIENCE lines of train.csv, by kind;
        each kind is reported once.
        """
        return {}

    def update(self, batch: Batch, key: jax.Array) -> tuple[Self, dict[str, jax.Array]]:
        """One update on a batch, with all randomness from `key`; metrics are scalars."""
        noise = self.draw_noise(key, len(batch["rewards"]))
        agent, metrics, _ = self.update_with_noise(batch, noise)
        return agent, metrics

    def update_with_noise(self, batch: Batch, noise: dict) -> tuple[Self, dict, dict]:
        """One update with the random draws given; also returns the fixed quantities."""
        if self.cloning:
            loss, fixed = self.cloning_loss, {}
        else:
            loss, fixed = self.loss, self.fixed_quantities(batch, noise)
        grads, metrics = jax.grad(loss, has_aux=True)(self.params, batch, noise, fixed)
        optimiser = self.optimiser(self.config, self.cloning)
        updates, opt_state = optimiser.update(grads, self.opt_state, self.params)
        agent = self.replace(
            params=optax.apply_updates(self.params, updates),
            # The averages move towards the parameters from before the Adam step, as published.
            target_params={
                net: optax.incremental_update(self.params[net], old, self.averaging_step(net))
                for net, old in self.target_params.items()
            },
            opt_state=opt_state,
            step=self.step + 1,
        )
        # a metric of the same name that the loss returns is kept
        metrics = {"grad_norm": gradient_norm(grads)} | metrics
        if not self.cloning:
            agent, metrics = agent.after_step(metrics)
        return agent, metrics, fixed
