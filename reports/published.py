"""The published success rates of the papers' tables, configs/published.csv."""

import csv
import dataclasses

from configs.agent_source import ROOT

PUBLISHED = ROOT / "configs" / "published.csv"


@dataclasses.dataclass(frozen=True)
class Published:
    """A published success rate in percent, its standard deviation over seeds, and how it came
    about; None where not stated.
    """

    method: str
    name: str
    """A single task, a domain, or all."""
    phase: str
    step: int
    success: float
    std: float | None
    seeds: int | None
    transitions: int | None
    reward: str | None
    discount: float | None
    source: str


def read_published() -> list[Published]:
    """The figures of configs/published.csv."""

    def number(cell: str) -> float | None:
        return float(cell) if cell else None

    def count(cell: str) -> int | None:
        return int(cell) if cell else None

    with PUBLISHED.open(newline="") as file:
        return [
            Published(
                method=line["method"],
                name=line["name"],
                phase=line["phase"],
                step=int(line["step"]),
                success=float(line["success"]),
                std=number(line["std"]),
                seeds=count(line["seeds"]),
                transitions=count(line["transitions"]),
                reward=line["reward"] or None,
                discount=number(line["discount"]),
                source=line["source"],
            )
            for line in csv.DictReader(file)
        ]
