"""Published checkpoints through main.py's --pretrained_actor_path, on a real environment with tiny networks."""

import os
import pickle
from pathlib import Path

import pytest

import main as program
from envs.collect import random_data
from utils.logging import CsvLog

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "tests" / "published"
TASK = "pointmaze-medium-navigate-singletask-task1-v0"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    random_data(TASK, folder, 300)
    return folder


def train(data, exp, path, *flags, widths="(8,8)"):
    """A run of four offline updates whose networks are those of the shipped checkpoints, unless flags say otherwise."""
    return program.main([
        "main.py", f"--env_name={TASK}", f"--ogbench_dataset_dir={data}", f"--save_dir={exp}",
        f"--pretrained_actor_path={path}", "--offline_steps=4", "--online_steps=0", "--log_interval=4", "--eval_episodes=0",
        f"--agent.actor_hidden_dims={widths}", "--agent.actor_layer_norm=True", "--agent.value_hidden_dims=(8,8)",
        "--agent.num_qs=2", "--agent.flow_steps=2", "--agent.batch_size=8", *flags,
    ])  # fmt: skip


@pytest.mark.parametrize("path", ["numpy1/params_300000.pkl", "numpy2", "jax"])
def test_a_run_starts_from_a_published_file_or_its_folder(path, data, tmp_path, monkeypatch):
    from agents.base import Agent
    from utils.published import load_published

    starts, real = [], Agent.with_base
    monkeypatch.setattr(Agent, "with_base", lambda agent, base: starts.append(base) or real(agent, base))
    assert train(data, tmp_path, SHIPPED / path) == 0
    (csv,) = tmp_path.glob("Debug/*/*/train.csv")
    assert [row["step"] for row in CsvLog(csv).rows()] == [4]
    assert not (tmp_path / "bc").exists()
    (base,) = starts
    expected = load_published(SHIPPED / "numpy1" / "params_300000.pkl")
    assert all((base[layer][name] == leaf).all() for layer, leaves in expected.items() for name, leaf in leaves.items())


MISMATCHES = {
    "layer norm": (["--agent.actor_layer_norm=False"], "layer norm on there and off here (--agent.actor_layer_norm)"),
    "width": ([], "actor_hidden_dims (8, 8) there and (8, 16) here (--agent.actor_hidden_dims)"),
    "horizon": (
        ["--horizon_length=3", "--agent.action_chunking=True"],
        "actions D = 2 there and 6 here (--horizon_length, --agent.action_chunking)",
    ),
}


@pytest.mark.parametrize("mismatch", MISMATCHES)
def test_a_mismatch_names_both_sides_and_leaves_nothing(mismatch, data, tmp_path, capsys):
    flags, words = MISMATCHES[mismatch]
    widths = "(8,16)" if mismatch == "width" else "(8,8)"
    assert train(data, tmp_path, SHIPPED / "jax", *flags, widths=widths) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --pretrained_actor_path={SHIPPED / 'jax'}") and line.endswith(f": {words}")
    assert list(tmp_path.iterdir()) == []


class Attack:
    def __init__(self, made):
        self.made = made

    def __reduce__(self):
        return os.system, (f"touch {self.made}",)


def test_a_malicious_file_makes_nothing(data, tmp_path, capsys):
    made, path = tmp_path / "made", tmp_path / "params_300000.pkl"
    path.write_bytes(pickle.dumps({"agent": Attack(made)}))
    assert train(data, tmp_path / "exp", path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"error: --pretrained_actor_path={path}: refused, because the file asks for '{os.system.__module__}.system'"
    )
    assert line.endswith("nothing in it was executed")
    assert [child.name for child in tmp_path.iterdir()] == ["params_300000.pkl"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", (SHIPPED / "jax" / "params_300000.pkl").read_bytes()[:-9]])
def test_a_damaged_file_is_one_line(content, data, tmp_path, capsys):
    path = tmp_path / "params_300000.pkl"
    path.write_bytes(content)
    assert train(data, tmp_path / "exp", path) == 2
    wanted = f"error: --pretrained_actor_path={path}: not a pickle file, or a damaged one; nothing in it was executed"
    assert capsys.readouterr().err.splitlines() == [wanted]
