"""What runs start from: new agents, and the behaviour-cloned bases that are finetuned."""

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from agents.base import Agent
from configs.run_folder import read_config
from envs.bases import PUBLISHED, base_data, base_source, published_base
from training.checkpoints import Checkpoints
from training.data import TaskData
from training.keys import keys_of
from training.pretrained import check_base, load_base, published_file
from training.run import Run
from training.trainer import finish
from utils.errors import UserError
from utils.files import sha256_of
from utils.logging import say, warn
from utils.replay import run_length, run_points


def new_agent(run: Run, data: TaskData) -> Agent:
    """A new agent for the dimensions of the data; raises UserError where that is shorter than
    one chunk.
    """
    key, config = keys_of(run).parameters, run.settings.agent
    horizon, points, needed = config.horizon_length, run_points(config), run_length(config)
    if data.transitions < needed:
        runs = f"--agent.lql_points={points}, runs of {needed} transitions with "
        raise UserError(
            f"{runs * (points > 1)}--horizon_length={horizon}: the dataset has only"
            f" {data.transitions} transitions"
        )
    return run.agent.create(key, *data.dims, config, run.total_updates, run.cloning)


# ---------------------------------------------------------------- a base that the user gives


class GivenBase(NamedTuple):
    """The base that --pretrained_actor_path gives a run."""

    params: dict
    record: dict[str, str]
    """What config.json keeps of it: its source without a place, and the sha256 of the file or,
    for a run folder, of the parameters."""
    data: str
    """What it was cloned from; "" where only its maker knows."""

    def describe(self) -> str:
        """One line: where it is from, what it was cloned from, and what is not done for it."""
        cloned = f", {self.data}" if self.data else ""
        return f"base: {self.record['source']}{cloned}; bc_steps not run"

    def check_begun(self, folder: Path, stored: dict[str, Any] | None) -> None:
        """Raise UserError if a run began with another base; `stored` is its config.json."""
        then, now = (stored or {}).get("base", self.record)["sha256"], self.record["sha256"]
        if then != now and any(folder.glob("checkpoints/*")):
            source, sums = self.record["source"], f"sha256 {then:.12} then, {now:.12} now"
            raise UserError(
                f"--pretrained_actor_path: {source} is not the base that {folder} began with "
                f"({sums}); bring that one back, or give another --run_group"
            )


def given_base(runs: Sequence[Run], overwrite: bool) -> GivenBase | None:
    """The base that --pretrained_actor_path gives the seeds of a task; None without one.

    Raises UserError if it cannot be had, or is not what a run that resumes began with.
    """
    flags = runs[0].settings.flags
    path = flags["pretrained_actor_path"]
    if not path:
        return None
    if runs[0].cloning or not runs[0].starts_from_base:
        warn(f"--pretrained_actor_path has no effect: {runs[0].agent_name} starts from no base")
        return None
    given = read_given_base(path, runs[0].env_name, flags["ogbench_dataset_dir"])
    for run in runs if not overwrite else ():
        given.check_begun(run.folder, read_config(run.folder))
    return given


def read_given_base(path: str, env_name: str, dataset_dir: str) -> GivenBase:
    """The base at a path; the published one is fetched if missing. Raises UserError where there
    is none.
    """
    source, data = Path(path).name, ""
    if path == PUBLISHED:
        path = str(published_base(env_name, dataset_dir))
        source, data = base_source(env_name), base_data(env_name)
    params, file = load_base(path), published_file(path)
    checksum = sha256_of(file) if file else sha256_of_tree(params)
    return GivenBase(params, {"source": source, "sha256": checksum}, data)


def sha256_of_tree(tree: Any) -> str:
    """The checksum of the bytes of all arrays of a tree, in the order of their names."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


def check_start(run: Run, agent: Agent, given: GivenBase | None) -> None:
    """Raise UserError for a base or an online KL budget that the agent cannot take; say which
    base is given.
    """
    flags = run.settings.flags
    if flags["kl_budget_online"] is not None:
        agent.with_kl_budget(flags["kl_budget_online"])
    if given:
        where = f"--pretrained_actor_path={flags['pretrained_actor_path']}"
        check_base(given.params, agent.params["base"], where)
        say(given.describe())


# ---------------------------------------------------------------- starting from bases


def from_bases(
    runs: Sequence[Run],
    agents: Sequence[Agent],
    data: TaskData,
    given: GivenBase | None,
    overwrite: bool,
) -> list[Agent]:
    """The agents, those of runs that may begin now started from their bases: the one that is
    given, or their own, which are trained first where they are missing.

    Args:
        runs, agents: of the seeds of a task.
        data: what the bases are cloned from.
        given: the base of all seeds; None to train one for each.
        overwrite: whether every run begins again.
    """
    new = [run for run in runs if overwrite or may_begin_anew(run)]
    if given:
        bases = {run.seed: given.params for run in new}
    else:
        bases = trained_bases([run for run in new if run.needs_base()], data)
    return [
        agent.with_base(bases[run.seed]) if run.seed in bases else agent
        for run, agent in zip(runs, agents, strict=True)
    ]


def may_begin_anew(run: Run) -> bool:
    """Whether a run has one checkpoint at most, which is given up where another seed has none
    (`training.trainer.group_by_step`).
    """
    return run.newest_checkpoint() <= run.settings.flags["save_interval"]


def trained_bases(runs: Sequence[Run], data: TaskData) -> dict[int, dict]:
    """The base of each run, by its seed: of a pretraining run that has finished or is finished
    now.
    """
    pretraining = [run.of_base(data.fingerprint.behaviour) for run in runs]
    with contextlib.ExitStack() as stack:
        for run in pretraining:  # another task of the domain may be training the same base
            stack.enter_context(run.locked(wait=True))
        missing = [run for run in pretraining if not is_trained(run)]
        if missing:
            agents = [new_agent(run, data) for run in missing]
            found = data.record(data.fingerprint.behaviour)
            finish(missing, agents, data.arrays, found, overwrite=False)
        return {run.seed: load_base(run.folder) for run in pretraining}


def is_trained(pretraining: Run) -> bool:
    """Whether a pretraining run has finished and its last checkpoint is there."""
    checkpoints = Checkpoints(pretraining.folder / "checkpoints")
    last = pretraining.settings.flags["offline_steps"]
    return pretraining.is_done() and checkpoints.holds(last)
