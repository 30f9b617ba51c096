"""Tests that the evaluator closes all its workers, whenever it is left."""

import threading

import jax

from agents import bc
from training import evaluator

FLAGS = {"eval_episodes": 1, "eval_workers": 1, "eval_async": True}


def test_workers_that_open_while_it_closes_are_closed_too(monkeypatch):
    """Otherwise nothing would close them, and leaving would wait until the evaluation ends."""
    opening, closing = threading.Event(), threading.Event()

    class SlowWorkers:
        def __init__(self, env_name, workers, make_env):
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
    with evaluator.Evaluator("walk", FLAGS, 1, 1) as evaluations:
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
