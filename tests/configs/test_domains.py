"""Tests what each domain sets for each agent, and that agents that share a key keep their own
values of it.
"""

import csv
import shutil

import pytest

from configs.agent_file import load_source
from configs.agent_source import AGENTS
from configs.domains import DOMAINS, QAM_TABLE, ROBOMIMIC, own_settings
from configs.flags import parse_flags
from configs.methods import METHODS, row_name
from tests.tiny_runs import resolved
from training.plan import plan
from utils.errors import UserError

FORK = """
from agents.{parent} import AGENT as Parent, get_config


class Mine(Parent):
    pass


AGENT = Mine
"""


def place(domain):
    """Return the flags for a domain, or for an environment of one's own."""
    return [f"--env_name={domain}", *(["--dataset=mine.npz"] if ":" in domain else [])]


def own(agent, domain, *keys):
    """Return an agent's values of settings in a domain, and the set of their sources."""
    settings = resolved(*place(domain), f"--agent={agent}")
    return tuple(settings.agent[key] for key in keys), {
        settings.sources[f"agent.{key}"] for key in keys
    }


@pytest.mark.parametrize(
    ("agent", "domain", "keys", "values"),
    [
        ("qam", "cube-quadruple", ("inv_temp",), (1.0,)),
        ("qam_edit", "puzzle-4x4", ("inv_temp", "edit_scale"), (0.1, 0.9)),
        ("qam_fql", "cube-triple", ("inv_temp", "fql_alpha"), (10.0, 300.0)),
        ("fql", "cube-quadruple", ("alpha",), (100.0,)),
        ("ifql", "humanoidmaze-medium", ("kappa",), (0.7,)),
        ("dsrl", "antmaze-giant", ("noise_scale",), (1.2,)),
        ("cgql", "cube-quadruple", ("guidance_coef", "noisy_coef"), (0.01, 0.1)),
        ("fedit", "cube-quadruple", ("edit_scale",), (0.4,)),
        ("fbrac", "antmaze-giant", ("alpha",), (0.1,)),
        ("bam", "puzzle-4x4", ("inv_temp",), (30.0,)),
        ("fawac", "antmaze-large", ("inv_temp",), (6.4,)),
        (
            "qsm",
            "cube-double",
            ("inv_temp", "alpha", "clip_sampler_before", "clip_sampler_after"),
            (1.0, 10.0, False, True),
        ),
        (
            "dac",
            "humanoidmaze-medium",
            ("alpha", "clip_sampler_before", "clip_sampler_after"),
            (1.0, True, False),
        ),
        ("rebrac", "cube-triple", ("alpha_actor", "actor_noise"), (0.01, 0.2)),
        # The value of the actual runs; the paper's list has 0.1.
        ("rlpd", "cube-double", ("bc_alpha",), (0.0,)),
        ("fql", "puzzle-4x4", ("alpha",), (1.0,)),
        ("cgql", "puzzle-4x4", ("guidance_coef", "noisy_coef"), (1.0, 0.001)),
    ],
)
def test_agents_have_their_published_values_and_the_source(agent, domain, keys, values):
    sparse = ", sparse rewards" if domain == "puzzle-4x4" else ""
    method = {"cgql": "cgql_linex"}.get(agent, agent)
    found = own(f"agents/{agent}.py", domain, *keys)
    source = (
        f"QAM paper (arXiv 2601.14234), its datasets and discount{sparse}: {method}"
    )
    assert found == (values, {source})


MSE_FORK = """
from agents import cgql

AGENT = cgql.CGQL


def get_config():
    config = cgql.get_config()
    config.mode = "mse"
    return config
"""
CGQL_KEYS = ("inv_temp", "guidance_coef", "noisy_coef")


@pytest.mark.parametrize(
    ("mode", "domain", "values"),
    [
        ("mse", "puzzle-3x3", (10.0, 0.1, 0.1)),
        ("linex", "puzzle-3x3", (10.0, 0.1, 0.001)),
        ("mse", "antmaze-large", (10.0, 0.1, 0.1)),
        ("linex", "antmaze-large", (10.0, 0.1, 0.001)),
        ("mse", "puzzle-4x4", (10.0, 1.0, 0.001)),
    ],
)
def test_each_mode_has_its_own_coefficients(mode, domain, values):
    flags = ("--agent=agents/cgql.py", f"--agent.mode={mode}")
    settings = resolved(f"--env_name={domain}", *flags)
    assert tuple(settings.agent[key] for key in CGQL_KEYS) == values
    assert all(
        settings.sources[f"agent.{key}"].endswith(f": cgql_{mode}") for key in CGQL_KEYS
    )
    assert settings.sources["agent.mode"] == "command line"


