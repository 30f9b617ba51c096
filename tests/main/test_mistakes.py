"""main.py refuses mistaken command lines with one line of error."""

import os
import signal
import subprocess
import sys

import pytest

from tests.tiny_runs import FILE, ROOT, TASK, run, train

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
    "a setting as a flag": (["--env_name=scene", "--kl_budget=0.5"], "--kl_budget:", "called --agent.kl_budget=0.5"),
    "and another": (["--env_name=scene", "--batch_size", "8"], "--batch_size:", "called --agent.batch_size"),
    "of another agent file": (
        ["--env_name=scene", "--agent=agents/qam.py", "--inv_temp=3"], "--inv_temp:", "called --agent.inv_temp=3",
    ),
    "what others call it": (["--env_name=scene", "--gamma=0.99"], "--gamma:", "called --agent.discount=0.99"),
    "two that others call so": (
        ["--env_name=scene", "--hidden_dims=(8,8)"],
        "--hidden_dims:", "--agent.actor_hidden_dims=(8,8) or --agent.value_hidden_dims=(8,8)",
    ),
    "a flag that others call so": (["--env_name=scene", "--chunk_size=5"], "--chunk_size:", "--horizon_length=5"),
    "a setting that others call so": (["--env_name=scene", "--agent.gamma=0.9"], "--agent.gamma:", "is --agent.discount"),
    "a mistyped setting": (["--env_name=scene", "--kl_bugdet=1"], "--kl_bugdet:", "nearest is --agent.kl_budget"),
    "a setting of another agent": (
        ["--env_name=scene", "--agent=agents/qam.py", "--agent.kl_budget=1"],
        "--agent.kl_budget:", "has no such setting; --help lists all",
    ),
    "not a flag": (["--env_name=scene", "seed=1"], "seed=1", "--name=value"),
    "negative number": (["--env_name=scene", "--offline_steps=-1"], "--offline_steps=-1", "non-negative"),
    "not a number": (["--env_name=scene", "--seed=one"], "--seed=one", "int"),
    "number too large": (["--env_name=scene", "--seed=4294967296"], "--seed=4294967296", "2147483647"),
    "no seeds": (["--env_name=scene", "--num_seeds=0"], "--num_seeds=0", "range [1, 1000]"),
    "impossible share": (["--env_name=scene", "--dataset_proportion=0"], "--dataset_proportion=0.0", "share"),
    "a word of sweep.py": (["--env_name=scene", "--seeds=8"], "--seeds", "--num_seeds=8"),
    "unknown preset": (["--env_name=scene", "--preset=quick"], "--preset", "quickstart"),
    "nothing to do": (
        ["--env_name=scene", "--bc_steps=0", "--offline_steps=0", "--online_steps=0"], "nothing to do", "--offline_steps",
    ),
    "an environment of one's own without data": (
        ["--env_name=gymnasium:Pendulum-v1", "--dry_run"], "--dataset", "gymnasium:Pendulum-v1 needs its data",
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
    "chunk longer than every trajectory": (
        ["--env_name=envs.probe:ProbeReward-v0", "--dataset={data}/short/x.npz", "--preset=smoke"],
        "--horizon_length=5", "give --horizon_length=1",
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
def test_a_mistake_prints_one_line_and_leaves_no_files(mistake, data, tmp_path, capsys):
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


UNFINISHED = """
from agents import trqam


class Mine(trqam.TRQAM):
    def loss(self, params, batch, noise, fixed):
        raise ValueError("not written yet")


get_config = Mine.get_config
AGENT = Mine
"""


@pytest.mark.ci
def test_an_error_in_a_forks_loss_ends_the_program_before_the_base_is_cloned(
    data, tmp_path
):
    fork = tmp_path / "mine.py"
    fork.write_text(UNFINISHED)
    with pytest.raises(ValueError, match="not written yet"):
        train(data, tmp_path / "exp", f"--agent={fork}")
    assert list(tmp_path.iterdir()) == [fork]


def test_a_folder_for_runs_that_the_user_may_not_enter_is_refused(tmp_path):
    """With an agent file from elsewhere, whose earlier runs are looked for as well."""
    agent = tmp_path / "mine.py"
    agent.write_text(
        "from agents import trqam\nget_config = trqam.get_config\nAGENT = trqam.TRQAM\n"
    )
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    rights = "-dac_override,-dac_read_search"  # those of root alone
    drop = ["setpriv", f"--inh-caps={rights}", f"--bounding-set={rights}"]
    command = [*(drop if os.geteuid() == 0 else []), sys.executable, "main.py"]
    command += [f"--env_name={TASK}", f"--agent={agent}", f"--save_dir={closed}/exp"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    wanted = f"error: --save_dir={closed}/exp: cannot write to {closed}; give another"
    assert done.returncode == 2
    assert done.stderr == f"{wanted} folder\n"


@pytest.mark.parametrize("flag", ["--debug", "--debug=true"])
def test_a_mistake_shows_a_traceback_only_with_debug(flag, tmp_path):
    """A process exits with code 2 and prints one line, or a traceback with --debug."""
    command = [
        sys.executable,
        "main.py",
        "--env_name=puzle-4x4",
        f"--save_dir={tmp_path}",
    ]
    plain = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (plain.returncode, plain.stdout) == (2, "")
    assert plain.stderr.count("\n") == 1
    debug = subprocess.run([*command, flag], capture_output=True, text=True, cwd=ROOT)
    assert debug.returncode != 0
    assert "Traceback" in debug.stderr


@pytest.mark.parametrize(
    "command",
    [
        "main.py --env_name=all50 --dry_run --save_dir={}",
        "scripts/sweep.py --engine=print --env_name=all50 --agents=trqam --save_dir={}",
        "scripts/report.py results/study",
    ],
)
def test_a_command_ends_quietly_when_its_reader_closes_the_pipe(command, tmp_path):
    """As in `--dry_run | head`: no traceback, and the exit code of a closed pipe."""
    words = [sys.executable, *command.format(tmp_path).split()]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, **pipes, text=True, cwd=ROOT) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == ("", 128 + signal.SIGPIPE)


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


def test_presets_make_no_data_in_the_users_folder(tmp_path, capsys):
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
