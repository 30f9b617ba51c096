"""A critic trained on a probe environment learns the known Q."""

import jax
import numpy as np
import pytest

from agents import trqam
from envs.datasets import load_dataset
from envs.ogbench import make_env
from envs.probe import LENGTH, ProbeChain, ProbeReward, write_dataset
from tests.agents.straightforward import q_values
from training.updates import one_update, train_block
from training.windows import Window
from utils.replay import Replay
from utils.sharding import one_seed, stack_seeds


def train_on_probe(folder, module, probe, horizon=1, seed=0, **settings):
    """Train the agent of a module for 1,500 updates on random actions of a probe; return it."""
    name = f"envs.probe:{probe.__name__}-v0"
    dataset = load_dataset(
        name, dataset_path=write_dataset(name, folder / "data.npz", 3000)
    )
    config = module.get_config()
    config.update(
        dict(
            actor_hidden_dims=(32, 32), value_hidden_dims=(64, 64), num_qs=2, flow_steps=4, batch_size=128, tau=0.05,
            discount=0.9, rho=0.0, lr=2e-3, horizon_length=horizon, action_chunking=horizon > 1,
        )
        | settings
    )  # fmt: skip
    agent = module.AGENT.create(jax.random.key(seed), 1, 1, config)
    replay, key = Replay.create(dataset), jax.random.key(seed + 1)
    window = Window.create(
        dict.fromkeys(jax.eval_shape(one_update, agent, replay, key)[1], 0.0)
    )
    agents, windows = stack_seeds([agent], None), stack_seeds([window], None)
    for _ in range(30):
        agents, windows, _ = train_block(
            agents, windows, replay, jax.random.key_data(key)[None], updates=50
        )
    assert (one_seed(windows, 0).broken == -1).all()
    return one_seed(agents, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("probe", "horizon"), [(ProbeReward, 1), (ProbeChain, 1), (ProbeChain, 3)]
)
def test_trqam_learns_the_known_q(tmp_path, probe, horizon):
    agent = train_on_probe(tmp_path, trqam, probe, horizon, kl_budget=0.2)
    rng = np.random.default_rng(0)
    s = (
        rng.uniform(-1, 1, (200, 1))
        if probe is ProbeReward
        else rng.integers(0, LENGTH, (200, 1)) / LENGTH
    )
    a = rng.uniform(-1, 1, (200, agent.flat_action_dim))
    q = np.asarray(
        q_values(agent.params["critic"], s.astype(np.float32), a.astype(np.float32))
    ).mean(axis=0)
    known = probe.q(s, a[:, :1], 0.9)
    assert np.abs(q - known).mean() < 0.05 * (known.max() - known.min())
    assert np.corrcoef(q, known)[0, 1] > 0.98


def test_probes_behave_as_described():
    env = make_env("envs.probe:ProbeReward-v0")
    s, _ = env.reset(seed=3)
    _, reward, terminated, truncated, info = env.step(s)
    assert (reward, terminated, truncated, info["success"]) == (0.0, True, False, 1.0)
    env = make_env("envs.probe:ProbeChain-v0")
    env.reset(seed=0)
    steps = [env.step(np.zeros(1)) for _ in range(LENGTH)]
    assert [step[1] for step in steps] == [-1.0] * (LENGTH - 1) + [0.0]
    assert [step[2] for step in steps] == [False] * (LENGTH - 1) + [True]
