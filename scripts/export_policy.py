"""Write the policy of a run to one file that JAX runs without this project.

    python scripts/export_policy.py RUN_DIR --out=policy.zip
    python scripts/export_policy.py RUN_DIR --out=policy.zip --best

training/export_policy.py describes the file and how long JAX can read it;
examples/run_exported_policy.py runs it.
"""

import os
import sys
from pathlib import Path
from typing import Any

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.command_line import report_error, run_program, user_errors_of_flags  # noqa: E402
from utils.errors import RunError, UserError  # noqa: E402
from utils.files import expanded  # noqa: E402

USAGE = "usage: python scripts/export_policy.py RUN_DIR --out=policy.zip [--best] [--step=N]"


def define() -> flags.FlagValues:
    """Define the flags of this script."""
    fv = flags.FlagValues()
    flags.DEFINE_string("out", None, "the file to write", flag_values=fv)
    text = "the checkpoint that did best in its evaluation, not the newest"
    flags.DEFINE_boolean("best", False, text, flag_values=fv)
    text = "the checkpoint of this step, not the newest"
    flags.DEFINE_integer("step", None, text, lower_bound=0, flag_values=fv)
    flags.DEFINE_boolean("overwrite", False, "replace an existing file", flag_values=fv)
    text = "execute the run folder's Python code though it is not known on this machine"
    flags.DEFINE_boolean("trust", False, text, flag_values=fv)
    return fv


def parse(argv: list[str]) -> tuple[flags.FlagValues, str]:
    """Parse a command line; return the flags and the run folder. Raises UserError."""
    fv = define()
    fv.set_gnu_getopt(True)  # flags may follow the folder
    with user_errors_of_flags():
        _, *folders = fv(argv)
    if len(folders) != 1:
        raise UserError(f"{USAGE}; --help shows all flags")
    if not fv.out:
        raise UserError(
            "--out is missing: give the file to write, such as --out=policy.zip"
        )
    if fv.best and fv.step is not None:
        raise UserError(f"--best and --step={fv.step}: give one of them")
    return fv, folders[0]


def export(fv: flags.FlagValues, run_dir: str) -> int:
    """Write the file and describe it; return the exit code."""
    from training.export_policy import export_policy

    about = export_policy(run_dir, fv.out, fv.step, fv.best, fv.overwrite, fv.trust)
    print(
        "{agent} on {task}, seed {seed}, step {step}".format(**about),
        outcome(about),
        sep=", ",
    )
    print(about["function"])
    print(f"{fv.out}: {expanded(fv.out).stat().st_size / 1e6:.1f} MB")
    return 0


def outcome(about: dict[str, Any]) -> str:
    """Describe the evaluation of the checkpoint."""
    if about["success"] is not None:
        return f"success {about['success']:.1%}"
    if about["return"] is not None:
        return f"mean return {about['return']:.4g} (no success reported)"
    return "not evaluated"


def main(argv: list[str]) -> int:
    """Run the script; print errors as one line. Returns the exit code."""
    if {"--help", "-help", "-h"} & set(argv):
        print(__doc__, define().get_help(), sep="\n")
        return 0
    try:
        return export(*parse(argv))
    except (UserError, RunError, OSError) as error:
        return report_error(error)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    run_program(lambda: main(sys.argv))
