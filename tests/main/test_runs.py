"""main.py trains, logs, resumes and stops as its flags say."""

import contextlib
import json
import math
import re
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from envs.tasks import dataset_name
from tests.tiny_runs import (
    ROOT,
    TASK,
    TINY,
    only_run,
    resolved,
    run,
    train,
    unwrapped,
)
from training.checkpoints import Checkpoints
from training.plan import plan
from training.replay_file import ReplayFile
from utils import preemption
from utils.csv_log import CsvLog
from utils.errors import RunError, UserError


@pytest.mark.ci
@pytest.mark.usefixtures("no_key_twice")
def test_offline_then_online_leaves_everything_in_its_folder(
    data, tmp_path, monkeypatch, capsys
):
    # a slow machine takes more than a minute
    monkeypatch.setattr("utils.progress.SECONDS_PER_LINE", math.inf)
    chunked = ["--horizon_length=2", "--agent.action_chunking=True"]
    flags = [*chunked, "--kl_budget_online=0.125", "--utd_ratio=2", "--eval_episodes=1"]
    assert train(data, tmp_path, *flags) == 0
    folder = only_run(tmp_path)
    rows = CsvLog(folder / "train.csv").read()
    assert [(row["step"], row["phase"]) for row in rows] == [
        (4, "offline"), (8, "offline"), (16, "online"), (20, "online"),
    ]  # fmt: skip
    assert [row["dual/kl_budget"] for row in rows] == [1.0, 1.0, 0.125, 0.125]
    assert {
        "critic/loss",
        "flow/loss",
        "adjoint/loss",
        "dual/path_kl",
        "dual/lam",
        "dual/kl_bound",
    } <= set(rows[-1])
    evaluations = CsvLog(folder / "eval.csv").read()
    assert [row["step"] for row in evaluations] == [0, 8, 16, 20]
    assert json.loads((folder / "done.json").read_text())["online_steps"] == 12
    config = json.loads((folder / "config.json").read_text())
    assert config["sources"]["agent.num_qs"] == "command line"
    assert {"jax", "mujoco", "ogbench", "numpy"} == set(config["versions"])
    with Checkpoints(folder / "checkpoints") as checkpoints:
        tree, _ = checkpoints.read(20)
    # --utd_ratio updates per online step, from --start_training on
    assert tree["agent"]["step"] == 8 + 2 * (12 - 4)
    (base,) = tmp_path.glob("bc/pointmaze-medium-navigate/*/done.json")
    assert not (base.parent / "eval.csv").exists()
    check_progress(capsys.readouterr().err.splitlines(), rows, evaluations)
    # The same command is skipped; another agent of the same shape uses the same base.
    assert train(data, tmp_path, *flags) == 0
    assert f"finished already: {folder}" in unwrapped(capsys.readouterr().out)
    assert (
        train(data, tmp_path, "--agent=agents/qam.py", "--online_steps=0", *chunked)
        == 0
    )
    assert list(tmp_path.glob("bc/pointmaze-medium-navigate/*/done.json")) == [base]
    assert len(list(tmp_path.glob(f"Debug/{TASK}/qam_s0_*/done.json"))) == 1


def check_progress(lines, rows, evaluations):
    """Check that every log interval has a line with the figures of the CSV files."""
    steps = [
        "4/4 offline",
        "4/8 offline",
        "8/8 offline",
        "4/12 online",
        "8/12 online",
        "12/12 online",
    ]
    lines = [line for line in lines if "  step " in line]
    assert [re.search(r"  step (.*?)  ", line)[1] for line in lines] == steps
    assert [" updates/s" in line for line in lines] == [True] * 3 + [False] * 3
    assert all(" steps/s" in line for line in lines[3:]) and max(map(len, lines)) <= 100
    assert lines[0].startswith("bc pointmaze-medium-navigate s0  ")
    # None: the base, and the online steps before the first update
    logged = [None, *rows[:2], None, *rows[2:]]
    success = {row["step"]: row["success"] for row in evaluations}
    for line, row, evaluated in zip(
        lines[1:], logged[1:], (0, 8, 8, 16, 20), strict=True
    ):
        assert f"  success {success[evaluated]:.0%}" in line
        kl, budget = (
            row and f"{row['dual/path_kl']:.3g}",
            row and f"{row['dual/kl_budget']:.3g}",
        )
        # lam_scale is 3
        shown = row and f"  KL {kl}/{budget}  λ {3.0 * row['dual/lam']:.3g}"
        assert shown in line if row else "KL" not in line and "λ" not in line


