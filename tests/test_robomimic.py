"""Runs on robomimic's data without a simulator: settings, scaling, and what a run stores."""

import json
import zipfile

import h5py
import numpy as np
import pytest

import main as program
from configs import domains
from configs.settings import Setting
from envs.datasets import load_dataset
from envs.tasks import ALL_TASKS, ROBOMIMIC_DOMAIN, folder_flag
from tests.envs.test_robomimic_data import LIFT, demonstration, write_file
from tests.tiny_runs import resolved
from training.acting import evaluation_actions
from training.export_policy import export_policy
from training.policy import load_policy, load_run

TINY = [
    "--eval_episodes=0", "--bc_steps=4", "--offline_steps=4", "--online_steps=0",
    "--log_interval=2", "--save_interval=4", "--horizon_length=2", "--agent.flow_steps=2",
    "--agent.actor_hidden_dims=(8,8)", "--agent.value_hidden_dims=(8,8)",
    "--agent.num_qs=2", "--agent.batch_size=8", "--agent.lr=0.01",
]  # fmt: skip


def train(root, *flags):
    folders = (f"--robomimic_dataset_dir={root}/data", f"--save_dir={root}/exp")
    words = ["--agent=agents/trqam.py", f"--env_name={LIFT}", *folders, *TINY, *flags]
    return program.main(["main.py", *words])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with demonstrations and a trained run."""
    root = tmp_path_factory.mktemp("robomimic")
    write_file(root / "data" / "lift" / "mh" / "low_dim_v15.hdf5")
    assert train(root) == 0
    return root


def run_of(root):
    (config,) = root.glob(f"exp/Debug/{LIFT}/*/config.json")
    return config.parent


def raw_observations():
    """The observations of demo_1 as they are in the file."""
    arrays = demonstration(1, 2)
    keys = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "object")
    return np.concatenate([arrays[f"obs/{key}"] for key in keys], axis=1)


@pytest.mark.parametrize(
    ("task", "budget", "source"),
    [
        (LIFT, 0.1, domains.FIGURE),
        ("can-mh-low_dim", 0.1, domains.FIGURE),
        ("square-mh-low_dim", 1.0, "default"),
    ],
)
def test_settings_of_robomimics_tasks(task, budget, source):
    settings = resolved(f"--env_name={task}", "--agent=agents/trqam.py")
    agent = settings.agent
    assert agent.actor_hidden_dims == agent.value_hidden_dims == (512,) * 4
    assert (agent.actor_layer_norm, agent.horizon_length) == (False, 5)
    assert (agent.action_chunking, agent.discount, agent.rho) == (True, 0.995, 0.5)
    assert settings.sources["agent.rho"] == domains.DEMONSTRATIONS
    assert (agent.kl_budget, settings.sources["agent.kl_budget"]) == (budget, source)


def test_other_datasets_take_the_settings_of_the_nearest_and_say_so():
    found = domains.shared_settings("lift-ph-low_dim")["discount"]
    source = f"nearest domain {LIFT}: {domains.DEMONSTRATIONS}"
    assert found == Setting(0.995, source)
    assert domains.nearest_domain("tool_hang-ph-low_dim") == "square-mh-low_dim"


def test_configs_and_envs_agree_on_the_folder():
    others = ("my:Env", "lift:Env", "cube-single-play", "tool_hang-ph-low_dim")
    for name in (*ALL_TASKS, *ROBOMIMIC_DOMAIN, *others):
        assert domains.folder_flag_of_dataset(name) == folder_flag(name)


def test_a_policy_takes_raw_observations_and_scales_them_like_the_data(root, tmp_path):
    data = load_dataset(LIFT, root / "data", environment=False)
    rows = data["rows"][3:5]  # demo_1
    raw = raw_observations()
    agent, stored, _ = load_run(run_of(root))
    recipe = stored["environment"]
    scaled = 2 * ((raw - recipe["low"]) / (np.subtract(recipe["high"], recipe["low"]) + 1e-6) - 0.5)  # fmt: skip
    np.testing.assert_allclose(scaled, data["observations"][rows], atol=1e-6)
    policy = load_policy(run_of(root), seed=3)(raw)
    assert policy.shape == (2, 2, 7)

    # the same noise, on the observations of the data
    import jax

    from training.policy import chunks_from_seed

    number = np.uint32(3), np.uint32(0)
    direct = jax.jit(chunks_from_seed)
    expected = direct(agent, data["observations"][rows], *number)
    np.testing.assert_allclose(policy, expected, atol=1e-5)
    unscaled = direct(agent, raw.astype(np.float32), *number)
    assert np.abs(policy - unscaled).max() > 1e-2
    ids = np.zeros((2, 3), np.uint32)
    assert evaluation_actions(agent, data["observations"][rows], ids).shape == (2, 14)

    export_policy(run_of(root), tmp_path / "policy.zip")
    with zipfile.ZipFile(tmp_path / "policy.zip") as archive:
        exported = jax.export.deserialize(bytearray(archive.read("policy.jax")))
    chunks = exported.call(raw.astype(np.float32), *number)
    np.testing.assert_allclose(chunks, policy, atol=1e-6)


def test_a_run_keeps_its_recipe_and_refuses_another_recipe_or_dataset(root, printed):
    stored = json.loads((run_of(root) / "config.json").read_text())
    assert stored["environment"]["env_name"] == "Lift"
    assert stored["environment"]["env_kwargs"]["control_freq"] == 20
    path = root / "data" / "lift" / "mh" / "low_dim_v15.hdf5"
    with h5py.File(path, "a") as file:
        before = file["data"].attrs["env_args"]
        file["data"].attrs["env_args"] = before.replace("20", "10")
    assert train(root, "--offline_steps=6") == 2
    assert "describes another environment than when" in printed().err
    with h5py.File(path, "a") as file:
        file["data"].attrs["env_args"] = before
        file["data/demo_2/rewards"][0] = 1
    assert train(root, "--offline_steps=6") == 2
    assert "--robomimic_dataset_dir: dataset changed since" in printed().err
    with h5py.File(path, "a") as file:
        file["data/demo_2/rewards"][0] = 0
    assert train(root, "--offline_steps=6") == 0


def test_a_missing_file_and_a_missing_simulator_end_in_one_line(
    root, printed, monkeypatch
):
    assert train(root, "--robomimic_dataset_dir=/nowhere", "--run_group=other") == 2
    line = printed().err.splitlines()[-1]
    assert line.startswith("error: --robomimic_dataset_dir: /nowhere/lift/mh/low_dim")
    from envs import robomimic_data

    monkeypatch.setattr(robomimic_data, "find_spec", lambda name: None)
    assert train(root, "--eval_episodes=1", "--run_group=other") == 2
    assert f"error: --env_name={LIFT} needs robosuite: pip install" in printed().err


def test_a_run_mentions_that_its_demonstrations_are_those_of_a_script(
    tmp_path, printed
):
    path = write_file(tmp_path / "data" / "lift" / "mh" / "low_dim_v15.hdf5")
    with h5py.File(path, "a") as file:
        file["data"].attrs["collection"] = json.dumps({"behaviour": "script"})
    assert train(tmp_path, "--bc_only") == 0
    assert "are those of a script (scripts/make_data.py)" in printed().err
