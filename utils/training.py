"""The path of a run: data, base, offline updates, online updates, evaluations, logs, checkpoints.

Steps of a run are offline updates 1..offline_steps and, behind them, online environment steps. All randomness of the
updates follows from (seed, number of the update), so that it does not depend on how the steps are cut into calls.
"""

import contextlib
import importlib.metadata
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from agents.base import Agent
from envs.collect import collect, collection_settings, random_data
from envs.datasets import dataset_files, load_dataset, published_transitions
from envs.fingerprint import Fingerprint, remembered
from envs.tasks import dataset_name, has_oracle, is_user_env
from envs.workers import ChunkResult, EnvWorkers, LocalEnvs, WorkerError
from utils import preemption
from utils.checkpoints import (
    Checkpoints,
    GivenBase,
    agent_from,
    agent_tree,
    given_base,
    load_base,
)
from utils.chunks import FIELDS, Fed, Replay, Rows, Transitions, update_keys
from utils.errors import RunError, UserError
from utils.evaluator import Evaluation, Evaluator, without_optimiser
from utils.journal import Journal
from utils.logging import check_backends, say, shown, warn, warn_once
from utils.online import OnlineEpisodes, as_dataset
from utils.policy import evaluation_policy, stream
from utils.prefetch import Block, place
from utils.progress import ProgressBar, run_name
from utils.published import check_base
from utils.runs import STEPS, Run, read_json, write_json
from utils.seeds import for_each_seed, mesh_for, stack_seeds, take
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
    key_batch, key_update = update_keys(key, agent.step)
    batch = replay.sample(key_batch, config.batch_size, config.horizon_length, config.discount)
    return agent.update(batch, key_update)


# On a CPU XLA would else copy parameters and targets in every update, 75 MB at the paper's size and 6 % of the time.
WITHOUT_COPIES = {"xla_cpu_copy_insertion_use_region_analysis": True}


@partial(jax.jit, static_argnames=("updates", "mesh"), donate_argnames=("agents", "windows"), compiler_options=WITHOUT_COPIES)
def train_block(
    agents: Agent,
    windows: Window,
    replay: Replay,
    keys: jax.Array,
    updates: int,
    rows: Rows | None = None,
    mesh: Mesh | None = None,
) -> tuple[Agent, Window, jax.Array]:
    """`updates` updates of every seed in one call; agents, windows, online transitions and keys (their data) are stacked [S].

    rows: those of a dataset on the host, for each seed and update [S, U, B, ...]; see utils/prefetch.py.
    The last result is there to wait for, since the others are given to the next call.
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

        def one(carry: tuple[Agent, Window], rows: Rows | None) -> tuple[tuple[Agent, Window], None]:
            agent, metrics = one_update(carry[0], seeds_replay.feed(rows), jax.random.wrap_key_data(key))
            return (agent, carry[1].add(metrics, agent.step)), None

        (agent, window), _ = jax.lax.scan(one, (agent, window), rows, length=updates)
        return agent, window, agent.step + 0

    mapped = for_each_seed(block, (0, 0, 0, 0, 0, None), mesh)
    return mapped(agents, windows, keys, replay.online, rows, replay.stored)


@partial(jax.jit, static_argnames="mesh", donate_argnames="online")
def store(online: Transitions, transitions: dict[str, jax.Array], first: jax.Array, mesh: Mesh | None = None) -> Transitions:
    """Store one online transition of every seed, `first` [S] of its episode or not."""
    return for_each_seed(Transitions.append, (0, 0, 0), mesh)(online, transitions, first)


@partial(jax.jit, static_argnames="mesh")
def act_online(agents: Agent, observations: jax.Array, keys: jax.Array, step: jax.Array, mesh: Mesh | None = None) -> jax.Array:
    """Actions [S, D] of every seed's policy at its observation [S, O] in online step number `step`."""

    def act(agent: Agent, observation: jax.Array, key: jax.Array, step: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.wrap_key_data(key), step)
        noise = jax.random.normal(key, (agent.draws, 1, agent.flat_action_dim))
        return agent.act(observation[None], noise)[0]

    return for_each_seed(act, (0, 0, 0, None), mesh)(agents, observations, keys, step)


