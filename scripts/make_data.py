"""Collect an offline dataset with OGBench's own scripted oracles, or robomimic's lift.

    python scripts/make_data.py --env_name=scene-play --transitions=1_000_000 --workers=16
    python scripts/make_data.py --env_name=lift-mh-low_dim --demonstrations=200

The file is stored where training looks for it, and `ogbench` can load it. That of lift has
robomimic's layout; a script demonstrates. The same command resumes an interrupted run.
"""

import sys
from pathlib import Path

from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from envs.collect import collect  # noqa: E402
from envs.dataset_files import DATASET_DIRS  # noqa: E402
from envs.tasks import folder_flag  # noqa: E402
from utils.command_line import user_errors_of_flags  # noqa: E402
from utils.errors import UserError  # noqa: E402

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "env_name",
    None,
    "a dataset, domain or task: cube-double-play, puzzle-4x4, lift-mh-low_dim",
)
flags.DEFINE_integer(
    "transitions",
    1_000_000,
    "OGBench: transitions in the training file; the validation file has a tenth",
)
flags.DEFINE_integer("demonstrations", 200, "robomimic: demonstrations in the file")
flags.DEFINE_integer("workers", None, "processes (default: one per core)")
flags.DEFINE_integer("seed", 0, "decides the data, whatever the number of workers")
for name, folder in DATASET_DIRS.items():
    flags.DEFINE_string(name, folder, "folder to write to")
flags.DEFINE_bool("overwrite", False, "replace a dataset that is there already")
flags.mark_flag_as_required("env_name")


def main(_: list[str]) -> None:
    """Collect the data and print the path of the file."""
    path = collect(
        FLAGS.env_name,
        getattr(FLAGS, folder_flag(FLAGS.env_name)),
        FLAGS.transitions,
        workers=FLAGS.workers,
        seed=FLAGS.seed,
        overwrite=FLAGS.overwrite,
        demonstrations=FLAGS.demonstrations,
    )
    print(path)


def _fail(error: Exception) -> None:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def _parse(arguments: list[str]) -> list[str]:
    try:
        with user_errors_of_flags():
            return flags.FLAGS(arguments)
    except UserError as error:
        _fail(error)
        raise


def _run(arguments: list[str]) -> None:
    try:
        main(arguments)
    except UserError as error:
        _fail(error)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    app.run(_run, flags_parser=_parse)
