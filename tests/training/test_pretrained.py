"""Tests main.py's --pretrained_actor_path with published checkpoints, on a real environment with
tiny networks.
"""

import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import main as program
from agents import trqam
from configs.agent_file import load_source
from configs.agent_source import AGENTS
from envs.collect import collect_random
from envs.fingerprint import Fingerprint
from envs.robomimic_data import Recipe
from tests.agents.tiny_agents import tiny
from tests.envs.web import Hub, sha256
from tests.synthetic_runs import write_run
from tests.tiny_runs import unwrapped
from training.pretrained import PretrainedBase, check_start, cloning_code_of
from utils.csv_log import CsvLog
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "tests" / "published"
TASK = "pointmaze-medium-navigate-singletask-task1-v0"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    collect_random(TASK, folder, 300)
    return folder


def arguments(exp, path, *flags, widths="(8,8)"):
    """Return a command for four offline updates, with the networks of the shipped checkpoints."""
    return [
        "main.py", f"--env_name={TASK}", f"--save_dir={exp}",
        f"--pretrained_actor_path={path}", "--offline_steps=4", "--online_steps=0", "--log_interval=4", "--eval_episodes=0",
        f"--agent.actor_hidden_dims={widths}", "--agent.actor_layer_norm=True", "--agent.value_hidden_dims=(8,8)",
        "--agent.num_qs=2", "--agent.flow_steps=2", "--agent.batch_size=8", *flags,
    ]  # fmt: skip


def train(data, exp, path, *flags, widths="(8,8)"):
    flags = (f"--ogbench_dataset_dir={data}", *flags)
    return program.main(arguments(exp, path, *flags, widths=widths))


@pytest.mark.ci
def test_a_run_starts_from_the_folder_of_a_published_file(data, tmp_path, monkeypatch):
    from agents.base import Agent
    from training.pretrained import load_published

    starts, real = [], Agent.with_base
    monkeypatch.setattr(
        Agent, "with_base", lambda agent, base: starts.append(base) or real(agent, base)
    )
    assert train(data, tmp_path, SHIPPED / "numpy2") == 0
    (csv,) = tmp_path.glob("Debug/*/*/train.csv")
    assert [line["step"] for line in CsvLog(csv).read()] == [4]
    assert not (tmp_path / "bc").exists()
    (base,) = starts
    expected = load_published(SHIPPED / "numpy1" / "params_300000.pkl")
    assert jax.tree.all(jax.tree.map(np.array_equal, base, expected))


MISMATCHES = {
    "layer norm": (
        ["--agent.actor_layer_norm=False"],
        "layer norm on there and off here (--agent.actor_layer_norm)",
    ),
    "width": (
        [],
        "actor_hidden_dims (8, 8) there and (8, 16) here (--agent.actor_hidden_dims)",
    ),
    "horizon": (
        ["--horizon_length=3", "--agent.action_chunking=True"],
        "actions D = 2 there and 6 here (--horizon_length, --agent.action_chunking)",
    ),
}


@pytest.mark.parametrize("mismatch", MISMATCHES)
def test_a_mismatch_names_both_sides_and_writes_nothing(
    mismatch, data, tmp_path, capsys
):
    flags, words = MISMATCHES[mismatch]
    widths = "(8,16)" if mismatch == "width" else "(8,8)"
    assert train(data, tmp_path, SHIPPED / "jax", *flags, widths=widths) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"error: --pretrained_actor_path={SHIPPED / 'jax'}"
    ) and line.endswith(f": {words}")
    assert list(tmp_path.iterdir()) == []


class Attack:
    def __init__(self, made):
        self.made = made

    def __reduce__(self):
        return os.system, (f"touch {self.made}",)


