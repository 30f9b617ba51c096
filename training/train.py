"""Trains the seeds of one task, from the data to done.json.

The steps of a run are the offline updates 1..offline_steps, followed by the online environment
steps. The randomness of an update depends only on the seed and the number of the update, not on
how many updates one compiled call makes.
"""

import contextlib
import os
from collections.abc import Sequence

from jax.errors import JaxRuntimeError

from configs.trust import record_trusted
from envs.fingerprint import Fingerprint
from training.agent_check import check_agent
from training.bases import from_bases, new_agent
from training.data import check_chunks, data_fingerprint, task_data, warn_of_data
from training.pretrained import check_start, pretrained_base
from training.run import Run
from training.stored import check_data, check_folder
from training.trainer import train_runs
from utils.errors import RunError, UserError, one_line
from utils.logging import check_backends
from utils.main_guard import check_program
from utils.messages import say, short_path


def train(wanted: Sequence[Run], overwrite: bool = False) -> None:
    """Finish the runs of one task that differ only in their seeds, from their checkpoints on.

    Checks the user's input before any training, and raises UserError. If a seed breaks, its
    RunError is raised after the other seeds have finished.

    Args:
        wanted: the runs.
        overwrite: whether every run starts again.
    """
    flags = wanted[0].settings.flags
    check_backends(flags["logger"].split(","))
    if flags["eval_episodes"]:
        check_program()
    runs = unfinished(wanted, overwrite)
    finished = [run for run in wanted if run not in runs]
    if not runs:
        return report_finished(finished, data_fingerprint(finished[0]))
    record_trusted(runs[0].source)
    pretrained = pretrained_base(runs, overwrite)
    data = task_data(runs[0])
    report_finished(finished, data.fingerprint)
    agents = [new_agent(run, data) for run in runs]
    check_chunks(runs[0], data)
    check_agent(runs[0], agents[0], data)
    check_start(runs[0], agents[0], data, pretrained)
    warn_of_data(runs[0], data)
    found = data.record(data.fingerprint.task) | (
        {"base": pretrained.record} if pretrained else {}
    )
    with contextlib.ExitStack() as stack:
        for run in runs:
            stack.enter_context(run.locked())
        agents = from_bases(runs, agents, data, pretrained, overwrite)
        train_runs(runs, agents, data.arrays, found, overwrite)


def unfinished(runs: Sequence[Run], overwrite: bool) -> list[Run]:
    """Return the runs that have not finished, or all of them with `overwrite`.

    Raises UserError if a folder cannot be written or holds another run.
    """
    if overwrite:
        return list(runs)
    for run in runs:
        check_folder(run)
    return [run for run in runs if not run.is_done()]


def report_finished(runs: Sequence[Run], data: Fingerprint | None) -> None:
    """Print which runs have finished already; raise UserError if their data has changed.

    data: the fingerprint of the data; None if its files are missing.
    """
    for run in runs:
        if data:
            check_data(run, data.transitions, data.task)
        compared = "" if data else " (its data is not here and was not compared)"
        say(f"finished already: {short_path(run.folder)}{compared}")


def failure(error: Exception, runs: Sequence[Run]) -> str | None:
    """Return the line about an error that ended a task; None for an unexpected one."""
    folder = runs[0].folder if len(runs) == 1 else runs[0].folder.parent
    begun = all(os.path.exists(run.folder / "config.json") for run in runs)
    intact = f" (checkpoints in {folder} are intact)" if begun else ""
    reason = one_line(error) or type(error).__name__
    match error:
        case BrokenPipeError():  # the reader of the output has ended
            return None
        case OSError():
            return reason + intact
        case RunError() | UserError():
            return reason
        case JaxRuntimeError() if "RESOURCE_EXHAUSTED" not in reason:
            return None
        case JaxRuntimeError() | MemoryError():
            return (
                f"out of memory ({reason}): give a smaller --num_seeds, --online_steps or"
                f" --agent.batch_size, or --device_data_gb=0{intact}"
            )
    return None
