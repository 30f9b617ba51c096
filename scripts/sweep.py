"""Many runs: agents x tasks x seeds x any grid of settings.

    python scripts/sweep.py --agents=trqam,qam --env_name=all50 --seeds=8 > jobs.txt
    python scripts/sweep.py --agents=trqam,qam --env_name=all50 --seeds=8 --slurm=table.sbatch
    python scripts/sweep.py --agents=trqam --env_name=scene --grid=agent.kl_budget=0.5,1
    python scripts/sweep.py --agents=trqam,qam --env_name=all50 --seeds=8 --engine=ray
    python scripts/sweep.py --agents=trqam,qam --env_name=all50 --seeds=8 --status
    python scripts/sweep.py --agents=table --env_name=all50 --seeds=12    # all methods

Every other flag is main.py's, for all runs (--run_group=table --offline_steps=500_000).
Finished runs are skipped and unfinished ones resume, whichever engine began them. What a job of
--engine=local or ray prints is in <save_dir>/<run_group>/sweep/; Slurm's is in its slurm-*.out,
and --status calls such a job stopped or missing, not failed. Jobs that train a domain's base
come before the jobs that only use it. The printed lines do not choose a GPU; on four GPUs:

    parallel -j4 'export CUDA_VISIBLE_DEVICES=$(({%} - 1)); eval {}' < jobs.txt
"""

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if __name__ == "__main__":  # before the other imports, which take a second
    from utils.early_signals import end_at_signals

    end_at_signals()

from configs.flags import with_flag_files  # noqa: E402
from sweeps.engines import Engine, Local, Ray, gpus  # noqa: E402
from sweeps.jobs import Job, finished_runs, shell  # noqa: E402
from sweeps.planning import plan_jobs  # noqa: E402
from sweeps.run import run_jobs  # noqa: E402
from sweeps.slurm import slurm_script, write_script  # noqa: E402
from training.stored import check_finished  # noqa: E402
from utils.command_line import (  # noqa: E402
    Parser,
    at_least,
    refuse_control_characters,
    report_error,
    run_program,
)
from utils.errors import RunError, UserError  # noqa: E402
from utils.files import expanded  # noqa: E402
from utils.preemption import Preempted  # noqa: E402

READ_BY = {
    "jobs_per_device": ("local", "ray"),
    "ray_address": ("ray",),
    "retries": ("ray",),
}
"""Engines that read these flags of the sweep."""


def parser() -> Parser:
    """The sweep's own flags."""
    result = Parser(
        prog="sweep.py",
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )

    def count(name: str, default: int | None, text: str, least: int = 1) -> None:
        result.add_argument(
            name, type=at_least(least), default=default, metavar="N", help=text
        )

    result.add_argument(
        "--agents",
        default="trqam",
        metavar="A,B",
        help="names in agents/, paths of agent files, or table: the 19 methods marked"
        " paper in configs/methods.csv",
    )
    result.add_argument(
        "--env_name", default="", metavar="A,B", help="tasks and domains, or all50"
    )
    count("--seeds", 1, "how many seeds")
    count("--first_seed", 0, "the first of them", least=0)
    text = "a setting and its values, KEY=A,B,C; may be given again: every combination is run"
    result.add_argument(
        "--grid", action="append", default=[], metavar="KEY=A,B", help=text
    )
    text = "print: a shell command a line; local: this machine's devices; ray: a Ray cluster"
    result.add_argument(
        "--engine", choices=("print", "local", "ray"), default="print", help=text
    )
    text = (
        "write a Slurm array script instead of printing the commands; exit code 1 if no job"
        " is left"
    )
    result.add_argument("--slurm", metavar="FILE", help=text)
    count(
        "--pack",
        None,
        "seeds per process; unset: all seeds of a task, but one if --engine=local finds no GPU",
    )
    count(
        "--jobs_per_device",
        1,
        "jobs per GPU, or per machine without GPUs",
    )
    result.add_argument(
        "--ray_address",
        default="auto",
        help="of the cluster (auto: RAY_ADDRESS, or the one of this machine)",
    )
    count(
        "--retries",
        3,
        "with ray: how often a job is restarted after its process or machine was lost",
        least=0,
    )
    result.add_argument(
        "--status",
        action="store_true",
        help="count finished, running, stopped, failed and missing runs; estimate the time"
        " left",
    )
    return result