@pytest.mark.parametrize(
    ("domain", "guidance_coef"),
    [
        ("puzzle-4x4", 0.1),
        ("humanoidmaze-medium", 0.01),
        ("humanoidmaze-large", 0.01),
        ("cube-quadruple", 0.1),
    ],
)
def test_simple_mode_has_its_own_guidance_and_no_noisy_loss(domain, guidance_coef):
    settings = resolved(
        f"--env_name={domain}", "--agent=agents/cgql.py", "--agent.mode=simple"
    )
    assert settings.agent.guidance_coef == guidance_coef
    assert settings.sources["agent.guidance_coef"].endswith(": cgql_simple")
    assert settings.sources["agent.noisy_coef"] == "default"


def test_the_command_line_overrides_the_coefficients_of_a_mode():
    flags = ("--agent.mode=mse", "--agent.noisy_coef=0.7", "--agent.inv_temp=0")
    settings = resolved("--env_name=scene", "--agent=agents/cgql.py", *flags)
    assert tuple(settings.agent[key] for key in CGQL_KEYS) == (0.0, 0.1, 0.7)


def test_a_fork_has_the_coefficients_of_its_mode(tmp_path):
    fork = tmp_path / "my_cgql.py"
    fork.write_text(MSE_FORK)
    assert own(fork, "antmaze-large", "noisy_coef")[0] == (0.1,)


@pytest.mark.parametrize(
    ("domain", "tuned"),
    [("puzzle-4x4", 30.0), ("antmaze-large", 10.0), ("cube-double", 1.0)],
)
def test_two_agents_with_the_same_key_have_their_own_values(domain, tuned):
    """inv_temp of QAM is tuned for each domain; that of CGQL is always 10."""
    assert own("agents/cgql.py", domain, "inv_temp")[0] == (10.0,)
    assert own("agents/qam.py", domain, "inv_temp")[0] == (tuned,)


def test_plain_qam_has_no_edit_and_no_fql_head():
    assert own("agents/qam.py", "puzzle-4x4", "edit_scale", "fql_alpha")[0] == (
        0.0,
        0.0,
    )


def test_a_fork_inherits_the_settings_of_the_agent_that_it_extends(tmp_path):
    for parent, key, value in (
        ("fql", "alpha", 300.0),
        ("qam", "inv_temp", 3.0),
        ("cgql", "inv_temp", 10.0),
    ):
        fork = tmp_path / f"my_{parent}.py"
        fork.write_text(FORK.format(parent=parent))
        assert own(fork, "puzzle-3x3", key)[0] == (value,)


def test_the_own_settings_of_an_agent_come_before_those_of_its_parent():
    """QAM-E's inverse temperature comes before QAM's, and SQAM's budget before TRQAM's."""
    values, sources = own(
        "agents/qam_edit.py", "antmaze-giant", "inv_temp", "edit_scale"
    )
    assert values == (10.0, 0.1)
    assert all(source.endswith(": qam_edit") for source in sources)
    assert own("agents/sqam.py", "cube-triple", "kl_budget") == (
        (0.5,),
        {"sqam.py, changed from trqam.py"},
    )


CHANGED = """
from agents import {parent} as parent


class Mine(parent.AGENT):
    pass


def get_config():
    config = parent.get_config()
    config.{key} = {value}
    return config


AGENT = Mine
"""


@pytest.mark.parametrize(
    ("parent", "domain", "key", "value"),
    [
        ("trqam", "cube-triple", "kl_budget", 0.123),
        ("trqam", "puzzle-4x4", "actor_hidden_dims", (64, 64)),
        ("qam_edit", "puzzle-4x4", "edit_scale", 0.3),
        ("trqam", "own:Env-v0", "horizon_length", 2),
    ],
)
def test_a_value_changed_by_a_fork_overrides_that_of_the_domain(
    parent, domain, key, value, tmp_path
):
    fork = tmp_path / "mine.py"
    fork.write_text(CHANGED.format(parent=parent, key=key, value=value))
    assert own(fork, domain, key) == ((value,), {f"mine.py, changed from {parent}.py"})
    settings = resolved(*place(domain), f"--agent={fork}", "--agent.lr=0.5")
    assert settings.sources["agent.lr"] == "command line"
    if key == "kl_budget":
        given = resolved(
            f"--env_name={domain}", f"--agent={fork}", "--agent.kl_budget=2.0"
        )
        assert given.agent.kl_budget == 2.0


