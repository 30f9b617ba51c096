"""Baselines share code instead of copying it: a fork should find one place to change."""

import shutil
from collections import defaultdict
from pathlib import Path

AGENTS = Path(__file__).resolve().parents[2] / "agents"
RUN = 4  # lines that make a copy


def repeated_share(folder):
    """The part of all lines that are not blank, imports too, which stand in a run of RUN lines
    of another file as well.
    """
    files = {
        path: [line.strip() for line in path.read_text().splitlines() if line.strip()]
        for path in folder.glob("*.py")
    }
    places = defaultdict(set)
    for path, lines in files.items():
        for i in range(len(lines) - RUN + 1):
            places[tuple(lines[i : i + RUN])].add((path, i))
    copied = [run for run in places.values() if len({path for path, _ in run}) > 1]
    repeated = {(path, i + j) for run in copied for path, i in run for j in range(RUN)}
    return len(repeated) / sum(map(len, files.values()))


def test_at_most_four_percent_of_the_agents_lines_are_repeated(tmp_path):
    share = repeated_share(AGENTS)
    assert share <= 0.04
    shutil.copytree(
        AGENTS, tmp_path / "agents", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(AGENTS / "fql.py", tmp_path / "agents" / "copied.py")
    assert repeated_share(tmp_path / "agents") > 2 * share
