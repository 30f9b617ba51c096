"""Everything on a laptop: collect data, clone behaviour, train TRQAM, film it, print a table.

    make quickstart SEED=1 ARGS="--eval_episodes=100"

Runs `main.py --preset=quickstart` with the same flags, then writes learning_curve.png and
summary.json to the run folder and prints their paths. Started again, it resumes an interrupted
run, or only shows the result.
"""

import sys
import time
from pathlib import Path
from typing import Any

START = time.perf_counter()
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import main as program  # noqa: E402  (worker processes import it too, so it must not import jax)
from utils.files import read_json, write_json  # noqa: E402


def read_logs(run) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read the lines of eval.csv and of train.csv."""
    from utils.csv_log import read_csv

    return read_csv(run.folder / "eval.csv"), read_csv(run.folder / "train.csv")


def summarise(run, seconds: float, command: list[str]) -> dict[str, Any]:
    """Return the figures of a run for summary.json.

    The path KL is the mean over the last tenth of the updates, lambda the last logged value.

    Args:
        run: the run.
        seconds: the duration of the program.
        command: the command line.
    """
    evaluations, logs = read_logs(run)
    config = read_json(run.folder / "config.json") or {}
    last = [line for line in logs if line["step"] > 0.9 * logs[-1]["step"]]
    return {
        "env_name": run.env_name,
        "seed": run.seed,
        "transitions": config["dataset"]["transitions"],
        "episodes": evaluations[-1]["episodes"],
        "success_bc": evaluations[0]["success"],
        "success_trqam": evaluations[-1]["success"],
        "path_kl": sum(line["dual/path_kl"] for line in last) / len(last),
        "kl_budget": run.settings.agent.kl_budget,
        "lambda": run.settings.agent.lam_scale * logs[-1]["dual/lam"],
        "seconds_after_install": seconds,
        "command": " ".join(["python", *command]),
        **{name: config[name] for name in ("device", "versions", "commit")},
    }


def draw(run, path: Path) -> None:
    """Plot success, path KL with its budget, and lambda over the updates into an image."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    evaluations, logs = read_logs(run)
    steps = [line["step"] for line in logs]
    figure, (success, kl, lam) = pyplot.subplots(
        1, 3, figsize=(12, 3.2), layout="constrained"
    )
    success.plot(
        [line["step"] for line in evaluations],
        [100 * line["success"] for line in evaluations],
        marker="o",
    )
    success.set(title="success (%)", ylim=(0, 100))
    kl.plot(steps, [line["dual/path_kl"] for line in logs], label="path KL")
    kl.plot(steps, [line["dual/kl_budget"] for line in logs], "k--", label="budget")
    kl.set(title="path KL to the base (nats per action)", ylim=(0, None))
    kl.legend()
    lam_scale = run.settings.agent.lam_scale
    lam.plot(steps, [lam_scale * line["dual/lam"] for line in logs])
    lam.set(title=r"$\lambda$", ylim=(0, None))
    for axes in (success, kl, lam):
        axes.set_xlabel("updates (0: behaviour cloning)")
    figure.suptitle(run.name)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def show(run, summary: dict) -> None:
    """Print the table and the paths of the files."""
    bc = f"{summary['success_bc']:6.0%}"
    trqam = f"{summary['success_trqam']:6.0%}"
    path_kl = f"{summary['path_kl']:7.3f}"
    budget = f"{summary['kl_budget']:.3g}"
    lam = f"{summary['lambda']:8.3f}"
    print(f"""
{run.env_name}, seed {run.seed}: {summary["transitions"]:,} transitions, evaluated on
{summary["episodes"]} episodes

            success   path KL / budget   lambda
  BC        {bc}
  TRQAM     {trqam}    {path_kl} / {budget}    {lam}

{summary["seconds_after_install"]:.0f} s after the installation; the files are""")
    for name in ("summary.json", "learning_curve.png", "train.csv", "eval.csv"):
        print(f"  {run.folder / name}")
    for path in sorted((run.folder / "videos").glob("*.mp4")):
        print(f"  {path}")


def main(argv: list[str]) -> int:
    """Train, then summarise every run; return the exit code."""
    if {"--help", "-help", "-h"} & set(argv):
        print(f"{__doc__}\nFlags: python main.py --help. Defaults: configs/presets.py.")
        return 0
    from configs.flags import parse_flags
    from training.plan import plan
    from utils.errors import UserError

    arguments = [argv[0], "--preset=quickstart", *argv[1:]]
    try:
        fv = parse_flags(arguments)
        runs = plan(fv)
    except UserError:
        return program.main(arguments)  # prints the error
    if not compares(runs[0]):
        message = (
            "error: quickstart clones, trains with a KL budget and evaluates, on OGBench:"
            " --bc_steps, --offline_steps, --eval_episodes must not be 0; else use main.py"
        )
        print(message, file=sys.stderr)
        return 2
    finished = [run.is_done() for run in runs]
    code = program.main(arguments)
    if code or fv.dry_run:
        return code
    for run, shown_again in zip(runs, finished, strict=True):
        present(run, shown_again, argv)
    return 0


def compares(run) -> bool:
    """Whether a run clones, trains with a KL budget and evaluates, on a task of OGBench."""
    from envs.tasks import is_ogbench

    flags = run.settings.flags
    phases = flags["eval_episodes"] and flags["offline_steps"] and flags["bc_steps"]
    return bool(
        phases and "kl_budget" in run.settings.agent and is_ogbench(run.env_name)
    )


def present(run, shown_again: bool, command: list[str]) -> None:
    """Summarise, plot and print a finished run.

    Args:
        run: the run.
        shown_again: whether it had finished before; then its recorded duration is kept.
        command: the command line.
    """
    path = run.folder / "summary.json"
    earlier = (read_json(path) if shown_again else None) or {}
    seconds = earlier.get("seconds_after_install", time.perf_counter() - START)
    summary = summarise(run, seconds, command)
    draw(run, run.folder / "learning_curve.png")
    write_json(path, summary)
    show(run, summary)


if __name__ == "__main__":
    from utils.command_line import run_program

    run_program(lambda: main(sys.argv))
