"""Agents share code instead of copying it, so that a fork has one place to change."""

import shutil
from collections import defaultdict
from pathlib import Path

AGENTS = Path(__file__).resolve().parents[2] / "agents"
COPIED_LINES = 4  # so many equal lines in two files are a copy


def repeated_share(folder):
    """Return the share of lines that belong to a copy of lines of another file.

    Blank lines do not count, imports do.
    """
    files = {
        path: [line.strip() for line in path.read_text().splitlines() if line.strip()]
        for path in folder.glob("*.py")
    }
    places = defaultdict(set)
    for path, lines in files.items():
        for i in range(len(lines) - COPIED_LINES + 1):
            places[tuple(lines[i : i + COPIED_LINES])].add((path, i))
    copied = [
        found for found in places.values() if len({path for path, _ in found}) > 1
    ]
    repeated = {
        (path, i + j)
        for found in copied
        for path, i in found
        for j in range(COPIED_LINES)
    }
    return len(repeated) / sum(map(len, files.values()))


def test_at_most_four_percent_of_the_agents_lines_are_repeated(tmp_path):
    share = repeated_share(AGENTS)
    assert share <= 0.04
    shutil.copytree(
        AGENTS, tmp_path / "agents", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(AGENTS / "fql.py", tmp_path / "agents" / "copied.py")
    assert repeated_share(tmp_path / "agents") > 2 * share
