"""The path of a run: data, base, offline updates, online updates, evaluations, logs, checkpoints.

Steps of a run are offline updates 1..offline_steps and, behind them, online environment steps. All randomness of the
updates follows from (seed, number of the update), so that it does not depend on how the steps are cut into calls.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agents.base import Agent
from envs.collect import collect, random_data
from envs.datasets import load_dataset
from envs.ogbench import make_env
from envs.tasks import dataset_name, has_oracle, is_user_env
from envs.workers import EnvWorkers, default_workers
from utils.checkpoints import Checkpoints, check_base, load_base, restore_agent, save_agent
from utils.chunks import Replay
from utils.errors import RunError, UserError
from utils.evaluation import evaluate, reset_seed
from utils.logging import RunLogger, check_backends, progress_bar
from utils.policy import act_by_row, evaluation_policy, stream
from utils.runs import STEPS, Run, load_agent, write_json
from utils.video import film

MOST_UPDATES_PER_CALL = {"cpu": 4}  # elsewhere:
MOST_UPDATES_PER_CALL_ON_ACCELERATOR = 100


ONLINE_SEEDS = 1 << 20  # keeps the resets of the online phase apart from those of evaluations


# -------------------------------------------------------------------------------------------------- compiled calls


def run_updates(agent: Agent, replay: Replay, key: jax.Array, updates: int) -> tuple[Agent, dict[str, jax.Array]]:
    """`updates` updates, and the mean of their metrics."""
    config = agent.config

    def one(agent: Agent, _: None) -> tuple[Agent, dict[str, jax.Array]]:
        key_batch, key_update = jax.random.split(jax.random.fold_in(key, agent.step))
        batch = replay.sample(key_batch, config.batch_size, config.horizon_length, config.discount)
        return agent.update(batch, key_update)

    agent, metrics = jax.lax.scan(one, agent, length=updates)
    return agent, jax.tree.map(jnp.mean, metrics)


@partial(jax.jit, static_argnames="updates", donate_argnames="agent")
def offline_call(agent: Agent, replay: Replay, key: jax.Array, updates: int) -> tuple[Agent, dict[str, jax.Array]]:
    """`updates` updates on a fixed replay in one call."""
    return run_updates(agent, replay, key, updates)


@partial(jax.jit, donate_argnames="replay")
def store(replay: Replay, transition: dict[str, jax.Array], first: jax.Array) -> Replay:
    """Store one online transition, `first` of its episode or not."""
    return replay.append(transition, first)


def updates_per_call(*counts: int) -> int:
    """The most updates one call may run: they divide every given count that is not 0, so that no call crosses one."""
    most = MOST_UPDATES_PER_CALL.get(jax.default_backend(), MOST_UPDATES_PER_CALL_ON_ACCELERATOR)
    common = math.gcd(*counts)
    return max(n for n in range(1, most + 1) if common % n == 0)


# -------------------------------------------------------------------------------------------------- a run


def prepare_data(run: Run) -> dict[str, np.ndarray]:
    """The run's dataset; with a preset it is made first where it is missing."""
    flags, transitions = run.settings.flags, run.settings.transitions
    folder, env_name = flags["ogbench_dataset_dir"], run.env_name
    # Never in a folder of the user's own: there it would pass for the real dataset.
    ours = run.settings.sources["ogbench_dataset_dir"] not in ("default", "command line")
    missing = not (Path(folder) / f"{dataset_name(env_name)}-v0.npz").exists()
    if transitions and ours and missing and not flags["dataset"] and not is_user_env(env_name):
        make = collect if has_oracle(dataset_name(env_name)) else random_data
        make(env_name, folder, transitions, progress=True)
    return load_dataset(env_name, folder, flags["dataset"], flags["dataset_proportion"], flags["sparse"])


def train(run: Run, overwrite: bool = False) -> None:
    """Bring a run to its end, from wherever its folder stands; what a user may have to mend is found out first."""
    flags = run.settings.flags
    check_backends(flags["logger"].split(","))
    if not overwrite:
        run.check_folder()
        if run.is_done():
            print(f"finished already: {run.folder}")
            return
    given = flags["pretrained_actor_path"] and load_base(flags["pretrained_actor_path"])
    dataset = prepare_data(run)
    agent = new_agent(run, dataset)
    if flags["kl_budget_online"] is not None:
        agent.with_kl_budget(flags["kl_budget_online"])
    if agent.STARTS_FROM_BASE and (overwrite or run.newest_checkpoint() < 0):
        agent = with_base(run, agent, dataset, given)
    with run.locked():
        finish(run, agent, dataset, overwrite)


