"""Collect an offline dataset: OGBench's with its own oracles, robomimic's lift with a script.

    python scripts/make_data.py --env_name=scene-play --transitions=1_000_000 --workers=16
    python scripts/make_data.py --env_name=lift-mh-low_dim --demonstrations=200

The file is stored where training looks for it. `ogbench` loads its own; that of lift is in
robomimic's layout. The same command resumes an interrupted run.
"""

import sys
from pathlib import Path

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from envs.collect import collect  # noqa: E402
from envs.dataset_files import DATASET_DIRS  # noqa: E402
from envs.tasks import folder_flag, is_robomimic  # noqa: E402
from utils.command_line import (  # noqa: E402
    refuse_words,
    report_error,
    run_program,
    user_errors_of_flags,
)
from utils.errors import RunError, UserError  # noqa: E402


def define() -> flags.FlagValues:
    """Define the flags of this script."""
    fv = flags.FlagValues()
    text = "a dataset, domain or task: cube-double-play, puzzle-4x4, lift-mh-low_dim"
    flags.DEFINE_string("env_name", None, text, flag_values=fv)
    text = "OGBench: transitions in the training file; the validation file has a tenth"
    flags.DEFINE_integer("transitions", 1_000_000, text, flag_values=fv)
    text = "robomimic: demonstrations in the file"
    flags.DEFINE_integer("demonstrations", 200, text, flag_values=fv)
    text = "processes (default: one per core)"
    flags.DEFINE_integer("workers", None, text, flag_values=fv)
    text = "random seed; the data does not depend on the number of workers"
    flags.DEFINE_integer("seed", 0, text, flag_values=fv)
    for name, folder in DATASET_DIRS.items():
        flags.DEFINE_string(name, folder, "folder to write to", flag_values=fv)
    text = "replace a dataset that is there already"
    flags.DEFINE_bool("overwrite", False, text, flag_values=fv)
    flags.mark_flag_as_required("env_name", fv)
    return fv


def refuse_other_amount(fv: flags.FlagValues) -> None:
    """Raise UserError for --demonstrations of OGBench or --transitions of robomimic."""
    unread, read = "demonstrations", "transitions"
    if is_robomimic(fv.env_name):
        unread, read = read, unread
    if fv[unread].present:
        raise UserError(f"--{unread}: {fv.env_name} counts {read}; give --{read}=N")


def main(argv: list[str]) -> int:
    """Collect the data, print the path of the file, and return the exit code."""
    fv = define()
    if {"--help", "-help", "-h"} & set(argv):
        print(__doc__, fv.get_help(), sep="\n")
        return 0
    try:
        with user_errors_of_flags():
            _, *rest = fv(argv)
        refuse_words(rest)
        refuse_other_amount(fv)
        path = collect(
            fv.env_name,
            getattr(fv, folder_flag(fv.env_name)),
            fv.transitions,
            workers=fv.workers,
            seed=fv.seed,
            overwrite=fv.overwrite,
            demonstrations=fv.demonstrations,
        )
    except (UserError, RunError, OSError) as error:
        return report_error(error)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        return 130
    print(path)
    return 0


if __name__ == "__main__":
    run_program(lambda: main(sys.argv))