@pytest.mark.parametrize("domain", [*DOMAINS, *ROBOMIMIC])
def test_a_fork_that_changes_nothing_has_the_settings_of_its_parent(domain, tmp_path):
    """SQAM changes the budget of TRQAM, which the domain sets for some tasks."""
    fork = tmp_path / "mine.py"
    fork.write_text(FORK.format(parent="sqam"))
    settings = [
        resolved(f"--env_name={domain}", f"--agent={agent}").agent
        for agent in (fork, "agents/sqam.py")
    ]
    assert settings[0] == settings[1]
    assert settings[0].kl_budget == 0.5


def test_a_value_of_the_table_is_a_number_where_a_fork_has_none():
    alpha = load_source(AGENTS / "fql.py").module.get_config().alpha
    given = own_settings("scene-play", "fql", {"alpha": None})
    assert given == own_settings("scene-play", "fql", {"alpha": alpha})


def test_a_value_of_the_table_is_whole_where_a_fork_has_a_whole_default():
    given = own_settings("cube-double-play", "qam", {"inv_temp": 3})
    assert given["inv_temp"].value == 1 and type(given["inv_temp"].value) is int


FROM_SCRATCH = """
from agents.base import Agent
from utils.options import Option


class Mine(Agent):
    OPTIONS = Agent.OPTIONS | {
        "rho": Option(0.25, "pessimism"),
        "actor_hidden_dims": Option((64, 64), "widths"),
    }

    def loss(self, params, batch, noise, fixed):
        return self.critic_loss(params["critic"], batch, fixed["td_target"])


get_config = Mine.get_config
AGENT = Mine
"""


def test_an_agent_from_scratch_keeps_the_defaults_that_it_changes(tmp_path):
    file = tmp_path / "scratch.py"
    file.write_text(FROM_SCRATCH)
    values, sources = own(file, "humanoidmaze-large", "rho", "actor_hidden_dims")
    assert values == (0.25, (64, 64)) and sources == {
        "scratch.py, changed from base.py"
    }
    assert own(file, "humanoidmaze-large", "discount")[0] == (0.999,)


def test_a_fork_gets_no_settings_by_the_name_of_its_file(tmp_path):
    fork = tmp_path / "fql.py"
    fork.write_text(FORK.format(parent="bc"))
    assert own(fork, "scene", "lr") == ((3e-4,), {"default"})


def test_a_subclass_gets_the_tuned_settings_and_a_copy_the_defaults(tmp_path):
    """As docs/agents.md says."""
    subclass, copy = tmp_path / "mine.py", tmp_path / "fql.py"
    subclass.write_text(FORK.format(parent="fql"))
    shutil.copy(AGENTS / "fql.py", copy)
    assert [own(file, "cube-double", "alpha")[0] for file in (subclass, copy)] == [
        (300.0,),
        (10.0,),
    ]


# Settings that have another name in the agent files.
OTHER_NAMES = {"clip_grad_norm": "clip_grad"}
# Settings that are fixed in the agent files, with their values.
BUILT_IN = {
    "edit_target_entropy_multiplier": "0.5",
    "target_entropy_multiplier": "0.5",
    "init_temp": "1.0",
    "actor_fc_scale": "0.01",
    "balanced_sampling": "True",
    "offline_steps": "0",
    "bc_alpha_as_run": "0.0",
}
# Settings that the published code of a method does not read.
UNREAD = {
    ("fawac", "best_of_n"),
    ("qsm", "best_of_n"),
    ("dac", "best_of_n"),
    ("dac", "inv_temp"),
}


def test_what_the_paper_sets_for_a_method_in_all_domains_is_its_default():
    """It is a default of the agent file or fixed in it, unless the published code ignores it."""
    compared = 0
    for (domain, method), lines in QAM_TABLE.items():
        for line in lines if domain == "all" and method != "common" else ():
            key, agent = line["key"], "cgql" if method.startswith("cgql") else method
            if key in BUILT_IN:
                assert line["value"] == BUILT_IN[key]
            elif (agent, key) not in UNREAD:
                config = load_source(AGENTS / f"{agent}.py").module.get_config()
                assert float(config[OTHER_NAMES.get(key, key)]) == float(
                    line["value"]
                ), line
                compared += 1
    assert compared == 17
    flags = resolved("--env_name=scene", "--agent=agents/rlpd.py").flags
    assert (flags["balanced_sampling"], flags["offline_steps"]) == (True, 0)