def test_a_malicious_file_executes_nothing(data, tmp_path, capsys):
    made, path = tmp_path / "made", tmp_path / "params_300000.pkl"
    path.write_bytes(pickle.dumps({"agent": Attack(made)}))
    assert train(data, tmp_path / "exp", path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"error: --pretrained_actor_path={path}: refused, because the file asks for"
        f" '{os.system.__module__}.system'"
    )
    assert line.endswith("nothing in it was executed")
    assert [child.name for child in tmp_path.iterdir()] == ["params_300000.pkl"]


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", (SHIPPED / "jax" / "params_300000.pkl").read_bytes()[:-9]],
)
def test_a_damaged_file_is_reported_in_one_line(content, data, tmp_path, capsys):
    path = tmp_path / "params_300000.pkl"
    path.write_bytes(content)
    assert train(data, tmp_path / "exp", path) == 2
    wanted = (
        f"error: --pretrained_actor_path={path}: not a pickle file, or a damaged one; nothing"
        " in it was executed"
    )
    assert capsys.readouterr().err.splitlines() == [wanted]


# ---------------------------------------------------------------- a domain's published base

MODELS, ANT = "yonghoon96/trqam-bc-checkpoints", "antmaze-large-navigate"
ANT_TASK = f"{ANT}-singletask-task1-v0"


def base_file(
    seed=0, observations=29, actions=8, hidden=(8, 8), layer_norm=True
) -> bytes:
    """Return a checkpoint in the published format, of a tiny base for antmaze-large (H = 1)."""
    rng, widths = (
        np.random.default_rng(seed),
        (observations + actions + 1, *hidden, actions),
    )
    tree = {
        f"Dense_{i}": {
            "kernel": rng.normal(size=(n, m)).astype(np.float32) / 8,
            "bias": np.zeros(m, np.float32),
        }
        for i, (n, m) in enumerate(zip(widths, widths[1:], strict=False))
    }
    for i, m in enumerate(hidden if layer_norm else ()):
        bias = np.zeros(m, np.float32)
        tree[f"LayerNorm_{i}"] = {"scale": bias + 1, "bias": bias}
    params = {"modules_actor_slow": {"mlp": tree}}
    return pickle.dumps({"agent": {"network": {"params": params}}})


@pytest.fixture
def hub(monkeypatch):
    hub = Hub()
    hub.repositories[MODELS] = {f"{ANT}/params_300000.pkl": base_file()}
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setattr("envs.dataset_files.HOSTS", ("http://127.0.0.1:9",))
    yield hub
    hub.stop()


@pytest.fixture(scope="module")
def ant_rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ant")
    collect_random(ANT_TASK, folder, 60, episode_steps=20)
    return folder


@pytest.fixture
def ant_data(ant_rows, tmp_path, monkeypatch):
    """Return a function that sets HOME to a new folder with the data in the default place."""

    def move_to(home: str) -> Path:
        folder = tmp_path / home / ".ogbench" / "data"
        folder.parent.mkdir(parents=True)
        folder.mkdir()
        for path in ant_rows.glob("*.npz"):
            (folder / path.name).symlink_to(path)
        monkeypatch.setenv("HOME", str(tmp_path / home))
        return folder

    return move_to


def train_ant(exp, *flags):
    flags = (
        "--save_interval=4",
        "--compilation_cache_dir=",
        f"--env_name={ANT_TASK}",
        *flags,
    )
    return program.main(arguments(exp, "published", *flags))


def config_of(exp) -> dict:
    (path,) = Path(exp).glob("Debug/*/*/config.json")
    return json.loads(path.read_text())


@pytest.mark.ci
def test_a_run_starts_from_the_published_base_and_the_report_names_it(
    hub, ant_data, tmp_path, capsys, monkeypatch
):
    from agents.base import Agent
    from reports.export import command
    from reports.reading import read_run
    from training.pretrained import load_published

    starts, real = [], Agent.with_base

    def noted(agent, base):
        starts.append(base)
        return real(agent, base)

    monkeypatch.setattr(Agent, "with_base", noted)
    cache = ant_data("me") / "bases" / ANT / "params_300000.pkl"
    assert train_ant(tmp_path / "exp") == 0
    out = capsys.readouterr().out
    assert f"\nbase: {MODELS}/{ANT}, 1M transitions; bc_steps not run\n" in out
    assert cache.read_bytes() == base_file() and not (tmp_path / "exp" / "bc").exists()
    assert jax.tree.all(jax.tree.map(np.array_equal, starts[0], load_published(cache)))
    config = config_of(tmp_path / "exp")
    assert config["base"] == {
        "source": f"{MODELS}/{ANT}",
        "sha256": sha256(base_file()),
    }
    assert config["flags"]["pretrained_actor_path"] == "published"
    assert config["sources"]["pretrained_actor_path"] == "command line"
    (folder,) = (tmp_path / "exp").glob("Debug/*/*/")
    result = read_run(folder)
    assert result.origins == {"pretrained_actor_path": "published"}
    assert "--pretrained_actor_path=published" in command(result.config)


