"""The path of a run: data, base, offline updates, online updates, evaluations, logs, checkpoints.

Steps of a run are offline updates 1..offline_steps and, behind them, online environment steps. All randomness of the
updates follows from (seed, number of the update), so that it does not depend on how the steps are cut into calls.
"""

import collections
import contextlib
import math
import os
import sys
import time
import zlib
from functools import partial
from pathlib import Path
from typing import Any, Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from agents.base import Agent
from envs.collect import collect, random_data
from envs.datasets import load_dataset
from envs.tasks import dataset_name, has_oracle, is_user_env
from envs.workers import EnvWorkers, WorkerError, default_workers
from utils import preemption
from utils.checkpoints import CheckpointError, Checkpoints, agent_from, agent_tree, load_base
from utils.chunks import Replay
from utils.errors import RunError, UserError
from utils.evaluation import evaluate
from utils.logging import ProgressBar, RunLogger, check_backends, progress_bar, warn
from utils.online import OnlineEpisodes, ReplayFile, as_dataset
from utils.policy import act_by_row, evaluation_policy, stream
from utils.published import check_base
from utils.runs import STEPS, Run, load_agent, write_json
from utils.video import film

MOST_UPDATES_PER_CALL = {"cpu": 4}  # elsewhere:
MOST_UPDATES_PER_CALL_ON_ACCELERATOR = 100


# -------------------------------------------------------------------------------------------------- compiled calls


class Window(flax.struct.PyTreeNode):
    """The metrics since the last row of train.csv: their sums, and the first update at which each was not finite (or -1)."""

    sums: dict[str, jax.Array]
    broken: dict[str, jax.Array]

    @classmethod
    def create(cls, sums: dict[str, Any]) -> Self:
        """A window with these sums, all of them finite."""
        return cls({k: jnp.array(v, jnp.float32) for k, v in sums.items()}, {k: jnp.array(-1, jnp.int32) for k in sums})

    def add(self, metrics: dict[str, jax.Array], update: jax.Array) -> Self:
        """The window with the metrics of one more update, whose number is `update`."""
        sums = jax.tree.map(jnp.add, self.sums, metrics)
        first = {k: (self.broken[k] < 0) & ~jnp.isfinite(v) for k, v in metrics.items()}
        return self.replace(sums=sums, broken={k: jnp.where(first[k], update, v) for k, v in self.broken.items()})


def one_update(agent: Agent, replay: Replay, key: jax.Array) -> tuple[Agent, dict[str, jax.Array]]:
    """The update that follows from `key` and the number of updates that the agent has had."""
    config = agent.config
    key_batch, key_update = jax.random.split(jax.random.fold_in(key, agent.step))
    batch = replay.sample(key_batch, config.batch_size, config.horizon_length, config.discount)
    return agent.update(batch, key_update)


@partial(jax.jit, static_argnames="updates", donate_argnames=("agent", "window"))
def train_block(agent: Agent, window: Window, replay: Replay, key: jax.Array, updates: int) -> tuple[Agent, Window, jax.Array]:
    """`updates` updates in one call; the last result is there to wait for, since the others are given to the next call."""

    def one(carry: tuple[Agent, Window], _: None) -> tuple[tuple[Agent, Window], None]:
        agent, metrics = one_update(carry[0], replay, key)
        return (agent, carry[1].add(metrics, agent.step)), None

    (agent, window), _ = jax.lax.scan(one, (agent, window), length=updates)
    return agent, window, agent.step + 0


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
        check_base(given, agent.params["base"], f"--pretrained_actor_path={run.settings.flags['pretrained_actor_path']}")
        return agent.with_base(given)
    if not run.settings.flags["bc_steps"]:
        return agent
    base_run = run.of_base()
    with base_run.locked(wait=True):  # another task of the domain may be training the same base
        step = base_run.settings.flags["offline_steps"]
        if not (base_run.is_done() and Checkpoints(base_run.folder / "checkpoints").holds(step)):
            finish(base_run, new_agent(base_run, dataset), dataset, overwrite=False)
        return agent.with_base(load_base(base_run.folder))