def test_every_domain_has_every_tuned_setting():
    """Each domain sets at least one setting of the agent, and all domains set the same ones."""
    for name in {method.agent for method in METHODS} - {"trqam", "sqam"}:
        config = load_source(AGENTS / f"{name}.py").module.get_config()
        for mode in ("simple", "mse", "linex") if name == "cgql" else (None,):
            agent = config.to_dict() | {"mode": mode}
            keys = {tuple(own_settings(domain, name, agent)) for domain in DOMAINS}
            assert len(keys) == 1 and len(*keys) >= 1, (name, mode)


@pytest.mark.parametrize(
    ("agent", "flag", "message"),
    [
        ("cgql", "mode=mean", "--agent.mode=mean: use one of simple, mse, linex"),
        ("cgql", "inv_temp=-1", "--agent.inv_temp=-1.0: give 0 or a positive number"),
        ("qam", "inv_temp=0", "--agent.inv_temp=0.0: give a positive number"),
        ("fql", "alpha=-1", "--agent.alpha=-1.0: give 0 or a positive number"),
        ("ifql", "kappa=0", "--agent.kappa=0.0: give a number above 0"),
        ("ifql", "num_samples=0", "--agent.num_samples=0: give a positive number"),
        ("dsrl", "noise_scale=nan", "--agent.noise_scale=nan: give a positive number"),
        ("trqam_fixed_lambda", "lam=0", "--agent.lam=0.0: give a positive number"),
        (
            "trqam",
            "lambda_min=200",
            "--agent.lambda_min=200.0 lies above --agent.lambda_max=100.0",
        ),
        ("trqam", "rho=nan", "--agent.rho=nan: give a number"),
    ],
)
def test_values_that_no_run_can_use_are_refused(agent, flag, message):
    with pytest.raises(UserError, match=message):
        resolved("--env_name=scene", f"--agent=agents/{agent}.py", f"--agent.{flag}")


ONLINE = """
from agents import trqam


class Mine(trqam.TRQAM):
    @classmethod
    def phases(cls, config):
        return ("online",)


get_config = Mine.get_config
AGENT = Mine
"""


def test_a_phase_that_an_agent_does_not_have_takes_no_steps(tmp_path):
    fork = tmp_path / "mine.py"
    fork.write_text(ONLINE)
    place = ("--env_name=scene", f"--agent={fork}")
    settings = resolved(*place, "--preset=smoke")
    assert (settings.flags["offline_steps"], settings.flags["online_steps"]) == (0, 40)
    assert settings.sources["offline_steps"] == "mine.py has no offline phase"
    with pytest.raises(
        UserError, match="--offline_steps=5: mine.py has no offline phase"
    ):
        resolved(*place, "--offline_steps=5")
    assert not plan(parse_flags(["main.py", *place]))[0].needs_base()
    assert plan(parse_flags(["main.py", "--env_name=scene"]))[0].needs_base()


@pytest.mark.parametrize("phases", ['"online"', '("ofline",)', "None"])
def test_phases_that_do_not_exist_are_refused(phases, tmp_path):
    fork = tmp_path / "mine.py"
    fork.write_text(ONLINE.replace('("online",)', phases))
    message = (
        "--agent: Mine.phases returns .*; return a tuple of cloning, offline, online"
    )
    with pytest.raises(UserError, match=message):
        resolved("--env_name=scene", f"--agent={fork}")


@pytest.mark.parametrize(
    ("agent", "phases"),
    [
        ("trqam", "111"),
        ("fedit", "111"),
        ("rebrac", "011"),
        ("qsm", "011"),
        ("rlpd", "001"),
    ],
)
def test_each_agent_has_its_phases(agent, phases):
    settings = resolved("--env_name=scene", f"--agent=agents/{agent}.py")
    steps = [settings.flags[f"{phase}_steps"] for phase in ("bc", "offline", "online")]
    assert "".join(str(int(count > 0)) for count in steps) == phases
    assert settings.flags["balanced_sampling"] == (agent == "rlpd")
    run = plan(
        parse_flags(["main.py", "--env_name=scene", f"--agent=agents/{agent}.py"])
    )[0]
    assert not run.cloning and run.needs_base() == (phases[0] == "1")


def test_balanced_sampling_of_rlpd_can_be_turned_off():
    flags = ("--agent=agents/rlpd.py", "--nobalanced_sampling")
    assert resolved("--env_name=scene", *flags).flags["balanced_sampling"] is False


