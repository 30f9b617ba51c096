"""The seeds that train in one program, and which of them are broken."""

from collections.abc import Mapping, Sequence
from typing import Any

from envs.tasks import short_task
from envs.workers import Task
from training.journal import Journal
from training.run import Run
from utils.errors import RunError
from utils.messages import warn


class Seeds:
    """The journals of runs that differ only in their seeds; a seed is an index into them.

    Args:
        journals: the files of each run.
        task: their task.
    """

    def __init__(self, journals: Sequence[Journal], task: Task):
        self.journals = journals
        self.task = task
        self.broken: dict[int, RunError] = {}

    def __len__(self) -> int:
        return len(self.journals)

    @property
    def run(self) -> Run:
        """The first seed's run, for what all seeds share."""
        return self.journals[0].run

    @property
    def flags(self) -> dict[str, Any]:
        """The flags, which all seeds share."""
        return self.run.settings.flags

    @property
    def name(self) -> str:
        """The name of the runs on the progress bar."""
        seeds = [journal.run.seed for journal in self.journals]
        return run_name(self.run.agent_name, self.run.env_name, seeds)

    @property
    def active(self) -> list[tuple[int, Journal]]:
        """The seeds that are not broken, with their indices."""
        return [
            (i, journal)
            for i, journal in enumerate(self.journals)
            if i not in self.broken
        ]

    def mark_broken(self, seed: int, why: str) -> None:
        """Stop training a seed; raise RunError if it was the last one.

        why: the start of the message.
        """
        journal = self.journals[seed]
        self.broken[seed] = RunError(
            f"{why} of {journal.run.folder}; {journal.checkpoints.last_good()}"
        )
        if not self.active:
            raise self.broken[seed]
        warn(f"{self.broken[seed]}; the other seeds continue")

    def mark_not_finite(self, found: Mapping[int, str], step: int) -> None:
        """Mark the seeds as broken that `Updates.not_finite` returned, at a step."""
        for seed, what in found.items():
            if seed not in self.broken:
                self.mark_broken(seed, f"{what}, seen at step {step}")


def run_name(agent: str, env_name: str, seeds: list[int]) -> str:
    """Name the runs of one task for a bar: 'trqam cube-double-play-task2 s0-3'.

    Args:
        agent: the agent's name.
        env_name: the task.
        seeds: the seeds of the runs, in order.
    """
    consecutive = len(seeds) > 1 and seeds == list(range(seeds[0], seeds[-1] + 1))
    which = f"{seeds[0]}-{seeds[-1]}" if consecutive else ",".join(map(str, seeds))
    return f"{agent} {short_task(env_name)} s{which}"