def updates_per_call(*counts: int) -> int:
    """The most updates one call may run: they divide every given count that is not 0, so that no call crosses one."""
    most = MOST_UPDATES_PER_CALL.get(jax.default_backend(), MOST_UPDATES_PER_CALL_ON_ACCELERATOR)
    common = math.gcd(*counts)
    return max(n for n in range(1, most + 1) if common % n == 0)


# -------------------------------------------------------------------------------------------------- a run


def configure_jax(flags: dict[str, Any]) -> None:
    """What the flags set of JAX itself; before anything is computed."""
    if flags["matmul_precision"] != "default":
        jax.config.update("jax_default_matmul_precision", flags["matmul_precision"])
    if flags["compilation_cache_dir"] and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(Path(flags["compilation_cache_dir"]).expanduser()))


def prepare_data(run: Run) -> dict[str, np.ndarray]:
    """The run's dataset; with a preset it is made first where it is missing, by an oracle or, in --preset=smoke, at random."""
    flags, transitions = run.settings.flags, run.settings.transitions
    folder, env_name = flags["ogbench_dataset_dir"], run.env_name
    # Never in a folder of the user's own: there it would pass for the real dataset.
    ours = run.settings.sources["ogbench_dataset_dir"] not in ("default", "command line")
    named = flags["dataset"] or is_user_env(env_name)
    if transitions and ours and not named and not (Path(folder) / f"{dataset_name(env_name)}-v0.npz").exists():
        if has_oracle(dataset_name(env_name)):
            collect(env_name, folder, transitions, progress=True)
        elif run.settings.random_data:
            made = f"{transitions:,} transitions of random actions, in {folder}"
            say(f"{dataset_name(env_name)} has no oracle: {made}")
            random_data(env_name, folder, transitions, progress=True)
    return load_data(run)


def load_data(run: Run) -> dict[str, np.ndarray]:
    """The run's dataset, as its flags say."""
    flags = run.settings.flags
    needs_environment = flags["online_steps"] or flags["eval_episodes"] or flags["video_episodes"]
    return load_dataset(
        run.env_name,
        flags["ogbench_dataset_dir"],
        flags["dataset"],
        flags["dataset_proportion"],
        flags["sparse"],
        dataset_layout=flags["dataset_layout"],
        action_scale=flags["action_scale"],
        environment=bool(needs_environment),
    )


DATA_FLAGS = ("dataset_proportion", "sparse", "dataset_layout", "action_scale")
"""Flags on which a dataset depends besides the task and its files."""


def data_fingerprint(run: Run, dataset: dict[str, np.ndarray] | None = None) -> Fingerprint | None:
    """The fingerprint of the run's dataset, which is loaded where it is not given and not known; None if its files are gone."""
    flags = run.settings.flags
    files = dataset_files(run.env_name, flags["ogbench_dataset_dir"], flags["dataset"])
    if not files:
        return None
    settings = {"env_name": run.env_name, **{name: flags[name] for name in DATA_FLAGS}}
    return remembered(files, settings, lambda: load_data(run) if dataset is None else dataset)


def report_finished(runs: list[Run], data: Fingerprint | None) -> None:
    """Say which runs have finished already; raises UserError where the data is no longer what they were trained on."""
    for run in runs:
        if data:
            run.check_data(data.transitions, data.task)
        compared = "" if data else " (its data is not here and was not compared)"
        say(f"finished already: {shown(run.folder)}{compared}")


def warn_of_little_data(run: Run, transitions: int) -> None:
    """Warn where a dataset has the name of a published one and less than half of its share that is asked for."""
    flags, env_name = run.settings.flags, run.env_name
    if run.settings.transitions or flags["dataset"] or is_user_env(env_name):
        return  # a preset's own data, or the user's
    wanted = published_transitions(env_name) * flags["dataset_proportion"]
    if transitions < wanted / 2:
        place = f"{dataset_name(env_name)} in {flags['ogbench_dataset_dir']}"
        warn(f"{place} gives {transitions:,} transitions; the published results are with {wanted:,.0f}")


