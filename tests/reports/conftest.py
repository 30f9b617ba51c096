"""Fixtures: reports that several tests read."""

import numpy as np
import pytest

from envs.tasks import ALL_TASKS
from tests.reports.helpers import CUBE, LEVELS, ROOT, SCENE, VisibleTable, make_report
from tests.synthetic_runs import write_run, write_table


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """Write runs of 50 tasks x 8 seeds x 3 methods. Returns their folder, their success
    [methods, tasks, seeds] and the report.
    """
    folder = tmp_path_factory.mktemp("table")
    final = write_table(folder, list(ALL_TASKS), 8, LEVELS, evaluations=4, logs=40)
    return folder, final, make_report(folder)


@pytest.fixture(scope="session")
def study():
    return VisibleTable(make_report(ROOT / "results" / "study"))


@pytest.fixture(scope="session")
def crowd(tmp_path_factory):
    """Report on 17 methods with long settings, on three tasks of two domains, in both phases."""
    folder = tmp_path_factory.mktemp("crowd")
    rng = np.random.default_rng(0)
    for i in range(17):
        given = {
            "agent.mode": f"{'a_long_word_' * 12}{i}",
            "agent.kl_budget": 0.1 * 2.0**i,
        }
        kl = [(100_000 * k, 0.1 * 2.0**i * (1 + 1 / k), 1.0 + i) for k in range(1, 16)]
        for task in (CUBE.format(1), CUBE.format(2), SCENE.format(1)):
            for seed in range(2):
                rates = rng.uniform(size=16)
                success = dict(zip(range(0, 1_600_000, 100_000), rates, strict=True))
                settings = {"given": given, "hashed": f"{i}", "online_steps": 500_000}
                write_run(folder, task, seed, success, kl=kl, **settings)
    return VisibleTable(make_report(folder))
