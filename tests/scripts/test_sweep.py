"""scripts/sweep.py checks its command line and prints its help."""

import sys

import pytest

from configs.flags import STEPS
from tests.sweeps.stub_jobs import TASK, planned, printed, run
from utils.files import write_json

MISTAKES = {
    "unknown agent": (["--agents=trqam,qamm", f"--env_name={TASK}"], "--agent=agents/qamm.py", "agents/qam.py"),
    "no agent": (["--agents=,", f"--env_name={TASK}"], "--agents", "trqam"),
    "unknown task": (["--env_name=scene,puzle-4x4"], "--env_name", "puzzle-4x4"),
    "no task": ([], "--env_name is missing", "all50"),
    "no seeds": ([f"--env_name={TASK}", "--seeds=0"], "--seeds", "at least 1, not 0"),
    "no number": ([f"--env_name={TASK}", "--pack=all"], "--pack", "at least 1, not all"),
    "unknown engine": ([f"--env_name={TASK}", "--engine=slurm"], "--engine", "'print', 'local', 'ray'"),
    "a flag of main's that a sweep sets": ([f"--env_name={TASK}", "--num_seeds=3"], "--num_seeds", "--seeds=N"),
    "an agent of main's": ([f"--env_name={TASK}", "--agent=agents/qam.py"], "--agent", "--agents=NAME"),
    "overwriting": ([f"--env_name={TASK}", "--overwrite"], "--overwrite", "--run_group"),
    "unknown flag": ([f"--env_name={TASK}", "--offline_step=1"], "offline_step", "offline_steps"),
    "a setting as a flag": (
        [f"--env_name={TASK}", "--grid=kl_budget=1,2"], "--kl_budget", "called --agent.kl_budget=1",
    ),
    "unknown setting": ([f"--env_name={TASK}", "--agent.kl_bugdet=1"], "--agent.kl_bugdet", "--agent.kl_budget"),
    "a setting that one agent lacks": (
        ["--agents=trqam,qam", f"--env_name={TASK}", "--grid=agent.kl_budget=1,2"], "--agent.kl_budget", "agents/qam.py",
    ),
    "not a flag": ([f"--env_name={TASK}", "trqam"], "'trqam' is not a flag", "--name=value"),
    "half a grid": ([f"--env_name={TASK}", "--grid=agent.kl_budget"], "--grid=agent.kl_budget", "KEY=A,B,C"),
    "an empty value": ([f"--env_name={TASK}", "--grid=agent.kl_budget=1,,2"], "--grid=agent.kl_budget", "KEY=A,B,C"),
    "a grid over seeds": ([f"--env_name={TASK}", "--grid=seed=1,2"], "--grid=seed=1,2", "--first_seed"),
    "a grid over steps": ([f"--env_name={TASK}", "--grid=offline_steps=1,2"], "would share", "--run_group"),
    "a value twice": ([f"--env_name={TASK}", "--grid=agent.kl_budget=1,1.0"], "would share", "leave one out"),
    "two grids over a setting": (
        [f"--env_name={TASK}", "--grid=agent.kl_budget=1", "--grid=agent.kl_budget=2"], "--grid=agent.kl_budget", "given twice",
    ),
    "a setting and a grid over it": (
        [f"--env_name={TASK}", "--agent.kl_budget=1", "--grid=agent.kl_budget=2,3"], "--grid=agent.kl_budget", "given twice",
    ),
    "Slurm and another engine": ([f"--env_name={TASK}", "--slurm=x", "--engine=local"], "--slurm=x", "--engine=local"),
    "a script of a status": ([f"--env_name={TASK}", "--slurm=x", "--status"], "--slurm=x", "leave --status out"),
    "devices for a scheduler": ([f"--env_name={TASK}", "--slurm=x", "--jobs_per_device=2"], "--jobs_per_device", "local or ray"),
    "retries without Ray": ([f"--env_name={TASK}", "--engine=local", "--retries=9"], "--retries", "--engine=ray reads it"),
    "a newline in a value": (
        [f"--env_name={TASK}", "--tags=a\necho b", "--slurm=x"], "--tags: '--tags=a\\necho b'", "a control character",
    ),
    "a newline in a grid": ([f"--env_name={TASK}", "--grid=tags=a\rb,c"], "--grid: ", "a control character"),
    "bytes that are no text": ([f"--env_name={TASK}", "--tags=\udcff"], "--tags: ", "bytes that are not UTF-8"),
    "an unwritable script": ([f"--env_name={TASK}", "--slurm=/nowhere/x"], "--slurm=/nowhere/x", "another file"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_prints_one_line(mistake, tmp_path, capsys):
    flags, named, hint = MISTAKES[mistake]
    assert run(*flags, f"--save_dir={tmp_path}/exp") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and named in line and hint in line
    assert list(tmp_path.iterdir()) == []


def test_a_flag_file_may_not_set_what_a_sweep_sets(tmp_path, capsys):
    file = tmp_path / "flags.txt"
    file.write_text("--seed=5\n")
    flags = [f"--env_name={TASK}", "--seeds=3", f"--flagfile={file}"]
    assert run(*flags) == 2
    assert "--seed: a sweep sets it; use --first_seed=N" in capsys.readouterr().err
    file.write_text("--first_seed=4\n--offline_steps=7\n")
    (words,) = printed(capsys, *flags)
    assert words[-3:] == ["--seed=4", "--num_seeds=3", "--offline_steps=7"]


def test_without_ray_or_a_cluster_one_line_says_what_to_do(
    tmp_path, monkeypatch, capsys
):
    flags = [f"--env_name={TASK}", "--engine=ray", f"--save_dir={tmp_path}"]
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ray", None)
        assert run(*flags) == 2
    assert "pip install '.[ray]'" in capsys.readouterr().err
    assert run(*flags, "--ray_address=nowhere") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "error: --ray_address=nowhere: no cluster ("
    ) and line.endswith("start one: ray start --head")


def test_help_names_every_flag(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    names = [
        "agents",
        "env_name",
        "seeds",
        "first_seed",
        "grid",
        "engine",
        "slurm",
        "pack",
        "jobs_per_device",
        "status",
    ]
    assert all(f"--{name}" in text for name in [*names, "ray_address", "retries"])


def finish(*flags):
    """Write what the one run of a sweep leaves when it has finished; return the run."""
    ((one,),) = (job.runs for job in planned(*flags))
    one.folder.mkdir(parents=True)
    one.source.keep(one.folder)
    write_json(one.folder / "config.json", one.config())
    steps = {name: one.settings.flags[name] for name in STEPS}
    write_json(one.folder / "done.json", steps)
    return one


def test_a_finished_run_of_other_settings_is_refused_as_by_main(tmp_path, capsys):
    """No hash covers --bc_steps, so the folder is the same."""
    flags = [f"--env_name={TASK}", f"--save_dir={tmp_path}"]
    one = finish(*flags, "--bc_steps=20")
    differing = (
        f"{one.folder} holds a run with other settings (--bc_steps: stored 20, now 30)"
    )
    for engine in ("--engine=print", "--engine=local", f"--slurm={tmp_path / 'x'}"):
        assert run(*flags, "--bc_steps=30", engine) == 2
        assert f"error: {differing}; give another" in capsys.readouterr().err
    assert run(*flags, "--bc_steps=30", "--status") == 0
    assert f"failed   {differing}" in capsys.readouterr().out
    assert run(*flags, "--bc_steps=20", "--status") == 0
    assert capsys.readouterr().out.endswith("\nall finished\n")


def test_finished_runs_of_changed_agent_files_are_mentioned_once(tmp_path, capsys):
    flags = [f"--env_name={TASK}", f"--save_dir={tmp_path}"]
    for seed in (0, 1):
        kept = finish(*flags, f"--first_seed={seed}").folder / "source" / "trqam.py"
        kept.write_text(kept.read_text() + "\n\nEDITED = True\n")
    assert run(*flags, "--seeds=2") == 0
    shown = capsys.readouterr()
    warning = "2 finished runs are of agent files that have changed since (trqam;"
    assert shown.err.count("warning: ") == 1 and warning in shown.err
    assert not shown.out


def test_a_finished_run_of_a_fork_that_has_changed_is_refused(tmp_path, capsys):
    fork = tmp_path / "mine.py"
    fork.write_text("from agents.trqam import AGENT, get_config\n")
    flags = [f"--agents={fork}", f"--env_name={TASK}", f"--save_dir={tmp_path}"]
    one = finish(*flags)
    kept = one.folder / "source" / "mine.py"
    kept.write_text(kept.read_text() + "\nEDITED = True\n")
    assert run(*flags) == 2
    assert f"differs from what {one.folder} began with" in capsys.readouterr().err
