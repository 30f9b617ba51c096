"""A command line resolves to settings with their sources and to the folders of runs."""

import json
import re
import shutil
from pathlib import Path

import pytest

from configs.domains import DOMAINS
from configs.presets import PRESETS
from envs.tasks import ALL_TASKS
from tests.tiny_runs import AGENTS, ROOT, resolved, run
from training.plan import plan
from utils.errors import UserError


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


def test_a_domain_with_seeds_lists_every_task_and_folder(tmp_path, capsys):
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


def test_several_names_give_each_task_once():
    """A list may mix tasks and domains, as for sweep.py; a task that is named twice counts once."""
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


def test_precedence_and_sources_of_settings():
    """A later source wins: agent default, domain, preset, command line. Each is recorded."""
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
def test_the_cpu_preset_trains_every_agent_for_the_same_steps_and_makes_no_data(agent):
    settings = resolved("--env_name=scene", f"--agent={agent}", "--preset=cpu")
    flags = settings.flags
    steps = flags["bc_steps"], flags["offline_steps"], flags["online_steps"]
    online = Path(agent).stem == "rlpd"  # RLPD's only phase
    assert steps[1:] == ((0, 50_000) if online else (50_000, 0))
    assert steps[0] in (0, 20_000)
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
def test_every_domain_has_its_published_settings(domain):
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


def test_a_users_environment_takes_chunks_and_otherwise_the_agents_defaults():
    place = ("--env_name=some.module:Thing-v0", "--dataset=mine.npz")
    settings = resolved(*place, "--agent=agents/trqam.py")
    assert (settings.agent.horizon_length, settings.agent.action_chunking) == (5, True)
    sources = {
        name.removeprefix("agent."): source
        for name, source in settings.sources.items()
        if "agent." in name
    }
    chunks = {"horizon_length": "own environment", "action_chunking": "own environment"}
    assert sources == dict.fromkeys(sources, "default") | chunks


def test_an_environment_outside_the_table_names_the_domain_whose_settings_it_takes():
    settings = resolved("--env_name=cube-single", "--agent=agents/trqam.py")
    assert settings.sources["agent.discount"].startswith(
        "nearest domain cube-double-play: "
    )
    # The teleport maze takes the settings of the large one.
    settings = resolved("--env_name=antmaze-teleport", "--agent=agents/trqam.py")
    assert settings.sources["agent.discount"].startswith(
        "nearest domain antmaze-large-navigate: "
    )


def test_a_published_command_line_runs_unchanged(tmp_path, capsys):
    """The command has all its published flags, including those that have no effect here."""
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


def test_the_folder_name_depends_on_settings_and_not_on_steps_or_save_dir():
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
    assert len({name(), name("--agent.kl_budget=0.7"), name("--sparse")}) == 3


def test_a_fork_of_the_same_name_and_other_data_have_their_own_folders(tmp_path):
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


def test_the_last_value_of_a_setting_counts():
    sizes = [f"--agent.actor_hidden_dims={size}" for size in ("(8,8)", "(4,)")]
    assert resolved("--env_name=scene", *sizes).agent.actor_hidden_dims == (4,)
    first, last = (size.split("=") for size in sizes)
    for words in ([*first, *last], [*first, sizes[1]], [sizes[0], *last]):
        assert resolved("--env_name=scene", *words).agent.actor_hidden_dims == (4,)
    words = ["--agent.rho", "-0.5", "--agent.clip_adj", "--sparse"]
    settings = resolved("--env_name=scene", *words)
    assert (settings.agent.rho, settings.agent.clip_adj) == (-0.5, True)
    assert settings.flags["sparse"] is True


def test_a_flag_file_is_read_where_it_stands(tmp_path):
    file = tmp_path / "mine.flags"
    file.write_text("--agent=agents/qam.py\n--agent.lr=7\n--env_name=scene\n")
    settings = resolved(f"--flagfile={file}", "--agent.inv_temp=3")
    assert settings.source.file.name == "qam.py"
    assert (settings.agent.lr, settings.agent.inv_temp) == (7, 3)
    later = resolved(f"--flagfile={file}", "--agent=agents/fql.py")
    assert later.source.file.name == "fql.py" and later.agent.lr == 7


@pytest.mark.parametrize("preset", ["cpu", "quickstart", "smoke", "study"])
def test_every_preset_trains_an_agent_that_has_only_an_online_phase(preset):
    flags = resolved(
        "--env_name=scene", "--agent=agents/rlpd.py", f"--preset={preset}"
    ).flags
    assert (
        flags["start_training"] < flags["online_steps"] and not flags["offline_steps"]
    )


