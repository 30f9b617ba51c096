"""Training the seeds of one task in one program: the phases, and what happens at intervals."""

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from agents.base import Agent
from envs.video import film
from envs.workers import WorkerError
from training.checkpoints import agent_from, agent_tree
from training.evaluator import Evaluations, Evaluator, without_optimiser
from training.journal import Journal
from training.keys import keys_of
from training.online import Interaction
from training.policy import chunk_length, evaluation_policy
from training.run import Run, first_learning_step
from training.seeds import Seeds
from training.stored import prepare
from training.updates import EMPTY_WINDOW, SeedState, Updates, store, updates_per_call
from utils import preemption
from utils.errors import RunError
from utils.logging import say, shown
from utils.prefetch import Block, place_dataset
from utils.progress import ProgressBar
from utils.replay import FIELDS, Replay, Transitions, run_length


def finish(
    runs: Sequence[Run],
    agents: Sequence[Agent],
    dataset: dict[str, np.ndarray],
    found: dict[str, Any],
    overwrite: bool,
) -> None:
    """Train from the newest checkpoints on, write config.json before and done.json after.

    Raises RunError, once the other seeds are finished, for a seed that broke.

    Args:
        runs: of one task, with different seeds.
        agents: what each run starts with if it has no checkpoint.
        dataset: a compact one, as `envs.datasets.load_dataset` returns it.
        found: what config.json holds besides settings and versions.
        overwrite: whether to empty the run folders first.
    """
    device = f"{jax.devices()[0].device_kind} ({os.cpu_count()} CPU cores)"
    for run in runs:
        prepare(run, overwrite, found | {"device": device})
    dims = found["observation_dim"], found["action_dim"]
    errors = []
    with contextlib.ExitStack() as stack:
        journals = [Journal(run, stack, *dims) for run in runs]
        for step, members in group_by_step(journals):
            try:
                seeds = Seeds([journals[i] for i in members])
                trainer = Trainer(seeds, [agents[i] for i in members], step, dims[1], stack)
                trainer.run(dataset)
            except RunError as error:
                errors.append(error)
        if errors:
            raise errors[0]


def group_by_step(journals: Sequence[Journal]) -> list[tuple[int, list[int]]]:
    """Group runs, by their indices, by the step they resume from; each group trains as one
    program.

    A process that is killed between two of its checkpoints leaves one seed a checkpoint ahead
    of another: it goes back to the other one's step, if that is no more than a save interval.
    """
    newest = [journal.newest() for journal in journals]
    interval = journals[0].run.settings.flags["save_interval"]
    groups: dict[int, list[int]] = {}
    for i, step in enumerate(newest):
        previous = journals[i].previous(step)
        near = previous in newest and step - max(0, previous) <= interval
        groups.setdefault(previous if near else step, []).append(i)
    return sorted(groups.items())


class Start(NamedTuple):
    """What one seed starts from."""

    state: SeedState
    record: dict[str, Any]
    """Of its checkpoint; {} without one."""
    evaluating: Agent | None
    """Of an evaluation that the checkpoint's process had not finished."""


def restore(journal: Journal, agent: Agent, step: int) -> Start:
    """Take a run back to its checkpoint of `step`; with step -1 it starts new, with `agent`."""
    tree, record = journal.go_back(step)
    if not tree:
        _, updates, actions = map(jax.random.key_data, keys_of(journal.run))
        keys = {"updates": updates, "actions": actions}
        return Start(SeedState(agent, keys, EMPTY_WINDOW), {}, None)
    folder, evaluating = journal.run.folder, tree.get("evaluating")
    agent = agent_from(tree["agent"], agent, folder)
    if evaluating:
        evaluating = agent_from(evaluating, without_optimiser(agent), folder)
    return Start(SeedState(agent, tree["keys"], record["window"]), record, evaluating)