def sweep(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Do what the command line asks for; returns the exit code."""
    refuse_control_characters(argv)
    options, flags = parser().parse_known_args(with_flag_files(argv[1:]))
    check_options(options)
    if options.status:
        from sweeps.status import status_lines

        print("\n".join(status_lines(jobs_as_run(options, flags))))
        return 0
    jobs = plan_jobs(options, flags, options.pack or default_pack(options, environ))
    check_finished(finished_runs(jobs))
    left = [job for job in jobs if not job.is_done()]
    if options.slurm or options.engine != "print":
        check_left(left, jobs, options)
    return start(left, options, argv, environ) if left else 0


def check_options(options: argparse.Namespace) -> None:
    """Raise UserError for flags of the sweep that would change nothing."""
    if options.slurm and (options.engine != "print" or options.status):
        other = "--status" if options.status else f"--engine={options.engine}"
        raise UserError(
            f"--slurm={options.slurm}: Slurm runs the jobs then; leave {other} out"
        )
    for name, engines in READ_BY.items():
        given = getattr(options, name) != parser().get_default(name)
        if given and not options.status and options.engine not in engines:
            raise UserError(
                f"--{name}: only --engine={' or '.join(engines)} reads it; leave it out"
            )


def default_pack(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """How many seeds train in one program: one on this machine's cores, else all."""
    return 1 if options.engine == "local" and not gpus(environ) else options.seeds


def jobs_as_run(options: argparse.Namespace, flags: Sequence[str]) -> list[Job]:
    """The jobs as they were last started: all seeds in one process, or each in its own,
    whichever wrote the newer log.
    """
    packs = [options.pack] if options.pack else [options.seeds, 1]
    return max((plan_jobs(options, flags, pack) for pack in packs), key=newest_log)


def newest_log(jobs: Sequence[Job]) -> int:
    """When the newest log of jobs was written, in ns; 0 without any."""
    logs = [job.log for job in jobs if job.log.is_file()]
    return max((log.stat().st_mtime_ns for log in logs), default=0)


def check_left(
    left: Sequence[Job], jobs: Sequence[Job], options: argparse.Namespace
) -> None:
    """Print what is left to do; raises RunError for a Slurm script of nothing."""
    if options.slurm and not left:
        raise RunError(
            f"--slurm={options.slurm}: nothing is left to submit, all {len(jobs)} jobs have"
            " finished; not written"
        )
    runs = sum(len(job.runs) for job in left)
    others = "; the others have finished" if len(left) < len(jobs) else ""
    print(f"{len(left)} jobs of {len(jobs)}, {runs} runs{others}", flush=True)


def start(
    left: Sequence[Job],
    options: argparse.Namespace,
    argv: Sequence[str],
    environ: Mapping[str, str],
) -> int:
    """Print, write or run the jobs that are left; returns the exit code.

    Args:
        left: the jobs.
        options: the flags of this script.
        argv: its command line, which a Slurm script mentions.
        environ: what the jobs see.
    """
    if options.slurm:
        write_script(expanded(options.slurm), slurm_script(left, argv), len(left))
        return 0
    if options.engine == "print":
        active = shutil.which("python") == sys.executable
        python = "python" if active else sys.executable
        print("\n".join(shell(job, python) for job in left))
        return 0
    print(f"what they print: {left[0].log.parent}/", flush=True)
    engine: Engine
    if options.engine == "local":
        engine = Local(environ, options.jobs_per_device)
    else:
        engine = Ray(
            environ, options.jobs_per_device, options.ray_address, options.retries
        )
    return int(run_jobs(left, engine) > 0)


def main(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Answer mistakes and signals; `environ` is what the jobs see. Returns the exit code."""
    if {"--help", "-help", "-h"} & set(argv):
        print(parser().format_help())
        return 0
    try:
        return sweep(argv, environ)
    except (UserError, RunError, OSError) as error:
        return report_error(error)
    except Preempted as signal:
        print(f"stopped by {signal}; the same command resumes", file=sys.stderr)
        return signal.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    users = dict(os.environ)
    # resolving settings takes no memory on a device that the jobs need
    os.environ["JAX_PLATFORMS"] = "cpu"
    # commands in the bytes that a shell takes
    run_program(lambda: main(sys.argv, users), sys.getfilesystemencoding())
