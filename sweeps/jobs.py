"""Jobs, each a process that trains the seeds of one task, and the engines that run many of
them: this machine, and Ray.

A job that ended in the middle, wherever it ran, goes on when its command is given again; the
engines rest on that.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from training.run import Run
from utils.errors import DamagedFile

INTERRUPTED = (130, 143)  # exit codes after Ctrl-C and SIGTERM


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """One process: `words` are its command line behind the interpreter, `runs` the seeds of one
    task that it trains.
    """

    words: tuple[str, ...]
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """The task, the agent and the seeds; with the hash of what was set, no two jobs of a
        sweep have one name.
        """
        first, last = self.runs[0], self.runs[-1]
        seeds = f"s{first.seed}" if first is last else f"s{first.seed}-{last.seed}"
        folder = first.folder.name.replace(f"s{first.seed}", seeds, 1)
        return f"{first.env_name.replace(':', '_')}_{folder}"

    @property
    def log(self) -> Path:
        """The file of what the process prints."""
        return self.runs[0].folder.parents[1] / "sweep" / f"{self.name}.log"

    @functools.cached_property
    def bases(self) -> tuple[Run, ...]:
        """The runs of behaviour cloning that the first job to need them trains, while others
        that do wait for them.
        """
        return tuple(run.expected_base() for run in self.runs if run.needs_base())

    def is_done(self) -> bool:
        """Whether all its runs have finished."""
        return all(map(is_done, self.runs))

    def failure(self) -> str | None:
        """Why the last attempt failed, as its log tells; None where none has, or where it is
        going on.
        """
        lines = self.log.read_text(errors="replace").splitlines() if self.log.is_file() else []
        code = lines and re.fullmatch(r"== exit code (-?\d+)", lines[-1])
        if not code or int(code[1]) in (0, *INTERRUPTED):
            return None
        said = [line for line in lines[:-1] if line.startswith("error: ")] or lines[-2:-1]
        return f"exit code {code[1]}: {said[-1].removeprefix('error: ')}"


def is_done(run: Run) -> bool:
    """Whether a run has finished. One with a damaged done.json has not: its own process says
    what to do about it, and the other jobs go on.
    """
    try:
        return run.is_done()
    except DamagedFile:
        return False


def far_apart(jobs: Sequence[Job]) -> list[Job]:
    """The jobs in another order: those that would train the same base at the same time stand
    far from each other.
    """
    counts: dict[tuple[Path, ...], Iterator[int]] = {}
    places = [
        next(counts.setdefault(tuple(b.folder for b in job.bases), itertools.count()))
        for job in jobs
    ]
    return [job for _, job in sorted(zip(places, jobs, strict=True), key=lambda pair: pair[0])]
