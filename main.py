"""Train agents on OGBench tasks.

    python main.py --env_name=puzzle-4x4 --agent=agents/trqam.py        # the five tasks of a domain
    python main.py --env_name=all50 --agent=agents/qam.py --num_seeds=8  # the table
    python main.py --env_name=scene,cube-double --num_seeds=2            # two domains
    python main.py --env_name=puzzle-4x4 --preset=smoke                  # everything once, on tiny networks
    python main.py --env_name=scene-play-singletask-task1-v0 --dry_run   # what would run, with which settings

Settings: agent defaults < the domain's (configs/domains.py) < --preset < the command line. A run lives in
<save_dir>/<run_group>/<env_name>/<agent>_s<seed>_<hash>; started again it goes on, and a finished one is skipped.
"""

import itertools
import os
import sys

from utils.errors import RunError, UserError
from utils.preemption import Preempted, handled


def plan(fv) -> list:
    """The runs that the flags ask for, in order; raises UserError where there is nothing to run."""
    from configs.settings import resolve
    from envs.bases import check_published
    from envs.tasks import dataset_name, resolve_env_names
    from utils.runs import Run, bc_only

    tasks = resolve_env_names(fv.env_name or resolve(fv, "").flags["env_name"] or "")
    if not tasks:
        raise UserError("--env_name is missing: give a task, a domain such as puzzle-4x4, or all50")
    settings = {dataset: resolve(fv, dataset) for dataset in dict.fromkeys(map(dataset_name, tasks))}
    if fv.bc_only:
        settings = {dataset: bc_only(resolved) for dataset, resolved in settings.items()}
    one = next(iter(settings.values()))
    agent, flags = one.source.module.AGENT, one.flags
    check_published(flags["pretrained_actor_path"], settings)
    for resolved in settings.values():
        agent.init_state(resolved.agent)  # raises UserError for settings that the agent cannot start with
    if not (agent.STARTS_FROM_BASE and flags["bc_steps"] or flags["offline_steps"] or flags["online_steps"]):
        raise UserError("nothing to do: --bc_steps, --offline_steps and --online_steps are all 0")
    return [
        Run.of_task(task, seed, settings[dataset_name(task)])
        for task in tasks
        for seed in range(flags["seed"], flags["seed"] + flags["num_seeds"])
    ]


def main(argv: list[str]) -> int:
    """Parse, plan, and train one run after the other; returns the exit code."""
    try:
        with handled():
            return run_all(argv)
    except Preempted as signal:
        print(f"stopped by {signal}; the same command goes on", file=sys.stderr)
        return signal.exit_code


def run_all(argv: list[str]) -> int:
    """What `main` does, but for signals."""
    debug = "--debug" in argv
    try:
        from configs.flags import define_flags, parse_flags
        from configs.screen import listing

        if {"--help", "-help", "-h"} & set(argv):
            print(__doc__, define_flags(argv).get_help(), sep="\n")
            return 0
        fv = parse_flags(argv)
        runs = plan(fv)
        print(listing(runs, everything=fv.dry_run), flush=True)
        if not fv.dry_run:
            from utils.training import configure_jax, train

            configure_jax(runs[0].settings.flags)
            seeds_of_tasks = itertools.groupby(runs, key=lambda run: run.env_name)
            return max(train_one(train, list(seeds), fv) for _, seeds in seeds_of_tasks)
    except UserError as error:
        if debug:
            raise
        print("error:", str(error).partition("\n")[0], file=sys.stderr)
        return 2
    return 0


def train_one(train, runs: list, fv) -> int:
    """Train the seeds of one task; where they cannot go on, say so and return 1, so that the tasks behind have their turn."""
    try:
        train(runs, fv.overwrite)
    except (RunError, OSError) as error:
        if fv.debug:
            raise
        folder = runs[0].folder if len(runs) == 1 else runs[0].folder.parent
        place = f" ({folder}: what is stored there is whole)" if isinstance(error, OSError) else ""
        print("error:", str(error).partition("\n")[0] + place, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        code = main(sys.argv)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough; what is still to be flushed goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141  # as a shell calls SIGPIPE
    sys.exit(code)
