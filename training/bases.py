"""The agents that runs start from: new ones, and behaviour-cloned bases to finetune."""

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from agents.base import Agent
from configs.run_folder import read_config
from configs.trust import record_trusted
from envs.bases import PUBLISHED, base_data, base_source, published_base
from training.checkpoints import Checkpoints
from training.cloning import cloning_identity
from training.data import TaskData
from training.keys import keys_of
from training.pretrained import check_base, load_base, published_file
from training.run import BC_FILE, Run
from training.trainer import train_runs
from utils.errors import UserError
from utils.files import expanded, sha256_of
from utils.messages import say, warn
from utils.replay import chunks_per_sequence, transitions_per_sequence


def new_agent(run: Run, data: TaskData) -> Agent:
    """Create an agent for the dimensions of the data.

    Raises UserError if the dataset is shorter than one chunk.
    """
    key = keys_of(run).parameters
    config = run.settings.agent
    needed = transitions_per_sequence(config)
    if data.transitions < needed:
        flag = f"--horizon_length={config.horizon_length}"
        if chunks_per_sequence(config) > 1:
            flag += (
                f" and --agent.lql_points={config.lql_points}: sequences of {needed}"
            )
        raise UserError(f"{flag}: the dataset has only {data.transitions} transitions")
    return run.agent.create(key, *data.dims, config, run.total_updates, run.cloning)


# ---------------------------------------------------------------- --pretrained_actor_path


class PretrainedBase(NamedTuple):
    """The base that --pretrained_actor_path names."""

    params: dict
    record: dict[str, str]
    """Its entry in config.json: its source without a local path, and the sha256 of the file or,
    for a run folder, of the parameters."""
    data: str
    """What it was cloned from; "" if unknown."""
    code: str | None
    """The digest of the code that cloned it; "" for that of agents/bc.py, None if unknown."""

    def describe(self) -> str:
        """Describe its source and data in one line."""
        cloned = f", {self.data}" if self.data else ""
        return f"base: {self.record['source']}{cloned}; bc_steps not run"

    def check_begun(self, folder: Path, stored: dict[str, Any] | None) -> None:
        """Raise UserError if a run folder began with another base.

        stored: the config.json of the folder; None if there is none.
        """
        then = (stored or {}).get("base", self.record)["sha256"]
        now = self.record["sha256"]
        if then != now and any(folder.glob("checkpoints/*")):
            source = self.record["source"]
            sums = f"sha256 {then:.12} then, {now:.12} now"
            raise UserError(
                f"--pretrained_actor_path: {source} is not the base that {folder} began with "
                f"({sums}); bring that one back, or give another --run_group"
            )


def pretrained_base(runs: Sequence[Run], overwrite: bool) -> PretrainedBase | None:
    """Read the base that --pretrained_actor_path names for the seeds of a task; None if unset.

    Raises UserError if it cannot be read, or a resumed run began with another base.

    Args:
        runs: the runs of the seeds.
        overwrite: whether every run starts again.
    """
    flags = runs[0].settings.flags
    path = flags["pretrained_actor_path"]
    if not path:
        return None
    if runs[0].cloning or not runs[0].starts_from_base:
        warn(
            f"--pretrained_actor_path has no effect: {runs[0].agent_name} starts from no base"
        )
        return None
    pretrained = read_pretrained_base(
        path, runs[0].env_name, flags["ogbench_dataset_dir"]
    )
    for run in runs if not overwrite else ():
        pretrained.check_begun(run.folder, read_config(run.folder))
    return pretrained


def read_pretrained_base(path: str, env_name: str, dataset_dir: str) -> PretrainedBase:
    """Read the base at a path; raise UserError if there is none.

    Args:
        path: a file, a run folder, or PUBLISHED, which is downloaded if it is missing.
        env_name: the task.
        dataset_dir: the folder that holds the published bases.
    """
    source = Path(path).name
    data = ""
    if path == PUBLISHED:
        path = str(published_base(env_name, dataset_dir))
        source = base_source(env_name)
        data = base_data(env_name)
    params = load_base(path)
    file = published_file(path)
    checksum = sha256_of(file) if file else sha256_of_tree(params)
    record = {"source": source, "sha256": checksum}
    return PretrainedBase(params, record, data, "" if file else cloning_code_of(path))


