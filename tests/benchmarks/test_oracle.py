"""The benchmark that compares the update with a straightforward version of it."""

import argparse

import jax
import numpy as np
import pytest

from agents import trqam
from benchmarks import common, oracle
from utils.replay import BatchSpec, Replay


def tiny():
    config = trqam.get_config()
    config.update(actor_hidden_dims=(16, 16), value_hidden_dims=(16, 16), num_qs=2)
    config.update(flow_steps=2, batch_size=8, action_chunking=True)
    return config


@pytest.mark.slow
def test_both_versions_do_the_same_updates():
    """The parameters agree, and the straightforward version does more work."""
    config = tiny()
    replay = Replay.create(common.synthetic(2000))
    batch = replay.sample(jax.random.key(2), BatchSpec(8, 5, 0.995))
    updates = (
        trqam.AGENT.update_with_noise,
        oracle.load_straightforward().update_with_noise,
    )
    ours, straightforward = (
        oracle.Blocks(
            update, trqam.AGENT.create(jax.random.key(0), 83, 5, config), batch, 2
        )
        for update in updates
    )
    assert int(ours.agent.step) == int(straightforward.agent.step) == 2
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        ours.agent.params,
        straightforward.agent.params,
    )
    assert ours.gflop < straightforward.gflop


def test_the_speedup_is_the_ratio_of_the_times(monkeypatch):
    """The times are known: ours alternates between 4 s and 2 s; the other always takes 6 s."""
    times = {"ours": 2.0, "straightforward": 6.0}

    class Blocks:
        def __init__(self, update, agent, batch, updates):
            self.ours = update is trqam.AGENT.update_with_noise
            self.gflop, self.calls = 12.0 if self.ours else 15.0, 0

        def seconds(self):
            self.calls += 1
            return (
                2.0 + 2.0 * (self.calls % 2) if self.ours else times["straightforward"]
            )

    monkeypatch.setattr(oracle, "Blocks", Blocks)
    monkeypatch.setattr(oracle, "peak_product", lambda: lambda: 10.0)
    found = oracle.compare(tiny(), rounds=6, updates=3)
    assert found["speedup"] == 2.0 and found["speedup_95"] == [2.0, 2.0]
    assert found["ours"] == {"gflop": 12.0, "seconds": 3.0, "fraction_of_peak": 0.4}
    assert found["oracle"] == {"gflop": 15.0, "seconds": 6.0, "fraction_of_peak": 0.25}
    assert (found["rounds"], found["updates_per_block"], found["peak_gflops"]) == (
        6,
        3,
        10.0,
    )


def test_the_speedup_and_its_interval_are_printed(monkeypatch, capsys):
    figures = {"gflop": 57.0, "seconds": 0.4, "fraction_of_peak": 0.68}
    found = {
        "ours": figures,
        "oracle": figures,
        "speedup": 1.16,
        "speedup_95": [1.14, 1.18],
    }
    monkeypatch.setattr(oracle, "compare", lambda config, rounds, updates: found)
    assert oracle.run(argparse.Namespace(rounds=6, updates=1)) == found
    assert (
        capsys.readouterr().out.splitlines()[-1]
        == "speedup 1.160, 95 % interval 1.140 to 1.180"
    )