def test_the_readmes_fork_command_plans_runs_of_a_copied_agent(
    tmp_path, monkeypatch, capsys
):
    readme = (ROOT / "README.md").read_text()
    (line,) = re.findall(
        r"^python main\.py (.* --agent=my_agents/.*)$", readme, re.MULTILINE
    )
    place, agent, setting = line.split()
    monkeypatch.chdir(tmp_path)
    fork = Path(agent.removeprefix("--agent="))
    fork.parent.mkdir()
    text = (ROOT / "agents" / "trqam_fixed_lambda.py").read_text()
    fork.write_text(text.replace("FixedLambdaTRQAM", "YourClass"))
    assert run(place, agent, setting, "--dry_run") == 0
    output = capsys.readouterr().out
    assert (
        output.startswith(f"{fork.stem}: 5 runs in ")
        and output.count("  seed 0\n") == 5
    )
    settings = resolved(place, agent, setting)
    assert settings.source.file == fork.resolve()
    key, value = setting.removeprefix("--agent.").split("=")
    assert settings.agent[key] == float(value)


@pytest.mark.ci
def test_online_steps_may_grow_and_offline_steps_may_not(data, tmp_path, capsys):
    """More online steps extend a finished run. More offline steps are refused, because the run
    is past its offline phase.
    """
    assert train(data, tmp_path / "short") == 0
    assert train(data, tmp_path / "short", "--online_steps=16") == 0
    assert train(data, tmp_path / "long", "--online_steps=16") == 0
    short, long = (
        (only_run(tmp_path / which) / "train.csv").read_text()
        for which in ("short", "long")
    )
    assert short == long
    capsys.readouterr()
    assert (
        train(data, tmp_path / "short", "--online_steps=16", "--offline_steps=12") == 2
    )
    assert "--offline_steps: stored 8, now 12" in capsys.readouterr().err


@pytest.fixture
def run_scene(monkeypatch, tmp_path):
    """A function that runs the five tasks of scene, of which one raises an error.

    It returns the exit code and the tasks that were begun; nothing is trained.
    """
    from training import train as train_module

    def run_with(error, task, *flags):
        begun = []

        def train_or_fail(runs, overwrite):
            assert [run.seed for run in runs] == [0, 1]
            begun.append(int(re.search(r"task(\d)", runs[0].env_name)[1]))
            if begun[-1] == task:
                raise error

        monkeypatch.setattr(train_module, "train", train_or_fail)
        with contextlib.suppress(type(error)):
            flags = ["--env_name=scene", "--num_seeds=2", *flags]
            return run(*flags, f"--save_dir={tmp_path}"), begun
        return "raised", begun

    return run_with


OUT_OF_MEMORY = "give a smaller --num_seeds, --online_steps or --agent.batch_size, or --device_data_gb=0"


@pytest.mark.parametrize(
    ("error", "task", "code", "line"),
    [
        (RunError("it cannot go on\nwith details"), 1, 1, "it cannot go on"),
        (UserError("no download"), 3, 2, "no download"),
        (MemoryError(), 1, 1, f"out of memory (MemoryError): {OUT_OF_MEMORY}"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 bytes"),
            1,
            1,
            f"out of memory (RESOURCE_EXHAUSTED: 9 bytes): {OUT_OF_MEMORY}",
        ),
    ],
)
def test_a_task_that_fails_does_not_stop_the_others(
    error, task, code, line, run_scene, capsys
):
    assert run_scene(error, task) == (code, [1, 2, 3, 4, 5])
    assert f"error: {line}\n" in capsys.readouterr().err


def test_a_signal_ends_the_program_even_if_saving_fails(monkeypatch, tmp_path, capsys):
    from training import train as train_module

    begun = []

    def interrupted(runs, overwrite):
        begun.append(runs)
        with preemption.deferred():
            signal.raise_signal(signal.SIGTERM)
            raise RunError("the disk is full")

    monkeypatch.setattr(train_module, "train", interrupted)
    assert run("--env_name=scene", f"--save_dir={tmp_path}") == 143
    error = capsys.readouterr().err
    assert len(begun) == 1 and "error: the disk is full\n" in error
    assert error.endswith("; the same command resumes\n")
    assert run("--env_name=scene", f"--save_dir={tmp_path}", "--overwrite") == 143
    error = capsys.readouterr().err
    assert error.endswith(
        "; the same command without --overwrite resumes this task; later tasks keep the runs"
        " they have\n"
    )


@pytest.mark.parametrize(
    ("error", "task", "flags", "ending"),
    [
        (UserError("of every task"), 1, [], 2),
        (UserError("no download"), 3, ["--debug"], "raised"),
        (BrokenPipeError(), 1, [], "raised"),
        (jax.errors.JaxRuntimeError("INTERNAL: a fault"), 1, [], "raised"),
    ],
)
def test_a_mistake_in_the_first_task_or_an_unexpected_error_ends_the_program(
    error, task, flags, ending, run_scene
):
    assert run_scene(error, task, *flags) == (ending, list(range(1, task + 1)))