def test_bc_only_is_refused_for_an_agent_without_a_base():
    words = ["main.py", "--env_name=scene", "--agent=agents/rebrac.py", "--bc_only"]
    with pytest.raises(UserError, match="--bc_only: rebrac.py has no base to clone"):
        plan(parse_flags(words))
    assert plan(parse_flags(["main.py", "--env_name=scene", "--agent=agents/bc.py"]))[
        0
    ].cloning


QAM_COMMON = "QAM paper (arXiv 2601.14234), settings shared by all methods"


@pytest.mark.parametrize(
    ("domain", "sparse", "discount", "rho", "width", "horizon"),
    [
        ("puzzle-4x4", True, 0.99, 0.5, 512, 5),
        ("cube-triple", False, 0.99, 0.5, 512, 5),
        ("humanoidmaze-large", False, 0.995, 0.0, 512, 1),
        ("antmaze-giant", False, 0.995, 0.5, 512, 1),
    ],
)
@pytest.mark.parametrize("agent", ["fql", "trqam"])
def test_the_qam_paper_preset_has_the_papers_common_settings(
    agent, domain, sparse, discount, rho, width, horizon
):
    place = (f"--env_name={domain}", f"--agent=agents/{agent}.py", "--preset=qam_paper")
    settings = resolved(*place)
    flags, config = settings.flags, settings.agent
    assert (flags["sparse"], flags["bc_steps"], flags["run_group"]) == (
        sparse,
        0,
        "qam_paper",
    )
    assert (config.discount, config.rho, config.horizon_length) == (
        discount,
        rho,
        horizon,
    )
    assert config.actor_hidden_dims == config.value_hidden_dims == (width,) * 4
    assert (
        not config.actor_layer_norm and config.action_chunking and settings.note == ""
    )
    assert (
        settings.sources["sparse"] == settings.sources["agent.discount"] == QAM_COMMON
    )
    assert (
        settings.transitions is None
        and flags["ogbench_dataset_dir"] == "~/.ogbench/data"
    )
    assert resolved(*place, "--agent.discount=0.9").agent.discount == 0.9


@pytest.mark.parametrize(
    ("agent", "domain", "flags", "note"),
    [
        (
            "fql",
            "puzzle-4x4",
            (),
            "tuned for discount 0.99, sparse rewards (here 0.995, OGBench's; --preset=qam_paper)",
        ),
        (
            "rlpd",
            "cube-double",
            (),
            "tuned for discount 0.99 (here 0.995; --preset=qam_paper)",
        ),
        (
            "bam",
            "antmaze-giant",
            ("--sparse",),
            "tuned for OGBench's rewards (here sparse; --preset=qam_paper)",
        ),
        ("dac", "antmaze-giant", (), ""),
        ("fql", "puzzle-4x4", ("--sparse", "--agent.discount=0.99"), ""),
        # no published coefficient is used
        ("fql", "puzzle-4x4", ("--agent.alpha=3",), ""),
        ("trqam", "puzzle-4x4", (), ""),
        # all of RQL's settings have a source, but it never ran there
        ("rql", "lift-mh-low_dim", (), ""),
    ],
)
def test_a_note_says_what_the_coefficients_were_tuned_for(agent, domain, flags, note):
    settings = resolved(f"--env_name={domain}", f"--agent=agents/{agent}.py", *flags)
    assert settings.note == note


@pytest.mark.parametrize("domain", DOMAINS)
def test_published_figures_have_the_size_of_the_data_in_the_published_commands(domain):
    with (AGENTS.parent / "configs" / "published.csv").open() as file:
        sizes = {
            line["transitions"]
            for line in csv.DictReader(file)
            if line["source"].startswith("QAM paper")
            and line["name"].startswith(domain)
        }
    lines = QAM_TABLE[domain, "common"]
    (dataset,) = [line["value"] for line in lines if line["key"] == "dataset"]
    assert sizes == {"100000000" if "-100m-" in dataset else "1000000"}


def test_the_table_has_the_published_methods():
    """They are the QAM paper's seventeen, TRQAM and SQAM; their settings are their agents' own."""
    with (AGENTS.parent / "configs" / "published.csv").open() as file:
        lines = [
            line
            for line in csv.DictReader(file)
            if line["source"].startswith("QAM paper")
        ]
    published = {line["method"] for line in lines}
    names = [method.name for method in METHODS]
    assert len(names) == len(set(names)) == 19
    assert set(names) - published == {"TRQAM", "SQAM"} and published <= set(names)
    for method in METHODS:
        config = load_source(AGENTS / f"{method.agent}.py").module.get_config()
        assert set(method.settings) <= set(config)
        assert row_name(method.agent, config.to_dict() | method.settings) == method.name
    assert row_name("bc", {}) is None
