"""The agents that runs start from: new ones, and behaviour-cloned bases to finetune."""

import contextlib
from collections.abc import Sequence

from agents.base import Agent
from configs.trust import record_trusted
from training.checkpoints import Checkpoints
from training.data import TaskData
from training.keys import keys_of
from training.pretrained import PretrainedBase, load_base
from training.run import Run
from training.trainer import train_runs
from utils.errors import UserError
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