def keys_of(run: Run) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Three keys of a run, for its parameters, updates and actions; those of a base differ from those of its heirs."""
    role = "heir" if load_agent(run.settings.agent_file).AGENT.STARTS_FROM_BASE else "base"
    root = jax.random.key(run.seed)
    return stream(root, f"{role} parameters"), stream(root, f"{role} updates"), stream(root, f"{role} actions")


def new_agent(run: Run, dataset: dict[str, np.ndarray]) -> Agent:
    """A fresh agent for the dataset's dimensions."""
    key, *_ = keys_of(run)
    horizon, transitions = run.settings.agent.horizon_length, len(dataset["rows"])
    if transitions < horizon:
        raise UserError(f"--horizon_length={horizon}: the dataset has only {transitions} transitions")
    return load_agent(run.settings.agent_file).AGENT.create(key, *dims_of(dataset), run.settings.agent)


def with_base(run: Run, agent: Agent, dataset: dict[str, np.ndarray], given: dict | None) -> Agent:
    """The agent started from its behaviour-cloned base: a given one, a stored one, or one trained now."""
    if given:
        check_base(given, agent.params["base"], run.settings.flags["pretrained_actor_path"])
        return agent.with_base(given)
    if not run.settings.flags["bc_steps"]:
        return agent
    base_run = run.of_base()
    with base_run.locked(wait=True):  # another task of the domain may be training the same base
        if not base_run.is_done():
            finish(base_run, new_agent(base_run, dataset), dataset, overwrite=False)
    return agent.with_base(load_base(base_run.folder))


def finish(run: Run, agent: Agent, dataset: dict[str, np.ndarray], overwrite: bool) -> None:
    """Train, from the newest checkpoint on, and write done.json."""
    observation_dim, action_dim = dims_of(dataset)
    device = f"{jax.devices()[0].device_kind} ({os.cpu_count()} CPU cores)"
    run.prepare(overwrite, {"observation_dim": observation_dim, "action_dim": action_dim, "device": device})
    with contextlib.ExitStack() as stack:
        trainer = Trainer(run, agent, stack)
        trainer.resume()
        trainer.offline(dataset)
        trainer.online(dataset)
        if trainer.checkpoints.latest() is None:  # a run of behaviour cloning alone
            save_agent(trainer.checkpoints, trainer.step, trainer.agent)
        trainer.film()
    done = {name: run.settings.flags[name] for name in STEPS} | {"success": trainer.success}
    write_json(run.folder / "done.json", done)
    print(f"finished: {run.folder}")


def dims_of(dataset: dict[str, np.ndarray]) -> tuple[int, int]:
    """O and A."""
    return dataset["observations"].shape[1], dataset["actions"].shape[1]


