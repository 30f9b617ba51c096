"""rollout.py repeats the evaluation of a run, episode by episode, and films episodes."""

import shutil
import types
from pathlib import Path

import imageio.v2 as imageio
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import main as program
from configs.trust import content_digest, trusted_digests
from envs.collect import collect_random
from envs.evaluation import EvalResult, evaluate
from envs.workers import EnvWorkers, Task
from scripts import rollout
from tests.agents import straightforward_beyond
from tests.envs.test_video import egl_renders
from tests.scripts.precision import precisions_of_acting, with_highest_precision
from training.acting import evaluation_policy
from training.keys import stream
from training.policy import create_untrained, load_policy, load_run
from utils.csv_log import CsvLog
from utils.errors import RunError
from utils.files import read_json

ROOT = Path(__file__).resolve().parents[2]
TASK = "pointmaze-medium-navigate-singletask-task1-v0"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Return the folder of a finished run of TRQAM; its base is in the same --save_dir."""
    return finished_run(tmp_path_factory.mktemp("rollout"), "trqam")


def finished_run(root, agent, *more):
    """Run agents/<agent>.py with behaviour cloning only, and return the folder of the run."""
    collect_random(TASK, root / "data", 300)
    flags = [
        f"--env_name={TASK}", f"--ogbench_dataset_dir={root}/data", f"--save_dir={root}/exp", "--bc_steps=4",
        "--offline_steps=0", "--online_steps=0", "--eval_episodes=3", "--eval_workers=1", "--seed=5", "--horizon_length=5",
        "--agent.action_chunking=True", "--agent.actor_hidden_dims=(8,8)", "--agent.value_hidden_dims=(8,8)",
        "--agent.num_qs=2", "--agent.flow_steps=2", "--agent.batch_size=8", f"--agent={ROOT}/agents/{agent}.py",
        *more,
    ]  # fmt: skip
    assert program.main(["main.py", *flags]) == 0
    (config,) = root.glob(f"exp/Debug/{TASK}/*/config.json")
    return config.parent


def run(*flags):
    return rollout.main(["scripts/rollout.py", *map(str, flags)])


@pytest.mark.ci
def test_the_guides_lines_give_best_of_n_values_and_path_kl(run_dir):
    """The policy of a run without updates is its base, so the path KL is 0."""
    page = (ROOT / "docs" / "policies.md").read_text()
    code = page.partition("```python\nimport jax\n")[2].partition("```")[0]
    agent, stored, _ = load_run(run_dir)
    names = {"run_dir": run_dir, "s": np.zeros((3, stored["observation_dim"]))}
    exec(f"import jax\n{code}", names)
    assert names["a"].shape == (3, agent.flat_action_dim) and abs(names["kl"]) < 1e-9
    assert names["agent"].draws == 16 and names["agent"].config.best_of_n == 16
    np.testing.assert_array_equal(
        names["q"], names["agent"].expected_return(names["s"], names["a"])
    )


@pytest.mark.ci
def test_a_file_that_a_fork_no_longer_finds_is_named(run_dir):
    def create(*_):
        raise FileNotFoundError(2, "No such file or directory", "/gone/critic.npz")

    agent = load_run(run_dir)[0]
    stored = read_json(run_dir / "config.json")
    kind = types.SimpleNamespace(create=create)
    message = (
        "its agent cannot read a file .*No such file or directory: '/gone/critic.npz'"
    )
    with pytest.raises(RunError, match=message):
        create_untrained(run_dir, stored, kind)
    assert create_untrained(run_dir, stored, type(agent)).config == agent.config


@pytest.mark.ci
def test_the_episodes_are_those_of_the_runs_evaluation(run_dir, capsys):
    assert run(run_dir, "--episodes=3", "--eval_workers=2") == 0
    title, separator, rest = capsys.readouterr().out.partition("episode  ")
    assert (
        " ".join(title.split())
        == f"trqam after 0 updates on {TASK}, seed 5: 3 episodes"
    )
    out = ["", *(separator + rest).splitlines()]
    table = [dict(zip(out[1].split(), line.split(), strict=True)) for line in out[2:5]]
    assert [episode["episode"] for episode in table] == ["0", "1", "2"] and all(
        float(episode["value"]) for episode in table
    )
    evaluation = CsvLog(run_dir / "eval.csv").read()[-1]
    means = {
        name: sum(float(episode[name]) for episode in table) / 3
        for name in ("steps", "return", "discounted")
    }
    assert means["steps"] == pytest.approx(evaluation["length"]) and means[
        "return"
    ] == pytest.approx(evaluation["return"])
    assert means["discounted"] == pytest.approx(
        evaluation["discounted_return"], abs=0.01
    )
    assert sum(episode["success"] == "yes" for episode in table) == round(
        3 * evaluation["success"]
    )
    assert out[5] == f"success {evaluation['success']:.1%} of 3 episodes"
    # Another seed gives other episodes. An episode depends only on the seed and its number.
    assert run(run_dir, "--episodes=1", "--seed=6") == 0
    other = capsys.readouterr().out.splitlines()[-2].split()
    assert run(run_dir, "--episodes=2", "--seed=6", "--eval_workers=1", "--best") == 0
    again = capsys.readouterr().out.splitlines()[-3].split()
    assert other == again and other[-1] != table[0]["value"]


def test_a_rollout_multiplies_with_the_precision_of_its_run(
    run_dir, tmp_path, monkeypatch
):
    copy = with_highest_precision(run_dir, tmp_path / "run")
    precisions = precisions_of_acting(monkeypatch)
    assert run(copy, "--episodes=1", "--eval_workers=1") == 0
    assert precisions == ["highest"]


@pytest.mark.ci
def test_the_value_of_a_distributional_critic_is_the_agents_own(tmp_path, capsys):
    """It is not the mean of the logits: the bins of the critic lie between -200 and 0."""
    folder = finished_run(tmp_path, "trqam_distributional_critic")
    capsys.readouterr()
    assert run(folder, "--episodes=1", "--seed=6", "--eval_workers=1") == 0
    printed_value = float(capsys.readouterr().out.splitlines()[-2].split()[-1])
    agent, _, _ = load_run(folder)
    policy, starts = evaluation_policy(agent), []

    def watched(observations, ids):
        actions = policy.act(observations, ids)
        starts.append((observations[:1], actions[:1]))
        return actions

    with EnvWorkers(Task(TASK), workers=1) as workers:
        evaluate(policy._replace(act=watched), workers, 1, 6)
    observations, chunks = starts[0]
    (value,) = agent.expected_return(observations, chunks.reshape(1, -1))
    assert printed_value == pytest.approx(float(value), rel=1e-2)
    assert -150 < value < -50


STEERED = {
    "qgf": ("--agent.guidance_weight=5", "--agent.best_of_n=3"),
    "qpilots": ("--agent.alpha=0.5", "--agent.best_of_n=3"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STEERED)
def test_a_loaded_policy_is_steered_as_the_equations_say(tmp_path, name, capsys):
    """The episodes of a rollout, too, are those of the run's evaluation."""
    folder = finished_run(tmp_path, name, *STEERED[name])
    agent, stored, _ = load_run(folder)
    s = (
        np.random.default_rng(0)
        .normal(size=(6, stored["observation_dim"]))
        .astype(np.float32)
    )
    key = jax.random.fold_in(stream(jax.random.key(3), "policy"), 0)
    x0 = jax.random.normal(key, (3, 6, agent.flat_action_dim))
    expected = getattr(straightforward_beyond, f"{name}_act")(agent, s, x0)
    found = load_policy(folder, seed=3)(s).reshape(6, -1)
    np.testing.assert_allclose(found, expected, atol=3e-5)
    plain = jnp.clip(agent.flow_sample(agent.params["base"], s, x0), -1.0, 1.0)
    assert np.abs(np.asarray(plain) - found).max(axis=2).min() > 1e-3
    capsys.readouterr()
    assert run(folder, "--episodes=3", "--eval_workers=1") == 0
    lines = capsys.readouterr().out.splitlines()[-4:-1]
    evaluation = CsvLog(folder / "eval.csv").read()[-1]
    steps = np.mean([float(line.split()[2]) for line in lines])
    assert steps == pytest.approx(evaluation["length"])


