"""Tests that an agent's code decides a run's folder, whether it resumes, and what is loaded."""

import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import main as program
from configs.agent_file import load_source
from configs.agent_source import ROOT
from configs.flags import parse_flags
from envs.probe import write_dataset
from reports import reading
from tests.agents.tiny_agents import random_batch, tiny
from tests.synthetic_runs import write_run
from training import data as data_module
from training.plan import plan
from training.policy import load_policy
from training.run import Run, total_updates
from training.stored import differences
from utils.csv_log import read_csv
from utils.errors import UserError
from utils.files import read_json, write_json
from utils.messages import warn_once

ENV_NAME = "envs.probe:ProbeChain-v0"
FORK = '''
"""{doc}"""

from agents.fql import AGENT as Parent, get_config
from gain import GAIN


class Scaled(Parent):
    def act(self, observations, x0):
        return GAIN * super().act(observations, x0)


AGENT = Scaled
'''


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(ENV_NAME, tmp_path_factory.mktemp("data") / "mine.npz", 40)


def fork(folder, gain=1.0, doc="A fork.", name="mine.py"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(FORK.format(doc=doc))
    (folder / "gain.py").write_text(f"GAIN = {gain}")
    return folder / name


def words(dataset, exp, agent, *flags):
    return [
        "main.py", f"--env_name={ENV_NAME}", f"--dataset={dataset}", f"--agent={agent}",
        f"--save_dir={exp}", "--bc_steps=0", "--offline_steps=2", "--online_steps=0",
        "--eval_episodes=0", "--horizon_length=2", "--agent.actor_hidden_dims=(8,)",
        "--agent.value_hidden_dims=(8,)", "--agent.num_qs=2", "--agent.flow_steps=2",
        "--agent.batch_size=8", *flags,
    ]  # fmt: skip


def planned(*arguments) -> Run:
    return plan(parse_flags(words(*arguments)))[0]


@pytest.fixture
def begun(dataset, tmp_path):
    """Train a run of a fork until it ends; return the arguments of `words`, and its folder."""
    arguments = dataset, tmp_path / "exp", fork(tmp_path / "code")
    assert program.main(words(*arguments)) == 0
    return arguments, planned(*arguments).folder


def actions(folder, trust=False):
    return load_policy(folder, trust=trust)(np.full((3, 1), 0.2, np.float32))


# ---------------------------------------------------------------- which folder


def test_a_fork_is_identified_by_its_code_in_any_folder(dataset, tmp_path):
    def folder(path, *flags):
        return planned(dataset, tmp_path / "exp", path, *flags).folder

    first = folder(fork(tmp_path / "a"))
    assert (
        folder(fork(tmp_path / "b", doc="Moved, and described in other words."))
        == first
    )
    assert folder(fork(tmp_path / "c", gain=0.5)) != first
    assert folder(fork(tmp_path / "a", gain=0.5)) == folder(tmp_path / "c" / "mine.py")
    copy = tmp_path / "d" / "fql.py"
    copy.parent.mkdir()
    shutil.copy(ROOT / "agents" / "fql.py", copy)
    assert folder(copy) != folder("agents/fql.py") == folder(ROOT / "agents" / "fql.py")


def test_the_folder_keeps_the_source_and_config_json_describes_it(begun, tmp_path):
    (_, _, agent), folder = begun
    assert (folder / "source" / "mine.py").read_bytes() == agent.read_bytes()
    assert (folder / "source" / "gain.py").read_text() == "GAIN = 1.0"
    config = read_json(folder / "config.json")
    assert config["agent_file"] == str(agent)
    assert config["source"] == load_source(agent).record()["source"]
    assert config["source"]["checkout"].keys() >= {
        "agents/fql.py",
        "agents/base.py",
        "utils/networks.py",
    }
    assert not config["source"]["of_checkout"]
    assert str(tmp_path) not in json.dumps(config["source"])


@pytest.mark.ci
def test_an_agent_of_the_checkout_is_kept_too(dataset, tmp_path):
    arguments = dataset, tmp_path / "exp", "agents/fql.py", "--agent.lr=0.001"
    assert program.main(words(*arguments)) == 0
    folder = planned(*arguments).folder
    assert [file.name for file in (folder / "source").iterdir()] == ["fql.py"]
    config = read_json(folder / "config.json")
    assert config["agent_file"] == "agents/fql.py" and config["source"]["of_checkout"]
    assert "agents/base.py" in config["source"]["checkout"]


@pytest.mark.ci
def test_a_run_of_the_same_name_and_other_code_is_mentioned_once(
    begun, tmp_path, printed
):
    (dataset, exp, _), folder = begun
    other = fork(tmp_path / "other", gain=0.5)
    scaled = folder.with_name("mine_scaled_s0_0") / "config.json"  # of another name
    scaled.parent.mkdir()
    write_json(scaled, {"source": {"file": "mine_scaled.py", "digest": "0"}})
    printed()
    assert program.main(words(dataset, exp, other, "--num_seeds=2")) == 0
    notes = [line for line in printed().err.splitlines() if "other code" in line]
    namesake = f"has runs of other code under the name mine: {folder.name}"
    assert notes == [f"warning: {folder.parent} {namesake}"]
    shutil.rmtree(folder)
    warn_once.cache_clear()
    (folder.with_name("mine_s7_0") / "config.json").parent.mkdir()
    # A damaged config.json of another run does not count.
    (folder.with_name("mine_s7_0") / "config.json").write_text("{")
    assert program.main(words(dataset, exp, other, "--seed=2")) == 0
    assert "other code" not in printed().err


def test_an_edit_after_the_run_was_planned_does_not_change_the_run(
    dataset, tmp_path, monkeypatch
):
    arguments = dataset, tmp_path / "exp", fork(tmp_path / "code")
    run = planned(*arguments)
    prepare_data = data_module.prepare_data

    def edited(run):
        fork(tmp_path / "code", gain=0.5)
        return prepare_data(run)

    with monkeypatch.context() as patch:
        patch.setattr(data_module, "prepare_data", edited)
        assert program.main(words(*arguments)) == 0
    assert (run.folder / "source" / "gain.py").read_text() == "GAIN = 1.0"
    assert planned(*arguments).folder != run.folder


# ---------------------------------------------------------------- whether it resumes


def test_a_run_resumes_after_its_agent_file_was_moved(begun, tmp_path, printed):
    (dataset, exp, agent), folder = begun
    moved = fork(tmp_path / "moved", doc="In another place.")
    shutil.rmtree(agent.parent)
    printed()
    assert program.main(words(dataset, exp, moved, "--offline_steps=4")) == 0
    assert f"resumed at step 2: {folder}" in printed().out
    assert read_json(folder / "config.json")["agent_file"] == str(moved)
    # The folder keeps the file with which the run began.
    assert "A fork." in (folder / "source" / "mine.py").read_text()


@pytest.mark.ci
def test_a_run_of_a_project_agent_resumes_with_a_newer_version_which_is_mentioned(
    dataset, tmp_path, printed
):
    arguments = dataset, tmp_path / "exp", "agents/fql.py"
    assert program.main(words(*arguments)) == 0
    folder = planned(*arguments).folder
    kept = folder / "source" / "fql.py"
    began = kept.read_text() + "\n\nEDITED = True\n"
    kept.write_text(began)
    printed()
    assert program.main(words(*arguments, "--offline_steps=4")) == 0
    resumed = printed()
    assert f"warning: agents/fql.py has changed since {folder} began\n" in resumed.err
    assert f"resumed at step 2: {folder}" in resumed.out
    assert program.main(words(*arguments, "--offline_steps=4")) == 0
    changed = f"agents/fql.py has changed since {folder}, which has finished"
    assert f"warning: {changed}; to train it anew: another" in printed().err
    assert kept.read_text() == began
    assert program.main(words(*arguments, "--offline_steps=4", "--overwrite")) == 0
    assert f"--overwrite: {folder} is deleted, which was at step 4\n" in printed().err
    assert kept.read_text() == (ROOT / "agents" / "fql.py").read_text()


def test_a_fork_that_differs_from_what_a_run_began_with_is_refused(begun, printed):
    arguments, folder = begun
    kept = folder / "source" / "mine.py"
    kept.write_text(kept.read_text() + "\n\nEDITED = True\n")
    printed()
    assert program.main(words(*arguments, "--offline_steps=4")) == 2
    error = printed().err
    assert (
        f"error: --agent: the code differs from what {folder} began with (mine.py; its own is"
        " in source/); " in error
    )
    assert error.endswith("give another --run_group, or delete that folder\n")


def test_changes_of_the_checkout_since_a_run_began_are_mentioned_each_time_it_resumes(
    begun, printed
):
    arguments, folder = begun
    config = read_json(folder / "config.json")
    config["source"]["checkout"]["agents/base.py"] = "0"
    write_json(folder / "config.json", config)
    printed()
    mention = f"warning: agents/base.py has changed since {folder} began"
    assert program.main(words(*arguments)) == 0  # it has finished
    assert mention not in printed().err
    for steps in (4, 6):
        assert program.main(words(*arguments, f"--offline_steps={steps}")) == 0
        assert printed().err.count(mention) == 1


def store_setting(folder, part, name, source):
    """Add a setting to config.json, as a version that still had it stored it."""
    config = read_json(folder / "config.json")
    config[part][name] = 3
    full = name if part == "flags" else f"agent.{name}"
    config["sources"] |= {full: source} if source else {}
    write_json(folder / "config.json", config)


@pytest.mark.parametrize("part", ["flags", "agent"])
def test_a_stored_setting_that_is_unknown_now_is_ignored_at_its_old_default(
    part, begun, printed
):
    arguments, folder = begun
    expected = actions(folder)
    store_setting(folder, part, "dropped", "default")
    store_setting(folder, part, "older", None)  # from before sources were stored
    np.testing.assert_array_equal(actions(folder), expected)
    printed()
    assert program.main(words(*arguments)) == 0
    assert f"finished already: {folder}" in printed().out
    assert program.main(words(*arguments, "--offline_steps=4")) == 0
    assert f"resumed at step 2: {folder}" in printed().out
    assert "dropped" not in read_json(folder / "config.json")[part]


@pytest.mark.parametrize(("part", "flag"), [("flags", "--"), ("agent", "--agent.")])
@pytest.mark.parametrize("source", ["command line", "preset smoke"])
def test_a_stored_setting_that_is_unknown_now_is_refused_if_it_was_set(
    part, flag, source, begun, printed
):
    arguments, folder = begun
    store_setting(folder, part, "dropped", source)
    before = (folder / "config.json").read_bytes()
    assert program.main(words(*arguments, "--offline_steps=4")) == 2
    assert f"other settings ({flag}dropped: stored 3, now None); " in printed().err
    assert (folder / "config.json").read_bytes() == before


# ---------------------------------------------------------------- its name in a report


def write_reported(root, task, seed, agent_file, source):
    folder = write_run(root, task, seed, {1_000_000: 0.5}, "mine", hashed=str(seed))
    config = read_json(folder / "config.json") | {"agent_file": agent_file}
    write_json(folder / "config.json", config | ({"source": source} if source else {}))


def methods(root, count):
    found, notes = reading.read_all([str(root)], 1)
    assert not notes and len(found) == count
    return [result.method for result in sorted(found, key=lambda result: result.seed)]


def test_a_report_distinguishes_agents_of_one_name_by_their_code(tmp_path):
    task = "scene-play-singletask-task1-v0"
    for seed, (place, gain) in enumerate((("a", 1.0), ("b", 1.0), ("agents", 0.5))):
        path = fork(tmp_path / place, gain)
        write_reported(
            tmp_path / "exp",
            task,
            seed,
            str(path),
            load_source(path).record()["source"],
        )
    codes = [
        load_source(tmp_path / place / "mine.py").digest[:8]
        for place in ("a", "b", "agents")
    ]
    assert methods(tmp_path / "exp", 3) == [
        f"mine agent_source={code}" for code in codes
    ]
    assert codes[0] == codes[1] != codes[2]
    # For the checkout's agents the name of the file decides.
    ours = load_source(ROOT / "agents" / "fql.py").record()["source"]
    for seed, letter in enumerate("ab"):
        record = ours | {"digest": letter}
        write_reported(tmp_path / "ours", task, seed, "agents/mine.py", record)
    write_reported(tmp_path / "ours", task, 2, "agents/mine.py", None)
    assert methods(tmp_path / "ours", 3) == ["mine"] * 3


def test_a_report_counts_the_alias_of_a_task_as_that_task(tmp_path):
    for name in ("task1-", "task2-", ""):
        write_run(
            tmp_path, f"scene-play-singletask-{name}v0", int(not name), {1_000_000: 0.5}
        )
    found, _ = reading.read_all([str(tmp_path)], 1)
    names = [f"scene-play-singletask-task{i}-v0" for i in (1, 2, 2)]
    assert sorted(result.env_name for result in found) == names


# ---------------------------------------------------------------- which code is loaded


def test_a_run_is_loaded_with_its_own_code_from_anywhere(
    begun, tmp_path, monkeypatch, printed
):
    (_, _, agent), folder = begun
    expected = actions(folder)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(actions(folder), expected)
    fork(tmp_path / "code", gain=0.5)  # a work in progress at the recorded path
    printed()
    np.testing.assert_array_equal(actions(folder), expected)
    assert f"warning: {agent} differs from what {folder} began with" in printed().err
    shutil.rmtree(agent.parent)
    moved = folder.rename(tmp_path / "moved")
    np.testing.assert_array_equal(actions(moved), expected)
    # The code in the run folder is executed.
    (moved / "source" / "gain.py").write_text("GAIN = 0.25")
    with pytest.raises(
        UserError, match=r"this would execute \S+/source/gain\.py \(1 lines\)"
    ):
        actions(moved)
    np.testing.assert_allclose(actions(moved, trust=True), 0.25 * expected, rtol=1e-6)
    (moved / "source" / "gain.py").unlink()
    with pytest.raises(
        UserError, match=r"source/mine\.py: .* run \(ModuleNotFoundError"
    ):
        load_policy(moved, trust=True)


# ---------------------------------------------------------------- schedules

SCHEDULED = """
from agents import trqam


class Mine(trqam.TRQAM):
    SCHEDULED = {scheduled}

    def dual_step(self, kl):
        dual = super().dual_step(kl)
        return dual.replace(kl_budget=0.1 + 0.9 * self.progress())


get_config = trqam.get_config
AGENT = Mine
"""


@pytest.mark.ci
def test_a_scheduled_agent_knows_the_updates_of_its_run_and_the_run_is_not_extended(
    dataset, tmp_path, capsys
):
    code = tmp_path / "code" / "mine.py"
    code.parent.mkdir()
    code.write_text(SCHEDULED.format(scheduled=True))
    arguments = dataset, tmp_path / "exp", code
    assert program.main(words(*arguments, "--offline_steps=8", "--log_interval=1")) == 0
    (folder,) = (tmp_path / "exp").glob("*/*/mine_s0_*")
    budgets = [line["dual/kl_budget"] for line in read_csv(folder / "train.csv")]
    np.testing.assert_allclose(budgets, 0.1 + 0.9 * np.arange(1, 9) / 8, rtol=1e-5)
    capsys.readouterr()
    assert (
        program.main(words(*arguments, "--offline_steps=16", "--log_interval=1")) == 2
    )
    assert "updates of the run: stored 8, now 16" in capsys.readouterr().err


@pytest.mark.ci
def test_an_agent_that_uses_its_progress_must_declare_that_it_is_scheduled(tmp_path):
    code = tmp_path / "mine.py"
    code.write_text(SCHEDULED.format(scheduled=False))
    agent = tiny(load_source(code).module)
    with pytest.raises(TypeError, match="SCHEDULED = True"):
        agent.update(random_batch(), jax.random.key(0))


def test_a_base_is_shared_only_by_runs_that_clone_the_same_one():
    def base(*flags, data="d"):
        run = plan(parse_flags(["main.py", "--env_name=scene", *flags]))[0]
        return run.of_base(data).folder

    others = [
        "--agent.lr=1e-3",
        "--agent.batch_size=64",
        "--bc_steps=7",
        "--horizon_length=3",
        "--agent.action_chunking=False",
        "--agent.actor_hidden_dims=(8,)",
        "--agent.actor_layer_norm=True",
        "--seed=1",
    ]
    folders = {base(), base(data="e"), *map(base, others)}
    assert len(folders) == 2 + len(others)
    for same in ("--agent.kl_budget=0.7", "--agent.flow_steps=2", "--agent.num_qs=3"):
        assert base(same) == base()
    assert base("--agent=agents/qam.py") == base("--offline_steps=9") == base()


def test_a_run_does_not_resume_with_a_base_of_another_length(dataset, tmp_path):
    """The number of cloning updates is not in the folder's hash."""
    arguments = dataset, tmp_path / "exp", "agents/trqam.py"
    stored = json.loads(json.dumps(planned(*arguments, "--bc_steps=4").config()))
    other = planned(*arguments, "--bc_steps=8")
    assert differences(other, stored) == ["--bc_steps: stored 4, now 8"]


def test_all_updates_of_a_run_include_the_online_phase():
    flags = {
        "offline_steps": 8,
        "online_steps": 12,
        "start_training": 4,
        "utd_ratio": 2,
    }
    for horizon_length, first in ((2, 4), (6, 6)):
        agent = SimpleNamespace(horizon_length=horizon_length)
        assert total_updates(flags, agent) == 8 + 2 * (12 - first)
    assert total_updates(flags | {"online_steps": 0}, agent) == 8
