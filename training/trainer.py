"""Training the seeds of one task: phases, and what happens at intervals."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from agents.base import Agent
from configs.flags import STEPS
from envs.video import film
from envs.workers import ChunkResult, EnvWorkers, LocalEnvs, WorkerError
from training.checkpoints import agent_from, agent_tree
from training.evaluator import Evaluation, Evaluator, without_optimiser
from training.journal import Journal
from training.keys import keys_of
from training.online import OnlineEpisodes
from training.policy import evaluation_policy
from training.replay_file import as_dataset
from training.updates import (
    Window,
    act_online,
    one_update,
    store,
    train_block,
    updates_per_call,
)
from utils import preemption
from utils.errors import RunError
from utils.files import write_json
from utils.logging import say, shown, warn
from utils.prefetch import Block, place
from utils.progress import ProgressBar, run_name
from utils.replay import FIELDS, Replay, Rows, Transitions
from utils.sharding import mesh_for, stack_seeds, take


class Trainer:
    """The moving parts of runs that differ in their seeds alone, while they train in one
    program.
    """

    def __init__(
        self,
        journals: list[Journal],
        agents: list[Agent],
        step: int,
        action_dim: int,
        stack: contextlib.ExitStack,
    ):
        self.journals, self.stack, self.action_dim = journals, stack, action_dim
        self.task, self.flags = journals[0].run, journals[0].run.settings.flags
        seeds = [journal.run.seed for journal in journals]
        self.name = run_name(self.task.agent_name, self.task.env_name, seeds)
        keys = [
            dict(
                zip(
                    ("updates", "actions"),
                    map(jax.random.key_data, keys_of(j.run)[1:]),
                    strict=True,
                )
            )
            for j in journals
        ]
        self.records: list[dict[str, Any]] = []  # of the checkpoints that the runs go on from
        pendings: list[dict | None] = []
        for i, journal in enumerate(journals):
            tree, record = journal.go_back(step)
            self.records.append(record)
            pendings.append(tree.get("evaluating"))
            if tree:
                agents[i] = agent_from(tree["agent"], agents[i], journal.run.folder)
                keys[i] = tree["keys"]
        self.step = max(0, step)
        self.mesh = mesh_for(len(journals))
        self.agents = stack_seeds(agents, self.mesh)
        self.keys = stack_seeds(keys, self.mesh)
        self.metrics: list[str] = []  # names, known with the first update
        # of the updates since the last log; None where there were none
        self.windows: Window | None = None
        self.window_updates, self.window_start = 0, time.perf_counter()
        self.idle, self.free_since = 0.0, self.window_start  # see `update`
        if step >= 0 and (updates := self.records[0]["window"]["updates"]):
            self.window_updates = updates
            self.windows = stack_seeds(
                [Window.create(record["window"]["sums"]) for record in self.records], self.mesh
            )
        self.ahead: jax.Array | None = None  # of the newest call
        self.broken: dict[int, RunError] = {}  # seeds that must not go on, by their place
        self.episodes: list[OnlineEpisodes] = []
        self.evaluator = stack.enter_context(
            Evaluator(self.task.env_name, self.flags, len(journals), action_dim)
        )
        # those that were begun, by the seed's place
        self.evaluations: dict[int, Evaluation] = {}
        for i, pending in enumerate(pendings):
            if pending:
                like = without_optimiser(agents[i])
                self.begin(
                    i,
                    self.records[i]["evaluating"],
                    agent_from(pending, like, journals[i].run.folder),
                )

    @property
    def going(self) -> list[tuple[int, Journal]]:
        """The seeds that can go on, with their places."""
        return [(i, journal) for i, journal in enumerate(self.journals) if i not in self.broken]

    @property
    def chunk_length(self) -> int:
        """Environment steps for which the policy is asked at a time."""
        config = self.agents.config
        return config.horizon_length if config.action_chunking else 1

    def run(self, dataset: dict[str, np.ndarray]) -> None:
        """From where the runs stand to their ends; raises RunError at the end for a seed that
        broke on the way.
        """
        with preemption.deferred():
            # what was due at the step of the checkpoint and a signal kept from being done
            if self.step:
                before, steps = self.flags["offline_steps"], self.flags["online_steps"]
                self.at_intervals(
                    self.records[0]["phase"], None, last=self.step in (before, before + steps)
                )
            self.offline(dataset)
            self.online(dataset)
        if self.step == 0:
            self.save("offline")  # a run of behaviour cloning alone
        self.collect("online" if self.flags["online_steps"] else "offline")
        self.film()
        for _, journal in self.going:
            journal.checkpoints.wait()  # a run without its last checkpoint is not finished
            done = {name: self.flags[name] for name in STEPS} | journal.outcome
            write_json(journal.run.folder / "done.json", done)
            say(f"finished: {shown(journal.run.folder)}")
        for error in self.broken.values():
            raise error

    # ---------------------------------------------------------------- phases

    def offline(self, dataset: dict[str, np.ndarray]) -> None:
        """Updates on the dataset, many in each call."""
        steps = self.flags["offline_steps"]
        if self.step == 0:
            self.evaluate("offline")
        if self.step >= steps:
            return
        data = place(dataset, self.flags["device_data_gb"], self.mesh)
        replay = Replay(data.stored)
        intervals = [self.flags[f"{name}_interval"] for name in ("log", "eval", "save")]
        updates = updates_per_call(steps, self.step, *intervals)
        done = int(self.agents.step[0]) - self.step
        blocks = (Block(done + step, updates) for step in range(self.step, steps, updates))
        with contextlib.ExitStack() as stack:
            feed = stack.enter_context(
                data.feed(replay, self.keys["updates"], self.agents.config, blocks)
            )
            bar = stack.enter_context(ProgressBar(steps, self.name, initial=self.step))
            for rows in feed:
                self.update(replay, updates, rows)
                self.step += updates
                bar.update(updates)
                self.at_intervals("offline", bar, last=self.step == steps)

    def online(self, dataset: dict[str, np.ndarray]) -> None:
        """Environment steps, each stored and followed by `utd_ratio` updates once
        `start_training` is past.
        """
        flags = self.flags
        steps, before = flags["online_steps"], flags["offline_steps"]
        if self.step >= before + steps:
            return
        if flags["kl_budget_online"] is not None:
            budgets = [
                take(self.agents, i).with_kl_budget(flags["kl_budget_online"])
                for i in range(len(self.journals))
            ]
            self.agents = stack_seeds(budgets, self.mesh)
        start = max(flags["start_training"], self.agents.config.horizon_length)
        if steps <= start:
            warn(
                f"--online_steps={steps} ends before online updates begin"
                f" (--start_training={flags['start_training']})"
            )
        data = place(dataset, flags["device_data_gb"], self.mesh)
        balanced, utd = flags["balanced_sampling"], flags["utd_ratio"]
        online = self.start_episodes(dataset, start if balanced else 0)
        replay = Replay(data.stored, online, balanced)
        # the steps that are followed by updates
        learning = range(max(start, self.step - before), steps)
        done = int(self.agents.step[0])
        blocks = (
            Block(done + i * utd, utd, online_step + 1)
            for i, online_step in enumerate(learning)
        )
        with contextlib.ExitStack() as stack:
            feed = stack.enter_context(
                data.feed(replay, self.keys["updates"], self.agents.config, blocks)
            )
            progress = ProgressBar(steps, self.name, "online", "steps", self.step - before)
            bar = stack.enter_context(progress)
            for online_step in range(self.step - before, steps):
                try:
                    transitions, first = self.advance(online_step)
                except WorkerError:  # or a SIGTERM, which reaches all processes of a job
                    self.save("online")
                    preemption.leave_if_asked()
                    raise
                online = store(online, transitions, first, self.mesh)
                if online_step in learning:
                    self.update(Replay(data.stored, online, balanced), utd, next(feed))
                self.step += 1
                bar.update(1)
                self.at_intervals("online", bar, last=online_step == steps - 1)

    def start_episodes(
        self, dataset: dict[str, np.ndarray], at_random_until: int
    ) -> Transitions:
        """Start every seed's episodes, or repeat those that were running -> what was stored
        online.
        """
        steps, seeds = self.flags["online_steps"], range(len(self.journals))
        self.envs = (
            EnvWorkers(self.task.env_name, len(seeds))
            if len(seeds) > 1
            else LocalEnvs(self.task.env_name)
        )
        self.stack.callback(self.envs.close)
        self.envs.reset(seeds, [0 for _ in seeds])  # makes them, side by side
        stored = []
        for i, (journal, record) in enumerate(zip(self.journals, self.records, strict=True)):
            episodes = OnlineEpisodes(
                journal.run, self.envs, i, self.action_dim, at_random_until
            )
            self.episodes.append(episodes)
            running = record.get("episode")
            rows = (
                resumed_rows(journal, episodes, running, record["replay"]) if running else None
            )
            empty = {name: dataset[name][:0] for name in (*FIELDS, "rows")}
            stored.append(Transitions.create(rows or empty, steps))
        return stack_seeds(stored, self.mesh)

    def advance(self, online_step: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """One environment step of every seed -> the transitions and whether each is the first
        of its episode, along [S].
        """
        wanted = [episodes.wants(online_step) for episodes in self.episodes]
        chunks: list[np.ndarray | None] = [None for _ in wanted]
        if any(observation is not None for observation in wanted):
            some = next(observation for observation in wanted if observation is not None)
            observations = np.stack(
                [
                    np.zeros_like(some) if observation is None else observation
                    for observation in wanted
                ]
            )
            acted = np.asarray(
                act_online(
                    self.agents, observations, self.keys["actions"], online_step, self.mesh
                )
            )
            # the device has been at work until now: the newest update, then the actions
            self.free_since = time.perf_counter()
            shape = (self.chunk_length, self.action_dim)
            chunks = [
                None if o is None else a.reshape(shape)
                for o, a in zip(wanted, acted, strict=True)
            ]
        self.require_finite({i: chunk for i, chunk in enumerate(chunks) if chunk is not None})
        for i in self.broken:
            # their environments idle
            chunks[i] = None if chunks[i] is None else np.zeros_like(chunks[i])
        actions = [
            episodes.action(online_step, chunk)
            for episodes, chunk in zip(self.episodes, chunks, strict=True)
        ]
        results = self.envs.run_chunks(range(len(actions)), np.stack(actions)[:, None])
        self.require_no_fault(results)
        took = zip(self.episodes, actions, results, strict=True)
        steps = [episodes.took(action, result) for episodes, action, result in took]
        for i, journal in self.going:
            journal.replay_file.append(steps[i][0])
        transitions, first = zip(*steps, strict=True)
        return {
            name: np.stack([t[name] for t in transitions]).astype(np.float32)
            for name in transitions[0]
        }, np.array(first)

    def require_finite(self, chunks: dict[int, np.ndarray]) -> None:
        """Break the seeds, by place, whose policies return actions that are not finite."""
        for i, chunk in chunks.items():
            if i in self.broken or np.isfinite(chunk).all():
                continue
            self.means()  # names the update that did it, if it was one
            if i not in self.broken:
                self.breaks(i, f"an action of the policy is not finite after step {self.step}")

    def require_no_fault(self, results: list[ChunkResult]) -> None:
        """Break the seeds whose environments returned what cannot be used."""
        for i, result in enumerate(results):
            if result.fault and i not in self.broken:
                where = f"environment {self.task.env_name}: {result.fault}"
                self.breaks(i, f"{where} in the step after step {self.step}")

    def film(self) -> None:
        """Film the trained policies where asked."""
        for i, journal in self.going:
            episodes, path = (
                self.flags["video_episodes"],
                journal.run.folder / "videos" / f"step_{self.step}.mp4",
            )
            if episodes and not path.exists():
                policy, skip = (
                    evaluation_policy(take(self.agents, i)),
                    self.flags["video_frame_skip"],
                )
                film(
                    self.task.env_name,
                    policy,
                    path,
                    episodes,
                    journal.run.seed,
                    self.chunk_length,
                    self.action_dim,
                    skip,
                )

    # -------------------------------------------------- updates, and what happens between them

    def update(self, replay: Replay, updates: int, rows: Rows | None) -> None:
        """One call of `updates` updates, at most one call ahead of the device.

        Where the device has finished the last call when this one comes, it has been idle, at
        most since the host was free.
        """
        if not self.metrics:
            agent, online = jax.tree.map(lambda leaf: leaf[0], (self.agents, replay.online))
            one = replay.replace(online=online).feed(
                jax.tree.map(lambda leaf: leaf[0, 0], rows)
            )
            self.metrics = list(
                jax.eval_shape(
                    one_update, agent, one, jax.random.wrap_key_data(self.keys["updates"][0])
                )[1]
            )
        if self.windows is None:
            zeros = dict.fromkeys(self.metrics, 0.0)
            self.windows = stack_seeds([Window.create(zeros) for _ in self.journals], self.mesh)
        before = self.ahead
        if before is not None and before.is_ready():  # type: ignore[attr-defined]  # jax.Array lacks what its arrays have
            self.idle += time.perf_counter() - self.free_since
        self.agents, self.windows, self.ahead = train_block(
            self.agents, self.windows, replay, self.keys["updates"], updates, rows, self.mesh
        )
        self.window_updates += updates
        if before is not None:
            # else a signal, the bar and the clock would run ahead of the training
            before.block_until_ready()
        self.free_since = time.perf_counter()

    def at_intervals(self, phase: str, bar: ProgressBar | None, last: bool) -> None:
        """Log, evaluate and save if due at this step; at the end of a phase all three."""

        def due(name: str) -> bool:
            interval = self.flags[f"{name}_interval"]
            return last or bool(interval) and self.step % interval == 0

        figures: dict[str, Any] = {}
        if due("log"):
            self.collect(phase, wait=False)
            figures = self.log(phase)
        if due("eval"):
            self.means()
            self.evaluate(phase)
        if figures and bar is not None:
            outcome = self.going[0][1].outcome
            bar.status(success=outcome["success"], mean_return=outcome["return"], **figures)
        if due("save"):
            self.save(phase)
        if preemption.received():
            self.save(phase)
            for _, journal in self.going:
                journal.checkpoints.wait()
                say(f"saved at step {self.step}: {shown(journal.run.folder)}", sys.stderr)
            preemption.leave_if_asked()

    def means(self) -> dict[int, dict[str, float]]:
        """The means of each seed's window; one in which a metric is not finite breaks, and with
        the last one the training.
        """
        if self.windows is None:
            return {}
        means = {}
        windows = jax.device_get(self.windows)
        self.free_since = time.perf_counter()  # the device has been at work until now
        for i, _ in self.going:
            window = jax.tree.map(lambda leaf, i=i: leaf[i], windows)
            broken = {
                int(update): name
                for name, update in sorted(window.broken.items(), reverse=True)
                if update >= 0
            }
            if broken:
                self.breaks(
                    i,
                    f"{broken[min(broken)]} is not finite since update {min(broken)}, seen at"
                    f" step {self.step}",
                )
                continue
            means[i] = {
                name: float(total) / self.window_updates for name, total in window.sums.items()
            }
        return means

    def breaks(self, place: int, why: str) -> None:
        """A seed cannot go on: with others beside it, it is left as it stands; alone, it raises
        RunError.
        """
        journal = self.journals[place]
        self.broken[place] = RunError(
            f"{why} of {journal.run.folder}; {journal.checkpoints.last_good()}"
        )
        if not self.going:
            raise self.broken[place]
        warn(f"{self.broken[place]}; the other seeds go on")

    def log(self, phase: str) -> dict[str, Any]:
        """Write each window's means and start another -> the figures of the progress bar."""
        means = self.means()
        taken = time.perf_counter() - self.window_start
        speed = {
            "updates_per_s": self.window_updates / taken,
            "device_idle": min(1.0, self.idle / taken),
        }
        for i, journal in self.going if means else ():
            journal.checkpoints.check()
            journal.log(self.step, {"phase": phase, **means[i]}, speed, self.agents)
        self.windows, self.window_updates, self.window_start, self.idle = (
            None,
            0,
            time.perf_counter(),
            0.0,
        )
        first = means.get(self.going[0][0], {})
        figures = {name: first.get(f"dual/{name}") for name in ("path_kl", "kl_budget", "lam")}
        if figures["lam"] is not None:
            figures["lam"] *= self.agents.config.get("lam_scale", 1.0)
        return figures | {"seconds": taken}

    def save(self, phase: str) -> None:
        """Write everything that the runs need to go on from here as if they had not been
        interrupted.
        """
        self.means()
        with self.aside():
            self.write(phase)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """A block that the log's updates per second, which are of training alone, leave out."""
        start = time.perf_counter()
        yield
        spent = time.perf_counter() - start
        self.window_start, self.free_since = self.window_start + spent, self.free_since + spent

    def write(self, phase: str) -> None:
        """Write the checkpoints of this step that are not there."""
        host = jax.device_get({"agent": agent_tree(self.agents), "keys": self.keys})
        sums = jax.device_get(self.windows.sums) if self.windows else {}
        for i, journal in self.going:
            if journal.checkpoints.latest() != self.step:
                window = {
                    "updates": self.window_updates,
                    "sums": {name: float(value[i]) for name, value in sums.items()},
                }
                episode = self.episodes[i].record() if self.episodes else None
                tree = jax.tree.map(lambda leaf, i=i: leaf[i], host)
                # else the agent is that one
                if i in self.evaluations and self.evaluations[i].step < self.step:
                    tree["evaluating"] = agent_tree(self.evaluations[i].agent)
                journal.save(
                    self.step, tree, {"phase": phase, "window": window, "episode": episode}
                )

    def evaluate(self, phase: str) -> None:
        """Begin the evaluation of each seed, on the same episodes each time, behind those begun
        before; wait for it or not.
        """
        with self.aside():
            self.collect(phase)
            for i, journal in self.going if self.flags["eval_episodes"] else ():
                if journal.evaluated_at != self.step:
                    self.begin(i, self.step, take(self.agents, i))
            if not self.evaluator.beside:
                self.collect(phase)

    def begin(self, place: int, step: int, agent: Agent) -> None:
        """Begin an evaluation of one seed."""
        journal = self.journals[place]
        self.evaluations[place] = self.evaluator.start(step, agent, journal.run.seed)
        journal.evaluating = step

    def collect(self, phase: str, wait: bool = True) -> None:
        """Write the results of evaluations: of those that are done or, with `wait`, of all that
        were begun.

        What was trained is saved first if that is cut short; the evaluation is done again then.
        """
        for i, evaluation in list(self.evaluations.items()):
            if wait or evaluation.future.done():
                try:
                    with preemption.at_once():
                        result = evaluation.future.result()
                except (preemption.Preempted, WorkerError):
                    if self.step:
                        self.save(phase)
                    raise
                del self.evaluations[i]
                self.journals[i].evaluated(evaluation.step, result)


def resumed_rows(
    journal: Journal,
    episodes: OnlineEpisodes,
    running: dict[str, Any],
    position: dict[str, int],
) -> dict[str, np.ndarray]:
    """Repeat the running episode of a checkpoint -> its replay file's rows as a dataset."""
    rows = journal.replay_file.read(position)
    if not episodes.resume(running, rows["actions"][len(rows) - running["length"] :]):
        name = journal.run.env_name
        warn(
            f"{name} does not repeat its running episode (another mujoco or ogbench?): it"
            " starts a new one"
        )
        journal.replay_file.end_trajectory(running["observation"])
        rows = journal.replay_file.read(journal.replay_file.position())
    return as_dataset(rows, episodes.observation)