def test_changed_source_code_is_executed_only_with_trust(run_dir, tmp_path, capsys):
    folder, made = tmp_path / "run", tmp_path / "made"
    shutil.copytree(run_dir, folder)
    source = folder / "source" / "trqam.py"
    source.write_text(f"open({str(made)!r}, 'w').close()\n" + source.read_text())
    assert run(folder, "--episodes=1") == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and not made.exists()
    assert (
        err.startswith(f"error: this would execute {source} (")
        and "give --trust" in err
    )
    assert run(folder, "--episodes=1", "--trust") == 0 and made.exists()


def test_a_base_has_no_critic_and_needs_a_task(run_dir, capsys):
    (base,) = run_dir.parents[2].glob("bc/*/bc_s5_*")
    assert run(base) == 2
    assert (
        "--env_name is missing: this is a base of pointmaze-medium-navigate"
        in capsys.readouterr().err
    )
    assert run(base, f"--env_name={TASK}", "--episodes=1") == 0
    assert len(capsys.readouterr().out.splitlines()[2].split()) == 5  # no value


def test_a_base_that_was_trained_here_stays_trusted_after_the_checkout_changes(run_dir):
    """Its files are recorded, so they need not equal those of the checkout."""
    (base,) = run_dir.parents[2].glob("bc/*/bc_s5_*")
    kept = [path.read_bytes() for path in base.glob("source/**/*.py")]
    assert kept and {content_digest(content) for content in kept} <= trusted_digests()


