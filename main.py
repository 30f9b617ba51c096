"""Train agents on OGBench tasks.

    python main.py --env_name=puzzle-4x4 --agent=agents/trqam.py    # the five tasks of a domain
    python main.py --env_name=all50 --agent=agents/qam.py --num_seeds=8  # the table
    python main.py --env_name=scene,cube-double --num_seeds=2            # two domains
    python main.py --env_name=puzzle-4x4 --preset=smoke      # everything once, on tiny networks
    python main.py --env_name=scene-play-singletask-task1-v0 --dry_run  # only show the settings

Settings: the agent's defaults < the domain's (configs/domains.py) < what a fork changes <
--preset < the command line. A run lives in
<save_dir>/<run_group>/<env_name>/<agent>_s<seed>_<hash>; started again it resumes, and a
finished one is skipped.
"""

import itertools
import os
import sys
from typing import TYPE_CHECKING

from utils.errors import RunError, UserError
from utils.preemption import Preempted, handled

if TYPE_CHECKING:  # main.py is imported by every worker process: it stays light
    from absl.flags import FlagValues

    from training.run import Run


def main(argv: list[str]) -> int:
    """Parse, plan, and train one run after the other; returns the exit code."""
    try:
        with handled():
            return run_all(argv)
    except Preempted as signal:
        print(f"stopped by {signal}; the same command goes on", file=sys.stderr)
        return signal.exit_code


def run_all(argv: list[str]) -> int:
    """Body of `main`, which adds signal handling."""
    debug = "--debug" in argv
    try:
        from configs.flags import help_text, parse_flags
        from configs.screen import listing
        from training.plan import plan

        if {"--help", "-help", "-h"} & set(argv):
            print(__doc__, help_text(argv), sep="\n")
            return 0
        fv = parse_flags(argv)
        runs = plan(fv)
        print(listing(runs, everything=fv.dry_run), flush=True)
        if not fv.dry_run:
            from training.updates import configure_jax

            configure_jax(runs[0].settings.flags)
            seeds_of_tasks = itertools.groupby(runs, key=lambda run: run.env_name)
            return max(train_task(list(seeds), fv) for _, seeds in seeds_of_tasks)
    except UserError as error:
        if debug:
            raise
        print("error:", str(error).partition("\n")[0], file=sys.stderr)
        return 2
    return 0


def train_task(runs: "list[Run]", fv: "FlagValues") -> int:
    """Train the seeds of one task; returns 1, with a line of error, where they cannot continue,
    so that the next task has its turn.
    """
    from training.train import train

    try:
        train(runs, fv.overwrite)
    except (RunError, OSError) as error:
        if fv.debug:
            raise
        folder = runs[0].folder if len(runs) == 1 else runs[0].folder.parent
        there = all((run.folder / "config.json").exists() for run in runs)
        intact = there and isinstance(error, OSError)
        place = f" ({folder}: what is stored there is whole)" if intact else ""
        print("error:", str(error).partition("\n")[0] + place, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        code = main(sys.argv)
        sys.stdout.flush()
    except (
        BrokenPipeError
    ):  # `| head` has seen enough; what is still to be flushed goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141  # as a shell calls SIGPIPE
    sys.exit(code)
