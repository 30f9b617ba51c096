"""The path of the seeds of one task, from the data to done.json.

The steps of a run are offline updates 1..offline_steps and, after them, online environment
steps. All randomness of the updates follows from the seed and the number of the update, so it
does not depend on how the steps are cut into calls.
"""

import contextlib
from collections.abc import Sequence

from configs.trust import note
from envs.fingerprint import Fingerprint
from training.bases import check_start, from_bases, given_base, new_agent
from training.data import data_fingerprint, task_data, warn_of_data
from training.run import Run
from training.stored import check_data, check_folder
from training.trainer import finish
from utils.logging import check_backends, say, shown
from utils.spawned import check_program


def train(wanted: Sequence[Run], overwrite: bool = False) -> None:
    """Finish the runs of one task, which differ in their seeds alone, each from its newest
    checkpoint on.

    What a user may have to mend is found out before anything is trained: it raises UserError.
    Raises RunError, once the other seeds are finished, for a seed that broke.
    """
    flags = wanted[0].settings.flags
    check_backends(flags["logger"].split(","))
    if flags["eval_episodes"]:
        check_program()
    runs = unfinished(wanted, overwrite)
    finished = [run for run in wanted if run not in runs]
    if not runs:
        return report_finished(finished, data_fingerprint(finished[0]))
    note(runs[0].source)
    given = given_base(runs, overwrite)
    data = task_data(runs[0])
    report_finished(finished, data.fingerprint)
    agents = [new_agent(run, data) for run in runs]
    check_start(runs[0], agents[0], given)
    warn_of_data(runs[0], data)
    agents = from_bases(runs, agents, data, given, overwrite)
    found = data.record(data.fingerprint.task) | ({"base": given.record} if given else {})
    with contextlib.ExitStack() as stack:
        for run in runs:
            stack.enter_context(run.locked())
        finish(runs, agents, data.arrays, found, overwrite)


def unfinished(runs: Sequence[Run], overwrite: bool) -> list[Run]:
    """The runs that have not finished: with `overwrite`, all of them.

    Raises UserError for a folder that cannot be written or is another run's.
    """
    if overwrite:
        return list(runs)
    for run in runs:
        check_folder(run)
    return [run for run in runs if not run.is_done()]


def report_finished(runs: Sequence[Run], data: Fingerprint | None) -> None:
    """Say which runs have finished already; raises UserError where the data is no longer what
    they were trained on.

    data: None where its files are gone.
    """
    for run in runs:
        if data:
            check_data(run, data.transitions, data.task)
        compared = "" if data else " (its data is not here and was not compared)"
        say(f"finished already: {shown(run.folder)}{compared}")
