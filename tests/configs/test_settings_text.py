"""Tests what main.py prints before it trains, and with --dry_run."""

import re

import pytest

from configs.flags import parse_flags
from configs.settings_text import listing
from envs.tasks import ALL_TASKS
from training.plan import plan

TABLE = "TRQAM paper (arXiv 2605.27079), settings shared by all methods"
COMMANDS = "the published TRQAM commands (code of arXiv 2605.27079)"
AGENT = "--agent=agents/trqam.py"


def screen(*flags, everything=False):
    return listing(plan(parse_flags(["main.py", *flags])), everything).splitlines()


def test_the_settings_of_one_task_and_preset_are_listed_with_their_sources():
    """Each value that differs has a mark for its source; --save_dir is not listed as a setting."""
    lines = screen(
        "--env_name=cube-double-play-singletask-task2-v0", AGENT, "--preset=smoke", "--agent.kl_budget=0.5",
        "--save_dir=exp",
    )  # fmt: skip
    assert lines == [
        "trqam: 1 run in exp/smoke/cube-double-play-singletask-task2-v0/trqam_s0_5371bf93",
        "cube-double-play-singletask-task2-v0  seed 0",
        "",
        (
            "settings that differ from the published defaults, [n] from where (--dry_run lists"
            " all settings):"
        ),
        "  bc_steps=20 [1]  offline_steps=20 [1]  online_steps=40 [1]  start_training=20 [1]",
        "  ogbench_dataset_dir=exp/smoke/data [1]  log_interval=10 [1]  eval_interval=20 [1]",
        "  save_interval=20 [1]  eval_episodes=2 [1]  agent.action_chunking=True [2]",
        (
            "  agent.actor_hidden_dims=(32, 32) [1]  agent.batch_size=32 [1] "
            " agent.flow_steps=3 [1]"
        ),
        "  agent.kl_budget=0.5 [3]  agent.num_qs=2 [1]  agent.value_hidden_dims=(32, 32) [1]",
        "",
        "[1] preset smoke (configs/presets.py)",
        f"[2] {TABLE}",
        "[3] command line",
    ]


def test_the_list_of_all_tasks_is_short():
    """Each task has a line; domains that differ from the defaults in the same way share one."""
    lines = screen("--env_name=all50", AGENT, "--num_seeds=8", "--save_dir=exp")
    assert len(lines) <= 80 and max(map(len, lines)) <= 100
    assert lines[0] == "trqam: 400 runs in exp/Debug/TASK/trqam_sSEED_44136fa3"
    assert [line.split() for line in lines[1:51]] == [
        [task, "seeds", "0-7"] for task in ALL_TASKS
    ]
    assert lines[53:57] == [
        "antmaze-large-navigate:",
        "  horizon_length=1 [1]",
        "antmaze-giant-navigate:",
        "  horizon_length=1 [1]  agent.actor_hidden_dims=(1024, 1024, 1024, 1024) [1]",
    ]
    together = lines.index("scene-play, puzzle-3x3-play, cube-double-play:")
    assert lines[together + 1] == "  agent.action_chunking=True [1]"
    assert f"[1] {TABLE}" in lines and f"[3] {COMMANDS}" in lines


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        # the domain's value
        (["--agent.kl_budget=0.5"], []),
        # the default, but not the domain's
        (["--agent.kl_budget=1.0"], ["agent.kl_budget=1.0 [2]"]),
        (["--offline_steps=1_000_000", "--agent.lr=3e-4"], []),
        # shown once, although the agent has it too
        (["--horizon_length=1"], ["horizon_length=1 [1]"]),
        (["--sparse", "--tags=a b"], ["sparse=True [1]", "tags=a b [1]"]),
        # shown in the first lines
        (["--seed=3", "--num_seeds=2", "--run_group=mine"], []),
    ],
)
def test_only_what_differs_is_shown(flags, shown):
    plain = " ".join(screen("--env_name=cube-triple", AGENT))
    text = " ".join(screen("--env_name=cube-triple", AGENT, *flags))
    assert all(f"  {entry}" in text and entry not in plain for entry in shown)
    listed = re.findall(r"([\w.]+)=", text.partition("settings)")[2])
    usual = [
        "action_chunking",
        "actor_hidden_dims",
        "actor_layer_norm",
        "kl_budget",
        "value_hidden_dims",
    ]
    extra = {entry.partition("=")[0] for entry in shown}
    assert set(listed) == {f"agent.{key}" for key in usual} | extra and len(
        listed
    ) == len(set(listed))


def test_a_domain_outside_the_table_names_the_domain_whose_settings_it_has():
    lines = screen("--env_name=cube-single", AGENT)
    assert lines[-1].startswith("[1] nearest domain cube-double-play: TRQAM paper")


def test_everything_lists_every_setting_and_every_folder():
    flags = [
        "--env_name=scene,cube-triple-play-singletask-task2-v0",
        AGENT,
        "--num_seeds=2",
        "--save_dir=exp",
    ]
    runs = plan(parse_flags(["main.py", *flags]))
    lines = screen(*flags, everything=True)
    assert max(map(len, lines)) <= 100
    assert [line.strip() for line in lines if line.startswith("  exp/")] == [
        str(run.folder) for run in runs
    ]
    settings = "\n".join(lines)
    agent = {f"agent.{key}" for key in runs[0].settings.agent}
    for name in {*runs[0].settings.flags, *agent}:
        assert re.search(rf"^  {name} +\S", settings, re.M), name
    assert re.search(
        r"^  agent.kl_budget +0.5 +\[\d\] the published TRQAM commands", settings, re.M
    )
    assert re.search(r"^  agent.lr +0.0003 +default$", settings, re.M)


def test_a_folder_below_the_current_one_is_shown_as_a_relative_path(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    first, *_ = screen(
        "--env_name=scene-play-singletask-task1-v0", f"--save_dir={tmp_path}/exp"
    )
    assert first.startswith(
        "trqam: 1 run in exp/Debug/scene-play-singletask-task1-v0/trqam_s0_"
    )


def test_a_long_folder_has_its_own_line(tmp_path):
    place = tmp_path / ("long" * 20)
    lines = screen("--env_name=scene-play-singletask-task1-v0", f"--save_dir={place}")
    assert lines[0] == "trqam: 1 run in" and lines[1].startswith(
        f"  {place}/Debug/scene-play-"
    )


def test_one_line_says_what_the_coefficients_were_tuned_for():
    agent = "--agent=agents/fql.py"
    lines = screen("--env_name=puzzle-4x4", agent)
    assert lines[-2:] == [
        "",
        "coefficients tuned for discount 0.99, sparse rewards (here 0.995, OGBench's;"
        " --preset=qam_paper)",
    ]
    lines = screen("--env_name=cube-triple,puzzle-3x3,cube-double,antmaze-giant", agent)
    assert [line.partition(":")[0] for line in lines[-2:]] == [
        "cube-triple-play, cube-double-play",
        "puzzle-3x3-play",
    ]
    assert not any("tuned" in line for line in screen("--env_name=all50", AGENT))
