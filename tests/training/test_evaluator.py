"""Tests that the evaluator closes all its workers, whenever it is left."""

import contextlib
import threading
from concurrent.futures import Future
from types import SimpleNamespace

import jax

from agents import bc
from envs.workers import Task
from training import evaluator

FLAGS = {"eval_episodes": 1, "eval_workers": 1, "eval_async": True}


def test_workers_that_open_while_it_closes_are_closed_too(monkeypatch):
    """Otherwise nothing would close them, and leaving would wait until the evaluation ends."""
    opening, closing = threading.Event(), threading.Event()

    class SlowWorkers:
        def __init__(self, task, workers):
            self.closed = False
            opening.set()
            assert closing.wait(30)

        def close(self):
            self.closed = True

    monkeypatch.setattr(evaluator, "EnvWorkers", SlowWorkers)
    monkeypatch.setattr(
        evaluator, "evaluate", lambda policy, workers, *_, **__: workers.closed
    )
    config = bc.get_config()
    config.update(actor_hidden_dims=(4,), batch_size=2)
    with evaluator.Evaluator(Task("walk"), FLAGS, 1) as evaluations:
        shutdown = evaluations._executor.shutdown
        # When the evaluator is left, it waits for the threads last.
        monkeypatch.setattr(
            evaluations._executor,
            "shutdown",
            lambda **how: (how or closing.set(), shutdown(**how)),
        )
        begun = evaluations.start(
            0, bc.AGENT.create(jax.random.key(0), 3, 1, config), seed=0
        )
        assert opening.wait(30)
    assert begun.future.result() is True


def test_an_evaluation_has_the_seed_of_its_run(monkeypatch):
    """Seed 7 is the first of its program."""
    monkeypatch.setattr(
        evaluator, "EnvWorkers", lambda *_, **__: contextlib.nullcontext()
    )
    monkeypatch.setattr(
        evaluator, "evaluate", lambda policy, workers, episodes, seed, *_, **__: seed
    )
    config = bc.get_config()
    config.update(actor_hidden_dims=(4,), batch_size=2)
    agent = bc.AGENT.create(jax.random.key(0), 3, 1, config)
    run = SimpleNamespace(seed=7)
    journal = SimpleNamespace(run=run, evaluating=None)
    seeds = SimpleNamespace(journals=[journal])
    flags = FLAGS | {"eval_async": False}
    begun = evaluator.Evaluator(Task("walk"), flags, 1)
    evaluations = evaluator.Evaluations(seeds, begun)
    evaluations.start(0, 4, agent)
    assert evaluations.pending[0].future.result() == 7
    assert journal.evaluating == evaluations.pending[0].step == 4


def test_as_many_seeds_are_evaluated_at_once_as_have_eight_cores_each(monkeypatch):
    """An evaluation uses at most eight processes, whatever --eval_workers is."""
    monkeypatch.setattr(evaluator, "cores", lambda: 64)
    for workers in (1, 16):
        begun = evaluator.Evaluator(Task("walk"), FLAGS | {"eval_workers": workers}, 9)
        assert begun._executor._max_workers == 8


def test_waiting_for_an_evaluation_that_has_no_bar_prints_a_line_a_minute(monkeypatch):
    monkeypatch.setattr(evaluator, "SECONDS_PER_LINE", 0.01)
    future = Future()
    said = []

    def say(text):
        said.append(text)
        if len(said) == 2:
            future.set_result(None)

    monkeypatch.setattr(evaluator, "say", say)
    journal = SimpleNamespace(run=SimpleNamespace(name="trqam walk seed 3"))
    evaluations = evaluator.Evaluations(
        SimpleNamespace(journals=[journal]), SimpleNamespace(concurrent=True)
    )
    evaluations.pending[0] = evaluator.Evaluation(8, None, future)
    evaluations.wait(0)
    assert said == ["trqam walk seed 3: still evaluating step 8"] * 2
