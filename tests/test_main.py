"""The command line: what it resolves, what it refuses, and whole runs on a real environment
with tiny networks.
"""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import main as program
from configs.domains import DOMAINS
from envs import download
from envs.collect import collect_random
from envs.tasks import ALL_TASKS
from envs.workers import EnvWorkers
from tests.terminal import lines_on, terminal, written
from training.checkpoints import Checkpoints
from training.plan import plan
from utils.errors import RunError, UserError
from utils.logging import CsvLog

ROOT = Path(__file__).resolve().parents[1]
FILE = "pointmaze-medium-navigate-v0.npz"
TASK = "pointmaze-medium-navigate-singletask-task1-v0"
AGENTS = sorted(
    f"agents/{path.name}"
    for path in (ROOT / "agents").glob("*.py")
    if "\nAGENT = " in path.read_text()
)
TINY = [
    "--agent.actor_hidden_dims=(8,8)",
    "--agent.value_hidden_dims=(8,8)",
    "--agent.num_qs=2",
    "--agent.flow_steps=2",
    "--agent.batch_size=8",
]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Downloads meet a closed port of this machine at once."""
    monkeypatch.setattr(download, "HOSTS", ("http://127.0.0.1:9",))
    monkeypatch.setattr("envs.dataset_files.HOSTS", ("http://127.0.0.1:9",))
    monkeypatch.chdir(ROOT)


def run(*flags):
    return program.main(["main.py", *map(str, flags)])


def unwrapped(text):
    """Printed messages with each on one line."""
    return text.replace("\n  ", " ")


# ---------------------------------------------------------------- what it resolves


def test_all50_dry_run_lists_fifty_runs_and_trains_nothing(tmp_path, capsys):
    assert run("--env_name=all50", "--dry_run", f"--save_dir={tmp_path}/exp") == 0
    lines = capsys.readouterr().out.splitlines()
    folders = [
        Path(line).relative_to(f"  {tmp_path}/exp/Debug")
        for line in lines
        if line.startswith("  /")
    ]
    assert [line.split() for line in lines if "  seed 0" in line] == [
        [task, "seed", "0"] for task in ALL_TASKS
    ]
    assert [folder.parent.name for folder in folders[1:]] == list(ALL_TASKS)
    assert list(tmp_path.iterdir()) == []


def test_domain_with_seeds(tmp_path, capsys):
    flags = [
        "--env_name=puzzle-4x4",
        "--num_seeds=2",
        "--seed=3",
        "--dry_run",
        f"--save_dir={tmp_path}",
    ]
    assert run(*flags) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [f"puzzle-4x4-play-singletask-task{i}-v0" for i in range(1, 6)]
    assert [line for line in lines if "  seeds " in line] == [
        f"{name}  seeds 3-4" for name in names
    ]
    folders = {
        line.strip()
        for line in lines
        if line.startswith(f"  {tmp_path}") and "TASK" not in line
    }
    assert len(folders) == 10


def test_several_names_are_the_tasks_of_each_once():
    """As sweep.py takes them: tasks and domains in one list, whatever is in two of them."""
    from configs.flags import parse_flags

    task = "scene-play-singletask-task3-v0"
    names = f"--env_name={task}, cube-double,scene,{task},"
    runs = plan(parse_flags(["main.py", names, "--num_seeds=2"]))
    scene = [f"scene-play-singletask-task{i}-v0" for i in (3, 1, 2, 4, 5)]
    cube = [f"cube-double-play-singletask-task{i}-v0" for i in range(1, 6)]
    tasks = [scene[0], *cube, *scene[1:]]
    assert [(run.env_name, run.seed) for run in runs] == [
        (name, seed) for name in tasks for seed in (0, 1)
    ]
    assert runs[0].settings is runs[-1].settings is not runs[2].settings
    assert runs[0].folder != runs[2].folder


def resolved(*flags):
    from configs.flags import parse_flags

    return plan(parse_flags(["main.py", *flags]))[0].settings


def test_precedence_and_provenance():
    """Agent default < domain < preset < command line, each with its source."""
    plain = resolved("--env_name=cube-triple", "--agent=agents/trqam.py")
    assert plain.agent.actor_hidden_dims == (1024,) * 4
    assert plain.agent.kl_budget == 0.5
    assert plain.sources["agent.kl_budget"].startswith("the published TRQAM commands")
    assert plain.sources["agent.actor_hidden_dims"].startswith(
        "TRQAM paper (arXiv 2605.27079)"
    )
    assert (plain.agent.lr, plain.sources["agent.lr"]) == (3e-4, "default")
    smoke = resolved(
        "--env_name=cube-triple", "--agent=agents/trqam.py", "--preset=smoke"
    )
    assert smoke.agent.actor_hidden_dims == (32, 32)
    assert smoke.sources["agent.actor_hidden_dims"] == "preset smoke"
    given = resolved(
        "--env_name=cube-triple", "--agent=agents/trqam.py", "--preset=smoke", "--agent.actor_hidden_dims=(7,)",
        "--offline_steps=9",
    )  # fmt: skip
    assert given.agent.actor_hidden_dims == (7,)
    assert (
        given.sources["agent.actor_hidden_dims"]
        == given.sources["offline_steps"]
        == "command line"
    )
    assert given.flags["offline_steps"] == 9


@pytest.mark.parametrize("agent", AGENTS)
def test_the_smoke_preset_fits_every_agent(agent):
    settings = resolved("--env_name=scene", f"--agent={agent}", "--preset=smoke").agent
    assert settings.actor_hidden_dims == (32, 32) and settings.batch_size == 32


@pytest.mark.parametrize("agent", AGENTS)
def test_the_cpu_preset_trains_every_agent_for_as_long_and_makes_no_data(agent):
    settings = resolved("--env_name=scene", f"--agent={agent}", "--preset=cpu")
    flags = settings.flags
    cloned = flags["bc_steps"], flags["offline_steps"], flags["online_steps"]
    online = Path(agent).stem == "rlpd"  # its only phase
    assert cloned[1:] == ((0, 50_000) if online else (50_000, 0))
    assert cloned[0] in (0, 20_000)
    widths = [settings.agent[k] for k in settings.agent if k.endswith("hidden_dims")]
    assert set(widths) == {(256,) * 4}
    assert (
        settings.agent.get("num_qs", 2) == 2
        and settings.agent.get("flow_steps", 5) == 5
    )
    without = resolved("--env_name=scene", f"--agent={agent}").agent
    assert settings.agent.discount == without.discount
    assert settings.transitions is None and not settings.random_data


@pytest.mark.parametrize("domain", DOMAINS)
def test_domain_table(domain):
    settings = resolved(f"--env_name={domain}", "--agent=agents/qam.py")
    chunked = domain.startswith(("scene", "puzzle", "cube"))
    big = domain in (
        "antmaze-giant-navigate",
        "puzzle-4x4-play",
        "cube-triple-play",
        "cube-quadruple-play",
    )
    humanoid = domain.startswith("humanoid")
    agent = settings.agent
    assert (agent.horizon_length, agent.action_chunking) == (
        (5, True) if chunked else (1, False)
    )
    assert settings.flags["horizon_length"] == agent.horizon_length
    assert (
        agent.actor_hidden_dims
        == agent.value_hidden_dims
        == ((1024,) * 4 if big else (512,) * 4)
    )
    assert agent.actor_layer_norm == big
    assert (agent.discount, agent.rho) == ((0.999, 0.0) if humanoid else (0.995, 0.5))
    assert settings.sources["agent.inv_temp"].startswith("QAM paper")


def test_the_horizon_flag_sets_the_agents_horizon():
    settings = resolved(
        "--env_name=cube-double", "--agent=agents/trqam.py", "--horizon_length=3"
    )
    assert settings.agent.horizon_length == settings.flags["horizon_length"] == 3
    assert settings.sources["agent.horizon_length"] == "command line"


def test_an_environment_of_ones_own_takes_chunks_and_else_the_agents_defaults():
    settings = resolved("--env_name=some.module:Thing-v0", "--agent=agents/trqam.py")
    assert (settings.agent.horizon_length, settings.agent.action_chunking) == (5, True)
    sources = {
        name.removeprefix("agent."): source
        for name, source in settings.sources.items()
        if "agent." in name
    }
    chunks = {"horizon_length": "own environment", "action_chunking": "own environment"}
    assert sources == dict.fromkeys(sources, "default") | chunks


def test_an_environment_outside_the_table_says_whose_settings_it_takes():
    settings = resolved("--env_name=cube-single", "--agent=agents/trqam.py")
    assert settings.sources["agent.discount"].startswith(
        "nearest domain cube-double-play: "
    )
    # as large as large
    settings = resolved("--env_name=antmaze-teleport", "--agent=agents/trqam.py")
    assert settings.sources["agent.discount"].startswith(
        "nearest domain antmaze-large-navigate: "
    )


def test_published_command_line_runs_unchanged(tmp_path, capsys):
    """A published command, flag by flag, with the flags that have no effect here."""
    assert run(
        "--run_group=reproduce", "--agent=agents/trqam.py", "--agent.action_chunking=True", "--agent.kl_budget=0.5",
        "--tags=TRQAM", "--seed=10001", "--env_name=cube-triple-play-singletask-task2-v0", "--sparse=False",
        "--horizon_length=5", "--agent.actor_hidden_dims=(1024,1024,1024,1024)", "--agent.actor_layer_norm=True",
        "--dataset_replace_interval=1000", "--buffer_size=3000000", "--save_replay_buffer=False",
        "--save_all_online_states", "--offline_steps=1000000",
        "--dataset_proportion=1.0", "--utd_ratio=1", "--start_training=5000", "--balanced_sampling=0", "--dry_run",
        f"--save_dir={tmp_path}",
    ) == 0  # fmt: skip
    output = capsys.readouterr()
    assert "reproduce/cube-triple-play-singletask-task2-v0/trqam_s10001_" in output.out
    assert (
        "--dataset_replace_interval is accepted for compatibility and has no effect here"
        in output.err
    )


def test_the_folder_depends_on_settings_and_not_on_steps_or_places():
    def name(*flags):
        from configs.flags import parse_flags

        return plan(
            parse_flags(
                ["main.py", "--env_name=scene", "--agent=agents/trqam.py", *flags]
            )
        )[0].folder.name

    assert (
        name()
        == name("--offline_steps=7")
        == name("--log_interval=3")
        == name("--save_dir=/elsewhere")
    )
    assert name() != name("--agent.kl_budget=0.7") != name("--sparse")


# ---------------------------------------------------------------- what it refuses


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A small dataset of TASK, and broken relatives of it, each in a folder of its own."""
    root = tmp_path_factory.mktemp("data")
    good = collect_random(TASK, root / "good", 300)
    for name in ("truncated", "shapes", "other"):
        shutil.copytree(root / "good", root / name)
    content = good.read_bytes()
    (root / "truncated" / good.name).write_bytes(content[: len(content) // 2])
    with np.load(good) as file:
        arrays = dict(file)
    np.savez(
        root / "shapes" / good.name, **(arrays | {"actions": arrays["actions"][:-5]})
    )
    wide = np.concatenate([arrays["observations"]] * 2, axis=1)
    np.savez(root / "other" / good.name, **(arrays | {"observations": wide}))
    (root / "empty").mkdir()
    return root


MISTAKES = {
    "unknown environment": (["--env_name=puzle-4x4"], "--env_name", "puzzle-4x4"),
    "unknown environment in a list": (["--env_name=scene,puzle-4x4"], "--env_name", "puzzle-4x4"),
    "no environment in a list": (["--env_name=,"], "--env_name is missing", "all50"),
    "unknown task": (["--env_name=cube-double-play-singletask-task6-v0"], "--env_name", "cube-double-play-singletask-task"),
    "no environment": ([], "--env_name is missing", "all50"),
    "no such user environment": (["--env_name=nowhere:Env-v0", "--dataset={data}/good/x.npz"], "--env_name", "nowhere"),
    "unknown agent": (["--env_name=scene", "--agent=agents/trqm.py"], "--agent=agents/trqm.py", "agents/trqam.py"),
    "file that is no agent": (["--env_name=scene", "--agent=agents/flow.py"], "--agent=agents/flow.py", "no AGENT"),
    "file that does not run": (["--env_name=scene", "--agent=README.md"], "--agent=README.md", "does not run"),
    "unknown dual mode": (["--env_name=scene", "--agent.dual_mode=ascent"], "--agent.dual_mode=ascent", "closed_form"),
    "two heads": (
        ["--env_name=scene", "--agent=agents/qam.py", "--agent.edit_scale=0.1", "--agent.fql_alpha=3"],
        "--agent.edit_scale=0.1 and --agent.fql_alpha=3.0", "set one to 0",
    ),
    "negative edit": (
        ["--env_name=scene", "--agent=agents/qam.py", "--agent.edit_scale=-0.1"], "--agent.edit_scale=-0.1", "0 or a positive",
    ),
    "impossible budget": (["--env_name=scene", "--kl_budget_online=nan"], "--kl_budget_online=nan", "positive"),
    "unknown setting": (["--env_name=scene", "--agent.kl_bugdet=1"], "--agent.kl_bugdet", "--agent.kl_budget"),
    "setting of another type": (["--env_name=scene", "--agent.kl_budget=much"], "--agent.kl_budget=much", "float"),
    "impossible setting": (["--env_name=scene", "--agent.discount=1.5"], "--agent.discount=1.5", "at most 1"),
    "negative setting": (["--env_name=scene", "--agent.kl_budget=-1"], "--agent.kl_budget=-1.0", "positive"),
    "no layers": (["--env_name=scene", "--agent.actor_hidden_dims=()"], "--agent.actor_hidden_dims", "widths"),
    "two horizons": (["--env_name=scene", "--agent.horizon_length=3"], "--agent.horizon_length", "--horizon_length"),
    "unknown flag": (["--env_name=scene", "--offline_step=1"], "--offline_step:", "--offline_steps"),
    "like nothing": (["--env_name=scene", "--xyzzy=1"], "--xyzzy: no such flag, nor a setting of", "--help"),
    "a setting as a flag": (["--env_name=scene", "--kl_budget=0.5"], "--kl_budget:", "written --agent.kl_budget=0.5"),
    "and another": (["--env_name=scene", "--batch_size", "8"], "--batch_size:", "written --agent.batch_size"),
    "of another agent file": (
        ["--env_name=scene", "--agent=agents/qam.py", "--inv_temp=3"], "--inv_temp:", "written --agent.inv_temp=3",
    ),
    "what others call it": (["--env_name=scene", "--gamma=0.99"], "--gamma:", "written --agent.discount=0.99"),
    "two that others call so": (
        ["--env_name=scene", "--hidden_dims=(8,8)"],
        "--hidden_dims:", "--agent.actor_hidden_dims=(8,8) or --agent.value_hidden_dims=(8,8)",
    ),
    "a flag that others call so": (["--env_name=scene", "--chunk_size=5"], "--chunk_size:", "--horizon_length=5"),
    "a setting that others call so": (["--env_name=scene", "--agent.gamma=0.9"], "--agent.gamma:", "is --agent.discount"),
    "a mistyped setting": (["--env_name=scene", "--kl_bugdet=1"], "--kl_bugdet:", "nearest is --agent.kl_budget"),
    "not a flag": (["--env_name=scene", "seed=1"], "seed=1", "--name=value"),
    "negative number": (["--env_name=scene", "--offline_steps=-1"], "--offline_steps=-1", "non-negative"),
    "not a number": (["--env_name=scene", "--seed=one"], "--seed=one", "int"),
    "number too large": (["--env_name=scene", "--seed=4294967296"], "--seed=4294967296", "2147483647"),
    "no seeds": (["--env_name=scene", "--num_seeds=0"], "--num_seeds=0", "range [1, 1000]"),
    "impossible share": (["--env_name=scene", "--dataset_proportion=0"], "--dataset_proportion=0.0", "share"),
    "unknown preset": (["--env_name=scene", "--preset=quick"], "--preset", "quickstart"),
    "nothing to do": (
        ["--env_name=scene", "--bc_steps=0", "--offline_steps=0", "--online_steps=0"], "nothing to do", "--offline_steps",
    ),
    "unknown logger": ([f"--env_name={TASK}", "--logger=csv,wand"], "--logger=wand", "wandb"),
    "missing dataset": ([f"--env_name={TASK}", "--ogbench_dataset_dir={data}/empty"], "pointmaze", "scripts/make_data.py"),
    "truncated dataset": ([f"--env_name={TASK}", "--ogbench_dataset_dir={data}/truncated"], FILE, ""),
    "dataset of wrong shapes": ([f"--env_name={TASK}", "--ogbench_dataset_dir={data}/shapes"], FILE, ""),
    "dataset of another environment": (
        [f"--env_name={TASK}", "--ogbench_dataset_dir={data}/other"], FILE, "observations",
    ),
    "chunk longer than the data": (
        [f"--env_name={TASK}", "--ogbench_dataset_dir={data}/good", "--horizon_length=301"], "--horizon_length=301", "300",
    ),
    "unwritable folder": (
        [f"--env_name={TASK}", "--ogbench_dataset_dir={data}/good", "--save_dir={data}/good/" + FILE],
        "--save_dir", "cannot write",
    ),
    "budget for an agent without one": (
        [f"--env_name={TASK}", "--ogbench_dataset_dir={data}/good", "--agent=agents/qam.py", "--kl_budget_online=1"],
        "--kl_budget_online=1.0", "no KL budget",
    ),
    "no pretrained actor": (
        [f"--env_name={TASK}", "--ogbench_dataset_dir={data}/good", "--pretrained_actor_path={data}/empty"],
        "--pretrained_actor_path", "no run folder",
    ),
}  # fmt: skip


@pytest.mark.ci
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(mistake, data, tmp_path, capsys):
    flags, named, hint = MISTAKES[mistake]
    flags = [flag.format(data=data) for flag in flags]
    place = (
        []
        if any(flag.startswith("--save_dir") for flag in flags)
        else [f"--save_dir={tmp_path}/exp"]
    )
    assert run(*flags, *place) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert named in lines[0]
    assert hint in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_from_the_shell(tmp_path):
    """The same through a process: exit code 2, one line, and the traceback only with --debug."""
    command = [
        sys.executable,
        "main.py",
        "--env_name=puzle-4x4",
        f"--save_dir={tmp_path}",
    ]
    plain = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (plain.returncode, plain.stdout) == (2, "")
    assert plain.stderr.count("\n") == 1
    debug = subprocess.run(
        [*command, "--debug"], capture_output=True, text=True, cwd=ROOT
    )
    assert debug.returncode != 0
    assert "Traceback" in debug.stderr


@pytest.mark.parametrize(
    "command",
    [
        "main.py --env_name=all50 --dry_run --save_dir={}",
        "scripts/sweep.py --engine=print --env_name=all50 --agents=trqam --save_dir={}",
        "scripts/report.py results/study",
        "scripts/results.py",
    ],
)
def test_a_reader_that_leaves_ends_it_quietly(command, tmp_path):
    """As `--dry_run | head` does: no traceback, and the exit code of a closed pipe."""
    words = [sys.executable, *command.format(tmp_path).split()]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, **pipes, text=True, cwd=ROOT) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == ("", 128 + signal.SIGPIPE)


# ---------------------------------------------------------------- whole runs


def train(data, exp, *flags):
    defaults = [
        f"--env_name={TASK}", f"--ogbench_dataset_dir={data}/good", f"--save_dir={exp}", "--bc_steps=4", "--offline_steps=8",
        "--online_steps=12", "--start_training=4", "--log_interval=4", "--eval_interval=8", "--save_interval=4",
        "--eval_episodes=0", "--eval_workers=1", *TINY,
    ]  # fmt: skip
    return run(*defaults, *flags)


def only_run(exp):
    (config,) = exp.glob(f"Debug/{TASK}/*/config.json")
    return config.parent


@pytest.mark.ci
@pytest.mark.usefixtures("no_key_twice")
def test_offline_then_online_leaves_everything_in_its_folder(data, tmp_path, capsys):
    chunked = ["--horizon_length=2", "--agent.action_chunking=True"]
    flags = [*chunked, "--kl_budget_online=0.125", "--utd_ratio=2", "--eval_episodes=1"]
    assert train(data, tmp_path, *flags) == 0
    folder = only_run(tmp_path)
    rows = CsvLog(folder / "train.csv").rows()
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
    evaluations = CsvLog(folder / "eval.csv").rows()
    assert [row["step"] for row in evaluations] == [0, 8, 16, 20]
    assert json.loads((folder / "done.json").read_text())["online_steps"] == 12
    config = json.loads((folder / "config.json").read_text())
    assert config["sources"]["agent.num_qs"] == "command line"
    assert {"jax", "mujoco", "ogbench", "numpy"} == set(config["versions"])
    with Checkpoints(folder / "checkpoints") as checkpoints:
        tree, _ = checkpoints.read(20)
    # --utd_ratio updates a step, from --start_training on
    assert tree["agent"]["step"] == 8 + 2 * (12 - 4)
    (base,) = tmp_path.glob("bc/pointmaze-medium-navigate/*/done.json")
    assert not (base.parent / "eval.csv").exists()
    check_progress(capsys.readouterr().err.splitlines(), rows, evaluations)
    # Started again it is skipped; another agent of the same shape finds the base in place.
    assert train(data, tmp_path, *flags) == 0
    assert f"finished already: {folder}" in unwrapped(capsys.readouterr().out)
    assert (
        train(data, tmp_path, "--agent=agents/qam.py", "--online_steps=0", *chunked)
        == 0
    )
    assert list(tmp_path.glob("bc/pointmaze-medium-navigate/*/done.json")) == [base]
    assert len(list(tmp_path.glob(f"Debug/{TASK}/qam_s0_*/done.json"))) == 1


def check_progress(lines, rows, evaluations):
    """One line for each log interval, with the figures of the CSV files."""
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
    logged = [None, *rows[:2], None, *rows[2:]]  # the base; steps before online updates
    success = {row["step"]: row["success"] for row in evaluations}
    for line, row, evaluated in zip(
        lines[1:], logged[1:], (0, 8, 8, 16, 20), strict=True
    ):
        assert f"  success {success[evaluated]:.0%}" in line
        kl, budget = (
            row and f"{row['dual/path_kl']:.3g}",
            row and f"{row['dual/kl_budget']:.3g}",
        )
        shown = (
            row and f"  KL {kl}/{budget}  λ {3.0 * row['dual/lam']:.3g}"
        )  # lam_scale is 3
        assert shown in line if row else "KL" not in line and "λ" not in line


SQAM = ["--agent=agents/sqam.py", "--kl_budget_online=0.125", "--agent.best_of_n=2"]
QAM_E = ["--agent=agents/qam.py", "--agent.edit_scale=0.1", "--agent.best_of_n=2"]
QAM_F = ["--agent=agents/qam.py", "--agent.fql_alpha=3"]
EXTERNAL = [
    "--agent=agents/trqam_external_kl.py",
    "--kl_budget_online=0.125",
    "--agent.dual_mode=closed_form",
]
SCALAR = [
    "--agent=agents/trqam_scalar_adjoint.py",
    "--kl_budget_online=0.125",
    "--bc_steps=0",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "quantity"),
    [
        (SQAM, "critic/value_gap"),
        (QAM_E, "entropy/alpha"),
        (QAM_F, "head/distill_loss"),
        (["--agent=agents/fql.py"], "actor/distill_loss"),
        (["--agent=agents/ifql.py"], "value/loss"),
        (["--agent=agents/dsrl.py"], "entropy/alpha"),
        (["--agent=agents/cgql.py"], "critic/noisy_loss"),
        (["--agent=agents/fedit.py"], "entropy/alpha"),
        (["--agent=agents/fbrac.py"], "actor/loss"),
        (["--agent=agents/bam.py"], "actor/bc_loss"),
        (["--agent=agents/fawac.py"], "value/loss"),
        (["--agent=agents/qgf.py"], "value/loss"),
        (["--agent=agents/qpilots.py"], "flow/loss"),
        (EXTERNAL, "adjoint/penalty"),
        (SCALAR, "dual/lam"),
    ],
)
@pytest.mark.usefixtures("no_key_twice")
def test_every_other_agent_trains_offline_and_online(data, tmp_path, flags, quantity):
    assert train(data, tmp_path, *flags, "--eval_episodes=1") == 0
    folder = only_run(tmp_path)
    rows = CsvLog(folder / "train.csv").rows()
    assert {row["phase"] for row in rows} == {"offline", "online"}
    assert all(np.isfinite(row[quantity]) for row in rows)
    assert rows[0][quantity] != rows[-1][quantity]
    if "--kl_budget_online=0.125" in flags:
        assert rows[0]["dual/kl_budget"] > rows[-1]["dual/kl_budget"] == 0.125
    assert CsvLog(folder / "eval.csv").rows()[-1]["step"] == 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("agent", "quantity"),
    [
        ("qsm", "actor/denoising_loss"),
        ("dac", "actor/denoising_loss"),
        ("rebrac", "actor/bc_loss"),
        ("rlpd", "entropy/alpha"),
        ("rql", "actor/loss"),
    ],
)
@pytest.mark.usefixtures("no_key_twice")
def test_an_agent_without_a_flow_trains_and_clones_nothing(
    data, tmp_path, agent, quantity
):
    """RLPD learns online alone, from the first step after start_training on."""
    tiny = [word for word in TINY if "flow_steps" not in word]
    place = [f"--env_name={TASK}", f"--ogbench_dataset_dir={data}/good"]
    flags = ["--preset=smoke", f"--agent=agents/{agent}.py", "--eval_workers=1", *tiny]
    assert run(*place, f"--save_dir={tmp_path}", *flags) == 0
    (done,) = tmp_path.glob(f"smoke/{TASK}/{agent}_*/done.json")
    assert not list(tmp_path.glob("bc/**/done.json"))
    rows = CsvLog(done.with_name("train.csv")).rows()
    assert all(np.isfinite(row[quantity]) for row in rows)
    online = [(50, "online"), (60, "online")]
    both = [(10, "offline"), (20, "offline"), *online]
    alone = [(30, "online"), (40, "online")]
    found = [(row["step"], row["phase"]) for row in rows]
    assert found == (alone if agent == "rlpd" else both)
    evaluations = CsvLog(done.with_name("eval.csv")).rows()
    assert evaluations[-1]["step"] == (40 if agent == "rlpd" else 60)
    if agent == "rlpd":
        first = json.loads(done.with_name("config.json").read_text())["flags"]
        assert (first["balanced_sampling"], first["offline_steps"]) == (True, 0)