PHYSICS = ((3, 1, 6), (3, 4))
"""MuJoCo versions, from the first to before the last, that repeat OGBench's recorded actions to 5e-10 m."""


def warn_of_other_physics(run: Run) -> None:
    """Warn once where OGBench's tasks are simulated, or their data was made, by a MuJoCo with other contacts."""
    if is_user_env(run.env_name):
        return
    versions = {"mujoco is installed as": importlib.metadata.version("mujoco")}
    flags = run.settings.flags
    for path in dataset_files(run.env_name, flags["ogbench_dataset_dir"], flags["dataset"])[:1]:
        made = collection_settings(path) or {}
        versions |= {f"{path.name} was made with mujoco": made["mujoco"]} if "mujoco" in made else {}
    first, end = PHYSICS
    for what, version in versions.items():
        if not first <= tuple(map(int, re.findall(r"\d+", version)[:3])) < end:
            warn_once(
                f"{what} {version}, whose contacts differ from those of OGBench's data and of the published tables: "
                "results do not compare; pip install 'mujoco>=3.1.6,<3.4'"
            )


def train(runs: list[Run], overwrite: bool = False) -> None:
    """Bring the seeds of one task to their ends, each from its newest checkpoint.

    What a user may have to mend is found out first. Raises RunError, once the others are finished,
    for a seed that broke.
    """
    check_backends(runs[0].settings.flags["logger"].split(","))
    finished, runs = by_whether_finished(runs, overwrite)
    if not runs:
        return report_finished(finished, data_fingerprint(finished[0]))
    given = find_given_base(runs, overwrite)
    dataset = prepare_data(runs[0])
    data = data_fingerprint(runs[0], dataset)
    assert data, "its files are there: they were just read"
    report_finished(finished, data)
    agents = [new_agent(run, dataset) for run in runs]
    check_start(runs[0], agents[0], given)
    warn_of_little_data(runs[0], len(dataset["rows"]))
    warn_of_other_physics(runs[0])
    agents = from_bases(runs, agents, dataset, data, given, overwrite)
    found = about_data(dataset, data.task) | ({"base": given.record} if given else {})
    with contextlib.ExitStack() as stack:
        for run in runs:
            stack.enter_context(run.locked())
        finish(runs, agents, dataset, found, overwrite)


def by_whether_finished(runs: list[Run], overwrite: bool) -> tuple[list[Run], list[Run]]:
    """The runs that have finished and those that have not; raises UserError for a folder that is another run's."""
    if overwrite:
        return [], runs
    for run in runs:
        run.check_folder()
    finished = [run for run in runs if run.is_done()]
    return finished, [run for run in runs if run not in finished]


def check_start(run: Run, agent: Agent, given: GivenBase | None) -> None:
    """Raise UserError for a base or an online KL budget that the agent cannot take; say which base is given."""
    flags = run.settings.flags
    if flags["kl_budget_online"] is not None:
        agent.with_kl_budget(flags["kl_budget_online"])
    if given:
        where = f"--pretrained_actor_path={flags['pretrained_actor_path']}"
        check_base(given.params, agent.params["base"], where)
        say(given.describe())


def from_bases(
    runs: list[Run],
    agents: list[Agent],
    dataset: dict[str, np.ndarray],
    data: Fingerprint,
    given: GivenBase | None,
    overwrite: bool,
) -> list[Agent]:
    """The agents, those of runs that begin now started from their behaviour-cloned bases."""
    wanted = given or runs[0].settings.flags["bc_steps"]
    if not (wanted and agents[0].STARTS_FROM_BASE):
        return agents
    fresh = [run for run in runs if overwrite or may_begin_anew(run)]
    made = [given.params] * len(fresh) if given else trained_bases(fresh, dataset, data)
    bases = {run.seed: base for run, base in zip(fresh, made, strict=True)}
    for i, run in enumerate(runs):
        if run.seed in bases:
            agents[i] = agents[i].with_base(bases[run.seed])
    return agents


