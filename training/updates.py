"""The compiled calls (many updates of all seeds, one online step) and their state."""

import functools
import math
import operator
import os
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from agents.base import Agent
from agents.lql import traced_metrics
from training.acting import clipped_actions
from training.compile_options import compile_options
from training.windows import Window, WindowClock, stack_windows
from utils.errors import UserError
from utils.files import expanded
from utils.messages import warn
from utils.packing import Packed, Packing
from utils.replay import (
    BatchSpec,
    HostFed,
    Replay,
    Rows,
    Transitions,
    update_keys,
)
from utils.sharding import for_each_seed, mesh_for, one_seed, stack_seeds

UPDATES_PER_CALL_ON_CPU = 4  # at most
UPDATES_PER_CALL_ON_ACCELERATOR = 100  # at most


def one_update(
    agent: Agent, replay: Replay, key: jax.Array
) -> tuple[Agent, dict[str, jax.Array]]:
    """Update an agent once; return it and the metrics.

    The randomness depends only on `key` and the number of the agent's updates so far.

    Args:
        agent: the agent.
        replay: what the batch is sampled from.
        key: the run's key for updates.
    """
    key_batch, key_update = update_keys(key, agent.step)
    batch = replay.sample(key_batch, BatchSpec.of(agent.config))
    return agent.update(batch, key_update)


def _train_block(
    agents: Agent,
    windows: Window,
    replay: Replay,
    keys: jax.Array,
    updates: int,
    rows: Rows | None = None,
    mesh: Mesh | None = None,
) -> tuple[Agent, Window, jax.Array]:
    """Run U updates of every seed in one call; return agents, windows and update counts [S].

    Agents and windows are donated to the next call; the counts are not, so that the host can
    wait for them.

    Args:
        agents: [S, ...] the agents.
        windows: [S, ...] their metrics.
        replay: what all seeds sample from; its online transitions are stacked [S, ...].
        keys: [S, ...] the data of each seed's key for updates.
        updates: U.
        rows: [S, U, B, ...] the rows of a dataset on the host (utils/prefetch.py); else None.
        mesh: the devices that the seeds are sharded over.
    """

    def train_seed(
        agent: Agent,
        window: Window,
        key: jax.Array,
        online: Transitions | None,
        seed_rows: Rows | None,
        stored: Transitions | HostFed,
    ) -> tuple[Agent, Window, jax.Array]:
        seed_replay = replay.replace(stored=stored, online=online)
        packing = Packing.of(agent)

        def step(
            carry: tuple[Packed, Window], update_rows: Rows | None
        ) -> tuple[tuple[Packed, Window], None]:
            packed, window = carry
            agent, metrics = one_update(
                packing.unpack(packed),
                seed_replay.feed(update_rows),
                jax.random.wrap_key_data(key),
            )
            return (packing.pack(agent), window.add(metrics, agent.step)), None

        start = packing.pack(agent), window
        (packed, window), _ = jax.lax.scan(step, start, seed_rows, length=updates)
        agent = packing.unpack(packed)
        return agent, window, agent.step + 0  # a new array, which is not donated

    train_seeds = for_each_seed(train_seed, (0, 0, 0, 0, 0, None), mesh)
    return train_seeds(agents, windows, keys, replay.online, rows, replay.stored)


@functools.cache
def train_block_on(platform: str, candidate: str = "training") -> Any:
    """`train_block` as a jitted function that is compiled as training is on a platform, or with
    the options of a candidate besides.
    """
    return jax.jit(
        _train_block,
        static_argnames=("updates", "mesh"),
        donate_argnames=("agents", "windows"),
        compiler_options=compile_options(platform, candidate),
    )


def train_block(*arguments: Any, **named: Any) -> tuple[Agent, Window, jax.Array]:
    """`_train_block`, compiled for JAX's default device."""
    return train_block_on(jax.default_backend())(*arguments, **named)


@partial(jax.jit, static_argnames="mesh", donate_argnames="online")
def store(
    online: Transitions,
    transitions: dict[str, jax.Array],
    first: jax.Array,
    mesh: Mesh | None,
) -> Transitions:
    """Append one online transition of every seed.

    Args:
        online: [S, ...] the online transitions so far.
        transitions: [S, ...] the new ones.
        first: [S] whether each one starts an episode.
        mesh: the devices that the seeds are sharded over.
    """
    return for_each_seed(Transitions.append, (0, 0, 0), mesh)(
        online, transitions, first
    )


