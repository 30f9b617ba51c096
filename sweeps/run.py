"""Runs all jobs of a sweep."""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from sweeps.engines import Engine
from sweeps.jobs import Job, is_done
from utils.preemption import deferred, handled, leave_if_asked


def run_jobs(jobs: Sequence[Job], engine: Engine) -> int:
    """Run all jobs, report each result, and return the number of failures.

    A job waits until no other job is training its base. SIGTERM and Ctrl-C raise Preempted
    after all jobs have saved and ended; another SIGTERM changes nothing.
    """
    waiting = list(jobs)
    running = list[Job]()
    failed = 0
    trained: set[Path] = set()  # folders of finished bases

    def next_job() -> Job | None:
        """Return a job whose bases are not being trained now; None if there is none."""
        training = set()
        for base in (base for job in running for base in job.bases):
            if base.folder not in trained and is_done(base):
                trained.add(base.folder)
            if base.folder not in trained:
                training.add(base.folder)
        for job in waiting:
            if training.isdisjoint(base.folder for base in job.bases):
                return job
        return None

    # handled here, because Ray replaces the signal handlers when it starts
    with handled(), contextlib.ExitStack() as stack:
        stack.enter_context(deferred())
        stack.callback(engine.stop)
        bar = stack.enter_context(
            tqdm(total=len(jobs), desc="sweep", unit="job", disable=None)
        )
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
                tqdm.write(f"[{done}/{len(jobs)}] {result(job, code)}")
                sys.stdout.flush()
    return failed


def result(job: Job, code: int) -> str:
    """Describe the result of a job by its exit code."""
    if code == 0:
        return f"finished: {job.name}"
    return f"FAILED ({job.failure() or f'exit code {code}'}): {job.name}; log {job.log}"