def find_given_base(runs: list[Run], overwrite: bool) -> GivenBase | None:
    """The base that --pretrained_actor_path gives the seeds of a task; None without one.

    Raises UserError if it cannot be had, or is not what a run that resumes began with.
    """
    settings, env_name = runs[0].settings, runs[0].env_name
    path = settings.flags["pretrained_actor_path"]
    if path and not runs[0].agent.STARTS_FROM_BASE:
        warn(f"--pretrained_actor_path has no effect: {runs[0].agent_name} starts from no base")
        return None
    if not path:
        return None
    given = given_base(path, env_name, settings.flags["ogbench_dataset_dir"])
    for run in runs if not overwrite else ():
        given.check_begun(run.folder, read_json(run.folder / "config.json"))
    return given


def keys_of(run: Run) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Three keys of a run, for its parameters, updates and actions; those of a base differ from those of its heirs."""
    role = "heir" if run.agent.STARTS_FROM_BASE else "base"
    root = jax.random.key(run.seed)
    return stream(root, f"{role} parameters"), stream(root, f"{role} updates"), stream(root, f"{role} actions")


def new_agent(run: Run, dataset: dict[str, np.ndarray]) -> Agent:
    """A fresh agent for the dataset's dimensions."""
    key, *_ = keys_of(run)
    horizon, transitions = run.settings.agent.horizon_length, len(dataset["rows"])
    if transitions < horizon:
        raise UserError(f"--horizon_length={horizon}: the dataset has only {transitions} transitions")
    return run.agent.create(key, *dims_of(dataset), run.settings.agent)


def may_begin_anew(run: Run) -> bool:
    """Whether a run has one checkpoint at most, which is given up where another seed has none (`standing_together`)."""
    return run.newest_checkpoint() <= run.settings.flags["save_interval"]


def trained_bases(runs: list[Run], dataset: dict[str, np.ndarray], data: Fingerprint) -> list[dict]:
    """The behaviour-cloned base of each run: a stored one, or one that is trained now."""
    base_runs = [run.of_base(data.behaviour) for run in runs]
    with contextlib.ExitStack() as stack:
        for base_run in base_runs:  # another task of the domain may be training the same base
            stack.enter_context(base_run.locked(wait=True))
        missing = [run for run in base_runs if not is_whole(run)]
        if missing:
            agents = [new_agent(run, dataset) for run in missing]
            finish(missing, agents, dataset, about_data(dataset, data.behaviour), overwrite=False)
        return [load_base(run.folder) for run in base_runs]


def is_whole(base_run: Run) -> bool:
    """Whether a base has been trained to its end and its last checkpoint is there."""
    checkpoints = Checkpoints(base_run.folder / "checkpoints")
    return base_run.is_done() and checkpoints.holds(base_run.settings.flags["offline_steps"])


def about_data(dataset: dict[str, np.ndarray], crc: str) -> dict[str, Any]:
    """What config.json holds of the data; `crc` is of what the run reads of it."""
    observation_dim, action_dim = dims_of(dataset)
    data = {"transitions": len(dataset["rows"]), "crc": crc}
    return {"observation_dim": observation_dim, "action_dim": action_dim, "dataset": data}


def finish(
    runs: list[Run],
    agents: list[Agent],
    dataset: dict[str, np.ndarray],
    found: dict[str, Any],
    overwrite: bool,
) -> None:
    """Train, from the newest checkpoints on, and write each run's config.json, with what was `found`, and done.json."""
    observation_dim, action_dim = dims_of(dataset)
    device = f"{jax.devices()[0].device_kind} ({os.cpu_count()} CPU cores)"
    for run in runs:
        run.prepare(overwrite, found | {"device": device})
    with contextlib.ExitStack() as stack:
        journals = [Journal(run, stack, observation_dim, action_dim) for run in runs]
        errors = []
        for step, members in standing_together(journals):
            try:
                Trainer([journals[i] for i in members], [agents[i] for i in members], step, action_dim, stack).run(dataset)
            except RunError as error:
                errors.append(error)
        if errors:
            raise errors[0]


