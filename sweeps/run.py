"""Runs all jobs of a sweep."""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from sweeps.engines import GRACE_SECONDS, Engine
from sweeps.jobs import Job, is_done
from training.run import Run
from utils.preemption import deferred, handled, leave_if_asked


class Queue:
    """The jobs of a sweep; a job waits while another one trains its base."""

    def __init__(self, jobs: Sequence[Job]):
        self.waiting = list(jobs)
        self.running: list[Job] = []
        # a base's folder is a search on the disk, so it is looked up once
        self._bases = {job: {base.folder: base for base in job.bases} for job in jobs}
        self._trained: set[Path] = set()
        """Folders of finished bases."""

    def take(self) -> Job | None:
        """Return a job that may start, which then counts as running; None if there is none."""
        starting = [job for job in self.running if not job.has_begun()]
        in_training = {
            folder
            for job in starting
            for folder, base in self._bases[job].items()
            if not self._is_trained(folder, base)
        }
        for job in self.waiting:
            if not (self._bases[job].keys() & in_training) or job.has_begun():
                self.waiting.remove(job)
                self.running.append(job)
                return job
        return None

    def _is_trained(self, folder: Path, base: Run) -> bool:
        if folder not in self._trained and is_done(base):
            self._trained.add(folder)
        return folder in self._trained


def run_jobs(jobs: Sequence[Job], engine: Engine) -> int:
    """Run all jobs, report each result, and return the number of failures.

    A job waits until no other job is training its base. SIGTERM and Ctrl-C raise Preempted
    after all jobs have saved and ended; another SIGTERM changes nothing.
    """
    queue = Queue(jobs)
    failed = 0
    # handled here, because Ray replaces the signal handlers when it starts; the sweep outlives
    # the jobs that it stops
    with handled(GRACE_SECONDS + 15), contextlib.ExitStack() as stack:
        stack.enter_context(deferred())
        stack.callback(engine.stop)
        bar = stack.enter_context(
            tqdm(total=len(jobs), desc="sweep", unit="job", disable=None)
        )
        while queue.waiting or queue.running:
            leave_if_asked()
            while queue.waiting and engine.room() and (job := queue.take()):
                engine.start(job)
            for job, code in engine.ended():
                queue.running.remove(job)
                bar.update(1)
                failed += code != 0
                done = len(jobs) - len(queue.waiting) - len(queue.running)
                tqdm.write(f"[{done}/{len(jobs)}] {result(job, code)}")
                sys.stdout.flush()
    return failed


def result(job: Job, code: int) -> str:
    """Describe the result of a job by its exit code."""
    if code == 0:
        return f"finished: {job.name}"
    return f"FAILED ({job.failure() or f'exit code {code}'}): {job.name}; log {job.log}"
