"""Turns command-line flags into runs."""

from absl.flags import FlagValues

from configs.settings import Settings, resolve
from envs.bases import check_published
from envs.dataset_files import needs_data
from envs.tasks import dataset_name, is_user_env, resolve_env_names
from training.run import Run, bc_only, first_learning_step, starts_from_base
from utils.errors import UserError
from utils.messages import note
from utils.replay import chunks_per_sequence

ONLINE = ("kl_budget_online", "utd_ratio", "balanced_sampling")
"""Flags of the online phase besides its lengths."""


def plan(fv: FlagValues) -> list[Run]:
    """Return the runs that the flags describe, ordered by task and then by seed.

    Raises UserError if there is nothing to run, or for settings that no run can use.
    """
    tasks = tasks_of(fv)
    settings = settings_by_dataset(fv, tasks)
    first = settings[dataset_name(tasks[0])]
    check_data_given(first, tasks)
    check_published(first.flags["pretrained_actor_path"], settings)
    check_some_steps(first)
    note_no_online(fv, first)
    for resolved in settings.values():
        check_online_steps(resolved)
        check_balanced(resolved)
    start = first.flags["seed"]
    count = first.flags["num_seeds"]
    return [
        Run.of_task(task, seed, settings[dataset_name(task)])
        for task in tasks
        for seed in range(start, start + count)
    ]


def tasks_of(fv: FlagValues) -> list[str]:
    """Return the tasks of --env_name, from the command line or a preset.

    Raises UserError if there is none.
    """
    tasks = resolve_env_names(fv.env_name or resolve(fv, "").flags["env_name"] or "")
    if not tasks:
        raise UserError(
            "--env_name is missing: give a task, a domain such as puzzle-4x4, or all50"
        )
    return tasks


def settings_by_dataset(fv: FlagValues, tasks: list[str]) -> dict[str, Settings]:
    """Resolve the settings of each dataset that the tasks use."""
    settings = {
        dataset: resolve(fv, dataset)
        for dataset in dict.fromkeys(map(dataset_name, tasks))
    }
    if fv.bc_only:
        note_bc_only(fv)
        return {dataset: bc_only(resolved) for dataset, resolved in settings.items()}
    return settings


def note_bc_only(fv: FlagValues) -> None:
    """Name the flags that have no effect with --bc_only."""
    for name in ("bc_steps", "online_steps"):
        if fv[name].present and fv[name].value:
            note(
                f"--{name} has no effect with --bc_only, which trains for"
                " --offline_steps updates"
            )


def note_no_online(fv: FlagValues, settings: Settings) -> None:
    """Name the flags that have no effect without an online phase."""
    for name in ONLINE:
        if fv[name].present and not settings.flags["online_steps"]:
            note(f"--{name} has no effect without an online phase: --online_steps is 0")


def check_data_given(settings: Settings, tasks: list[str]) -> None:
    """Raise UserError if a user's environment has no --dataset."""
    for task in tasks:
        if is_user_env(task) and not settings.flags["dataset"]:
            raise needs_data(task)


def check_some_steps(settings: Settings) -> None:
    """Raise UserError if all phases of the agent have 0 steps."""
    flags = settings.flags
    clones = starts_from_base(settings) and flags["bc_steps"]
    if not (clones or flags["offline_steps"] or flags["online_steps"]):
        raise UserError(
            "nothing to do: --bc_steps, --offline_steps and --online_steps are all 0"
        )


def check_online_steps(settings: Settings) -> None:
    """Raise UserError if the online phase ends before its first update."""
    flags = settings.flags
    horizon = settings.agent.horizon_length
    points = chunks_per_sequence(settings.agent)
    sequences = f", --agent.lql_points={points}" if points > 1 else ""
    steps = flags["online_steps"]
    if 0 < steps <= first_learning_step(flags, settings.agent):
        raise UserError(
            f"--online_steps={steps}: the online phase would end before its first update"
            f" (--start_training={flags['start_training']}, --horizon_length={horizon}"
            f"{sequences}); give"
            " more steps, a smaller --start_training, or --online_steps=0"
        )


def check_balanced(settings: Settings) -> None:
    """Raise UserError if the online half of a batch would be empty."""
    points = chunks_per_sequence(settings.agent)
    size = settings.agent.batch_size
    if settings.flags["balanced_sampling"] and size < 2 * points:
        sequences = (
            f" in sequences of --agent.lql_points={points}" if points > 1 else ""
        )
        raise UserError(
            f"--balanced_sampling: --agent.batch_size={size}{sequences} has no two halves; give"
            f" {2 * points} or more"
        )
