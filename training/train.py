"""The path of a run: data, base, offline updates, online updates, evaluations, logs,
checkpoints.

Steps of a run are offline updates 1..offline_steps and, behind them, online environment steps.
All randomness of the updates follows from (seed, number of the update), so that it does not
depend on how the steps are cut into calls.
"""

import contextlib
import os
from typing import Any

import jax
import numpy as np

from agents.base import Agent
from envs.fingerprint import Fingerprint
from training.checkpoints import Checkpoints
from training.data import (
    about_data,
    data_fingerprint,
    dims_of,
    prepare_data,
    warn_of_little_data,
    warn_of_other_physics,
)
from training.journal import Journal
from training.keys import keys_of
from training.pretrained import GivenBase, check_base, given_base, load_base
from training.run import Run
from training.trainer import Trainer
from utils.errors import RunError, UserError
from utils.files import read_json
from utils.logging import check_backends, say, shown, warn


def report_finished(runs: list[Run], data: Fingerprint | None) -> None:
    """Say which runs have finished already; raises UserError where the data is no longer what
    they were trained on.
    """
    for run in runs:
        if data:
            run.check_data(data.transitions, data.task)
        compared = "" if data else " (its data is not here and was not compared)"
        say(f"finished already: {shown(run.folder)}{compared}")


def train(runs: list[Run], overwrite: bool = False) -> None:
    """Bring the seeds of one task to their ends, each from its newest checkpoint.

    What a user may have to mend is found out first. Raises RunError, once the others are
    finished, for a seed that broke.
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
    """The runs that have finished and those that have not; raises UserError for a folder that
    is another run's.
    """
    if overwrite:
        return [], runs
    for run in runs:
        run.check_folder()
    finished = [run for run in runs if run.is_done()]
    return finished, [run for run in runs if run not in finished]


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


def new_agent(run: Run, dataset: dict[str, np.ndarray]) -> Agent:
    """A fresh agent for the dataset's dimensions."""
    key, *_ = keys_of(run)
    horizon, transitions = run.settings.agent.horizon_length, len(dataset["rows"])
    if transitions < horizon:
        raise UserError(
            f"--horizon_length={horizon}: the dataset has only {transitions} transitions"
        )
    return run.agent.create(key, *dims_of(dataset), run.settings.agent)


def may_begin_anew(run: Run) -> bool:
    """Whether a run has one checkpoint at most, which is given up where another seed has none
    (`standing_together`).
    """
    return run.newest_checkpoint() <= run.settings.flags["save_interval"]


def trained_bases(
    runs: list[Run], dataset: dict[str, np.ndarray], data: Fingerprint
) -> list[dict]:
    """The behaviour-cloned base of each run: a stored one, or one that is trained now."""
    base_runs = [run.of_base(data.behaviour) for run in runs]
    with contextlib.ExitStack() as stack:
        for base_run in base_runs:  # another task of the domain may be training the same base
            stack.enter_context(base_run.locked(wait=True))
        missing = [run for run in base_runs if not is_whole(run)]
        if missing:
            agents = [new_agent(run, dataset) for run in missing]
            finish(
                missing, agents, dataset, about_data(dataset, data.behaviour), overwrite=False
            )
        return [load_base(run.folder) for run in base_runs]


def is_whole(base_run: Run) -> bool:
    """Whether a base has been trained to its end and its last checkpoint is there."""
    checkpoints = Checkpoints(base_run.folder / "checkpoints")
    return base_run.is_done() and checkpoints.holds(base_run.settings.flags["offline_steps"])


def finish(
    runs: list[Run],
    agents: list[Agent],
    dataset: dict[str, np.ndarray],
    found: dict[str, Any],
    overwrite: bool,
) -> None:
    """Train, from the newest checkpoints on, and write each run's config.json, with what was
    `found`, and done.json.
    """
    observation_dim, action_dim = dims_of(dataset)
    device = f"{jax.devices()[0].device_kind} ({os.cpu_count()} CPU cores)"
    for run in runs:
        run.prepare(overwrite, found | {"device": device})
    with contextlib.ExitStack() as stack:
        journals = [Journal(run, stack, observation_dim, action_dim) for run in runs]
        errors = []
        for step, members in standing_together(journals):
            try:
                Trainer(
                    [journals[i] for i in members],
                    [agents[i] for i in members],
                    step,
                    action_dim,
                    stack,
                ).run(dataset)
            except RunError as error:
                errors.append(error)
        if errors:
            raise errors[0]


def standing_together(journals: list[Journal]) -> list[tuple[int, list[int]]]:
    """Which of the runs go on from which step; those of one step are trained in one program.

    A process that is killed between two of its checkpoints leaves one seed a checkpoint ahead
    of another: it goes back to where the other one stands, if that is no more than a save
    interval.
    """
    newest, interval = (
        [journal.newest() for journal in journals],
        journals[0].run.settings.flags["save_interval"],
    )
    groups: dict[int, list[int]] = {}
    for i, step in enumerate(newest):
        previous = journals[i].previous(step)
        near = previous in newest and step - max(0, previous) <= interval
        groups.setdefault(previous if near else step, []).append(i)
    return sorted(groups.items())
