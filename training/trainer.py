"""Trains the seeds of one task in one program: the phases, logs, evaluations, checkpoints."""

import contextlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from agents.base import Agent
from envs.evaluation import EpisodeFault
from envs.video import film
from envs.workers import Task, WorkerError, cores
from training.acting import evaluation_policy
from training.checkpoints import agent_from, agent_tree, first_not_finite
from training.evaluator import Evaluations, Evaluator, without_optimiser
from training.journal import Journal
from training.keys import keys_of
from training.online import Interaction
from training.run import Run, first_learning_step
from training.seeds import Seeds
from training.stored import prepare_folder
from training.updates import SeedState, Updates, store, updates_per_call
from training.windows import EMPTY_WINDOW
from utils import preemption
from utils.errors import RunError
from utils.messages import say, short_path
from utils.prefetch import Block, place_dataset
from utils.progress import ProgressBar
from utils.replay import FIELDS, BatchSpec, Replay, Transitions


def train_runs(
    runs: Sequence[Run],
    agents: Sequence[Agent],
    dataset: dict[str, np.ndarray],
    found: dict[str, Any],
    overwrite: bool,
) -> None:
    """Train runs from their newest checkpoints to the end; write config.json and done.json.

    If a seed breaks, its RunError is raised after the other seeds have finished.

    Args:
        runs: runs of one task, with different seeds.
        agents: the agent that each run starts with if it has no checkpoint.
        dataset: a compact dataset, as `envs.datasets.load_dataset` returns it.
        found: the entries of config.json besides settings and versions.
        overwrite: whether to empty the run folders first.
    """
    device = f"{jax.devices()[0].device_kind} ({cores()} CPU cores)"
    for run in runs:
        prepare_folder(run, overwrite, found | {"device": device})
    dims = found["observation_dim"], found["action_dim"]
    task = Task.of(runs[0].env_name, found)
    errors = []
    with contextlib.ExitStack() as stack:
        journals = [Journal(run, stack, *dims) for run in runs]
        for step, members in group_by_step(journals):
            try:
                seeds = Seeds([journals[i] for i in members], task)
                Trainer(seeds, [agents[i] for i in members], step, stack).run(dataset)
            except RunError as error:
                errors.append(error)
        if errors:
            raise errors[0]


def group_by_step(journals: Sequence[Journal]) -> list[tuple[int, list[int]]]:
    """Group runs by the step they resume from; each group trains as one program.

    Returns (step, indices of runs) of each group.
    """
    newest = [journal.newest() for journal in journals]
    seeds_at: dict[int, set[int]] = {}
    for journal, step in zip(journals, newest, strict=True):
        seeds_at.setdefault(step, set()).add(journal.run.seed)
    groups: dict[int, list[int]] = {}
    for i, step in enumerate(newest):
        groups.setdefault(step_to_resume(journals[i], step, seeds_at), []).append(i)
    return sorted(groups.items())


def step_to_resume(journal: Journal, step: int, seeds_at: dict[int, set[int]]) -> int:
    """Return the step of a run's newest checkpoint, or of the one before it.

    A process that is killed while it saves may leave one seed a checkpoint ahead of another.
    That seed then resumes from the other's step, at most one save interval earlier. It does not
    go back to a seed that it was not trained with, such as one that was added later or that had
    broken before, nor to a damaged checkpoint. It does not go back to step 0 if it has
    unreadable newer checkpoints: because of them `from_bases` gave it no base.

    Args:
        journal: the files of the run.
        step: the step of its newest checkpoint.
        seeds_at: the seeds of the program by the step of their newest checkpoint.
    """
    previous = journal.previous(step)
    others = seeds_at.get(previous, set()) & journal.together
    interval = journal.run.settings.flags["save_interval"]
    if not others or step - max(0, previous) > interval:
        return step
    if previous < 0:
        was_given_base = not journal.unreadable
        return previous if was_given_base else step
    return previous if journal.checkpoints.holds(previous) else step