@pytest.mark.ci
def test_a_run_resumes_with_a_moved_cache_but_not_with_another_base(
    hub, ant_data, tmp_path, capsys
):
    ant_data("me")
    assert train_ant(tmp_path / "exp") == 0
    moved = ant_data("you")  # as on another machine, where another base is fetched
    hub.repositories[MODELS][f"{ANT}/params_300000.pkl"] = other = base_file(seed=1)
    capsys.readouterr()
    assert train_ant(tmp_path / "exp", "--offline_steps=8") == 2
    *_, line = capsys.readouterr().err.splitlines()  # after the progress bars
    sums = f"(sha256 {sha256(base_file()):.12} then, {sha256(other):.12} now)"
    assert line.startswith("error: --pretrained_actor_path: ") and sums in line
    assert "--run_group" in line
    (moved / "bases" / ANT / "params_300000.pkl").write_bytes(base_file())
    assert train_ant(tmp_path / "exp", "--offline_steps=8") == 0
    assert config_of(tmp_path / "exp")["base"]["sha256"] == sha256(base_file())
    (moved / "bases" / ANT / "params_300000.pkl").write_bytes(other)
    assert train_ant(tmp_path / "exp", "--offline_steps=8", "--overwrite") == 0
    assert config_of(tmp_path / "exp")["base"]["sha256"] == sha256(other)


def test_another_base_is_refused_only_if_the_run_has_checkpoints(tmp_path):
    record = {"source": "a.pkl", "sha256": "1" * 64}
    pretrained = PretrainedBase({}, record, data="", config=None)
    stored = {"base": {"source": "a.pkl", "sha256": "2" * 64}}
    pretrained.check_begun(tmp_path, stored)
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    with pytest.raises(UserError, match="a.pkl is not the base that"):
        pretrained.check_begun(tmp_path, stored)
    for config in (None, {}, {"base": pretrained.record}):
        pretrained.check_begun(tmp_path, config)


@pytest.mark.parametrize(
    ("agent", "cloning", "code"),
    [
        ("bc", None, ""),
        ("trqam", None, None),
        ("trqam", {"bc_steps": 4}, ""),
        ("mine", {"bc_steps": 4, "cloning": "c0de"}, "c0de"),
    ],
)
def test_a_warning_says_that_other_code_cloned_the_base(
    agent, cloning, code, tmp_path, capsys
):
    folder = write_run(tmp_path, TASK, 0, {4: 0.5}, agent=agent)
    config = json.loads((folder / "config.json").read_text())
    config |= {"cloning": cloning} if cloning else {}
    assert cloning_code_of(config) == code
    start_from(config)
    warned = "was cloned by other code" in unwrapped(capsys.readouterr().err)
    assert warned == (code == "c0de")


RECIPE = Recipe("Lift", "1.5.1", {}, ["object"], low=[0.0], high=[1.0])


def start_from(config, recipe=None):
    """Start from a base whose run folder has this config.json, with data of checksum "0b"."""
    ours = tiny(trqam)
    flags = {"kl_budget_online": None, "pretrained_actor_path": "exp/bc"}
    run = SimpleNamespace(
        settings=SimpleNamespace(flags=flags, agent=ours.config),
        source=load_source(AGENTS / "trqam.py"),
        agent_name="trqam",
    )
    data = SimpleNamespace(fingerprint=Fingerprint(8, "0b", "0b-1c"), recipe=recipe)
    record = {"source": "bc", "sha256": "1" * 64}
    base = PretrainedBase(ours.params["base"], record, data="", config=config)
    check_start(run, ours, data, base)