def test_other_rewards_of_the_value_are_mentioned(capsys):
    """With --sparse the critic estimates a return that no column of the table shows."""
    numbers = (np.ones(2, int) for _ in range(5))
    result = EvalResult(*numbers, policy_calls=1, policy_requests=2, seconds=1.0)
    note = (
        "the run was trained with --sparse: the value is of rewards 0 and -1, the returns are"
        " the environment's own"
    )
    values = np.full(2, -3.0)
    rollout.print_episodes(result, values, sparse=True)
    assert capsys.readouterr().out.splitlines()[-1] == note
    rollout.print_episodes(result, values, sparse=False)
    rollout.print_episodes(result, np.full(2, np.nan), sparse=True)
    assert note not in capsys.readouterr().out


def test_the_alias_of_a_task_is_that_task():
    alias, task = (f"scene-play-singletask-{name}v0" for name in ("", "task2-"))
    stored = {"flags": {"env_name": task}}
    assert rollout.task_of(stored, None) == rollout.task_of(stored, alias) == task


@pytest.mark.slow
def test_a_film_has_every_frame_that_is_not_skipped(
    run_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("IMAGEIO_FFMPEG_NO_PREVENT_SIGINT", "1")
    path = tmp_path / "films" / "out.gif"
    flags = ["--episodes=1", "--video_frame_skip=400", f"--video={path}"]
    if not egl_renders():  # A machine without GL has to report it.
        assert run(run_dir, *flags) == 1
        assert "no video out.gif" in capsys.readouterr().err
        return
    assert run(run_dir, *flags) == 0
    out = capsys.readouterr().out
    assert f"filming {path}, episodes: 1" in out.replace(
        "\n  ", " "
    ) and out.splitlines()[-1] == str(path)
    frames = imageio.mimread(path)
    # steps 0, 400, 800 and the last
    assert len(frames) == 4 and frames[0].shape[:2] == (320, 320)


def mistakes(run_dir, tmp_path):
    empty = tmp_path / "empty"
    shutil.copytree(run_dir, empty)
    shutil.rmtree(empty / "checkpoints")
    return {
        "no folder": ([], "usage: "),
        "two folders": ([run_dir, run_dir], "usage: "),
        "no run": ([tmp_path], "is not the folder of a run"),
        "no checkpoint": ([empty], "holds no checkpoint"),
        "no checkpoint that did best": ([empty, "--best"], "holds no checkpoint"),
        "unknown ending": ([run_dir, "--video=out.avi"], "--video=out.avi"),
        "too large a seed": ([run_dir, f"--seed={2**32}"], "--seed=4294967296"),
        "a film without a name": ([run_dir, "--video_episodes=2"], "--video=out.mp4"),
        "no episodes": ([run_dir, "--episodes=0"], "--episodes=0"),
        "unknown flag": ([run_dir, "--episode=1"], "Did you mean: episodes"),
        "another world": (
            [run_dir, "--env_name=scene-play-singletask-task1-v0"],
            "the run is of pointmaze-medium",
        ),
        "a domain": ([run_dir, "--env_name=pointmaze-medium"], "give one task"),
        "unknown task": ([run_dir, "--env_name=pointmaze-medum"], "pointmaze-medium"),
    }


def test_a_mistake_prints_one_line(run_dir, tmp_path, capsys):
    for flags, hint in mistakes(run_dir, tmp_path).values():
        assert run(*flags) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and hint in line


def test_help_names_every_flag(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    names = [
        "episodes",
        "seed",
        "[no]best",
        "env_name",
        "eval_workers",
        "video",
        "video_episodes",
        "video_frame_skip",
    ]
    assert all(f"--{name}" in text for name in names)