def standing_together(journals: list[Journal]) -> list[tuple[int, list[int]]]:
    """Which of the runs go on from which step; those of one step are trained in one program.

    A process that is killed between two of its checkpoints leaves one seed a checkpoint ahead of another: it goes back to
    where the other one stands, if that is no more than a save interval.
    """
    newest, interval = [journal.newest() for journal in journals], journals[0].run.settings.flags["save_interval"]
    groups: dict[int, list[int]] = {}
    for i, step in enumerate(newest):
        previous = journals[i].previous(step)
        near = previous in newest and step - max(0, previous) <= interval
        groups.setdefault(previous if near else step, []).append(i)
    return sorted(groups.items())


def dims_of(dataset: dict[str, np.ndarray]) -> tuple[int, int]:
    """O and A."""
    return dataset["observations"].shape[1], dataset["actions"].shape[1]


class Trainer:
    """The moving parts of runs that differ in their seeds alone, while they train in one program."""

    def __init__(self, journals: list[Journal], agents: list[Agent], step: int, action_dim: int, stack: contextlib.ExitStack):
        self.journals, self.stack, self.action_dim = journals, stack, action_dim
        self.task, self.flags = journals[0].run, journals[0].run.settings.flags
        seeds = [journal.run.seed for journal in journals]
        self.name = run_name(self.task.agent_name, self.task.env_name, seeds)
        keys = [dict(zip(("updates", "actions"), map(jax.random.key_data, keys_of(j.run)[1:]), strict=True)) for j in journals]
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
        self.windows: Window | None = None  # of the updates since the last log; None where there were none
        self.window_updates, self.window_start = 0, time.perf_counter()
        self.idle, self.free_since = 0.0, self.window_start  # see `update`
        if step >= 0 and (updates := self.records[0]["window"]["updates"]):
            self.window_updates = updates
            self.windows = stack_seeds([Window.create(record["window"]["sums"]) for record in self.records], self.mesh)
        self.ahead: jax.Array | None = None  # of the newest call
        self.broken: dict[int, RunError] = {}  # seeds that must not go on, by their place
        self.episodes: list[OnlineEpisodes] = []
        self.evaluator = stack.enter_context(Evaluator(self.task.env_name, self.flags, len(journals), action_dim))
        self.evaluations: dict[int, Evaluation] = {}  # those that were begun, by the seed's place
        for i, pending in enumerate(pendings):
            if pending:
                like = without_optimiser(agents[i])
                self.begin(i, self.records[i]["evaluating"], agent_from(pending, like, journals[i].run.folder))

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
        """From where the runs stand to their ends; raises RunError at the end for a seed that broke on the way."""
        with preemption.deferred():
            if self.step:  # what was due at the step of the checkpoint and a signal kept from being done
                before, steps = self.flags["offline_steps"], self.flags["online_steps"]
                self.at_intervals(self.records[0]["phase"], None, last=self.step in (before, before + steps))
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
            feed = stack.enter_context(data.feed(replay, self.keys["updates"], self.agents.config, blocks))
            bar = stack.enter_context(ProgressBar(steps, self.name, initial=self.step))
            for rows in feed:
                self.update(replay, updates, rows)
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
            budgets = [take(self.agents, i).with_kl_budget(flags["kl_budget_online"]) for i in range(len(self.journals))]
            self.agents = stack_seeds(budgets, self.mesh)
        start = max(flags["start_training"], self.agents.config.horizon_length)
        if steps <= start:
            warn(f"--online_steps={steps} ends before online updates begin (--start_training={flags['start_training']})")
        data = place(dataset, flags["device_data_gb"], self.mesh)
        balanced, utd = flags["balanced_sampling"], flags["utd_ratio"]
        online = self.start_episodes(dataset, start if balanced else 0)
        replay = Replay(data.stored, online, balanced)
        learning = range(max(start, self.step - before), steps)  # the steps that are followed by updates
        done = int(self.agents.step[0])
        blocks = (Block(done + i * utd, utd, online_step + 1) for i, online_step in enumerate(learning))
        with contextlib.ExitStack() as stack:
            feed = stack.enter_context(data.feed(replay, self.keys["updates"], self.agents.config, blocks))
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

    def start_episodes(self, dataset: dict[str, np.ndarray], at_random_until: int) -> Transitions:
        """Start every seed's episodes, or repeat those that were running -> what was stored online."""
        steps, seeds = self.flags["online_steps"], range(len(self.journals))
        self.envs = EnvWorkers(self.task.env_name, len(seeds)) if len(seeds) > 1 else LocalEnvs(self.task.env_name)
        self.stack.callback(self.envs.close)
        self.envs.reset(seeds, [0 for _ in seeds])  # makes them, side by side
        stored = []
        for i, (journal, record) in enumerate(zip(self.journals, self.records, strict=True)):
            episodes = OnlineEpisodes(journal.run, self.envs, i, self.action_dim, at_random_until)
            self.episodes.append(episodes)
            running = record.get("episode")
            rows = resumed_rows(journal, episodes, running, record["replay"]) if running else None
            empty = {name: dataset[name][:0] for name in (*FIELDS, "rows")}
            stored.append(Transitions.create(rows or empty, steps))
        return stack_seeds(stored, self.mesh)

    def advance(self, online_step: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """One environment step of every seed -> the transitions and whether each is the first of its episode, along [S]."""
        wanted = [episodes.wants(online_step) for episodes in self.episodes]
        chunks: list[np.ndarray | None] = [None for _ in wanted]
        if any(observation is not None for observation in wanted):
            some = next(observation for observation in wanted if observation is not None)
            observations = np.stack([np.zeros_like(some) if observation is None else observation for observation in wanted])
            acted = np.asarray(act_online(self.agents, observations, self.keys["actions"], online_step, self.mesh))
            self.free_since = time.perf_counter()  # the device has been at work until now: the newest update, then the actions
            shape = (self.chunk_length, self.action_dim)
            chunks = [None if o is None else a.reshape(shape) for o, a in zip(wanted, acted, strict=True)]
        self.require_finite({i: chunk for i, chunk in enumerate(chunks) if chunk is not None})
        for i in self.broken:
            chunks[i] = None if chunks[i] is None else np.zeros_like(chunks[i])  # their environments idle
        actions = [episodes.action(online_step, chunk) for episodes, chunk in zip(self.episodes, chunks, strict=True)]
        results = self.envs.run_chunks(range(len(actions)), np.stack(actions)[:, None])
        self.require_no_fault(results)
        took = zip(self.episodes, actions, results, strict=True)
        steps = [episodes.took(action, result) for episodes, action, result in took]
        for i, journal in self.going:
            journal.replay_file.append(steps[i][0])
        transitions, first = zip(*steps, strict=True)
        return {name: np.stack([t[name] for t in transitions]).astype(np.float32) for name in transitions[0]}, np.array(first)

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
            episodes, path = self.flags["video_episodes"], journal.run.folder / "videos" / f"step_{self.step}.mp4"
            if episodes and not path.exists():
                policy, skip = evaluation_policy(take(self.agents, i)), self.flags["video_frame_skip"]
                film(self.task.env_name, policy, path, episodes, journal.run.seed, self.chunk_length, self.action_dim, skip)

    # ---------------------------------------------------------------- updates, and what happens between them

    def update(self, replay: Replay, updates: int, rows: Rows | None) -> None:
        """One call of `updates` updates, at most one call ahead of the device.

        Where the device has finished the last call when this one comes, it has been idle, at most since the host was free.
        """
        if not self.metrics:
            agent, online = jax.tree.map(lambda leaf: leaf[0], (self.agents, replay.online))
            one = replay.replace(online=online).feed(jax.tree.map(lambda leaf: leaf[0, 0], rows))
            self.metrics = list(jax.eval_shape(one_update, agent, one, jax.random.wrap_key_data(self.keys["updates"][0]))[1])
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
            before.block_until_ready()  # else a signal, the bar and the clock would run ahead of the training
        self.free_since = time.perf_counter()

    def at_intervals(self, phase: str, bar: ProgressBar | None, last: bool) -> None:
        """Log, evaluate and save where this step asks for it; at the end of a phase all three."""

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
        """The means of each seed's window; one in which a metric is not finite breaks, and with the last one the training."""
        if self.windows is None:
            return {}
        means = {}
        windows = jax.device_get(self.windows)
        self.free_since = time.perf_counter()  # the device has been at work until now
        for i, _ in self.going:
            window = jax.tree.map(lambda leaf, i=i: leaf[i], windows)
            broken = {int(update): name for name, update in sorted(window.broken.items(), reverse=True) if update >= 0}
            if broken:
                self.breaks(i, f"{broken[min(broken)]} is not finite since update {min(broken)}, seen at step {self.step}")
                continue
            means[i] = {name: float(total) / self.window_updates for name, total in window.sums.items()}
        return means

    def breaks(self, place: int, why: str) -> None:
        """A seed cannot go on: with others beside it, it is left as it stands; alone, it raises RunError."""
        journal = self.journals[place]
        self.broken[place] = RunError(f"{why} of {journal.run.folder}; {journal.checkpoints.last_good()}")
        if not self.going:
            raise self.broken[place]
        warn(f"{self.broken[place]}; the other seeds go on")

    def log(self, phase: str) -> dict[str, Any]:
        """Write each window's means and start another -> the figures of the progress bar."""
        means = self.means()
        taken = time.perf_counter() - self.window_start
        speed = {"updates_per_s": self.window_updates / taken, "device_idle": min(1.0, self.idle / taken)}
        for i, journal in self.going if means else ():
            journal.checkpoints.check()
            journal.log(self.step, {"phase": phase, **means[i]}, speed, self.agents)
        self.windows, self.window_updates, self.window_start, self.idle = None, 0, time.perf_counter(), 0.0
        first = means.get(self.going[0][0], {})
        figures = {name: first.get(f"dual/{name}") for name in ("path_kl", "kl_budget", "lam")}
        if figures["lam"] is not None:
            figures["lam"] *= self.agents.config.get("lam_scale", 1.0)
        return figures | {"seconds": taken}

    def save(self, phase: str) -> None:
        """Write everything that the runs need to go on from here as if they had not been interrupted."""
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
                window = {"updates": self.window_updates, "sums": {name: float(value[i]) for name, value in sums.items()}}
                episode = self.episodes[i].record() if self.episodes else None
                tree = jax.tree.map(lambda leaf, i=i: leaf[i], host)
                if i in self.evaluations and self.evaluations[i].step < self.step:  # else the agent is that one
                    tree["evaluating"] = agent_tree(self.evaluations[i].agent)
                journal.save(self.step, tree, {"phase": phase, "window": window, "episode": episode})

    def evaluate(self, phase: str) -> None:
        """Begin the evaluation of each seed, on the same episodes each time, behind those begun before; wait for it or not."""
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
        """Write the results of evaluations: of those that are done or, with `wait`, of all that were begun.

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
    journal: Journal, episodes: OnlineEpisodes, running: dict[str, Any], position: dict[str, int]
) -> dict[str, np.ndarray]:
    """Repeat the running episode of a checkpoint -> what its replay file holds, as a dataset."""
    rows = journal.replay_file.read(position)
    if not episodes.resume(running, rows["actions"][len(rows) - running["length"] :]):
        name = journal.run.env_name
        warn(f"{name} does not repeat its running episode (another mujoco or ogbench?): it starts a new one")
        journal.replay_file.end_trajectory(running["observation"])
        rows = journal.replay_file.read(journal.replay_file.position())
    return as_dataset(rows, episodes.observation)