@partial(jax.jit, static_argnames="mesh")
def act_online(
    agents: Agent,
    observations: jax.Array,
    keys: jax.Array,
    step: jax.Array,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Return the actions [S, D] of every seed's policy.

    Args:
        agents: [S, ...] the agents.
        observations: [S, O].
        keys: [S, ...] the data of each seed's key for actions.
        step: the number of the online step.
        mesh: the devices that the seeds are sharded over.
    """

    def act(
        agent: Agent, observation: jax.Array, key: jax.Array, step: jax.Array
    ) -> jax.Array:
        key = jax.random.fold_in(jax.random.wrap_key_data(key), step)
        noise = jax.random.normal(key, (agent.draws, 1, agent.flat_action_dim))
        return clipped_actions(agent, observation[None], noise)[0]

    return for_each_seed(act, (0, 0, 0, None), mesh)(agents, observations, keys, step)


class SeedState(NamedTuple):
    """The state of one seed in `Updates`, and in a checkpoint."""

    agent: Agent
    keys: dict[str, Any]
    """The data of the keys, by their names "updates" and "actions"."""
    window: dict[str, Any]
    """Since the last log: "updates", their number, and "sums", their metrics added by name."""


class Updates:
    """The agents of all seeds, with the compiled calls that train them.

    Args:
        states: the state of each seed, all with the same number of updates. Since their last
            logs they may have had different numbers.
    """

    def __init__(self, states: Sequence[SeedState]):
        self.num_seeds = len(states)
        self.mesh = mesh_for(self.num_seeds)
        self.agents: Agent = stack_seeds([state.agent for state in states], self.mesh)
        self.keys: dict[str, Any] = stack_seeds(
            [state.keys for state in states], self.mesh
        )
        self.window_updates: list[int] = [state.window["updates"] for state in states]
        """The updates of each seed since its last log."""
        self.windows: Window | None = None  # None before the first update after a log
        if any(self.window_updates):
            self.windows = stack_windows(
                [state.window["sums"] for state in states], self.mesh
            )
        self.clock = WindowClock()
        # names of the metrics, known with the first update
        self._metrics: list[str] = []
        # the counts that the newest call returned
        self._newest: jax.Array | None = None

    @property
    def config(self) -> Any:
        """The settings of the agents."""
        return self.agents.config

    def done(self) -> int:
        """Return how many updates each agent has had."""
        return int(self.agents.step[0])

    def agent(self, seed: int) -> Agent:
        """Return a copy of one seed's agent, which later calls do not change."""
        return one_seed(self.agents, seed)

    def set_kl_budget(self, kl_budget: float) -> None:
        """Set the KL budget of every agent."""
        agents = [
            self.agent(seed).with_kl_budget(kl_budget) for seed in range(self.num_seeds)
        ]
        self.agents = stack_seeds(agents, self.mesh)

    # ---------------------------------------------------------------- calls

    def run(self, replay: Replay, updates: int, rows: Rows | None = None) -> None:
        """Start one call of U updates; return when the call before it has finished.

        Args:
            replay: what all seeds sample from; its online transitions are stacked [S, ...].
            updates: U.
            rows: [S, U, B, ...] the rows of a dataset on the host; else None.
        """
        if not self._metrics:
            key = self.keys["updates"][0]
            self._metrics = metric_names(self.agents, replay, key, rows)
            self._leave_old_metrics()
        if self.windows is None:
            zeros = dict.fromkeys(self._metrics, 0.0)
            self.windows = stack_windows([zeros] * self.num_seeds, self.mesh)
        before = self._newest
        # arrays have is_ready, but the type jax.Array does not
        if before is not None and before.is_ready():  # type: ignore[attr-defined]
            self.clock.seen_idle()
        self.agents, self.windows, self._newest = train_block(
            self.agents,
            self.windows,
            replay,
            self.keys["updates"],
            updates,
            rows,
            self.mesh,
        )
        self.window_updates = [count + updates for count in self.window_updates]
        self.clock.updates += updates
        if before is not None:
            # keeps signals, the bar and the clock close to the actual training
            before.block_until_ready()
        self.clock.seen_busy()

    def _leave_old_metrics(self) -> None:
        """Start new windows if those of a checkpoint have other metrics than the agent now."""
        if self.windows is None or set(self.windows.names) == set(self._metrics):
            return
        warn(
            "the agent has other metrics than at its checkpoint: the next line of train.csv is"
            " a mean over the updates from here on"
        )
        self._empty_windows()

    def _empty_windows(self) -> None:
        self.windows = None
        self.window_updates = [0] * self.num_seeds

    def act(self, observations: np.ndarray, step: int) -> np.ndarray:
        """Return actions [S, D] at observations [S, O] in online step `step`."""
        actions = np.asarray(
            act_online(self.agents, observations, self.keys["actions"], step, self.mesh)
        )
        self.clock.seen_busy()  # it finished the newest updates, then the actions
        return actions

    # ---------------------------------------------------------------- results

    def not_finite(self) -> dict[int, str]:
        """Return messages by seed about metrics that are not finite since the last log.

        A message names the first such metric of the seed, and the update.
        """
        if self.windows is None:
            return {}
        broken = self.windows.by_name(self.windows.broken)
        self.clock.seen_busy()
        found = {}
        for seed, updates in enumerate(broken):
            since = {name: update for name, update in updates.items() if update >= 0}
            if since:
                first = min(since, key=lambda name: (since[name], name))
                found[seed] = f"{first} is not finite since update {since[first]}"
        return found

    def means(self) -> list[dict[str, float]]:
        """Return each seed's mean metrics since its last log; {} if it had no update."""
        if self.windows is None:
            return [{} for _ in range(self.num_seeds)]
        sums = self.windows.by_name(self.windows.sums)
        self.clock.seen_busy()
        return [
            {name: total / updates for name, total in row.items()} if updates else {}
            for updates, row in zip(self.window_updates, sums, strict=True)
        ]

    def speed(self, seconds: float) -> dict[str, float]:
        """Return columns of timing.csv; `seconds` is the training time since the last log."""
        idle = min(1.0, self.clock.idle / seconds)
        return {"updates_per_s": self.clock.updates / seconds, "device_idle": idle}

    def restart_window(self) -> None:
        """Start new sums and a new time after a log."""
        self._empty_windows()
        self.clock.restart()

    def states(self) -> list[SeedState]:
        """Copy the state of each seed to the host, for its checkpoint."""
        host = jax.device_get({"agent": self.agents, "keys": self.keys})
        empty: list[dict[str, Any]] = [{}] * self.num_seeds
        sums = self.windows.by_name(self.windows.sums) if self.windows else empty
        states = []
        for seed in range(self.num_seeds):
            tree = jax.tree.map(operator.itemgetter(seed), host)
            window = {"updates": self.window_updates[seed], "sums": sums[seed]}
            states.append(SeedState(tree["agent"], tree["keys"], window))
        return states


def metric_names(
    agents: Agent, replay: Replay, key: jax.Array, rows: Rows | None
) -> list[str]:
    """Return the names of an update's metrics, in order, without running an update.

    Raises UserError as `traced_metrics` and `check_metrics` do.

    Args:
        agents: as in `train_block`.
        replay: as in `train_block`.
        key: the data of one seed's key.
        rows: as in `train_block`.
    """
    agent, online = jax.tree.map(lambda leaf: leaf[0], (agents, replay.online))
    one = replay.replace(online=online).feed(
        jax.tree.map(lambda leaf: leaf[0, 0], rows)
    )
    update_key = jax.random.wrap_key_data(key)

    def trace() -> dict[str, Any]:
        return jax.eval_shape(one_update, agent, one, update_key)[1]

    metrics = traced_metrics(trace, agent.config)
    check_metrics(metrics)
    return list(metrics)


def check_metrics(metrics: dict[str, Any]) -> None:
    """Raise UserError for a metric that cannot be a column of train.csv."""
    for name, value in metrics.items():
        if name in ("step", "phase"):
            raise UserError(f"metric {name}: train.csv has a column {name}; rename it")
        if not hasattr(value, "shape"):
            kind = type(value).__name__
            raise UserError(f"metric {name} is a {kind}; metrics are scalars")
        if value.shape:
            shape = list(value.shape)
            raise UserError(f"metric {name} has shape {shape}; metrics are scalars")


def updates_per_call(*counts: int) -> int:
    """Return the largest allowed number of updates per call that divides all counts (0 aside).

    Steps at multiples of a count therefore never lie inside a call.
    """
    on_cpu = jax.default_backend() == "cpu"
    limit = UPDATES_PER_CALL_ON_CPU if on_cpu else UPDATES_PER_CALL_ON_ACCELERATOR
    common = math.gcd(*counts)
    return max(n for n in range(1, limit + 1) if common % n == 0)


def configure_jax(flags: dict[str, Any]) -> None:
    """Apply the flags that configure JAX; call it before any computation."""
    if flags["matmul_precision"] != "default":
        jax.config.update("jax_default_matmul_precision", flags["matmul_precision"])
    if flags["compilation_cache_dir"] and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            folder = expanded(flags["compilation_cache_dir"], "--compilation_cache_dir")
        except UserError as error:  # costs only time
            return warn(f"compiled programs are not kept ({error})")
        jax.config.update("jax_compilation_cache_dir", str(folder))
