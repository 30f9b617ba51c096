"""Train agents on OGBench, robomimic or an environment of your own.

    python main.py --env_name=puzzle-4x4 --agent=agents/trqam.py    # the five tasks of a domain
    python main.py --env_name=all50 --agent=agents/qam.py --num_seeds=8  # the 50 tasks
    python main.py --env_name=scene,cube-double --num_seeds=2            # two domains
    python main.py --env_name=puzzle-4x4 --preset=smoke      # everything once, on tiny networks
    python main.py --env_name=scene-play-singletask-task1-v0 --dry_run  # only show the settings

Settings: the agent's defaults < the domain's (configs/domains.py) < what a fork changes <
--preset < the command line. A run is stored in
<save_dir>/<run_group>/<env_name>/<agent>_s<seed>_<hash>. The same command resumes unfinished
runs and skips finished ones.
"""

# first, so that signals are handled during the other imports
if __name__ == "__main__":
    from utils.early_signals import end_at_signals

    end_at_signals()

import itertools
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # every worker process imports main.py, so it imports little
    from absl.flags import FlagValues

    from training.run import Run


def check_folders() -> None:
    """Raise ImportError if another module shadows one of this project's folders."""
    here = Path(__file__).resolve().parent
    for name in ("utils", "configs", "envs", "agents", "training"):
        found = getattr(find_spec(name), "origin", None)
        if not found or Path(found).resolve().parent != here / name:
            raise ImportError(
                f"{found or f'no {name}/'} is found in place of {here / name}/: rename it, or"
                f" put {here} before its folder in sys.path"
            )


check_folders()

from utils.errors import UserError, one_line  # noqa: E402
from utils.main_guard import leave_if_unguarded  # noqa: E402
from utils.preemption import Preempted, handled, leave_if_asked  # noqa: E402


def main(argv: list[str]) -> int:
    """Train all runs that a command line describes, task by task; return the exit code.

    It may be called from another program, and in any thread.
    """
    leave_if_unguarded()
    try:
        return run_all(argv)
    except Preempted as signal:
        words = {"--overwrite", "-overwrite", "--overwrite=true"} & set(argv)
        how = "resumes"
        if words:
            how = "without --overwrite resumes this task; later tasks keep the runs they have"
        print(f"stopped by {signal}; the same command {how}", file=sys.stderr)
        return signal.exit_code


def run_all(argv: list[str]) -> int:
    """Body of `main`, which adds signal handling."""
    debug = bool({"--debug", "--debug=true"} & set(argv))
    try:
        from configs.flags import help_text, parse_flags
        from configs.settings_text import listing
        from training.plan import plan

        if {"--help", "-help", "-h"} & set(argv):
            print(__doc__, help_text(argv), sep="\n")
            return 0
        fv = parse_flags(argv)
        debug = fv.debug
        runs = plan(fv)
        print(listing(runs, everything=fv.dry_run), flush=True)
        if not fv.dry_run:
            from training.updates import configure_jax

            configure_jax(runs[0].settings.flags)
            return train_tasks(runs, fv)
    except UserError as error:
        if debug:
            raise
        print("error:", one_line(error), file=sys.stderr)
        return 2
    return 0


def train_tasks(runs: "list[Run]", fv: "FlagValues") -> int:
    """Train runs task by task; return the highest exit code."""
    codes: list[int] = []
    for _, seeds in itertools.groupby(runs, key=lambda run: run.env_name):
        codes.append(train_task(list(seeds), fv, first=not codes))
    return max(codes)


def train_task(runs: "list[Run]", fv: "FlagValues", first: bool) -> int:
    """Train the seeds of one task; return the exit code.

    Prints a failure and returns 1, or 2 for a UserError, so that the next task can be trained.
    Raises the UserError of the first task, which is probably one of every task.

    Args:
        runs: the runs of the seeds.
        fv: the flags.
        first: whether it is the first task.
    """
    # imported before signals raise exceptions
    from training.train import failure, train

    code = 0
    try:
        with handled():
            train(runs, fv.overwrite)
    except Exception as error:
        mistake = isinstance(error, UserError)
        text = failure(error, runs)
        if fv.debug or text is None or (mistake and first):
            raise
        print("error:", text, file=sys.stderr)
        code = 2 if mistake else 1
    leave_if_asked()  # a signal that came with the error, or after the last save
    return code


if __name__ == "__main__":
    from utils.command_line import run_program

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    run_program(lambda: main(sys.argv))