class Start(NamedTuple):
    """The state that one seed starts from."""

    state: SeedState
    record: dict[str, Any]
    """The record of its checkpoint; {} without one."""
    evaluating: Agent | None
    """The agent of an evaluation that was not finished at the checkpoint."""


def restore(journal: Journal, agent: Agent, step: int) -> Start:
    """Reset a run to a checkpoint.

    Args:
        journal: the files of the run.
        agent: the agent that a new run starts with.
        step: the step of the checkpoint; -1 starts a new run.
    """
    tree, record = journal.go_back(step)
    if not tree:
        _, updates, actions = map(jax.random.key_data, keys_of(journal.run))
        keys = {"updates": updates, "actions": actions}
        return Start(SeedState(agent, keys, EMPTY_WINDOW), {}, None)
    folder = journal.run.folder
    evaluating = tree.get("evaluating")
    agent = agent_from(tree["agent"], agent, folder)
    if record.get("evaluating") == step:
        evaluating = without_optimiser(agent)
    elif evaluating:
        evaluating = agent_from(evaluating, without_optimiser(agent), folder)
    return Start(SeedState(agent, tree["keys"], record["window"]), record, evaluating)


class Trainer:
    """Trains runs that differ only in their seeds.

    Args:
        seeds: the runs; their files are reset to the checkpoint.
        agents: the agent that each run starts with if there is no checkpoint.
        step: the step of the checkpoint; -1 starts new runs.
        stack: closes processes and threads at its end.
    """

    def __init__(
        self,
        seeds: Seeds,
        agents: Sequence[Agent],
        step: int,
        stack: contextlib.ExitStack,
    ):
        starts = [
            restore(journal, agent, step)
            for journal, agent in zip(seeds.journals, agents, strict=True)
        ]
        self.seeds = seeds
        self.flags = seeds.flags
        self.stack = stack
        self.records = [start.record for start in starts]
        self.step = max(0, step)
        self.phase = self.records[0].get("phase", "offline")
        self.updates = Updates([start.state for start in starts])
        self.interaction: Interaction | None = None  # before the online phase
        evaluator = Evaluator(seeds.task, self.flags, len(seeds))
        self.evaluations = Evaluations(seeds, stack.enter_context(evaluator))
        for seed, start in enumerate(starts):
            if start.evaluating:
                self.evaluations.start(
                    seed, start.record["evaluating"], start.evaluating
                )

    def run(self, dataset: dict[str, np.ndarray]) -> None:
        """Train to the end of the online phase and finish the runs.

        If a seed breaks, its RunError is raised after the other seeds have finished.
        """
        offline = self.flags["offline_steps"]
        online = self.flags["online_steps"]
        with preemption.deferred():
            if self.step:
                # A signal may have prevented what was due at the checkpoint's step.
                self.at_intervals(None, last=self.step in (offline, offline + online))
            self.offline(dataset)
            self.online(dataset)
        if self.step == 0:
            self.save()  # without any offline or online step the base is the result
        self.record_evaluations()
        film_policies(self.seeds, self.updates, self.step)
        for _, journal in self.seeds.active:
            journal.finish()
        for error in self.seeds.broken.values():
            raise error

    # ---------------------------------------------------------------- phases

    def offline(self, dataset: dict[str, np.ndarray]) -> None:
        """Run the offline phase: updates on the dataset, many in each compiled call."""
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
        blocks = (
            Block(before + step, updates) for step in range(self.step, steps, updates)
        )
        keys = self.updates.keys["updates"]
        spec = BatchSpec.of(self.updates.config)
        with (
            data.feed(replay, keys, spec, blocks) as feed,
            ProgressBar(steps, self.seeds.name, initial=self.step) as bar,
        ):
            for rows in feed:
                self.updates.run(replay, updates, rows)
                self.step += updates
                bar.update(updates)
                self.at_intervals(bar, last=self.step == steps)

    def online(self, dataset: dict[str, np.ndarray]) -> None:
        """Run the online phase: environment steps, and updates from `first_learning_step` on.

        Each environment step is stored and followed by `utd_ratio` updates.
        """
        flags = self.flags
        steps = flags["online_steps"]
        offline = flags["offline_steps"]
        if not steps:
            return
        self.phase = "online"
        if self.step >= offline + steps:
            return
        if flags["kl_budget_online"] is not None and self.step == offline:
            self.updates.set_kl_budget(flags["kl_budget_online"])
        balanced = flags["balanced_sampling"]
        start = first_learning_step(flags, self.updates.config)
        data = place_dataset(dataset, flags["device_data_gb"], self.updates.mesh)
        online = self.start_interaction(dataset, start if balanced else 0)
        replay = Replay(data.stored, online, balanced)
        learning = range(max(start, self.step - offline), steps)
        utd = flags["utd_ratio"]
        done = self.updates.done()
        blocks = (
            Block(done + i * utd, utd, step + 1) for i, step in enumerate(learning)
        )
        keys = self.updates.keys["updates"]
        spec = BatchSpec.of(self.updates.config)
        with (
            data.feed(replay, keys, spec, blocks) as feed,
            ProgressBar(
                steps, self.seeds.name, "online", "steps", self.step - offline
            ) as bar,
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
        """Start or replay every seed's episode; return the online transitions so far [S, ...].

        at_random_until: the online step before which actions are random.
        """
        interaction = Interaction(self.seeds, self.updates, at_random_until)
        self.stack.callback(interaction.close)
        empty = {name: dataset[name][:0] for name in (*FIELDS, "rows")}
        online = interaction.start(self.records, empty, self.flags["online_steps"])
        self.interaction = interaction
        return online

    def interact(self, online_step: int, replay: Replay) -> Replay:
        """Take one environment step with every seed; return the replay with the transitions."""
        assert self.interaction is not None, "call start_interaction() first"
        try:
            transitions, first = self.interaction.advance(online_step)
        except WorkerError:  # a SIGTERM may have reached the workers too
            self.save()
            preemption.leave_if_asked()
            raise
        online = store(replay.online, transitions, first, self.updates.mesh)
        return replay.replace(online=online)

    # ---------------------------------------------------------------- intervals

    def at_intervals(self, bar: ProgressBar | None, last: bool) -> None:
        """Log, evaluate and save if due at this step.

        Args:
            bar: shows the logged figures; None for none.
            last: whether the phase ends, so that all three are due.
        """
        for _, journal in self.seeds.active:
            journal.check_present()
        figures: dict[str, Any] = {}
        if self.is_due("log", last):
            self.record_evaluations(wait=False)
            figures = self.log()
        if self.is_due("eval", last):
            self.check_finite()
            self.evaluate()
        if figures and bar is not None:
            outcome = self.seeds.active[0][1].outcome
            bar.status(
                success=outcome["success"], mean_return=outcome["return"], **figures
            )
        if self.is_due("save", last):
            self.save()
        if preemption.received():
            self.leave()

    def is_due(self, name: str, last: bool) -> bool:
        """Whether the interval of "log", "eval" or "save", or the phase, ends at this step."""
        interval = self.flags[f"{name}_interval"]
        return last or (bool(interval) and self.step % interval == 0)

    def leave(self) -> None:
        """Save, wait until everything is written, and raise Preempted."""
        self.save()
        for _, journal in self.seeds.active:
            journal.checkpoints.wait()
            say(
                f"saved at step {self.step}: {short_path(journal.run.folder)}",
                sys.stderr,
            )
        preemption.leave_if_asked()

    def check_finite(self) -> None:
        """Mark the seeds with a metric that is not finite since the last log as broken."""
        self.seeds.mark_not_finite(self.updates.not_finite(), self.step)

    def log(self) -> dict[str, Any]:
        """Log each seed's means; return the figures for the progress bar."""
        self.check_finite()
        means = self.updates.means()
        seconds = self.updates.clock.seconds()
        speed = self.updates.speed(seconds)
        for seed, journal in self.seeds.active:
            if means[seed]:
                journal.checkpoints.check()
                line = {"phase": self.phase, **means[seed]}
                journal.log(self.step, line, speed, self.updates.agents)
        self.updates.restart_window()
        first = means[self.seeds.active[0][0]]
        figures = {
            name: first.get(f"dual/{name}") for name in ("path_kl", "kl_budget", "lam")
        }
        if figures["lam"] is not None:
            figures["lam"] *= self.updates.config.get("lam_scale", 1.0)
        return figures | {"seconds": seconds}

    def evaluate(self) -> None:
        """Queue an evaluation of every seed on fixed episodes.

        Waits for it only if evaluation is not asynchronous.
        """
        if not self.flags["eval_episodes"]:
            return
        with self.updates.clock.untimed():
            self.record_evaluations()
            for seed, journal in self.seeds.active:
                if journal.evaluated_at != self.step:
                    self.evaluations.start(seed, self.step, self.updates.agent(seed))
            if not self.evaluations.evaluator.concurrent:
                self.record_evaluations()

    def record_evaluations(self, wait: bool = True) -> None:
        """Write the results of the finished evaluations or, with `wait`, of all.

        If a signal or an error interrupts the waiting, a checkpoint is saved first. The resumed
        run then repeats the evaluation. A seed whose environment returns unusable values is
        marked as broken.
        """
        for seed in self.evaluations.begun() if wait else self.evaluations.done():
            try:
                self.evaluations.wait(seed)
            except (preemption.Preempted, WorkerError) as error:
                if self.step:
                    self.save()
                if not isinstance(error, EpisodeFault):
                    raise
                step = self.evaluations.pending.pop(seed).step
                self.seeds.mark_broken(
                    seed, f"{error}, in the evaluation of step {step}"
                )
            else:
                self.evaluations.record(seed)

    def save(self) -> None:
        """Write the checkpoints of this step that do not exist yet.

        They hold everything that a run needs to continue as if it had not been interrupted.
        """
        self.check_finite()
        with self.updates.clock.untimed():
            states = self.updates.states()
            # before any seed is saved, so that `together` is right
            for seed, _ in self.seeds.active:
                if name := first_not_finite({"agent": agent_tree(states[seed].agent)}):
                    why = f"{name} is not finite at step {self.step}"
                    self.seeds.mark_broken(seed, why)
            together = [journal.run.seed for _, journal in self.seeds.active]
            episodes = self.interaction.records() if self.interaction else None
            for seed, journal in self.seeds.active:
                if journal.checkpoints.latest() == self.step:
                    continue
                agent, keys, window = states[seed]
                tree = {"agent": agent_tree(agent), "keys": keys}
                # An evaluation of this very step needs no second copy of the agent.
                if evaluating := self.evaluations.agent_before(seed, self.step):
                    tree["evaluating"] = agent_tree(evaluating)
                record = {"phase": self.phase, "window": window}
                record["together"] = together
                record["episode"] = episodes[seed] if episodes else None
                journal.save(self.step, tree, record)


def film_policies(seeds: Seeds, updates: Updates, step: int) -> None:
    """Film the policies if --video_episodes is set and no film of this step exists.

    Args:
        seeds: the seeds to film.
        updates: holds their agents.
        step: the step of the agents.
    """
    flags = seeds.flags
    if not flags["video_episodes"]:
        return
    for seed, journal in seeds.active:
        path = journal.run.folder / "videos" / f"step_{step}.mp4"
        if not path.exists():
            film(
                seeds.task,
                evaluation_policy(updates.agent(seed)),
                path,
                flags["video_episodes"],
                journal.run.seed,
                flags["video_frame_skip"],
            )