@pytest.mark.ci
def test_the_readmes_fork_command_trains_a_copied_agent(
    data, tmp_path, monkeypatch, capsys
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
    said = capsys.readouterr().out
    assert said.startswith(f"{fork.stem}: 5 runs in ") and said.count("  seed 0\n") == 5
    assert train(data, "exp", agent, setting, "--online_steps=0") == 0
    config = json.loads((only_run(tmp_path / "exp") / "config.json").read_text())
    key, value = setting.removeprefix("--agent.").split("=")
    assert config["agent"][key] == float(value)
    rows = CsvLog(only_run(tmp_path / "exp") / "train.csv").rows()
    # the overridden hook is the one that ran
    assert {row["dual/lam"] for row in rows} == {np.float32(value)}


@pytest.mark.ci
def test_other_settings_in_the_same_folder_are_refused(data, tmp_path, capsys):
    assert train(data, tmp_path, "--online_steps=0") == 0
    folder = only_run(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["agent"]["lr"] = 0.5
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "done.json").unlink()
    assert train(data, tmp_path, "--online_steps=0") == 2
    assert "--agent.lr: stored 0.5, now 0.0003" in capsys.readouterr().err
    assert train(data, tmp_path, "--online_steps=0", "--overwrite") == 0


@pytest.mark.ci
def test_steps_may_grow_and_only_grow_where_that_means_something(
    data, tmp_path, capsys
):
    """Online steps extend a finished run; offline steps, once it is past them, are an error
    that says so.
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


def test_a_fork_of_the_same_name_and_other_data_have_folders_of_their_own(tmp_path):
    def folder(*flags):
        from configs.flags import parse_flags

        return plan(parse_flags(["main.py", "--env_name=scene", *flags]))[0].folder

    copy = tmp_path / "trqam.py"
    shutil.copy(ROOT / "agents" / "trqam.py", copy)
    plain = folder("--agent=agents/trqam.py")
    assert plain == folder()
    assert (
        len(
            {
                plain,
                folder(f"--agent={copy}"),
                folder("--ogbench_dataset_dir=/a"),
                folder("--ogbench_dataset_dir=/b"),
            }
        )
        == 4
    )


def test_only_the_smoke_preset_acts_at_random_where_there_is_no_oracle(
    tmp_path, capsys
):
    flags = [
        "--preset=study",
        "--env_name=antmaze-large-navigate-singletask-task1-v0",
        f"--save_dir={tmp_path}",
    ]
    assert run(*flags) == 2
    assert "scripts/make_data.py cannot make it" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.npz"))


def test_presets_make_no_data_in_a_folder_of_the_users(tmp_path, capsys):
    folder = tmp_path / "mine"
    flags = [
        "--preset=smoke",
        f"--env_name={TASK}",
        f"--save_dir={tmp_path}/exp",
        f"--ogbench_dataset_dir={folder}",
    ]
    assert run(*flags) == 2
    assert "scripts/make_data.py" in capsys.readouterr().err
    assert not list(folder.glob("*.npz"))


def test_one_task_that_cannot_go_on_leaves_the_others_their_turn(
    monkeypatch, tmp_path, capsys
):
    from training import train as train_module

    trained = []

    def failing(runs, overwrite):
        if "task1" in runs[0].env_name:
            raise RunError("task 1 cannot go on\nwith details")
        trained.append((runs[0].env_name, [run.seed for run in runs]))

    monkeypatch.setattr(train_module, "train", failing)
    assert run("--env_name=scene", "--num_seeds=2", f"--save_dir={tmp_path}") == 1
    assert "error: task 1 cannot go on\n" in capsys.readouterr().err
    assert trained == [
        (f"scene-play-singletask-task{i}-v0", [0, 1]) for i in range(2, 6)
    ]


@pytest.mark.slow
def test_a_seed_that_breaks_leaves_the_others_as_they_are_alone(
    data, tmp_path, monkeypatch, capsys
):
    """Seed 0 of two has a base that is not finite: the other one is what it is alone, and the
    end says which one broke.
    """
    from training import train as train_module

    real, flags = train_module.new_agent, ["--bc_steps=0", "--num_seeds=2"]

    def poisoned(*args):
        run, agent = args[0], real(*args)
        return (
            agent
            if run.seed
            else agent.replace(
                params=jax.tree.map(lambda leaf: leaf * jnp.nan, agent.params)
            )
        )

    monkeypatch.setattr(train_module, "new_agent", poisoned)
    assert train(data, tmp_path / "both", *flags) == 1
    error = unwrapped(capsys.readouterr().err)
    assert re.search(
        r"warning: [\w/]+ is not finite since update 1, .*_s0_\w+; there is no checkpoint yet;"
        r" the other seeds continue",
        error,
    )
    assert re.search(
        r"error: [\w/]+ is not finite since update 1, seen at step 4 of \S+_s0_",
        error.splitlines()[-1],
    )
    assert train(data, tmp_path / "alone", "--bc_steps=0", "--seed=1") == 0
    ours, alone = (
        next((tmp_path / which).glob(f"Debug/{TASK}/trqam_s1_*"))
        for which in ("both", "alone")
    )
    assert (ours / "done.json").exists() and not list(
        ours.parent.glob("*_s0_*/done.json")
    )
    for one, other in zip(
        CsvLog(ours / "train.csv").rows(),
        CsvLog(alone / "train.csv").rows(),
        strict=True,
    ):
        assert one.pop("phase") == other.pop("phase")
        assert one == pytest.approx(other, rel=1e-3)


@pytest.mark.slow
def test_seeds_together_have_folders_of_their_own_and_go_on_together(
    data, tmp_path, monkeypatch, capsys
):
    """Two of three seeds are a checkpoint ahead, as after a kill between two saves: all go back
    to where they all were.
    """
    from training.updates import Updates

    flags = ["--num_seeds=3", "--eval_episodes=1"]
    assert train(data, tmp_path / "whole", *flags) == 0
    real = Updates.run
    for calls, newest, shared in ((7, 16, 12), (1, 4, None)):
        left, place = iter(range(calls)), tmp_path / f"cut{calls}"

        def failing(updates, *args, left=left):
            if (
                updates.config.get("num_qs") and next(left, None) is None
            ):  # not the base
                raise KeyboardInterrupt
            real(updates, *args)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Updates, "run", failing)
            train(data, place, *flags)
        folders = sorted(place.glob(f"Debug/{TASK}/trqam_s*"))
        assert [path.name[:8] for path in folders] == [
            "trqam_s0",
            "trqam_s1",
            "trqam_s2",
        ]
        assert newest == max(
            int(path.name) for path in (folders[1] / "checkpoints").iterdir()
        )
        shutil.rmtree(folders[1] / "checkpoints" / str(newest))
        capsys.readouterr()
        assert train(data, place, *flags) == 0
        resumed = re.findall(
            r"resumed at step (\d+): .*/trqam_s\d_", unwrapped(capsys.readouterr().out)
        )
        assert resumed == ([] if shared is None else [str(shared)] * 3)
        for folder in folders:
            for name in ("train.csv", "eval.csv", "replay.bin"):
                whole = next(
                    (tmp_path / "whole").glob(f"Debug/{TASK}/{folder.name}/{name}")
                )
                assert (folder / name).read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_a_seed_on_one_of_four_devices_is_the_seed_alone(data, tmp_path):
    """The whole program, offline and online: logs, evaluations, checkpoints, and going on from
    one, first with the data on the devices and then on the host.
    """
    flags = ["--agent.kl_budget=0.5", "--eval_episodes=2"]
    environ = lenient() | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    for steps, place in (
        (12, 1),
        (16, 0),
    ):  # the second goes on from the first's checkpoint
        words = [
            str(data),
            str(tmp_path / "four"),
            "--num_seeds=4",
            f"--online_steps={steps}",
            f"--device_data_gb={place}",
            *flags,
        ]
        code = f"from tests.test_main import train; raise SystemExit(train(*{words}))"
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environ,
        )
        assert done.returncode == 0, done.stderr
    assert train(data, tmp_path / "alone", "--seed=2", "--online_steps=16", *flags) == 0
    (four,), (alone,) = (
        (tmp_path / name).glob(f"Debug/{TASK}/trqam_s2_*") for name in ("four", "alone")
    )
    # where the first ended, it was evaluated
    for log, ends in (("train.csv", ()), ("eval.csv", (20,))):
        ours = [row for row in CsvLog(four / log).rows() if row["step"] not in ends]
        for one, other in zip(ours, CsvLog(alone / log).rows(), strict=True):
            assert one.pop("phase", None) == other.pop("phase", None)
            assert one == pytest.approx(other, rel=0.01, abs=1e-4)
    assert (four / "checkpoints" / "24").is_dir()


@pytest.mark.ci
def test_seeds_step_side_by_side_and_a_killed_environment_loses_nothing(
    data, tmp_path, monkeypatch, capsys
):
    flags = ["--num_seeds=2", "--bc_steps=0", "--offline_steps=0", "--save_interval=8"]
    assert train(data, tmp_path / "whole", *flags) == 0
    real, calls = EnvWorkers.run_chunks, itertools.count(1)

    def run_chunks(workers, *args):
        if next(calls) == 6:
            os.kill(workers.pids[-1], signal.SIGKILL)
        return real(workers, *args)

    with monkeypatch.context() as patch:
        patch.setattr(EnvWorkers, "run_chunks", run_chunks)
        assert train(data, tmp_path / "cut", *flags) == 1
    assert "died (killed by signal 9)" in capsys.readouterr().err
    assert train(data, tmp_path / "cut", *flags) == 0
    assert unwrapped(capsys.readouterr().out).count("resumed at step 5: ") == 2
    cut, whole = (
        sorted((tmp_path / which).glob(f"Debug/{TASK}/trqam_s*/*.*"))
        for which in ("cut", "whole")
    )
    compared = [
        (a, b)
        for a, b in zip(cut, whole, strict=True)
        if a.name in ("train.csv", "replay.bin")
    ]
    assert len(compared) == 4 and all(
        a.read_bytes() == b.read_bytes() for a, b in compared
    )


def test_two_processes_never_write_one_run(data, tmp_path, capsys):
    from configs.flags import parse_flags

    flags = [
        f"--env_name={TASK}",
        f"--ogbench_dataset_dir={data}/good",
        f"--save_dir={tmp_path}",
        "--bc_steps=0",
    ]
    (planned,) = plan(parse_flags(["main.py", *flags, *TINY]))
    with planned.locked():
        assert run(*flags, *TINY) == 1
    assert (
        f"{planned.folder} is being written by another process"
        in capsys.readouterr().err
    )
    assert not planned.folder.exists()


@pytest.mark.ci
def test_bc_only_trains_the_base_and_its_folder_is_a_pretrained_actor(
    data, tmp_path, capsys
):
    assert train(data, tmp_path, "--bc_only", "--eval_episodes=1") == 0
    folder = only_run(tmp_path)
    assert folder.name.startswith("bc_s0_")
    assert [row["step"] for row in CsvLog(folder / "eval.csv").rows()] == [0, 8]
    said = unwrapped(capsys.readouterr().err)
    assert "gives 300 transitions; the published results are with 1,000,000" in said
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
    assert train(data, tmp_path, "--balanced_sampling") == 0
    assert CsvLog(only_run(tmp_path) / "train.csv").rows()[-1]["step"] == 20


def test_the_device_is_idle_while_the_host_is_busy(data, tmp_path, monkeypatch):
    from utils import progress

    steps = [
        "--bc_only",
        "--offline_steps=40",
        "--log_interval=20",
        "--eval_interval=0",
        "--save_interval=0",
    ]
    real = progress.ProgressBar.update
    monkeypatch.setattr(
        progress.ProgressBar, "update", lambda bar, n: (time.sleep(0.1), real(bar, n))
    )
    assert train(data, tmp_path, *steps) == 0
    # the first holds the compilation
    last = CsvLog(only_run(tmp_path) / "timing.csv").rows()[-1]
    assert 0.5 < last["device_idle"] <= 1.0


@pytest.mark.ci
def test_the_device_is_not_idle_while_the_host_waits_for_actions(
    data, tmp_path, monkeypatch
):
    """They follow from the newest update: until they are there the device is at work."""
    from training import updates

    real = updates.act_online
    monkeypatch.setattr(
        updates, "act_online", lambda *arguments: (time.sleep(0.1), real(*arguments))[1]
    )
    assert (
        train(data, tmp_path, "--offline_steps=0", "--bc_steps=0", "--start_training=1")
        == 0
    )
    last = CsvLog(only_run(tmp_path) / "timing.csv").rows()[-1]
    assert last["device_idle"] < 0.5


@pytest.mark.ci
def test_precision_and_compiled_programs_are_where_the_flags_say(data, tmp_path):
    """From the shell: both are set once for a process."""
    words = [
        str(data),
        str(tmp_path),
        "--bc_only",
        "--offline_steps=8",
        "--online_steps=0",
    ]
    words += [
        "--matmul_precision=highest",
        f"--compilation_cache_dir={tmp_path}/programs",
    ]
    code = f"""
import jax
from tests.test_main import train

code = train(*{words})
assert jax.config.jax_default_matmul_precision == "highest"
raise SystemExit(code)
"""
    # tiny programs too
    environ = lenient() | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environ,
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "programs").iterdir())


def test_nan_stops_the_run_with_its_name_and_the_last_checkpoint(
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
def test_load_policy_gives_chunks_of_the_trained_agent(data, tmp_path):
    from training.policy import load_policy

    flags = ["--horizon_length=3", "--agent.action_chunking=True", "--online_steps=0"]
    assert train(data, tmp_path, *flags) == 0
    policy = load_policy(only_run(tmp_path))
    one, many = policy(np.zeros(2, np.float32)), policy(np.zeros((5, 2), np.float32))
    assert (one.shape, many.shape) == ((3, 2), (5, 3, 2))
    assert np.abs(many).max() <= 1.0
    assert np.unique(many, axis=0).shape == many.shape  # fresh noise in every row
    with pytest.raises(UserError, match="is not the folder of a run"):
        load_policy(tmp_path)


@pytest.mark.ci
def test_an_environment_and_an_agent_file_of_ones_own(tmp_path, capsys):
    """--env_name=module:EnvId with --dataset=FILE, trained by an agent file outside agents/."""
    from envs.probe import write_dataset

    dataset = write_dataset("envs.probe:ProbeReward-v0", tmp_path / "mine.npz", 200)
    agent = tmp_path / "my_agent.py"
    shutil.copy(ROOT / "agents" / "trqam_fixed_lambda.py", agent)
    flags = [
        "--env_name=envs.probe:ProbeReward-v0", f"--dataset={dataset}", f"--agent={agent}", "--agent.lam=0.5",
        f"--save_dir={tmp_path}/exp", "--bc_steps=4", "--offline_steps=4", "--online_steps=6", "--start_training=3",
        "--eval_episodes=2", "--eval_workers=1", *TINY,
    ]  # fmt: skip
    assert run(*flags) == 0
    assert "own environment" in capsys.readouterr().out
    (log,) = (tmp_path / "exp").glob(
        "Debug/envs.probe_ProbeReward-v0/my_agent_s0_*/train.csv"
    )
    assert [row["dual/lam"] for row in CsvLog(log).rows()] == [0.5, 0.5]


# --------------------------------------------------------- the presets, as the README has them


@pytest.mark.slow
def test_a_domain_is_trained_with_one_base(data, tmp_path):
    assert train(data, tmp_path, "--env_name=pointmaze-medium", "--online_steps=0") == 0
    finished = sorted(
        path.parent.parent.name
        for path in tmp_path.glob("Debug/*/trqam_s0_*/done.json")
    )
    assert finished == [
        f"pointmaze-medium-navigate-singletask-task{i}-v0" for i in range(1, 6)
    ]
    assert len(list(tmp_path.glob("bc/*/*/done.json"))) == 1


SMOKE = [
    "--env_name=cube-double-play-singletask-task2-v0",
    "--preset=smoke",
    "--agent.kl_budget=0.5",
]


@pytest.mark.slow
def test_a_run_in_a_terminal_of_100_columns(tmp_path):
    with terminal(100) as (ours, programs):
        command = [sys.executable, ROOT / "main.py", *SMOKE, "--save_dir=exp"]
        process = subprocess.Popen(
            command, stdout=programs, stderr=programs, cwd=tmp_path, env=lenient()
        )
        text = ""
        while process.poll() is None:
            time.sleep(0.1)
            text += written(ours)
        text += written(ours)
    lines = lines_on(text)
    assert process.returncode == 0, text
    assert max(map(len, lines)) <= 100
    drawn = re.split(r"[\r\n]", text.replace("\x1b[A", ""))
    assert max(map(len, drawn)) <= 100
    offline, online = (
        line for line in lines if line.startswith("trqam c") and "  step " in line
    )
    figures = r"success \d+%  KL \d\S*/0\.5  λ \d\S*"
    assert re.search(rf"  step 20/20 offline  \S+ updates/s  {figures}$", offline)
    assert re.search(rf"  step 40/40 online  \S+ steps/s  {figures}$", online)
    finished = [line for line in lines if "finished" in line]
    folder = rf"finished: exp/smoke/{SMOKE[0].partition('=')[2]}/trqam_s0_\w+"
    assert re.fullmatch(r"finished: exp/bc/cube-double-play/bc_s0_\w+", finished[0])
    assert re.fullmatch(folder, finished[1]) and len(finished) == 2


@pytest.mark.ci
@pytest.mark.parametrize(
    ("agent", "world"),
    [
        ("trqam", "cube-double-play"),
        # on cube-double the published coefficients of both heads are 0
        ("qam_edit", "puzzle-3x3-play"),
        ("qam_fql", "scene-play"),
        ("bc", "pointmaze-medium-navigate"),
        ("trqam", "antmaze-large-navigate"),  # random actions: there is no oracle
    ],
)
def test_smoke_preset_on_every_family_of_environments(tmp_path, agent, world):
    """It makes its data, clones, and trains offline and online."""
    task = f"{world}-singletask-task1-v0"
    flags = [f"--env_name={task}", f"--agent=agents/{agent}.py", "--preset=smoke"]
    assert run(*flags, f"--save_dir={tmp_path}") == 0
    (log,) = tmp_path.glob(f"smoke/{task}/{agent}_s0_*/train.csv")
    assert {row["phase"] for row in CsvLog(log).rows()} == {"offline", "online"}
    assert (log.parent / "done.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("gl", ["egl", "nonsense"])
def test_quickstart_summarises_and_films_where_it_can(
    tmp_path, monkeypatch, capsys, gl
):
    from configs.presets import PRESETS
    from scripts import quickstart

    monkeypatch.setitem(
        PRESETS, "quickstart", PRESETS["quickstart"]._replace(transitions=1000)
    )
    monkeypatch.setenv("MUJOCO_GL", gl)
    flags = [
        "--bc_steps=4",
        "--offline_steps=8",
        "--log_interval=4",
        "--eval_episodes=2",
        f"--save_dir={tmp_path}",
        *TINY,
    ]
    assert quickstart.main(["quickstart.py", *flags]) == 0
    output = capsys.readouterr()
    (path,) = tmp_path.glob("quickstart/*/*/summary.json")
    summary = json.loads(path.read_text())
    assert summary["transitions"] == 1000
    assert summary["kl_budget"] == 0.3
    keys = {"success_bc", "success_trqam", "path_kl", "lambda", "seconds_after_install"}
    assert keys <= set(summary)
    assert (path.parent / "learning_curve.png").stat().st_size > 1000
    assert "BC" in output.out and "TRQAM" in output.out and str(path) in output.out
    if gl == "nonsense":
        assert not list(path.parent.glob("videos/*.mp4"))
        assert "MUJOCO_GL=nonsense does not render here" in output.err


def lenient():
    """The environment as a user has it, without the strictness that tests add."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("JAX_") or name == "JAX_PLATFORMS"
    }


def test_help_names_every_flag(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert "python main.py --env_name=puzzle-4x4" in text
    assert all(
        f"--{name}" in text
        for name in ("env_name", "agent", "kl_budget_online", "[no]dry_run")
    )