class Trainer:
    """The moving parts of one run while it trains."""

    def __init__(self, run: Run, agent: Agent, stack: contextlib.ExitStack):
        self.run, self.agent, self.stack = run, agent, stack
        self.flags = run.settings.flags
        self.step = 0
        self.success: float | None = None
        self.evaluated_at = -1
        tags = [tag for tag in self.flags["tags"].split(",") if tag]
        wandb = {"group": self.flags["run_group"], "tags": tags, "config": run.config()}
        self.logger = stack.enter_context(RunLogger(run.folder, self.flags["logger"].split(","), wandb))
        self.checkpoints = stack.enter_context(Checkpoints(run.folder / "checkpoints"))
        _, self.key_updates, self.key_actions = keys_of(run)
        self.window: list[dict[str, jax.Array]] = []  # metrics since the last log
        self.window_updates, self.window_start = 0, time.perf_counter()
        self.workers: EnvWorkers | None = None

    @property
    def chunk_length(self) -> int:
        """Environment steps for which the policy is asked at a time."""
        config = self.agent.config
        return config.horizon_length if config.action_chunking else 1

    @property
    def action_dim(self) -> int:
        """A."""
        return self.agent.flat_action_dim // self.chunk_length

    # ---------------------------------------------------------------- phases

    def resume(self) -> None:
        """Go back to the newest checkpoint, and the logs with it."""
        # The online phase has a checkpoint at its end alone: when it is extended, it is run again from its start.
        before, end = self.flags["offline_steps"], self.flags["offline_steps"] + self.flags["online_steps"]
        newest = max((step for step in self.checkpoints.steps() if step <= before or step == end), default=None)
        self.logger.cut(-1 if newest is None else newest)
        if newest is not None:
            self.agent = restore_agent(self.checkpoints, newest, self.agent)
            self.step = self.evaluated_at = newest
            evaluations = self.logger["eval"].rows()
            self.success = float(evaluations[-1]["success"]) if evaluations else None
            print(f"resumed at step {newest}: {self.run.folder}")

    def offline(self, dataset: dict[str, np.ndarray]) -> None:
        """Updates on the dataset, many in each call."""
        steps = self.flags["offline_steps"]
        if self.step == 0:
            self.evaluate()
        if self.step >= steps:
            return
        replay = Replay.create(dataset)
        intervals = [self.flags[f"{name}_interval"] for name in ("log", "eval", "save")]
        updates = updates_per_call(steps, self.step, *intervals)
        with progress_bar(steps, self.run.name, self.step) as bar:
            while self.step < steps:
                self.agent, metrics = offline_call(self.agent, replay, self.key_updates, updates)
                self.count(metrics, updates)
                self.step += updates
                bar.update(updates)
                self.at_intervals("offline", bar, last=self.step == steps)

    def online(self, dataset: dict[str, np.ndarray]) -> None:
        """Environment steps, each stored and followed by `utd_ratio` updates once `start_training` is past."""
        flags = self.flags
        steps, before = flags["online_steps"], flags["offline_steps"]
        if self.step >= before + steps:
            return
        if flags["kl_budget_online"] is not None:
            self.agent = self.agent.with_kl_budget(flags["kl_budget_online"])
        replay = Replay.create(dataset, steps, flags["balanced_sampling"])
        start = max(flags["start_training"], self.agent.config.horizon_length)
        episodes = OnlineEpisodes(self.run, self.action_dim, start if flags["balanced_sampling"] else 0)
        self.stack.callback(episodes.env.close)
        with progress_bar(steps, f"{self.run.name} online", self.step - before) as bar:
            for online_step in range(self.step - before, steps):
                chunk = partial(self.chunk, online_step)
                replay = store(replay, *episodes.advance(online_step, chunk))
                if online_step >= start:
                    self.agent, metrics = offline_call(self.agent, replay, self.key_updates, flags["utd_ratio"])
                    self.count(metrics, flags["utd_ratio"])
                self.step += 1
                bar.update(1)
                self.at_intervals("online", bar, last=online_step == steps - 1)

    def film(self) -> None:
        """Film the trained policy where asked."""
        episodes, path = self.flags["video_episodes"], self.run.folder / "videos" / f"step_{self.step}.mp4"
        if episodes and not path.exists():
            policy, skip = evaluation_policy(self.agent), self.flags["video_frame_skip"]
            film(
                self.run.env_name,
                policy,
                path,
                episodes,
                self.run.seed,
                self.chunk_length,
                self.action_dim,
                skip,
            )

    # ---------------------------------------------------------------- acting, and what happens between updates

    def chunk(self, online_step: int, observation: np.ndarray) -> np.ndarray:
        """The policy's next actions [H, A] at an observation [O] of the online phase."""
        seeds = jax.random.bits(jax.random.fold_in(self.key_actions, online_step), (1, 3))
        return np.asarray(act_by_row(self.agent, observation[None], seeds)).reshape(self.chunk_length, self.action_dim)

    def count(self, metrics: dict[str, jax.Array], updates: int) -> None:
        """Keep a call's metrics, on the device, for the next log."""
        if not self.flags["log_interval"]:
            self.window.clear()  # nobody asked for means; keep the newest alone, to be checked
        self.window.append(metrics)
        self.window_updates += updates

    def at_intervals(self, phase: str, bar: Any, last: bool) -> None:
        """Log, evaluate and save where this step asks for it; at the end of a phase all three."""

        def due(name: str) -> bool:
            interval = self.flags[f"{name}_interval"]
            return last or bool(interval) and self.step % interval == 0

        if due("log") or due("save"):  # a window never crosses a checkpoint, so that a resumed run writes the same rows
            self.log(phase, bar)
        elif due("eval"):
            self.means()
        if due("eval"):
            self.evaluate(bar)
        # The online phase is resumed from its start: its environment and replay are not in the checkpoint.
        if due("save") and (phase == "offline" or last):
            save_agent(self.checkpoints, self.step, self.agent)

    def means(self) -> dict[str, float]:
        """The means of the window; raises RunError where one of them is not finite."""
        rows = jax.device_get(self.window)
        means = {name: float(np.mean([row[name] for row in rows], dtype=np.float64)) for name in (rows[0] if rows else ())}
        for name, value in means.items():
            if not math.isfinite(value):
                raise RunError(
                    f"{name} is {value} at step {self.step} of {self.run.folder}; "
                    f"the last checkpoint is that of step {self.checkpoints.latest()}"
                )
        return means

    def log(self, phase: str, bar: Any) -> None:
        """Write the window's means and start another."""
        means = self.means()
        if means:
            seconds = time.perf_counter() - self.window_start
            self.logger.train(self.step, {"phase": phase, **means})
            self.logger.timing(self.step, {"updates_per_s": self.window_updates / seconds})
            bar.status(self.success, *(means.get(f"dual/{name}") for name in ("path_kl", "kl_budget", "lam")))
        self.window, self.window_updates, self.window_start = [], 0, time.perf_counter()

    def evaluate(self, bar: Any = None) -> None:
        """Run the evaluation episodes, the same ones each time, and write their means."""
        episodes = self.flags["eval_episodes"]
        if not episodes or self.evaluated_at == self.step:
            return
        if self.workers is None:
            count = self.flags["eval_workers"] or default_workers(episodes)
            self.workers = self.stack.enter_context(EnvWorkers(self.run.env_name, workers=count))
        policy, discount = evaluation_policy(self.agent), self.agent.config.discount
        start = time.perf_counter()
        result = evaluate(
            policy,
            self.workers,
            episodes,
            self.run.seed,
            self.chunk_length,
            self.action_dim,
            discount=discount,
        )
        seconds = time.perf_counter() - start
        self.window_start += seconds  # the log's updates per second are of training alone
        self.success, self.evaluated_at = result.success, self.step
        self.logger.eval(self.step, {"episodes": episodes, **result.row()})
        self.logger.timing(self.step, {"eval_seconds": seconds, "eval_steps_per_s": result.env_steps / seconds})
        if bar is None:
            print(f"{self.run.name}: success {result.success:.0%} over {episodes} episodes before the first update")