@pytest.mark.parametrize(
    ("config", "warned"),
    [
        (None, False),  # a published file
        ({}, False),
        ({"dataset": {"transitions": 8, "crc": "0b"}}, False),
        ({"dataset": {"transitions": 8, "crc": "0b-2d"}}, False),  # other rewards
        ({"dataset": {"transitions": 8, "crc": "0a-1c"}}, True),
    ],
)
def test_a_warning_says_that_the_base_was_cloned_from_other_data(
    config, warned, capsys
):
    start_from(config)
    text = "exp/bc: it was cloned from other data than this run's"
    assert (text in unwrapped(capsys.readouterr().err)) == warned


def test_a_base_whose_observations_were_scaled_otherwise_is_refused():
    environment = RECIPE._asdict()
    start_from({"environment": environment}, RECIPE)
    with pytest.raises(UserError, match="scaled by another file's ranges; clone one"):
        start_from({"environment": environment | {"high": [2.0]}}, RECIPE)


@pytest.mark.ci
def test_a_base_whose_run_was_trained_further_is_refused(data, tmp_path, capsys):
    cloning = (tmp_path / "bc", "", "--bc_only", "--save_interval=4")
    assert train(data, *cloning) == 0
    (folder,) = (tmp_path / "bc").glob("Debug/*/*/")
    assert train(data, tmp_path / "exp", folder, "--save_interval=4") == 0
    assert config_of(tmp_path / "exp")["base"]["source"] == folder.name
    assert (
        train(data, tmp_path / "exp", folder, "--save_interval=4", "--offline_steps=8")
        == 0
    )
    assert train(data, *cloning, "--offline_steps=8") == 0
    assert (
        train(data, tmp_path / "exp", folder, "--save_interval=4", "--offline_steps=12")
        == 2
    )
    assert f"{folder.name} is not the base that" in capsys.readouterr().err


@pytest.mark.ci
def test_a_run_starts_from_a_file_and_refuses_another_of_the_same_name(
    data, tmp_path, capsys
):
    path = tmp_path / "params_300000.pkl"
    path.write_bytes((SHIPPED / "jax" / "params_300000.pkl").read_bytes())
    assert train(data, tmp_path / "exp", path, "--save_interval=4") == 0
    record = {"source": path.name, "sha256": sha256(path.read_bytes())}
    assert config_of(tmp_path / "exp")["base"] == record
    path.write_bytes(base_file(observations=2, actions=2))
    assert (
        train(data, tmp_path / "exp", path, "--save_interval=4", "--offline_steps=8")
        == 2
    )
    output = capsys.readouterr().err
    assert "error: --pretrained_actor_path: params_300000.pkl is not the base" in output


def test_a_published_base_that_does_not_fit_is_refused(hub, ant_data, tmp_path, capsys):
    ant_data("me")
    other = base_file(hidden=(8, 16), layer_norm=False)
    hub.repositories[MODELS][f"{ANT}/params_300000.pkl"] = other
    assert train_ant(tmp_path / "exp") == 2
    *_, line = capsys.readouterr().err.splitlines()
    widths = "actor_hidden_dims (8, 16) there and (8, 8) here"
    assert line.startswith(f"error: --pretrained_actor_path=published: {widths}")
    assert (
        "layer norm off there and on here" in line and not (tmp_path / "exp").exists()
    )


def test_a_domain_without_a_published_base_is_reported_before_any_download(hub, capsys):
    words = ["--env_name=cube-single", "--pretrained_actor_path=published", "--dry_run"]
    assert program.main(["main.py", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        "there is no published base of cube-single-play" in line and hub.requests == []
    )


def test_no_base_is_downloaded_for_a_run_that_starts_from_none(
    hub, ant_data, tmp_path, capsys
):
    ant_data("me")
    assert train_ant(tmp_path / "exp", "--bc_only") == 0
    output = capsys.readouterr().err
    assert (
        "warning: --pretrained_actor_path has no effect: bc starts from no base"
        in output
    )
    assert hub.requests == [] and "base" not in config_of(tmp_path / "exp")
