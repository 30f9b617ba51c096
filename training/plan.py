"""From flags to runs."""

from absl.flags import FlagValues

from configs.settings import Settings, resolve
from envs.bases import check_published
from envs.tasks import dataset_name, resolve_env_names
from training.run import Run, bc_only, first_learning_step, starts_from_base
from utils.errors import UserError
from utils.replay import run_length, run_points


def plan(fv: FlagValues) -> list[Run]:
    """The runs that the flags ask for, task after task, the seeds of a task side by side.

    Raises UserError where there is nothing to run, and for settings that no run can start with.
    """
    tasks = tasks_of(fv)
    settings = settings_by_dataset(fv, tasks)
    first = settings[dataset_name(tasks[0])]
    check_published(first.flags["pretrained_actor_path"], settings)
    check_some_steps(first)
    for resolved in settings.values():
        check_online_steps(resolved)
    start, count = first.flags["seed"], first.flags["num_seeds"]
    return [
        Run.of_task(task, seed, settings[dataset_name(task)])
        for task in tasks
        for seed in range(start, start + count)
    ]


def tasks_of(fv: FlagValues) -> list[str]:
    """The tasks that --env_name gives, on the command line or in a preset; raises UserError
    where there is none.
    """
    tasks = resolve_env_names(fv.env_name or resolve(fv, "").flags["env_name"] or "")
    if not tasks:
        raise UserError(
            "--env_name is missing: give a task, a domain such as puzzle-4x4, or all50"
        )
    return tasks


def settings_by_dataset(fv: FlagValues, tasks: list[str]) -> dict[str, Settings]:
    """The settings of each dataset that the tasks need: tasks of one dataset share theirs."""
    settings = {
        dataset: resolve(fv, dataset) for dataset in dict.fromkeys(map(dataset_name, tasks))
    }
    if fv.bc_only:
        return {dataset: bc_only(resolved) for dataset, resolved in settings.items()}
    return settings


def check_some_steps(settings: Settings) -> None:
    """Raise UserError where every phase that the agent has is of 0 steps."""
    flags = settings.flags
    clones = starts_from_base(settings) and flags["bc_steps"]
    if not (clones or flags["offline_steps"] or flags["online_steps"]):
        raise UserError(
            "nothing to do: --bc_steps, --offline_steps and --online_steps are all 0"
        )


def check_online_steps(settings: Settings) -> None:
    """Raise UserError where the online phase ends before its first update."""
    flags, points = settings.flags, run_points(settings.agent)
    horizon, runs = settings.agent.horizon_length, f", --agent.lql_points={points}"
    steps = flags["online_steps"]
    if 0 < steps <= first_learning_step(flags, run_length(settings.agent)):
        raise UserError(
            f"--online_steps={steps}: the online phase would end before its first update"
            f" (--start_training={flags['start_training']}, --horizon_length={horizon}"
            f"{runs * (points > 1)}); give"
            " more steps, a smaller --start_training, or --online_steps=0"
        )