class OnlineEpisodes:
    """Episodes of the online phase, one environment step at a time; chunks run open loop."""

    def __init__(self, run: Run, action_dim: int, at_random_until: int):
        self.env = make_env(run.env_name)
        self.seed, self.sparse = run.seed, run.settings.flags["sparse"]
        self.action_dim, self.at_random_until = action_dim, at_random_until
        self.episode = -1
        self.observation: np.ndarray | None = None  # None between episodes
        self.queue: list[np.ndarray] = []

    def advance(self, step: int, ask: Callable[[np.ndarray], np.ndarray]) -> tuple[dict[str, Any], bool]:
        """Take environment step number `step`; returns the transition and whether it is the first of its episode.

        `ask` maps an observation [O] to the next actions [H, A]; it is called when the queue of actions is empty.
        """
        first = self.observation is None
        if self.observation is None:
            self.episode += 1
            self.observation, _ = self.env.reset(seed=reset_seed(self.seed + ONLINE_SEEDS, self.episode))
        if not self.queue:
            self.queue = list(ask(self.observation))
        action = self.queue.pop(0)
        if step < self.at_random_until:
            action = np.random.default_rng([self.seed, step]).uniform(-1, 1, self.action_dim).astype(np.float32)
        observation, reward, terminated, truncated, _ = self.env.step(action)
        transition = {
            "observations": self.observation,
            "actions": action,
            "rewards": -1.0 if self.sparse and reward != 0 else reward,
            "terminals": float(terminated or truncated),
            "masks": 1.0 - float(terminated),
            "next_observations": observation,
        }
        self.observation = observation
        if terminated or truncated:
            self.observation, self.queue = None, []
        return transition, first