def finish(run: Run, agent: Agent, dataset: dict[str, np.ndarray], overwrite: bool) -> None:
    """Train, from the newest checkpoint on, and write done.json."""
    observation_dim, action_dim = dims_of(dataset)
    device = f"{jax.devices()[0].device_kind} ({os.cpu_count()} CPU cores)"
    found = {"observation_dim": observation_dim, "action_dim": action_dim, "dataset": fingerprint(dataset), "device": device}
    run.prepare(overwrite, found)
    with contextlib.ExitStack() as stack:
        trainer = Trainer(run, agent, stack, observation_dim, action_dim)
        trainer.resume()
        with preemption.deferred():
            trainer.catch_up()
            trainer.offline(dataset)
            trainer.online(dataset)
        if trainer.checkpoints.latest() is None:  # a run of behaviour cloning alone
            trainer.save("offline")
        trainer.film()
    done = {name: run.settings.flags[name] for name in STEPS} | {"success": trainer.success}
    write_json(run.folder / "done.json", done)
    print(f"finished: {run.folder}")


def dims_of(dataset: dict[str, np.ndarray]) -> tuple[int, int]:
    """O and A."""
    return dataset["observations"].shape[1], dataset["actions"].shape[1]


def fingerprint(dataset: dict[str, np.ndarray]) -> dict[str, int]:
    """The number of transitions, and a CRC-32 over some 10,000 rows: a run goes on with the data it began with.

    Rewards and masks are left out, since tasks of one domain that share a base differ in them.
    """
    crc = 0
    for name in ("observations", "actions", "terminals", "rows"):
        crc = zlib.crc32(dataset[name][:: max(1, len(dataset[name]) // 10_000)].tobytes(), crc)
    return {"transitions": len(dataset["rows"]), "crc": crc}


class Trainer:
    """The moving parts of one run while it trains."""

    def __init__(self, run: Run, agent: Agent, stack: contextlib.ExitStack, observation_dim: int, action_dim: int):
        self.run, self.agent, self.stack = run, agent, stack
        self.flags = run.settings.flags
        self.action_dim = action_dim
        self.step = 0
        self.success: float | None = None
        self.evaluated_at = -1
        tags = [tag for tag in self.flags["tags"].split(",") if tag]
        wandb = {"group": self.flags["run_group"], "tags": tags, "config": run.config()}
        self.logger = stack.enter_context(RunLogger(run.folder, self.flags["logger"].split(","), wandb))
        self.checkpoints = stack.enter_context(Checkpoints(run.folder / "checkpoints", self.flags["keep_checkpoints"]))
        _, self.key_updates, self.key_actions = keys_of(run)
        self.metrics: list[str] = []  # names, known with the first update
        self.window: Window | None = None  # of the updates since the last log; None where there were none
        self.window_updates, self.window_start, self.save_seconds = 0, time.perf_counter(), 0.0
        self.ahead: jax.Array | None = None  # of the newest call
        self.recent: collections.deque[dict[str, Any]] = collections.deque(maxlen=Agent.PATIENCE)  # rows of train.csv
        self.warned: list[str] = []
        self.workers: EnvWorkers | None = None
        self.replay_file = ReplayFile(run.folder / "replay.bin", observation_dim, action_dim)
        stack.callback(self.replay_file.close)
        self.episodes: OnlineEpisodes | None = None
        self.resumed: dict[str, Any] = {}  # the record of the checkpoint that this run goes on from

    @property
    def chunk_length(self) -> int:
        """Environment steps for which the policy is asked at a time."""
        config = self.agent.config
        return config.horizon_length if config.action_chunking else 1

    # ---------------------------------------------------------------- checkpoints

    def save(self, phase: str) -> None:
        """Write everything that the run needs to go on from here as if it had not been interrupted."""
        if self.checkpoints.latest() == self.step:
            return
        self.means()
        start = time.perf_counter()
        window = jax.tree.map(float, self.window.sums) if self.window else {}
        keys = {"updates": self.key_updates, "actions": self.key_actions}
        tree = {"agent": agent_tree(self.agent), "keys": jax.tree.map(jax.random.key_data, keys)}
        record = {
            "step": self.step,
            "phase": phase,
            "success": self.success,
            "evaluated_at": self.evaluated_at,
            "warned": self.warned,
            "rows": self.logger.position(),
            "window": {"updates": self.window_updates, "sums": window},
            "replay": self.replay_file.position(),
            "episode": self.episodes and self.episodes.record(),
        }
        self.checkpoints.save(self.step, tree, record, self.success if self.evaluated_at == self.step else None)
        seconds = time.perf_counter() - start
        self.window_start += seconds  # the log's updates per second are of training alone
        self.save_seconds += seconds

    def resume(self) -> None:
        """Go back to the newest checkpoint that can be read, and logs and online transitions with it."""
        newest = None
        for step, tree, record in self.checkpoints.readable():
            try:
                self.replay_file.read(record["replay"])
            except CheckpointError as error:
                print(f"{error}; falling back to the checkpoint before that of step {step}")
                continue
            newest = step, tree, record
            break
        steps = self.checkpoints.steps()
        if newest is None:
            if steps:
                raise RunError(
                    f"no checkpoint of {self.run.folder} can be read; --overwrite deletes the run and starts it again"
                )
            self.logger.cut(-1, dict.fromkeys(self.logger.position(), 0))
            self.replay_file.resume({"rows": 0, "crc": 0})
            return
        self.step, tree, record = newest
        self.agent = agent_from(tree["agent"], self.agent, self.run.folder)
        self.key_updates, self.key_actions = (jax.random.wrap_key_data(tree["keys"][name]) for name in ("updates", "actions"))
        self.checkpoints.set_aside([step for step in steps if step > self.step])
        self.logger.cut(self.step, record["rows"])
        self.replay_file.resume(record["replay"])
        self.success, self.evaluated_at, self.warned = record["success"], record["evaluated_at"], record["warned"]
        self.window_updates = record["window"]["updates"]
        self.window = Window.create(record["window"]["sums"]) if self.window_updates else None
        self.recent.extend(self.logger["train"].rows()[-Agent.PATIENCE :])
        self.resumed = record
        print(f"resumed at step {self.step}: {self.run.folder}")

    def stop_if_asked(self, phase: str) -> None:
        """After a SIGTERM or Ctrl-C: save, say so, and leave."""
        if preemption.received():
            self.save(phase)
            self.checkpoints.wait()
            print(f"saved at step {self.step}: {self.run.folder}", file=sys.stderr)
            preemption.leave_if_asked()

    def catch_up(self) -> None:
        """What was due at the step of the checkpoint and a signal kept from being done."""
        if self.resumed:
            before, steps = self.flags["offline_steps"], self.flags["online_steps"]
            self.at_intervals(self.resumed["phase"], None, last=self.step in (before, before + steps))

    # ---------------------------------------------------------------- phases

    def offline(self, dataset: dict[str, np.ndarray]) -> None:
        """Updates on the dataset, many in each call."""
        steps = self.flags["offline_steps"]
        if self.step == 0:
            self.evaluate("offline")
        if self.step >= steps:
            return
        replay = Replay.create(dataset)
        intervals = [self.flags[f"{name}_interval"] for name in ("log", "eval", "save")]
        updates = updates_per_call(steps, self.step, *intervals)
        with progress_bar(steps, self.run.name, self.step) as bar:
            while self.step < steps:
                self.update(replay, updates)
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
        start = max(flags["start_training"], self.agent.config.horizon_length)
        self.episodes = OnlineEpisodes(self.run, self.action_dim, start if flags["balanced_sampling"] else 0)
        self.stack.callback(self.episodes.env.close)
        replay = Replay.create(dataset, steps, flags["balanced_sampling"], self.resume_episode())
        with progress_bar(steps, f"{self.run.name} online", self.step - before) as bar:
            for online_step in range(self.step - before, steps):
                chunk = partial(self.chunk, online_step)
                transition, first = self.episodes.advance(online_step, chunk)
                self.require_finite(**transition)
                self.replay_file.append(transition)
                replay = store(replay, transition, first)
                if online_step >= start:
                    self.update(replay, flags["utd_ratio"])
                self.step += 1
                bar.update(1)
                self.at_intervals("online", bar, last=online_step == steps - 1)

    def resume_episode(self) -> dict[str, np.ndarray] | None:
        """Repeat the running episode of the checkpoint; returns what the replay file holds, as a dataset."""
        record = self.resumed.get("episode")
        if not record or self.episodes is None:
            return None
        rows = self.replay_file.read(self.resumed["replay"])
        actions = rows["actions"][len(rows) - record["length"] :]
        if not self.episodes.resume(record, actions):
            warn(f"{self.run.env_name} does not repeat its running episode (another mujoco or ogbench?): it starts a new one")
            self.replay_file.end_trajectory(record["observation"])
            rows = self.replay_file.read(self.replay_file.position())
        return as_dataset(rows, self.episodes.observation)

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
        actions = np.asarray(act_by_row(self.agent, observation[None], seeds)).reshape(self.chunk_length, self.action_dim)
        self.require_finite(actions=actions)
        return actions

    def require_finite(self, **values: Any) -> None:
        """Raise RunError where a value that goes to the environment or to the replay is not finite."""
        for name, value in values.items():
            if not np.isfinite(value).all():
                self.means()  # names the update that did it, if it was one
                raise RunError(
                    f"{name} of the environment step after step {self.step} of {self.run.folder} is not finite; "
                    f"{self.checkpoints.last_good()}"
                )

    def update(self, replay: Replay, updates: int) -> None:
        """One call of `updates` updates, at most one call ahead of the device."""
        if not self.metrics:
            self.metrics = list(jax.eval_shape(one_update, self.agent, replay, self.key_updates)[1])
        if self.window is None:
            self.window = Window.create(dict.fromkeys(self.metrics, 0.0))
        before = self.ahead
        self.agent, self.window, self.ahead = train_block(self.agent, self.window, replay, self.key_updates, updates)
        self.window_updates += updates
        if before is not None:
            before.block_until_ready()  # else a signal, the bar and the clock would run ahead of the training

    def at_intervals(self, phase: str, bar: ProgressBar | None, last: bool) -> None:
        """Log, evaluate and save where this step asks for it; at the end of a phase all three."""

        def due(name: str) -> bool:
            interval = self.flags[f"{name}_interval"]
            return last or bool(interval) and self.step % interval == 0

        if due("log"):
            self.log(phase, bar)
        if due("eval"):
            self.means()
            self.evaluate(phase)
        if due("save"):
            self.save(phase)
        self.stop_if_asked(phase)

    def means(self) -> dict[str, float]:
        """The means of the window; raises RunError where a metric was not finite."""
        if self.window is None:
            return {}
        window = jax.device_get(self.window)
        broken = {int(update): name for name, update in sorted(window.broken.items(), reverse=True) if update >= 0}
        if broken:
            update = min(broken)
            raise RunError(
                f"{broken[update]} is not finite since update {update}, seen at step {self.step} of {self.run.folder}; "
                f"{self.checkpoints.last_good()}"
            )
        return {name: float(total) / self.window_updates for name, total in window.sums.items()}

    def log(self, phase: str, bar: ProgressBar | None) -> None:
        """Write the window's means and start another."""
        means = self.means()
        if means:
            self.checkpoints.check()
            seconds = time.perf_counter() - self.window_start
            self.logger.train(self.step, {"phase": phase, **means})
            rate = self.window_updates / seconds
            self.logger.timing(self.step, {"updates_per_s": rate, "save_seconds": self.save_seconds})
            if bar is not None:
                bar.status(self.success, *(means.get(f"dual/{name}") for name in ("path_kl", "kl_budget", "lam")))
            self.recent.append(means)
            for concern, text in self.agent.concerns(list(self.recent)).items():
                if concern not in self.warned:
                    self.warned.append(concern)
                    warn(f"{self.run.name}, step {self.step}: {text}")
        self.window, self.window_updates, self.window_start, self.save_seconds = None, 0, time.perf_counter(), 0.0

    def evaluate(self, phase: str) -> None:
        """Run the evaluation episodes, the same ones each time, and write their means."""
        episodes = self.flags["eval_episodes"]
        if not episodes or self.evaluated_at == self.step:
            return
        policy, discount = evaluation_policy(self.agent), self.agent.config.discount
        start = time.perf_counter()
        try:
            with preemption.at_once():
                if self.workers is None:
                    count = self.flags["eval_workers"] or default_workers(episodes)
                    self.workers = self.stack.enter_context(EnvWorkers(self.run.env_name, workers=count))
                result = evaluate(
                    policy,
                    self.workers,
                    episodes,
                    self.run.seed,
                    self.chunk_length,
                    self.action_dim,
                    discount=discount,
                )
        except (preemption.Preempted, WorkerError):
            if self.step:
                self.save(phase)  # the training so far; the evaluation is done again
            raise
        seconds = time.perf_counter() - start
        self.window_start += seconds
        self.success, self.evaluated_at = result.success, self.step
        self.logger.eval(self.step, {"episodes": episodes, **result.row()})
        self.logger.timing(self.step, {"eval_seconds": seconds, "eval_steps_per_s": result.env_steps / seconds})
        if self.step == 0:
            print(f"{self.run.name}: success {result.success:.0%} over {episodes} episodes before the first update")
