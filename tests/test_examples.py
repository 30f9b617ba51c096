"""The files in examples/ do what the README says about them."""

import importlib
import subprocess
import sys
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import main as program
from configs.agent_file import load_source
from envs.probe import ProbeReward
from tests.agents.test_optimum import distance_from_optimum
from tests.agents.tiny_agents import A, B, H, random_batch
from tests.envs.test_probe import train_on_probe
from utils.csv_log import read_csv

ROOT = Path(__file__).resolve().parents[1]
TD3_BC = str(ROOT / "examples" / "td3_bc.py")


def python(*words: str) -> str:
    """Run a command in the project's root; return what it prints, on one line."""
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return " ".join((done.stdout + done.stderr).split())


def test_the_example_of_an_environment_can_be_made_from_its_specification():
    """As Minari's DataCollector does."""
    importlib.import_module("examples.own_environment")
    specification = gymnasium.spec("Reach-v0").to_json()
    again = gymnasium.envs.registration.EnvSpec.from_json(specification)
    assert gymnasium.make(again).reset(seed=0)[0].shape == (2,)


@pytest.mark.ci
def test_the_example_of_a_users_environment_and_data_trains(tmp_path):
    python("examples/own_environment.py", str(tmp_path / "reach.npz"))
    output = python(
        "main.py", "--env_name=examples.own_environment:Reach-v0", f"--dataset={tmp_path}/reach.npz", "--preset=smoke",
        f"--save_dir={tmp_path}/exp",
    )  # fmt: skip
    assert (
        "22,611 transitions in 1,000 trajectories, layout flat (it holds next_observations,"
        " truncations)" in output
    )
    assert (
        "left out" not in output
        and "warning" not in output
        and "cube-double" not in output
        and "TRQAM paper" not in output
    )
    (log,) = tmp_path.glob(
        "exp/smoke/examples.own_environment_Reach-v0/trqam_s0_*/eval.csv"
    )
    assert {row["step"] for row in read_csv(log)} >= {0, 20, 60} and all(
        "success" in row for row in read_csv(log)
    )


def test_the_guide_quotes_the_reader_of_an_exported_policy():
    reader = (
        (ROOT / "examples" / "run_exported_policy.py")
        .read_text()
        .partition('"""\n\n')[2]
    )
    assert reader.strip() and reader in (ROOT / "docs" / "policies.md").read_text()


@pytest.fixture
def td3_bc():
    """Return a small agent of examples/td3_bc.py."""
    module = load_source(TD3_BC).module
    config = module.get_config()
    config.update(actor_hidden_dims=(16,), value_hidden_dims=(16,), batch_size=B)
    config.update(horizon_length=H, action_chunking=True, discount=0.9, alpha=1.5)
    return module.AGENT.create(jax.random.key(0), 4, A, config)


def test_td3_bc_is_its_equations(td3_bc):
    batch = random_batch()
    batch["valid"] = batch["valid"].at[0, -1].set(0.0)
    noise = {"smoothing": 3.0 * jax.random.normal(jax.random.key(1), (B, H * A))}
    fixed = td3_bc.fixed_quantities(batch, noise)
    s_next, zeros = batch["next_observations"][:, -1], jnp.zeros((B, H * A))
    mean = td3_bc.apply("actor", td3_bc.target_params["actor"], s_next, zeros)
    expected = jnp.clip(mean + jnp.clip(0.2 * noise["smoothing"], -0.5, 0.5), -1, 1)
    np.testing.assert_allclose(fixed["next_actions"], expected, rtol=1e-5, atol=1e-6)
    q = td3_bc.values(td3_bc.target_params["critic"], s_next)(expected)
    assert q.shape == (2, B)
    target = batch["rewards"][:, -1] + 0.9**H * jnp.minimum(q[0], q[1])
    np.testing.assert_allclose(fixed["td_target"], target, rtol=1e-5)
    loss, metrics = td3_bc.loss(td3_bc.params, batch, noise, fixed)
    actions = td3_bc.sample(batch["observations"], zeros[None])[0]
    q = td3_bc.values(td3_bc.params["critic"], batch["observations"])(actions).mean(0)
    errors = ((actions - batch["actions"].reshape(B, -1)) ** 2).mean(axis=-1)
    imitation = errors[1:].sum() / B
    np.testing.assert_allclose(
        loss - metrics["critic/loss"],
        imitation - 1.5 * q.mean() / jnp.abs(q).mean(),
        rtol=1e-4,
    )


@pytest.mark.ci
def test_td3_bc_finds_the_best_action_of_the_probe(tmp_path):
    module = load_source(TD3_BC).module
    agent = train_on_probe(tmp_path, module, ProbeReward, alpha=30.0)
    assert distance_from_optimum(agent) < 0.05


@pytest.mark.slow
def test_td3_bc_trains_offline_and_online(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    place = "--env_name=pointmaze-medium-navigate-singletask-task1-v0"
    words = [place, "--agent=examples/td3_bc.py", "--preset=smoke"]
    assert program.main(["main.py", *words, f"--save_dir={tmp_path}"]) == 0
    (log,) = tmp_path.glob("smoke/*/td3_bc_s0_*/train.csv")
    assert {line["phase"] for line in read_csv(log)} == {"offline", "online"}
    assert not list(tmp_path.glob("bc/**/done.json"))  # it has no base
