"""The compiled calls (many updates of all seeds, one online step), and the state that they pass
on.
"""

import contextlib
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from agents.base import Agent
from utils.errors import UserError
from utils.files import expanded
from utils.logging import warn
from utils.replay import HostFed, Replay, Rows, Transitions, run_points, update_keys
from utils.sharding import for_each_seed, mesh_for, one_seed, stack_seeds

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
    sizes = config.batch_size, config.horizon_length, config.discount
    batch = replay.sample(key_batch, *sizes, run_points(config))
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
    utils/prefetch.py. The third result, each agent's number of updates, is there to wait for:
    the others are donated to the next call.
    """

    def block(
        agent: Agent,
        window: Window,
        key: jax.Array,
        online: Transitions | None,
        rows: Rows | None,
        stored: Transitions | HostFed,
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


class SeedState(NamedTuple):
    """What `Updates` keeps of one seed, and a checkpoint with it."""

    agent: Agent
    keys: dict[str, Any]
    """The data of the keys for updates and for actions, by these names."""
    window: dict[str, Any]
    """Since the last row of train.csv: the number of updates, and by name the sums of their
    metrics.
    """


EMPTY_WINDOW: dict[str, Any] = {"updates": 0, "sums": {}}


class WindowClock:
    """How long training took since the last row of train.csv, and for how much of that time the
    device was idle, at most.
    """

    def __init__(self) -> None:
        self.start = self.busy_until = time.perf_counter()
        self.idle = 0.0

    def seen_busy(self) -> None:
        """The device has been at work until now."""
        self.busy_until = time.perf_counter()

    def seen_idle(self) -> None:
        """The device has nothing to do; since when is known no better than `seen_busy`."""
        self.idle += time.perf_counter() - self.busy_until

    @contextlib.contextmanager
    def untimed(self) -> Iterator[None]:
        """Leave out what is done in this block: the speed is that of training alone."""
        start = time.perf_counter()
        yield
        spent = time.perf_counter() - start
        self.start, self.busy_until = self.start + spent, self.busy_until + spent

    def seconds(self) -> float:
        """How long training has taken in this window."""
        return time.perf_counter() - self.start

    def restart(self) -> None:
        """Begin another window."""
        self.start, self.idle = time.perf_counter(), 0.0


class Updates:
    """The agents of all seeds and what trains them: the compiled calls with their state.

    Args:
        states: one for each seed, all of which have had as many updates.
    """

    def __init__(self, states: Sequence[SeedState]):
        self.num_seeds = len(states)
        self.mesh = mesh_for(self.num_seeds)
        self.agents: Agent = stack_seeds([state.agent for state in states], self.mesh)
        self.keys: dict[str, Any] = stack_seeds([state.keys for state in states], self.mesh)
        self.window_updates: int = states[0].window["updates"]
        self.windows: Window | None = None  # None before the first update of a window
        if self.window_updates:
            self.windows = stack_windows([state.window["sums"] for state in states], self.mesh)
        self.clock = WindowClock()
        self._metrics: list[str] = []  # their names, known with the first update
        self._ahead: jax.Array | None = None  # result of the newest call

    @property
    def config(self) -> Any:
        """The settings of the agents."""
        return self.agents.config

    def done(self) -> int:
        """How many updates each agent has had."""
        return int(self.agents.step[0])

    def agent(self, seed: int) -> Agent:
        """A copy of one seed's agent, which later calls leave as it is."""
        return one_seed(self.agents, seed)

    def set_kl_budget(self, kl_budget: float) -> None:
        """Give every agent another KL budget."""
        agents = [self.agent(seed).with_kl_budget(kl_budget) for seed in range(self.num_seeds)]
        self.agents = stack_seeds(agents, self.mesh)

    # ---------------------------------------------------------------- calls

    def run(self, replay: Replay, updates: int, rows: Rows | None = None) -> None:
        """Start one call of `updates` updates, at most one call ahead of the device.

        Args:
            replay: what all seeds sample from; online transitions are stacked [S].
            updates: U.
            rows: those of a dataset on the host [S, U, B, ...]; None where the device has it.
        """
        if self.windows is None:
            if not self._metrics:
                key = self.keys["updates"][0]
                self._metrics = metric_names(self.agents, replay, key, rows)
            zeros = dict.fromkeys(self._metrics, 0.0)
            self.windows = stack_windows([zeros] * self.num_seeds, self.mesh)
        before = self._ahead
        # jax.Array, the type, lacks is_ready, which arrays have
        if before is not None and before.is_ready():  # type: ignore[attr-defined]
            self.clock.seen_idle()
        self.agents, self.windows, self._ahead = train_block(
            self.agents, self.windows, replay, self.keys["updates"], updates, rows, self.mesh
        )
        self.window_updates += updates
        if before is not None:
            # else a signal, the bar and the clock would run ahead of the training
            before.block_until_ready()
        self.clock.seen_busy()

    def act(self, observations: np.ndarray, step: int) -> np.ndarray:
        """Actions [S, D] at observations [S, O] in online step number `step`."""
        actions = np.asarray(
            act_online(self.agents, observations, self.keys["actions"], step, self.mesh)
        )
        self.clock.seen_busy()  # with the newest update, then with the actions
        return actions

    # ---------------------------------------------------------------- results

    def not_finite(self) -> dict[int, str]:
        """What is wrong with the seeds of which a metric is not finite in this window, by seed:
        which one was the first, and since when.
        """
        if self.windows is None:
            return {}
        broken = jax.device_get(self.windows.broken)
        self.clock.seen_busy()
        found = {}
        for seed in range(self.num_seeds):
            since = {name: int(update[seed]) for name, update in broken.items()}
            since = {name: update for name, update in since.items() if update >= 0}
            if since:
                first = min(since, key=lambda name: (since[name], name))
                found[seed] = f"{first} is not finite since update {since[first]}"
        return found

    def means(self) -> list[dict[str, float]]:
        """The means of each seed's metrics in this window; [] where there was no update."""
        if self.windows is None:
            return []
        sums = jax.device_get(self.windows.sums)
        self.clock.seen_busy()
        return [
            {name: float(total[seed]) / self.window_updates for name, total in sums.items()}
            for seed in range(self.num_seeds)
        ]

    def speed(self, seconds: float) -> dict[str, float]:
        """Columns of timing.csv for this window, which has taken so many seconds."""
        idle = min(1.0, self.clock.idle / seconds)
        return {"updates_per_s": self.window_updates / seconds, "device_idle": idle}

    def restart_window(self) -> None:
        """Begin another window."""
        self.windows, self.window_updates = None, 0
        self.clock.restart()

    def states(self) -> list[SeedState]:
        """What a checkpoint keeps of each seed, copied to the host."""
        host = jax.device_get({"agent": self.agents, "keys": self.keys})
        sums = jax.device_get(self.windows.sums) if self.windows else {}
        states = []
        for seed in range(self.num_seeds):
            tree = jax.tree.map(lambda leaf, seed=seed: leaf[seed], host)
            window = {
                "updates": self.window_updates,
                "sums": {name: float(total[seed]) for name, total in sums.items()},
            }
            states.append(SeedState(tree["agent"], tree["keys"], window))
        return states


def metric_names(agents: Agent, replay: Replay, key: jax.Array, rows: Rows | None) -> list[str]:
    """The names of an update's metrics, in order, without making one.

    Args:
        agents, replay, rows: as `train_block` takes them.
        key: of one seed, its data.
    """
    agent, online = jax.tree.map(lambda leaf: leaf[0], (agents, replay.online))
    one = replay.replace(online=online).feed(jax.tree.map(lambda leaf: leaf[0, 0], rows))
    return list(jax.eval_shape(one_update, agent, one, jax.random.wrap_key_data(key))[1])


def stack_windows(sums: Iterable[dict[str, Any]], mesh: Mesh | None) -> Window:
    """A window for each seed [S], with its sums."""
    return stack_seeds([Window.create(sums_of_one) for sums_of_one in sums], mesh)


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
        try:
            folder = expanded(flags["compilation_cache_dir"], "--compilation_cache_dir")
        except UserError as error:  # it costs time, no more
            return warn(f"compiled programs are not kept ({error})")
        jax.config.update("jax_compilation_cache_dir", str(folder))
