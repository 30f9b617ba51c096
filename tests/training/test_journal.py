"""Tests the warnings that a run stores and prints while it trains."""

import contextlib
import json
from types import SimpleNamespace

import pytest

from configs.run_folder import read_concerns
from training.journal import Journal
from utils.csv_log import read_csv

AT_BOUND = "lambda is at its upper bound"


class Agent:
    """An agent that has a concern while lambda is 5."""

    cloning = False
    PATIENCE = 2

    def concerns(self, lines):
        return {"lambda_max": AT_BOUND} if lines[-1]["dual/lam"] == 5.0 else {}


@pytest.fixture
def journal(tmp_path):
    flags = {"tags": "", "run_group": "Debug", "logger": "csv", "keep_checkpoints": 1}
    settings = SimpleNamespace(flags=flags)
    run = SimpleNamespace(
        folder=tmp_path,
        name="task/run",
        settings=settings,
        config=dict,
        agent=Agent,
    )
    with contextlib.ExitStack() as stack:
        yield Journal(run, stack, 3, 2)


def test_current_concerns_are_stored_and_each_is_printed_once(
    journal, tmp_path, printed
):
    kept = []
    for step, lam in enumerate([1.0, 5.0, 5.0, 2.0, 5.0]):
        journal.log(step, {"dual/lam": lam}, {}, Agent())
        kept.append(json.loads((tmp_path / "concerns.json").read_text()))
    assert kept == [{}, {"lambda_max": AT_BOUND}, {"lambda_max": AT_BOUND}, {}, kept[1]]
    assert printed().err == f"warning: task/run, step 1: {AT_BOUND}\n"


def test_a_concern_is_stored_as_one_line(journal, tmp_path):
    """Reports refuse a concerns.json with line breaks or empty texts."""
    agent = Agent()
    agent.concerns = lambda lines: {
        "kl": "the path KL is high:\n  lower the step",
        "none": "",
    }
    journal.log(1, {"dual/lam": 1.0}, {}, agent)
    assert read_concerns(tmp_path) == {"kl": "the path KL is high: lower the step"}


def test_an_agent_judges_as_many_lines_as_its_patience(journal):
    judged = []
    agent = Agent()
    agent.concerns = lambda lines: judged.append(lines) or {}
    for step in range(4):
        journal.log(step, {"dual/lam": float(step)}, {}, agent)
    assert [len(lines) for lines in judged] == [1, 2, 2, 2]
    assert judged[-1] == [{"dual/lam": 2.0}, {"dual/lam": 3.0}]


def test_a_behaviour_cloned_base_has_no_concerns(journal, tmp_path, printed):
    journal.log(4, {"dual/lam": 5.0}, {}, SimpleNamespace(cloning=True))
    assert json.loads((tmp_path / "concerns.json").read_text()) == {}
    assert not printed().err


def test_the_time_of_saving_is_counted_in_one_line_alone(journal, tmp_path):
    journal.save_seconds = 2.5
    for step in (1, 2):
        journal.log(step, {"dual/lam": 1.0}, {"updates_per_s": 5.0}, Agent())
    lines = read_csv(tmp_path / "timing.csv")
    assert [line["save_seconds"] for line in lines] == [2.5, 0.0]
    assert [line["updates_per_s"] for line in lines] == [5.0, 5.0]
