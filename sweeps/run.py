"""Running all jobs of a sweep."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from sweeps.engines import Engine
from sweeps.jobs import Job, is_done
from utils.preemption import deferred, handled, leave_if_asked


def run_jobs(jobs: Sequence[Job], engine: Engine) -> int:
    """Run every job, tell how each ended -> how many failed. None starts where it would only
    wait for a base.

    SIGTERM and Ctrl-C raise Preempted, once all jobs have saved and left.
    """
    waiting, running, failed = list(jobs), list[Job](), 0
    trained: set[Path] = set()  # bases

    def next_job() -> Job | None:
        bases = {
            base.folder: base
            for job in running
            for base in job.bases
            if base.folder not in trained
        }
        trained.update(folder for folder, base in bases.items() if is_done(base))
        training = bases.keys() - trained
        return next(
            (job for job in waiting if training.isdisjoint(base.folder for base in job.bases)),
            None,
        )

    # handled here: Ray, when it started, took the signals for itself
    with handled(), contextlib.ExitStack() as stack:
        stack.callback(engine.stop)
        stack.enter_context(deferred())
        bar = stack.enter_context(tqdm(total=len(jobs), desc="sweep", unit="job", disable=None))
        while waiting or running:
            leave_if_asked()
            while waiting and engine.room() and (job := next_job()):
                waiting.remove(job)
                running.append(job)
                engine.start(job)
            for job, code in engine.ended():
                running.remove(job)
                bar.update(1)
                failed += code != 0
                done = len(jobs) - len(waiting) - len(running)
                how = (
                    "finished"
                    if code == 0
                    else f"FAILED ({job.failure() or f'exit code {code}'})"
                )
                tqdm.write(
                    f"[{done}/{len(jobs)}] {how}: {job.name}"
                    + (f"; log {job.log}" if code else "")
                )
    return failed