def cloning_code_of(folder: str) -> str | None:
    """Return the digest of the code that cloned the base in a run folder; None if unknown."""
    stored = read_config(expanded(folder)) or {}
    if "cloning" in stored:
        return stored["cloning"].get("cloning", "")
    return "" if Path(stored.get("agent_file", "")).name == BC_FILE.name else None


def sha256_of_tree(tree: Any) -> str:
    """Return the SHA-256 of all arrays of a tree, in the order of their names."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


def check_start(run: Run, agent: Agent, pretrained: PretrainedBase | None) -> None:
    """Raise UserError if the agent cannot use the base or the online KL budget.

    Prints a line about the base, and warns if it was cloned by other code than the agent's.

    Args:
        run: the run of a seed.
        agent: its agent.
        pretrained: the base; None without one.
    """
    flags = run.settings.flags
    if flags["kl_budget_online"] is not None:
        agent.with_kl_budget(flags["kl_budget_online"])
    if pretrained:
        where = f"--pretrained_actor_path={flags['pretrained_actor_path']}"
        check_base(pretrained.params, agent.params["base"], where)
        ours = cloning_identity(run.source, run.settings.agent).get("cloning", "")
        if pretrained.code not in (None, ours):
            warn(
                f"{where}: it has the shapes of {run.agent_name}'s base but was cloned by other"
                " code; clone one without this flag if that matters"
            )
        say(pretrained.describe())


# ---------------------------------------------------------------- finetuning


def from_bases(
    runs: Sequence[Run],
    agents: Sequence[Agent],
    data: TaskData,
    pretrained: PretrainedBase | None,
    overwrite: bool,
) -> list[Agent]:
    """Start agents from their bases; bases that do not exist are trained first.

    The agents of runs that resume from a checkpoint are returned unchanged.

    Args:
        runs: the runs of the seeds of a task.
        agents: a new agent for each run.
        data: the dataset, from which bases are cloned.
        pretrained: one base for all seeds; None to train one for each.
        overwrite: whether every run starts again.
    """
    new = list(runs) if overwrite else runs_that_may_start(runs)
    if pretrained:
        bases = {run.seed: pretrained.params for run in new}
    else:
        bases = trained_bases([run for run in new if run.needs_base()], data)
    return [
        agent.with_base(bases[run.seed]) if run.seed in bases else agent
        for run, agent in zip(runs, agents, strict=True)
    ]


def runs_that_may_start(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that may start at step 0.

    Those are the runs without a checkpoint, and beside them those with only the first one,
    which is then dropped (`training.trainer.group_by_step`).
    """
    newest = [run.newest_checkpoint() for run in runs]
    if min(newest) >= 0:
        return []
    first = runs[0].settings.flags["save_interval"]
    return [run for run, step in zip(runs, newest, strict=True) if step <= first]


def trained_bases(runs: Sequence[Run], data: TaskData) -> dict[int, dict]:
    """Return the base of each run by its seed, training those that are missing."""
    pretraining = [run.of_base(data.fingerprint.behaviour) for run in runs]
    with contextlib.ExitStack() as stack:
        # another task of the domain may train the same base now
        for run in pretraining:
            stack.enter_context(run.locked(wait=True))
        missing = [run for run in pretraining if not is_trained(run)]
        if missing:
            record_trusted(missing[0].source)
            agents = [new_agent(run, data) for run in missing]
            found = data.record(data.fingerprint.behaviour)
            train_runs(missing, agents, data.arrays, found, overwrite=False)
        return {run.seed: load_base(run.folder) for run in pretraining}


def is_trained(pretraining: Run) -> bool:
    """Whether a pretraining run has finished and its last checkpoint is readable."""
    checkpoints = Checkpoints(pretraining.folder / "checkpoints")
    last = pretraining.settings.flags["offline_steps"]
    return pretraining.is_done() and checkpoints.holds(last)
