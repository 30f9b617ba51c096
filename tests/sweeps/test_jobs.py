"""A sweep plans its jobs and prints their commands."""

import collections

import pytest

from configs.flags import parse_flags
from envs.tasks import ALL_TASKS
from sweeps.slurm import slurm_script
from tests.sweeps.stub_jobs import ROOT, TASK, planned, printed
from training.plan import plan
from utils.files import write_json


def test_the_table_has_every_agent_task_and_seed_once_and_main_accepts_every_command(
    capsys,
):
    lines = printed(capsys, "--agents=trqam,qam", "--env_name=all50", "--seeds=8")
    assert all(words[0] == "main.py" for words in lines) and len(lines) == 100
    runs = [run for words in lines for run in plan(parse_flags(words))]
    found = collections.Counter(
        (run.agent_name, run.env_name, run.seed) for run in runs
    )
    assert found == {
        (agent, task, seed): 1
        for agent in ("trqam", "qam")
        for task in ALL_TASKS
        for seed in range(8)
    }
    assert len({run.folder for run in runs}) == 800


def test_the_table_of_all_methods_has_every_method_on_every_task(capsys):
    """There are 19 methods on 50 tasks, with commands that main.py accepts. RLPD has no offline
    phase, so its commands have no --offline_steps.
    """
    flags = ("--agents=table", "--env_name=all50", "--offline_steps=7")
    jobs = printed(capsys, *flags)
    methods = {" ".join(w for w in words if w.startswith("--agent")) for words in jobs}
    assert (len(jobs), len(methods)) == (950, 19)
    assert "--agent=agents/cgql.py --agent.mode=mse" in methods
    shortened = {words[1] for words in jobs if "--offline_steps=7" not in words}
    assert shortened == {"--agent=agents/rlpd.py"}
    parsed = {(words[1], *words[4:]): words for words in jobs}
    assert len(parsed) == 19
    for words in parsed.values():
        assert plan(parse_flags(words))[0].settings.flags["offline_steps"] in (0, 7)


def test_jobs_that_train_different_bases_come_first(capsys):
    jobs = planned("--agents=trqam,qam", "--env_name=all50", "--seeds=2", pack=2)
    bases = [tuple(base.folder for base in job.bases) for job in jobs]
    assert len(set(bases)) == len(set(bases[:10])) == 10
    assert all(len(set(bases[i : i + 10])) == 10 for i in range(0, 100, 10))
    without = planned("--agents=bc", "--env_name=scene") + planned(
        "--env_name=scene", "--bc_steps=0"
    )
    assert [job.bases for job in without] == [()] * 10


@pytest.mark.parametrize("agents", ["rlpd,trqam", "trqam,rlpd"])
def test_jobs_without_a_base_come_after_those_that_train_one(agents):
    jobs = planned(f"--agents={agents}", "--env_name=scene,cube-double")
    assert [bool(job.bases) for job in jobs[:3]] == [True, True, False]
    assert jobs[0].bases[0].folder != jobs[1].bases[0].folder
    assert "# Tasks 0-1 train the bases" in slurm_script(jobs, [])


def test_an_agent_that_is_named_twice_is_one():
    once, *more = (
        [job.words for job in planned(f"--agents={names}", f"--env_name={TASK}")]
        for names in ("trqam", "trqam,agents/trqam.py", "trqam,trqam")
    )
    assert more == [once, once]


def test_the_length_of_a_phase_that_an_agent_lacks_may_be_a_word_of_its_own():
    flags = ("--agents=trqam,rlpd", f"--env_name={TASK}")
    spellings = (["--offline_steps", "9"], ["--offline_steps=9"])
    jobs, others = (planned(*flags, *spelling) for spelling in spellings)
    assert [job.runs[0].folder for job in jobs] == [
        job.runs[0].folder for job in others
    ]
    assert jobs[1].words == others[1].words


def test_a_task_that_is_named_twice_is_one_job():
    names = "--env_name=scene-play-singletask-task2-v0,scene,cube-single-play-singletask-task1-v0"
    jobs = planned(names)
    tasks = [f"scene-play-singletask-task{i}-v0" for i in (2, 1, 3, 4, 5)]
    assert {job.runs[0].env_name for job in jobs} == {
        *tasks,
        "cube-single-play-singletask-task1-v0",
    }
    assert len(jobs) == 6