def test_steps_without_effect_are_named(capsys):
    resolved("--env_name=scene", "--bc_only", "--bc_steps=5", "--online_steps=0")
    note = "note: --bc_steps has no effect with --bc_only"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(note)
    resolved("--env_name=scene", "--preset=cpu", "--utd_ratio=2")
    note = (
        "note: --utd_ratio has no effect without an online phase: --online_steps is 0\n"
    )
    assert capsys.readouterr().err == note
    resolved("--env_name=scene", "--utd_ratio=2")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("balanced_samplign", True),
        ("horizon_length", 1),
        ("utd_ratio", 0),
        ("offline_steps", 1e3),
        ("matmul_precision", "highst"),
    ],
)
def test_a_flag_that_an_agent_sets_is_checked(name, value, tmp_path):
    fork = tmp_path / "mine.py"
    fork.write_text(
        "from agents import trqam\n\n\nclass Mine(trqam.TRQAM):\n"
        f"    FLAGS = {{{name!r}: {value!r}}}\n\n\n"
        "AGENT, get_config = Mine, Mine.get_config\n"
    )
    with pytest.raises(UserError, match=f"mine.py: FLAGS sets {name}={value!r}"):
        resolved("--env_name=scene", f"--agent={fork}")


def test_phases_without_a_return_are_one_line_with_a_preset_too(tmp_path):
    fork = tmp_path / "mine.py"
    fork.write_text(
        "from agents import trqam\n\n\nclass Mine(trqam.TRQAM):\n"
        "    @classmethod\n    def phases(cls, config):\n        pass\n\n\n"
        "AGENT, get_config = Mine, Mine.get_config\n"
    )
    for preset in ([], ["--preset=smoke"]):
        with pytest.raises(UserError, match="Mine.phases returns None; return a tuple"):
            resolved("--env_name=scene", f"--agent={fork}", *preset)


def test_help_shows_the_settings_of_an_agent_in_a_flag_file(tmp_path, capsys):
    file = tmp_path / "mine.flags"
    file.write_text("--agent=agents/qam.py\n")
    assert run(f"--flagfile={file}", "--help") == 0
    assert "settings of agents/qam.py:" in capsys.readouterr().out


def test_help_names_every_flag(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert "python main.py --env_name=puzzle-4x4" in text
    flags = resolved("--env_name=scene").flags
    assert {"seed", "kl_budget_online", "sparse"} < flags.keys()
    for name in (*flags, "agent", "dry_run"):
        assert re.search(rf"--(\[no\])?{name}\b", text), name


def test_every_flag_that_changes_the_experiment_gives_a_folder_of_its_own():
    changed = [
        "--utd_ratio=2",
        "--kl_budget_online=0.5",
        "--balanced_sampling",
        "--start_training=7",
        "--dataset_proportion=0.5",
        "--horizon_length=3",
        "--action_scale=2",
        "--pretrained_actor_path=/p",
        "--sparse",
        "--agent.kl_budget=0.7",
    ]
    folders = {resolved_run(flag).folder for flag in changed}
    assert len(folders | {resolved_run().folder}) == len(changed) + 1


def resolved_run(*flags):
    from configs.flags import parse_flags

    return plan(parse_flags(["main.py", "--env_name=scene", *flags]))[0]


def test_humanoidmaze_medium_has_the_published_kl_budget():
    """0.5 there, and the default 1 on large."""
    medium, large = (
        resolved(f"--env_name=humanoidmaze-{size}", "--agent=agents/trqam.py")
        for size in ("medium", "large")
    )
    assert (medium.agent.kl_budget, large.agent.kl_budget) == (0.5, 1.0)
    assert medium.sources["agent.kl_budget"] != "default"
    assert large.sources["agent.kl_budget"] == "default"


def test_the_presets_are_the_settings_of_their_results():
    runs = json.loads((ROOT / "results" / "study" / "runs.json").read_text())
    preset = PRESETS["study"]
    for name, kept in runs.items():
        config, own = kept["config"], {"run_group"}
        if "/bc_" in name:
            own.add("offline_steps")  # 10,000, as of the others' bases
        for key in preset.flags.keys() - own:
            assert config["flags"][key] == preset.flags[key], (name, key)
        given = {
            key for key, source in config["sources"].items() if source == "command line"
        }
        for key in preset.agent.keys() & config["agent"].keys():
            if f"agent.{key}" not in given:
                value = config["agent"][key]
                value = tuple(value) if isinstance(value, list) else value
                assert value == preset.agent[key], (name, key)
    summary = json.loads((ROOT / "results" / "quickstart" / "seed0.json").read_text())
    quickstart = PRESETS["quickstart"]
    assert quickstart.agent["kl_budget"] == summary["kl_budget"]
    assert quickstart.transitions == summary["transitions"]
