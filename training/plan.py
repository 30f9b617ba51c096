"""From flags to runs."""

from utils.errors import UserError


def plan(fv) -> list:
    """The runs that the flags ask for, in order; raises UserError where there is nothing to
    run.
    """
    from configs.settings import resolve
    from envs.bases import check_published
    from envs.tasks import dataset_name, resolve_env_names
    from training.run import Run, bc_only

    tasks = resolve_env_names(fv.env_name or resolve(fv, "").flags["env_name"] or "")
    if not tasks:
        raise UserError(
            "--env_name is missing: give a task, a domain such as puzzle-4x4, or all50"
        )
    settings = {
        dataset: resolve(fv, dataset) for dataset in dict.fromkeys(map(dataset_name, tasks))
    }
    if fv.bc_only:
        settings = {dataset: bc_only(resolved) for dataset, resolved in settings.items()}
    one = next(iter(settings.values()))
    agent, flags = one.source.module.AGENT, one.flags
    check_published(flags["pretrained_actor_path"], settings)
    for resolved in settings.values():
        # raises UserError for settings that the agent cannot start with
        agent.init_state(resolved.agent)
    if not (
        agent.STARTS_FROM_BASE
        and flags["bc_steps"]
        or flags["offline_steps"]
        or flags["online_steps"]
    ):
        raise UserError(
            "nothing to do: --bc_steps, --offline_steps and --online_steps are all 0"
        )
    return [
        Run.of_task(task, seed, settings[dataset_name(task)])
        for task in tasks
        for seed in range(flags["seed"], flags["seed"] + flags["num_seeds"])
    ]
