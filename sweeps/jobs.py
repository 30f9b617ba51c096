"""Jobs: each is a process that trains the seeds of one task.

An interrupted job resumes when its command is started again, on any machine. Engines rely on
that.
"""

import dataclasses
import functools
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from training.run import Run
from utils.command_line import refuse_control_characters
from utils.errors import DamagedFile

INTERRUPTED = (130, 143)  # exit codes after Ctrl-C and SIGTERM
STARTED = re.compile(r"== \d{4}-\d\d-\d\d ")
"""The line of a log with which an attempt begins."""


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """One process that trains the seeds of one task."""

    words: tuple[str, ...]
    """Its command line without the interpreter."""
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """A unique name: the task, the agent, the seeds and the hash of the settings."""
        first = self.runs[0]
        last = self.runs[-1]
        seeds = f"s{first.seed}" if first is last else f"s{first.seed}-{last.seed}"
        folder = first.folder.name.replace(f"s{first.seed}", seeds, 1)
        return f"{first.env_name.replace(':', '_')}_{folder}"

    @property
    def log(self) -> Path:
        """The file with the output of the process."""
        return self.runs[0].folder.parents[1] / "sweep" / f"{self.name}.log"

    @functools.cached_property
    def bases(self) -> tuple[Run, ...]:
        """The pretraining runs of this job's bases; the first job that needs one trains it."""
        return tuple(run.expected_base() for run in self.runs if run.needs_base())

    def has_begun(self) -> bool:
        """Whether its runs have started, so that they need no base any more."""
        return all((run.folder / "config.json").exists() for run in self.runs)

    def is_done(self) -> bool:
        """Whether all its runs have finished."""
        return all(map(is_done, self.runs))

    def failure(self) -> str | None:
        """Return why the last attempt failed, by its log.

        None if it did not fail or still runs, or if a later attempt wrote no log.
        """
        lines = self.lines_of_log()
        code = lines and re.fullmatch(r"== exit code (-?\d+)", lines[-1])
        if not code or int(code[1]) in (0, *INTERRUPTED):
            return None
        begin = max((i for i, x in enumerate(lines) if STARTED.match(x)), default=0)
        attempt = lines[begin:-1]
        said = [line for line in attempt if line.startswith("error: ")] or attempt
        return f"exit code {code[1]}: {said[-1].removeprefix('error: ')}"

    def lines_of_log(self) -> list[str]:
        """Return the lines of the log.

        [] without a log, or if a run folder is newer than it, as when Slurm or a printed
        command ran the job.
        """
        if not self.log.is_file():
            return []
        names = ("config.json", "timing.csv")
        files = [run.folder / name for run in self.runs for name in names]
        written = [file.stat().st_mtime_ns for file in files if file.is_file()]
        if max(written, default=0) > self.log.stat().st_mtime_ns:
            return []
        return self.log.read_text(errors="replace").splitlines()


def is_done(run: Run) -> bool:
    """Whether a run has finished; False for a damaged done.json, which its job reports."""
    try:
        return run.is_done()
    except DamagedFile:
        return False


def finished_runs(jobs: Iterable[Job]) -> list[Run]:
    """Return the runs of jobs that have finished."""
    return [run for job in jobs for run in job.runs if is_done(run)]


def far_apart(jobs: Sequence[Job]) -> list[Job]:
    """Reorder jobs so that those with the same base are far apart.

    Jobs with the same base would otherwise wait for each other. The first job of each
    base comes before all others.
    """
    counts: Counter[tuple[Path, ...]] = Counter()
    positions = {}
    for job in jobs:
        bases = tuple(base.folder for base in job.bases)
        positions[job] = counts[bases]
        counts[bases] += 1
    return sorted(jobs, key=lambda job: (positions[job], not job.bases))


def shell(job: Job, python: str) -> str:
    """Return a job as one line for a shell in the current folder.

    Raises UserError for a control character, which could end the line.
    """
    refuse_control_characters([python, *job.words])
    return shlex.join([python, *job.words])
