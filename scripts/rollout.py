"""Run a trained policy: seeded episodes, one line each, and optionally a film.

    python scripts/rollout.py exp/Debug/scene-play-singletask-task1-v0/trqam_s0_44136fa3
    python scripts/rollout.py RUN_DIR --episodes=50 --best --video=out.mp4 --video_episodes=3

With the run's own seed, the default, these are the episodes of its evaluations. The value is
the critic's estimate of the discounted return at the start. After training with --sparse it is
of rewards 0 and -1, while the returns are the environment's own.

The Python code in the run folder is executed. It needs --trust unless it equals files of this
checkout or was trained on this machine: trust only runs of people whom you trust.
"""

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":  # before the other imports, which take a second in all
    from utils.early_signals import end_at_signals

    end_at_signals()

from absl import flags  # noqa: E402

from configs.flags import LAST_SEED  # noqa: E402
from utils.command_line import (  # noqa: E402
    refuse_control_characters,
    report_error,
    run_program,
    user_errors_of_flags,
)
from utils.errors import RunError, UserError  # noqa: E402
from utils.files import expanded  # noqa: E402
from utils.preemption import Preempted, handled  # noqa: E402

if TYPE_CHECKING:
    import numpy as np

    from envs.evaluation import EvalResult

ENDINGS = (".mp4", ".gif")


def define() -> flags.FlagValues:
    """Define the flags of this script."""
    fv = flags.FlagValues()
    flags.DEFINE_integer(
        "episodes", 10, "how many episodes", lower_bound=1, flag_values=fv
    )
    flags.DEFINE_integer(
        "seed",
        None,
        "of the episodes; the run's own unless given",
        lower_bound=0,
        upper_bound=LAST_SEED,
        flag_values=fv,
    )
    doc = "the best checkpoint by its evaluation (success, then return), not the newest"
    flags.DEFINE_boolean("best", False, doc, flag_values=fv)
    doc = "execute the run folder's Python code though it is not known on this machine"
    flags.DEFINE_boolean("trust", False, doc, flag_values=fv)
    flags.DEFINE_string(
        "env_name",
        None,
        "another task of the same world, or a task for a base",
        flag_values=fv,
    )
    flags.DEFINE_integer(
        "eval_workers",
        0,
        "environment processes; 0: one per core, at most 8",
        lower_bound=0,
        flag_values=fv,
    )
    flags.DEFINE_string("video", None, "film to this .mp4 or .gif", flag_values=fv)
    flags.DEFINE_integer(
        "video_episodes",
        3,
        "how many of the episodes are filmed",
        lower_bound=1,
        flag_values=fv,
    )
    flags.DEFINE_integer(
        "video_frame_skip",
        3,
        "environment steps per frame",
        lower_bound=1,
        flag_values=fv,
    )
    return fv


def parse(argv: list[str]) -> tuple[flags.FlagValues, str]:
    """Parse a command line; return the flags and the run folder. Raises UserError."""
    refuse_control_characters(argv)
    fv = define()
    fv.set_gnu_getopt(True)  # flags may follow the folder
    with user_errors_of_flags():
        _, *places = fv(argv)
    if len(places) != 1:
        raise UserError(
            "usage: python scripts/rollout.py RUN_DIR [--episodes=N] [--video=out.mp4]; --help"
            " shows all flags"
        )
    if fv.video and Path(fv.video).suffix not in ENDINGS:
        raise UserError(
            f"--video={fv.video}: the name has to end in {' or '.join(ENDINGS)}"
        )
    for name in ("video_episodes", "video_frame_skip"):
        if fv[name].present and not fv.video:
            raise UserError(
                f"--{name}={fv[name].value}: it is of a film; give --video=out.mp4 too"
            )
    return fv, places[0]


def task_of(stored: dict[str, Any], env_name: str | None) -> str:
    """Return the task to run.

    Raises UserError for a base without --env_name, and for a task of another world.

    stored: the run's config.json; env_name: the value of --env_name.
    """
    from envs.tasks import (
        is_single_task,
        is_user_env,
        resolve_alias,
        resolve_env_name,
        world_name,
    )

    trained = stored["flags"]["env_name"]
    if env_name is None and is_single_task(trained):
        return resolve_alias(trained)
    if env_name is None:
        raise UserError(
            f"--env_name is missing: this is a base of {trained}; give one of its tasks"
        )
    task, *others = resolve_env_name(env_name)
    if others:
        raise UserError(f"--env_name={env_name}: give one task, such as {task}")
    worlds = [
        name if is_user_env(name) else world_name(name) for name in (task, trained)
    ]
    if worlds[0] != worlds[1]:
        raise UserError(
            f"--env_name={env_name}: the run is of {worlds[1]}; give a task of that world"
        )
    return task


