"""The compiled calls: many updates of all seeds at once, and one online step."""

import math
import os
from functools import partial
from pathlib import Path
from typing import Any, Self

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from agents.base import Agent
from utils.replay import Fed, Replay, Rows, Transitions, update_keys
from utils.sharding import for_each_seed

MOST_UPDATES_PER_CALL = {"cpu": 4}  # elsewhere:
MOST_UPDATES_PER_CALL_ON_ACCELERATOR = 100


class Window(flax.struct.PyTreeNode):
    """The metrics since the last row of train.csv: their sums, and the first update at which
    each was not finite (or -1).
    """

    sums: dict[str, jax.Array]
    broken: dict[str, jax.Array]

    @classmethod
    def create(cls, sums: dict[str, Any]) -> Self:
        """A window with these sums, all of them finite."""
        return cls(
            {k: jnp.array(v, jnp.float32) for k, v in sums.items()},
            {k: jnp.array(-1, jnp.int32) for k in sums},
        )

    def add(self, metrics: dict[str, jax.Array], update: jax.Array) -> Self:
        """The window with the metrics of one more update, whose number is `update`."""
        sums = jax.tree.map(jnp.add, self.sums, metrics)
        first = {k: (self.broken[k] < 0) & ~jnp.isfinite(v) for k, v in metrics.items()}
        return self.replace(
            sums=sums,
            broken={k: jnp.where(first[k], update, v) for k, v in self.broken.items()},
        )


def one_update(
    agent: Agent, replay: Replay, key: jax.Array
) -> tuple[Agent, dict[str, jax.Array]]:
    """The update that follows from `key` and the number of updates that the agent has had."""
    config = agent.config
    key_batch, key_update = update_keys(key, agent.step)
    batch = replay.sample(key_batch, config.batch_size, config.horizon_length, config.discount)
    return agent.update(batch, key_update)


# On a CPU XLA would else copy parameters and targets in every update, 75 MB at the paper's size
# and 6 % of the time.
WITHOUT_COPIES = {"xla_cpu_copy_insertion_use_region_analysis": True}


@partial(
    jax.jit,
    static_argnames=("updates", "mesh"),
    donate_argnames=("agents", "windows"),
    compiler_options=WITHOUT_COPIES,
)
def train_block(
    agents: Agent,
    windows: Window,
    replay: Replay,
    keys: jax.Array,
    updates: int,
    rows: Rows | None = None,
    mesh: Mesh | None = None,
) -> tuple[Agent, Window, jax.Array]:
    """`updates` updates of every seed in one call; agents, windows, online transitions and keys
    (their data) are stacked [S].

    rows: those of a dataset on the host, for each seed and update [S, U, B, ...]; see
    utils/prefetch.py. The last result is there to wait for, since the others are given to the
    next call.
    """

    def block(
        agent: Agent,
        window: Window,
        key: jax.Array,
        online: Transitions | None,
        rows: Rows | None,
        stored: Transitions | Fed,
    ) -> tuple[Agent, Window, jax.Array]:
        seeds_replay = replay.replace(stored=stored, online=online)

        def one(
            carry: tuple[Agent, Window], rows: Rows | None
        ) -> tuple[tuple[Agent, Window], None]:
            agent, metrics = one_update(
                carry[0], seeds_replay.feed(rows), jax.random.wrap_key_data(key)
            )
            return (agent, carry[1].add(metrics, agent.step)), None

        (agent, window), _ = jax.lax.scan(one, (agent, window), rows, length=updates)
        return agent, window, agent.step + 0

    mapped = for_each_seed(block, (0, 0, 0, 0, 0, None), mesh)
    return mapped(agents, windows, keys, replay.online, rows, replay.stored)


@partial(jax.jit, static_argnames="mesh", donate_argnames="online")
def store(
    online: Transitions,
    transitions: dict[str, jax.Array],
    first: jax.Array,
    mesh: Mesh | None = None,
) -> Transitions:
    """Store one online transition of every seed, `first` [S] of its episode or not."""
    return for_each_seed(Transitions.append, (0, 0, 0), mesh)(online, transitions, first)


@partial(jax.jit, static_argnames="mesh")
def act_online(
    agents: Agent,
    observations: jax.Array,
    keys: jax.Array,
    step: jax.Array,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Actions [S, D] of every seed's policy at its observation [S, O] in online step number
    `step`.
    """

    def act(agent: Agent, observation: jax.Array, key: jax.Array, step: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.wrap_key_data(key), step)
        noise = jax.random.normal(key, (agent.draws, 1, agent.flat_action_dim))
        return agent.act(observation[None], noise)[0]

    return for_each_seed(act, (0, 0, 0, None), mesh)(agents, observations, keys, step)


def updates_per_call(*counts: int) -> int:
    """The most updates one call may run: they divide every given count that is not 0, so that
    no call crosses one.
    """
    most = MOST_UPDATES_PER_CALL.get(
        jax.default_backend(), MOST_UPDATES_PER_CALL_ON_ACCELERATOR
    )
    common = math.gcd(*counts)
    return max(n for n in range(1, most + 1) if common % n == 0)


def configure_jax(flags: dict[str, Any]) -> None:
    """What the flags set of JAX itself; before anything is computed."""
    if flags["matmul_precision"] != "default":
        jax.config.update("jax_default_matmul_precision", flags["matmul_precision"])
    if flags["compilation_cache_dir"] and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update(
            "jax_compilation_cache_dir", str(Path(flags["compilation_cache_dir"]).expanduser())
        )