class Trainer:
    """Runs that differ in their seeds alone, while they train in one program.

    Args:
        seeds: their journals, which go back to the checkpoint of `step`.
        agents: what each starts with if there is no checkpoint.
        step: that of the checkpoint; -1 to start new.
        action_dim: A.
        stack: closes processes and threads at its end.
    """

    def __init__(
        self,
        seeds: Seeds,
        agents: Sequence[Agent],
        step: int,
        action_dim: int,
        stack: contextlib.ExitStack,
    ):
        starts = [
            restore(journal, agent, step)
            for journal, agent in zip(seeds.journals, agents, strict=True)
        ]
        self.seeds, self.flags = seeds, seeds.flags
        self.action_dim, self.stack = action_dim, stack
        self.records = [start.record for start in starts]
        self.step, self.phase = max(0, step), self.records[0].get("phase", "offline")
        self.updates = Updates([start.state for start in starts])
        self.interaction: Interaction | None = None  # before the online phase
        evaluator = Evaluator(seeds.run.env_name, self.flags, len(seeds), action_dim)
        self.evaluations = Evaluations(seeds, stack.enter_context(evaluator))
        for seed, start in enumerate(starts):
            if start.evaluating:
                self.evaluations.start(seed, start.record["evaluating"], start.evaluating)

    def run(self, dataset: dict[str, np.ndarray]) -> None:
        """Train to the end of the online phase and finish the runs.

        Raises RunError, once the other seeds are finished, for a seed that broke.
        """
        offline, online = self.flags["offline_steps"], self.flags["online_steps"]
        with preemption.deferred():
            if self.step:
                # what was due at the checkpoint's step and a signal kept from being done
                self.at_intervals(None, last=self.step in (offline, offline + online))
            self.offline(dataset)
            self.online(dataset)
        if self.step == 0:
            self.save()  # a run of behaviour cloning alone
        self.record_evaluations()
        film_policies(self.seeds, self.updates, self.step, self.action_dim)
        for _, journal in self.seeds.going:
            journal.finish()
        for error in self.seeds.broken.values():
            raise error

    # ---------------------------------------------------------------- phases

    def offline(self, dataset: dict[str, np.ndarray]) -> None:
        """Updates on the dataset, many in each call."""
        steps = self.flags["offline_steps"]
        if self.step == 0:
            self.evaluate()
        if self.step >= steps:
            return
        self.phase = "offline"
        data = place_dataset(dataset, self.flags["device_data_gb"], self.updates.mesh)
        replay = Replay(data.stored)
        intervals = [self.flags[f"{name}_interval"] for name in ("log", "eval", "save")]
        updates = updates_per_call(steps, self.step, *intervals)
        before = self.updates.done() - self.step
        blocks = (Block(before + step, updates) for step in range(self.step, steps, updates))
        keys, config = self.updates.keys["updates"], self.updates.config
        with (
            data.feed(replay, keys, config, blocks) as feed,
            ProgressBar(steps, self.seeds.name, initial=self.step) as bar,
        ):
            for rows in feed:
                self.updates.run(replay, updates, rows)
                self.step += updates
                bar.update(updates)
                self.at_intervals(bar, last=self.step == steps)

    def online(self, dataset: dict[str, np.ndarray]) -> None:
        """Environment steps, each stored and, from `first_learning_step` on, followed by
        `utd_ratio` updates.
        """
        flags = self.flags
        steps, offline = flags["online_steps"], flags["offline_steps"]
        if not steps:
            return
        self.phase = "online"
        if self.step >= offline + steps:
            return
        if flags["kl_budget_online"] is not None:
            self.updates.set_kl_budget(flags["kl_budget_online"])
        balanced = flags["balanced_sampling"]
        start = first_learning_step(flags, run_length(self.updates.config))
        data = place_dataset(dataset, flags["device_data_gb"], self.updates.mesh)
        online = self.start_interaction(dataset, start if balanced else 0)
        replay = Replay(data.stored, online, balanced)
        # the steps that are followed by updates
        learning, utd = range(max(start, self.step - offline), steps), flags["utd_ratio"]
        done = self.updates.done()
        blocks = (Block(done + i * utd, utd, step + 1) for i, step in enumerate(learning))
        keys, config = self.updates.keys["updates"], self.updates.config
        with (
            data.feed(replay, keys, config, blocks) as feed,
            ProgressBar(steps, self.seeds.name, "online", "steps", self.step - offline) as bar,
        ):
            for online_step in range(self.step - offline, steps):
                replay = self.interact(online_step, replay)
                if online_step in learning:
                    self.updates.run(replay, utd, next(feed))
                self.step += 1
                bar.update(1)
                self.at_intervals(bar, last=online_step == steps - 1)

    def start_interaction(
        self, dataset: dict[str, np.ndarray], at_random_until: int
    ) -> Transitions:
        """Start every seed's episodes, or repeat those that were running -> the online
        transitions so far.
        """
        interaction = Interaction(self.seeds, self.updates, self.action_dim, at_random_until)
        self.stack.callback(interaction.close)
        empty = {name: dataset[name][:0] for name in (*FIELDS, "rows")}
        online = interaction.start(self.records, empty, self.flags["online_steps"])
        self.interaction = interaction
        return online

    def interact(self, online_step: int, replay: Replay) -> Replay:
        """One environment step of every seed -> the replay with their transitions."""
        assert self.interaction is not None, "call start_interaction() first"
        try:
            transitions, first = self.interaction.advance(online_step)
        except WorkerError:  # or a SIGTERM, which reaches all processes of a job
            self.save()
            preemption.leave_if_asked()
            raise
        online = store(replay.online, transitions, first, self.updates.mesh)
        return replay.replace(online=online)

    # ---------------------------------------------------------------- intervals

    def at_intervals(self, bar: ProgressBar | None, last: bool) -> None:
        """Log, evaluate and save if due at this step; at the end of a phase all three."""
        for _, journal in self.seeds.going:
            journal.check_present()
        figures: dict[str, Any] = {}
        if last or ends_interval(self.step, self.flags["log_interval"]):
            self.record_evaluations(wait=False)
            figures = self.log()
        if last or ends_interval(self.step, self.flags["eval_interval"]):
            self.means()
            self.evaluate()
        if figures and bar is not None:
            outcome = self.seeds.going[0][1].outcome
            bar.status(success=outcome["success"], mean_return=outcome["return"], **figures)
        if last or ends_interval(self.step, self.flags["save_interval"]):
            self.save()
        if preemption.received():
            self.leave()

    def leave(self) -> None:
        """Save and raise Preempted, once everything is written."""
        self.save()
        for _, journal in self.seeds.going:
            journal.checkpoints.wait()
            say(f"saved at step {self.step}: {shown(journal.run.folder)}", sys.stderr)
        preemption.leave_if_asked()

    def means(self) -> list[dict[str, float]]:
        """The means of each seed's metrics since the last log; [] where there was no update.

        Seeds with a metric that is not finite are marked as broken.
        """
        self.seeds.mark_not_finite(self.updates.not_finite(), self.step)
        return self.updates.means()

    def log(self) -> dict[str, Any]:
        """Write a row of each seed's means -> the figures of the progress bar."""
        means, seconds = self.means(), self.updates.clock.seconds()
        speed = self.updates.speed(seconds)
        for seed, journal in self.seeds.going if means else ():
            journal.checkpoints.check()
            row = {"phase": self.phase, **means[seed]}
            journal.log(self.step, row, speed, self.updates.agents)
        self.updates.restart_window()
        first = means[self.seeds.going[0][0]] if means else {}
        figures = {name: first.get(f"dual/{name}") for name in ("path_kl", "kl_budget", "lam")}
        if figures["lam"] is not None:
            figures["lam"] *= self.updates.config.get("lam_scale", 1.0)
        return figures | {"seconds": seconds}

    def evaluate(self) -> None:
        """Queue an evaluation of every seed on fixed episodes; wait for it only where
        evaluation is not asynchronous.
        """
        with self.updates.clock.untimed():
            self.record_evaluations()
            for seed, journal in self.seeds.going if self.flags["eval_episodes"] else ():
                if journal.evaluated_at != self.step:
                    self.evaluations.start(seed, self.step, self.updates.agent(seed))
            if not self.evaluations.evaluator.concurrent:
                self.record_evaluations()

    def record_evaluations(self, wait: bool = True) -> None:
        """Write the results of the evaluations that are done or, with `wait`, of all.

        What was trained is saved first if that is cut short; the evaluation is done again then.
        """
        for seed in self.evaluations.begun() if wait else self.evaluations.done():
            try:
                self.evaluations.wait(seed)
            except (preemption.Preempted, WorkerError):
                if self.step:
                    self.save()
                raise
            self.evaluations.record(seed)

    def save(self) -> None:
        """Write the checkpoints of this step that are not there: all that the runs need to
        resume as if they had not been interrupted.
        """
        self.means()
        with self.updates.clock.untimed():
            states = self.updates.states()
            episodes = self.interaction.records() if self.interaction else None
            for seed, journal in self.seeds.going:
                if journal.checkpoints.latest() == self.step:
                    continue
                agent, keys, window = states[seed]
                tree = {"agent": agent_tree(agent), "keys": keys}
                # where it is of this step, the agent is that one
                if evaluating := self.evaluations.agent_before(seed, self.step):
                    tree["evaluating"] = agent_tree(evaluating)
                record = {"phase": self.phase, "window": window}
                record["episode"] = episodes[seed] if episodes else None
                journal.save(self.step, tree, record)


def ends_interval(step: int, interval: int) -> bool:
    """Whether an interval ends after `step`; 0 is none at all."""
    return bool(interval) and step % interval == 0


def film_policies(seeds: Seeds, updates: Updates, step: int, action_dim: int) -> None:
    """Film the policies of `step` where --video_episodes asks for it and no film is there."""
    flags, config = seeds.flags, updates.config
    for seed, journal in seeds.going if flags["video_episodes"] else ():
        path = journal.run.folder / "videos" / f"step_{step}.mp4"
        if not path.exists():
            film(
                seeds.run.env_name,
                evaluation_policy(updates.agent(seed)),
                path,
                flags["video_episodes"],
                journal.run.seed,
                chunk_length(config),
                action_dim,
                flags["video_frame_skip"],
            )