def test_seeds_are_packed_and_a_grid_is_every_combination(capsys):
    flags = [
        f"--env_name={TASK}",
        "--first_seed=2",
        "--seeds=8",
        "--pack=3",
        "--run_group=mine",
    ]
    grid = [
        "--grid=agent.kl_budget=0.5,1",
        "--grid=agent.actor_hidden_dims=(8,8),(16,)",
        "--grid=agent.value_hidden_dims=[4,4],[8]",
    ]
    lines = printed(capsys, *flags, *grid)
    seeds = [
        (words[3], *(word for word in words if word.startswith("--num_seeds")))
        for words in lines
    ]
    assert seeds == 8 * [
        ("--seed=2", "--num_seeds=3"),
        ("--seed=5", "--num_seeds=3"),
        ("--seed=8", "--num_seeds=2"),
    ]
    assert collections.Counter(tuple(words[-3:]) for words in lines) == {
        (
            f"--agent.kl_budget={kl}",
            f"--agent.actor_hidden_dims={dims}",
            f"--agent.value_hidden_dims={values}",
        ): 3
        for kl in ("0.5", "1")
        for dims in ("(8,8)", "(16,)")
        for values in ("[4,4]", "[8]")
    }
    assert all("--run_group=mine" in words for words in lines)
    assert (
        len({run.folder for words in lines for run in plan(parse_flags(words))}) == 64
    )


def test_commands_printed_in_another_folder_have_absolute_paths(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (words,) = printed(capsys, f"--env_name={TASK}")
    assert words[:2] == [str(ROOT / "main.py"), f"--agent={ROOT / 'agents/trqam.py'}"]
    (run,) = plan(parse_flags(words))
    monkeypatch.chdir(ROOT)
    assert run.folder == plan(parse_flags(["main.py", f"--env_name={TASK}"]))[0].folder


def test_finished_runs_are_skipped(tmp_path, capsys):
    flags = [
        "--env_name=scene",
        "--seeds=2",
        f"--save_dir={tmp_path}",
        "--offline_steps=10",
        "--online_steps=6000",
    ]
    jobs = planned(*flags, pack=2)
    for finished, job in zip((2, 1, 2, 0, 0), jobs, strict=True):
        for one in job.runs[:finished]:
            one.folder.mkdir(parents=True)
            write_json(
                one.folder / "done.json",
                {"bc_steps": 1, "offline_steps": 10, "online_steps": 6000},
            )
    tasks = [words[2] for words in printed(capsys, *flags)]
    assert tasks == [f"--env_name=scene-play-singletask-task{i}-v0" for i in (2, 4, 5)]
    # More steps extend a finished run.
    assert len(printed(capsys, *flags, "--online_steps=6001")) == 5


def test_the_alias_of_a_task_is_that_task():
    alias, task = (
        f"--env_name=scene-play-singletask-{name}v0" for name in ("", "task2-")
    )
    (by_alias,), (by_task,) = (planned(name)[0].runs for name in (alias, task))
    assert by_alias.folder == by_task.folder
    assert len(planned(f"{alias},{task.partition('=')[2]}")) == 1


def test_the_path_of_an_agent_file_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text((ROOT / "agents" / "fql.py").read_text())
    ((run,),) = (
        job.runs for job in planned("--agents=~/mine.py", f"--env_name={TASK}")
    )
    assert run.agent_name == "mine" and run.source.file == tmp_path / "mine.py"
    (tmp_path / "mine.py").write_text((ROOT / "agents" / "rlpd.py").read_text())
    flags = ("--agents=trqam,~/mine.py", f"--env_name={TASK}", "--offline_steps=9")
    # the length of the phase that RLPD lacks is left out
    assert len(planned(*flags)) == 2


@pytest.mark.parametrize(
    ("code", "failure"),
    [(0, None), (130, None), (143, None), (3, "exit code 3: no luck")],
)
def test_a_job_that_was_stopped_has_not_failed(code, failure, tmp_path):
    (job,) = planned(f"--env_name={TASK}", f"--save_dir={tmp_path}")
    job.log.parent.mkdir(parents=True)
    job.log.write_text(f"error: no luck\n== exit code {code}\n")
    assert job.failure() == failure


def test_a_failure_is_explained_by_the_last_attempt_alone(tmp_path):
    (job,) = planned(f"--env_name={TASK}", f"--save_dir={tmp_path}")
    job.log.parent.mkdir(parents=True)
    job.log.write_text(
        "== 2026-01-01 00:00:00 $ main.py\nerror: no data\n== exit code 2\n"
        "== 2026-01-02 00:00:00 $ main.py\nKilled\n== exit code -9\n"
    )
    assert job.failure() == "exit code -9: Killed"
