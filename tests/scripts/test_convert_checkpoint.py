"""convert_checkpoint.py makes a finished run of agents/bc.py from a published checkpoint."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scripts import convert_checkpoint
from tests.agents.straightforward import field
from training.pretrained import load_published

ROOT = Path(__file__).resolve().parents[2]
PKL = ROOT / "tests" / "published" / "jax" / "params_300000.pkl"


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Return a folder that the script converted, called from a folder outside the checkout."""
    place = tmp_path_factory.mktemp("converted")
    command = [
        sys.executable,
        ROOT / "scripts" / "convert_checkpoint.py",
        PKL,
        "below/out",
        "--env_name=pointmaze-medium",
    ]
    done = subprocess.run(
        command, cwd=place, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "below/out\n", "")
    # No half-written folder is left beside it.
    assert [path.name for path in (place / "below").iterdir()] == ["out"]
    return place / "below" / "out"


def test_a_converted_folder_looks_like_a_finished_run(converted):
    config = json.loads((converted / "config.json").read_text())
    assert Path(config["agent_file"]).name == "bc.py"
    assert (
        config["observation_dim"],
        config["action_dim"],
        config["flags"]["env_name"],
    ) == (
        2,
        2,
        "pointmaze-medium-navigate",
    )
    agent = config["agent"]
    assert (
        agent["actor_hidden_dims"],
        agent["actor_layer_norm"],
        agent["horizon_length"],
    ) == (
        [8, 8],
        True,
        1,
    )
    assert (
        config["sources"]["agent.actor_layer_norm"]
        == config["converted_from"]
        == "params_300000.pkl"
    )
    done = json.loads((converted / "done.json").read_text())
    assert done == {
        "bc_steps": 0,
        "offline_steps": 300_000,
        "online_steps": 0,
        "success": None,
    }
    assert (converted / "checkpoints" / "300000").is_dir()


def test_the_base_of_a_converted_folder_is_the_published_one(converted):
    from training.pretrained import load_base

    base, published = load_base(converted), load_published(PKL)
    assert set(base) == set(published)
    for layer, leaves in published.items():
        for name, leaf in leaves.items():
            np.testing.assert_array_equal(base[layer][name], leaf)


def test_the_policy_of_a_converted_folder_acts_like_the_published_network(converted):
    """The loaded policy acts as the agent does, and the agent's flow is the published network's.
    The latter is compared in float64, because ten steps with these weights multiply the rounding
    errors of float32.
    """
    import jax
    import jax.numpy as jnp

    from agents.flow import euler_sample
    from training.keys import stream
    from training.policy import load_policy, load_run

    observations = np.linspace(-1, 1, 6, dtype=np.float32).reshape(3, 2)
    chunks = load_policy(converted, seed=4)(observations)
    agent, *_ = load_run(converted)
    x0 = jax.random.normal(
        jax.random.fold_in(stream(jax.random.key(4), "policy"), 0), (1, 3, 2)
    )
    np.testing.assert_allclose(
        chunks[:, 0], jax.jit(type(agent).act)(agent, observations, x0), atol=1e-5
    )
    assert np.ptp(chunks) > 0.1
    with jax.enable_x64(True):

        def exact(tree):
            return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)

        s, noise = exact(observations), exact(x0)
        flow = field(exact(load_published(PKL)), s)
        expected = jnp.clip(euler_sample(flow, noise, 10), -1, 1)[0]
        actions = agent.replace(params=exact(agent.params)).act(s, noise)
        np.testing.assert_allclose(actions, expected, atol=1e-5)


def convert(*words):
    return convert_checkpoint.main(["convert_checkpoint.py", *map(str, words)])


MISTAKES = {
    "no environment": (
        ["{pkl}", "{new}"],
        "usage: python scripts/convert_checkpoint.py FILE.pkl NEW_FOLDER --env_name=",
    ),
    "no folder": (["{pkl}", "--env_name=pointmaze-medium"], "usage: "),
    "no file": (
        ["{new}", "{new}", "--env_name=pointmaze-medium"],
        "there is no such file, nor a folder of params_*.pkl",
    ),
    "no checkpoint": (
        ["{readme}", "{new}", "--env_name=pointmaze-medium"],
        "README.md: not a pickle file",
    ),
    "a folder in use": (
        ["{pkl}", "{used}", "--env_name=pointmaze-medium"],
        "used is there already; give a new folder",
    ),
    "a file in the way": (
        ["{pkl}", "{used}/a", "--env_name=pointmaze-medium"],
        "a is there already",
    ),
    "a line break": (
        ["{pkl}", "{new}\n", "--env_name=pointmaze-medium"],
        "has a control character, or bytes that are not UTF-8",
    ),
    "bytes that are not UTF-8": (
        ["{pkl}", "{new}\udcff", "--env_name=pointmaze-medium"],
        "has a control character, or bytes that are not UTF-8",
    ),
    "unknown environment": (
        ["{pkl}", "{new}", "--env_name=pointmase"],
        "the nearest name is 'pointmaze-",
    ),
    "unknown flag": (
        ["{pkl}", "{new}", "--env_name=pointmaze-medium", "--horizon=2"],
        "horizon",
    ),
    "widths given": (
        ["{pkl}", "{new}", "--env_name=scene", "--agent.actor_hidden_dims=(8,)"],
        "read off the file",
    ),
    "another horizon": (
        [
            "{pkl}",
            "{new}",
            "--env_name=pointmaze-medium",
            "--horizon_length=3",
            "--agent.action_chunking=True",
        ],
        "params_300000.pkl: actions D = 2 there and 6 here (--horizon_length",
    ),
    "another environment": (
        ["{pkl}", "{new}", "--env_name=cube-single"],
        (
            "observations O = 2 there and 28 here (--env_name); actions D = 2 there and 25 here"
            " (--horizon_length, "
        ),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_prints_one_line_and_leaves_no_files(mistake, tmp_path, capsys):
    words, named = MISTAKES[mistake]
    used = tmp_path / "used"
    used.mkdir()
    (used / "a").write_text("mine")
    places = {
        "pkl": PKL,
        "new": tmp_path / "new",
        "used": used,
        "readme": ROOT / "README.md",
    }
    assert convert(*(word.format(**places) for word in words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and named in line
    assert [path.name for path in tmp_path.iterdir()] == ["used"]
    assert (used / "a").read_text() == "mine"


def test_the_new_folder_may_exist_if_it_is_empty(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert (
        convert(
            PKL.parent,
            tmp_path / "out",
            "--env_name=pointmaze-medium",
            "--horizon_length=2",
        )
        == 0
    )
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["agent"]["horizon_length"], config["sources"]["horizon_length"]) == (
        2,
        "command line",
    )


def test_ctrl_c_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("training.pretrained.load_published", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(PKL, tmp_path / "out", "--env_name=pointmaze-medium")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_if_writing_fails(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("utils.files.write_json", full)
    assert convert(PKL, tmp_path / "out", "--env_name=pointmaze-medium") == 1
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device\n"
    assert list(tmp_path.iterdir()) == []
