"""Seeds that resume from one step train in one program; one that breaks leaves it."""

import contextlib
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from envs.evaluation import EpisodeFault
from envs.workers import Task, WorkerError
from training import trainer as trainer_module
from training.evaluator import Evaluation, Evaluations
from training.seeds import Seeds
from training.trainer import Trainer, group_by_step
from utils.errors import RunError


def journal(newest, previous, interval, seed=0, **others):
    settings = SimpleNamespace(flags={"save_interval": interval})
    found = {
        "run": SimpleNamespace(settings=settings, seed=seed),
        "newest": lambda: newest,
        "previous": lambda step: previous,
        "unreadable": (),
        "together": set(range(9)),
        "checkpoints": SimpleNamespace(holds=lambda step: True),
    }
    return SimpleNamespace(**found | others)


@pytest.mark.parametrize(
    ("steps", "interval", "groups"),
    [
        ([(12, 8), (12, 8)], 4, [(12, [0, 1])]),
        ([(16, 12), (12, 8), (16, 12)], 4, [(12, [0, 1, 2])]),
        ([(4, -1), (-1, -1)], 4, [(-1, [0, 1])]),
        (
            [(4, -1), (-1, -1)],
            2,
            [(-1, [1]), (4, [0])],
        ),  # more than an interval is lost
    ],
)
def test_a_seed_one_checkpoint_ahead_resumes_with_the_others(steps, interval, groups):
    assert group_by_step([journal(*pair, interval) for pair in steps]) == groups


def test_a_seed_does_not_go_back_to_one_that_had_broken():
    """The other would break at the same update again."""
    ahead = journal(90, 50, 50, seed=0, together={0, 2})
    broken, killed = journal(50, -1, 50, seed=1), journal(50, -1, 50, seed=2)
    assert group_by_step([ahead, broken]) == [(50, [1]), (90, [0])]
    assert group_by_step([ahead, broken, killed]) == [(50, [0, 1, 2])]


@pytest.mark.parametrize(("newest", "previous"), [(50, -1), (100, 50)])
def test_a_seed_does_not_go_back_to_one_that_it_was_not_trained_with(newest, previous):
    """Such as a seed that was added later: the run would lose what it has."""
    alone = journal(newest, previous, 50, seed=0, together={0})
    added = journal(previous, -1, 50, seed=1)
    assert group_by_step([alone, added]) == [(previous, [1]), (newest, [0])]


def test_a_seed_does_not_go_back_to_a_damaged_checkpoint():
    damaged = SimpleNamespace(holds=lambda step: step != 50)
    journals = [journal(100, 50, 50, checkpoints=damaged), journal(50, -1, 50, seed=1)]
    assert group_by_step(journals) == [(50, [1]), (100, [0])]


def test_the_online_budget_is_set_once_when_the_phase_begins(monkeypatch):
    """A fork may have changed it since."""

    class Reached(Exception):
        pass

    def stop(flags, config):
        raise Reached

    monkeypatch.setattr(trainer_module, "first_learning_step", stop)
    flags = {"online_steps": 8, "offline_steps": 4, "kl_budget_online": 1.0}
    budgets = []
    updates = SimpleNamespace(set_kl_budget=budgets.append, config=None)
    for step in (4, 7):
        trainer = SimpleNamespace(
            flags=flags | {"balanced_sampling": False}, step=step, updates=updates
        )
        with pytest.raises(Reached):
            Trainer.online(trainer, {})
    assert budgets == [1.0]


def test_broken_seeds_are_marked_before_an_evaluation_and_a_save_without_the_means():
    trainer, marked = Trainer.__new__(Trainer), []
    trainer.step, trainer.interaction = 8, None
    trainer.flags = {"log_interval": 0, "eval_interval": 8, "save_interval": 8}
    trainer.flags["eval_episodes"] = 0
    trainer.seeds = SimpleNamespace(
        active=[], mark_not_finite=lambda *found: marked.append(found)
    )
    trainer.updates = SimpleNamespace(  # without means
        not_finite=lambda: {0: "a loss is not finite"},
        clock=SimpleNamespace(untimed=contextlib.nullcontext),
        states=list,
    )
    trainer.at_intervals(None, last=False)
    assert marked == 2 * [({0: "a loss is not finite"}, 8)]


def test_a_seed_with_a_damaged_later_checkpoint_does_not_start_again():
    """It was given no base, because it seemed to have passed the first checkpoint."""
    journals = [journal(4, -1, 4, unreadable=[8]), journal(-1, -1, 4)]
    assert group_by_step(journals) == [(-1, [1]), (4, [0])]
    journals = [journal(8, 4, 4, unreadable=[12]), journal(4, -1, 4)]
    assert group_by_step(journals) == [(4, [0, 1])]


def test_an_environment_that_fails_in_an_evaluation_breaks_only_its_seed(printed):
    evaluated, saved = [], []
    journals = [
        SimpleNamespace(
            run=SimpleNamespace(folder=f"run{seed}"),
            checkpoints=SimpleNamespace(last_good=lambda: "there is one"),
            evaluated=lambda *result, seed=seed: evaluated.append((seed, *result)),
        )
        for seed in range(2)
    ]
    seeds = Seeds(journals, Task("walk"))
    evaluations = Evaluations(seeds, SimpleNamespace(concurrent=False))
    trainer = SimpleNamespace(seeds=seeds, evaluations=evaluations, step=8)
    trainer.save = lambda: saved.append(list(evaluations.pending))

    def record(*outcomes):
        for seed, outcome in enumerate(outcomes):
            future = Future()
            evaluations.pending[seed] = Evaluation(4, None, future)
            failed = isinstance(outcome, Exception)
            (future.set_exception if failed else future.set_result)(outcome)
        Trainer.record_evaluations(trainer)

    record(EpisodeFault("reward nan"), "a result")
    assert list(seeds.broken) == [0] and evaluated == [(1, 4, "a result")]
    # the resumed run repeats the evaluation
    assert saved == [[0, 1]] and not evaluations.pending
    line = "reward nan, in the evaluation of step 4 of run0; there is one"
    assert printed().err == f"warning: {line}; the other seeds continue\n"
    with pytest.raises(WorkerError, match="died"):
        record("a result", WorkerError("died"))
    evaluations.pending.clear()
    with pytest.raises(
        RunError, match="reward nan, in the evaluation of step 4 of run1"
    ):
        record("a result", EpisodeFault("reward nan"))