def test_two_processes_never_write_one_run(data, tmp_path, capsys):
    from configs.flags import parse_flags

    flags = [
        f"--env_name={TASK}",
        f"--ogbench_dataset_dir={data}/good",
        f"--save_dir={tmp_path}",
        "--bc_steps=4",
    ]
    (planned,) = plan(parse_flags(["main.py", *flags, *TINY]))
    with planned.locked():
        assert run(*flags, *TINY) == 1
    assert (
        f"{planned.folder} is being written by another process"
        in capsys.readouterr().err
    )
    # nor does the second process train the base
    assert not planned.folder.exists() and not list(tmp_path.glob("bc/*/*"))


@pytest.mark.ci
def test_bc_only_trains_the_base_and_its_folder_is_a_pretrained_actor(
    data, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("training.data.DOMAINS", [dataset_name(TASK)])
    assert train(data, tmp_path, "--bc_only", "--eval_episodes=1") == 0
    folder = only_run(tmp_path)
    assert folder.name.startswith("bc_s0_")
    assert [row["step"] for row in CsvLog(folder / "eval.csv").read()] == [0, 8]
    output = unwrapped(capsys.readouterr().err)
    assert "gives 300 transitions; the published results are with 1,000,000" in output
    assert "--bc_steps has no effect with --bc_only" in output
    assert (
        train(
            data,
            tmp_path / "tuned",
            f"--pretrained_actor_path={folder}",
            "--online_steps=6",
        )
        == 0
    )
    assert not (tmp_path / "tuned" / "bc").exists()
    capsys.readouterr()
    other = ["--agent.actor_layer_norm=True"]
    assert (
        train(
            data,
            tmp_path / "wider",
            f"--pretrained_actor_path={folder}",
            "--online_steps=0",
            *other,
        )
        == 2
    )
    assert (
        "layer norm off there and on here (--agent.actor_layer_norm)"
        in capsys.readouterr().err
    )


@pytest.mark.ci
@pytest.mark.usefixtures("no_key_twice")
def test_balanced_sampling_acts_at_random_first(data, tmp_path):
    """Another base changes the policy, and so every action after `--start_training`."""
    actions = []
    for steps in (4, 0):
        place = tmp_path / f"{steps}"
        assert train(data, place, "--balanced_sampling", f"--bc_steps={steps}") == 0
        path = only_run(place) / "replay.bin"
        rows = np.fromfile(path, ReplayFile(path, 2, 2).dtype)
        actions.append(rows["actions"][rows["starts"] == 1])
    equal = (actions[0] == actions[1]).all(axis=1)
    assert list(equal) == [True] * 4 + [False] * 8


@pytest.mark.ci
def test_nan_stops_the_run_and_the_error_names_the_metric_and_the_last_checkpoint(
    data, tmp_path, monkeypatch, capsys
):
    from training import data as data_module

    real = data_module.load_dataset

    def poisoned(*args, **kwargs):
        dataset = real(*args, **kwargs)
        return dataset | {
            "rewards": np.where(dataset["rewards"] < 0, np.nan, dataset["rewards"])
        }

    monkeypatch.setattr(data_module, "load_dataset", poisoned)
    assert train(data, tmp_path) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(
        r"error: [\w/]+ is not finite since update 1, seen at step 4 of \S+; there is no"
        r" checkpoint yet",
        error,
    )


@pytest.mark.ci
def test_a_users_environment_and_agent_file_train(tmp_path, capsys):
    """--env_name=module:EnvId with --dataset=FILE, trained by an agent file outside agents/."""
    from envs.probe import write_dataset

    dataset = write_dataset("envs.probe:ProbeChain-v0", tmp_path / "mine.npz", 200)
    agent = tmp_path / "my_agent.py"
    shutil.copy(ROOT / "agents" / "trqam_fixed_lambda.py", agent)
    flags = [
        "--env_name=envs.probe:ProbeChain-v0", f"--dataset={dataset}", f"--agent={agent}", "--agent.lam=0.5",
        f"--save_dir={tmp_path}/exp", "--bc_steps=4", "--offline_steps=4", "--online_steps=6", "--start_training=3",
        "--eval_episodes=2", "--eval_workers=1", *TINY,
    ]  # fmt: skip
    assert run(*flags) == 0
    assert "own environment" in capsys.readouterr().out
    (log,) = (tmp_path / "exp").glob(
        "Debug/envs.probe_ProbeChain-v0/my_agent_s0_*/train.csv"
    )
    assert [row["dual/lam"] for row in CsvLog(log).read()] == [0.5, 0.5]