def rollout(fv: flags.FlagValues, run_dir: str) -> int:
    """Run the episodes, print and film them; return the exit code."""
    import numpy as np

    from envs.evaluation import evaluate
    from envs.video import film
    from envs.workers import EnvWorkers, Task, default_workers
    from training.acting import evaluation_policy, evaluation_values
    from training.policy import load_run, stored_precision
    from utils.messages import say

    agent, stored, _ = load_run(run_dir, best=fv.best, trust=fv.trust)
    task = Task.of(task_of(stored, fv.env_name), stored)
    seed = stored["flags"]["seed"] if fv.seed is None else fv.seed
    policy = evaluation_policy(agent)
    values = evaluation_values(agent)
    expected = np.full(fv.episodes, np.nan)

    def watched(observations: np.ndarray, ids: np.ndarray) -> np.ndarray:
        actions = policy.act(observations, ids)
        if values:
            slots = np.arange(len(ids))
            # chunk 0, in slots that have an episode
            starts = slots[(ids[:, 2] == 0) & (ids[:, 1] % len(ids) == slots)]
            expected[ids[starts, 1]] = values(observations, actions)[starts]
        return actions

    agent_name = Path(stored["agent_file"]).stem
    say(
        f"{agent_name} after {int(agent.step)} updates on {task.env_name}, seed {seed}:"
        f" {fv.episodes} episodes"
    )
    processes = fv.eval_workers or default_workers(fv.episodes)
    with (
        handled(),
        stored_precision(stored),
        EnvWorkers(task, workers=processes) as workers,
    ):
        result = evaluate(
            policy._replace(act=watched),
            workers,
            fv.episodes,
            seed,
            discount=agent.config.discount,
        )
    print_episodes(result, expected, stored["flags"].get("sparse", False))
    if not fv.video:
        return 0
    with handled(), stored_precision(stored):
        filmed = film(
            task,
            policy,
            expanded(fv.video),
            min(fv.episodes, fv.video_episodes),
            seed,
            fv.video_frame_skip,
            caption=task.env_name.removesuffix("-v0"),
            values=values,
        )
    print(filmed or "no film")
    return 0 if filmed else 1


def print_episodes(result: "EvalResult", expected: "np.ndarray", sparse: bool) -> None:
    """Print a line for each episode and one for all.

    Args:
        result: the episodes.
        expected: [E] the critic's values; NaN without a critic.
        sparse: whether the critic was trained with --sparse.
    """
    print("episode  success  steps    return  discounted     value")
    discounted_returns = result.discounted_returns
    columns = (
        result.successes,
        result.lengths,
        result.returns,
        discounted_returns,
        expected,
    )
    outcomes = zip(*columns, strict=True)
    for episode, (success, steps, total, discounted, value) in enumerate(outcomes):
        word = "yes" if success > 0 else "no" if success == 0 else "-"
        value_text = "" if math.isnan(value) else f"  {value:8.2f}"
        figures = f"{steps:5d}  {total:8.2f}  {discounted:10.2f}{value_text}"
        print(f"{episode:7d}  {word:>7}  {figures}")
    print(f"{result.describe(digits=1)} of {len(result.lengths)} episodes")
    any_step = result.successes_any.mean()
    if result.success is not None and any_step > result.success:
        print(
            f"success {any_step:.1%} counting every step of an episode, not only the last"
        )
    if sparse and not math.isnan(expected[0]):
        print(
            "the run was trained with --sparse: the value is of rewards 0 and -1, the returns"
            " are the environment's own"
        )


def main(argv: list[str]) -> int:
    """Run the script; print errors as one line. Returns the exit code."""
    if {"--help", "-help", "-h"} & set(argv):
        print(__doc__, define().get_help(), sep="\n")
        return 0
    try:
        return rollout(*parse(argv))
    except (UserError, RunError, OSError) as error:
        return report_error(error)
    except Preempted as signal:
        print(f"stopped by {signal}", file=sys.stderr)
        return signal.exit_code


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    run_program(lambda: main(sys.argv))
