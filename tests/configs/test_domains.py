"""What each domain sets for each agent, and that agents with a key in common keep their own
values of it.
"""

import pytest

from configs.domains import DOMAINS, TUNED, domain_settings, own_settings
from tests.test_main import resolved
from utils.errors import UserError

FORK = """
from agents.{parent} import AGENT as Parent, get_config


class Mine(Parent):
    pass


AGENT = Mine
"""


def own(agent, domain, *keys):
    settings = resolved(f"--env_name={domain}", f"--agent={agent}")
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
        ("fql", "puzzle-4x4", ("alpha",), (1.0,)),
        ("cgql", "puzzle-4x4", ("guidance_coef", "noisy_coef"), (1.0, 0.001)),
    ],
)
def test_published_values_and_their_source(agent, domain, keys, values):
    sparse = ", sparse rewards" if domain == "puzzle-4x4" else ""
    method = {"cgql": "cgql_linex"}.get(agent, agent)
    found = own(f"agents/{agent}.py", domain, *keys)
    source = f"QAM paper (arXiv 2601.14234), its datasets and discount{sparse}: {method}"
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
    assert all(settings.sources[f"agent.{key}"].endswith(f": cgql_{mode}") for key in CGQL_KEYS)
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
    settings = resolved(f"--env_name={domain}", "--agent=agents/cgql.py", "--agent.mode=simple")
    assert settings.agent.guidance_coef == guidance_coef
    assert settings.sources["agent.guidance_coef"].endswith(": cgql_simple")
    assert settings.sources["agent.noisy_coef"] == "default"


def test_the_command_line_comes_before_the_coefficients_of_a_mode():
    flags = ("--agent.mode=mse", "--agent.noisy_coef=0.7", "--agent.inv_temp=0")
    settings = resolved("--env_name=scene", "--agent=agents/cgql.py", *flags)
    assert tuple(settings.agent[key] for key in CGQL_KEYS) == (0.0, 0.1, 0.7)


def test_a_forks_mode_counts(tmp_path):
    fork = tmp_path / "my_cgql.py"
    fork.write_text(MSE_FORK)
    assert own(fork, "antmaze-large", "noisy_coef")[0] == (0.1,)


@pytest.mark.parametrize(
    ("domain", "tuned"), [("puzzle-4x4", 30.0), ("antmaze-large", 10.0), ("cube-double", 1.0)]
)
def test_one_key_of_two_agents(domain, tuned):
    """inv_temp is QAM's, tuned by domain, and CGQL's, 10 everywhere."""
    assert own("agents/cgql.py", domain, "inv_temp")[0] == (10.0,)
    assert own("agents/qam.py", domain, "inv_temp")[0] == (tuned,)


def test_plain_qam_has_no_head():
    assert own("agents/qam.py", "puzzle-4x4", "edit_scale", "fql_alpha") == (
        (0.0, 0.0),
        {"default"},
    )


def test_a_fork_inherits_the_settings_of_what_it_extends(tmp_path):
    for parent, key, value in (
        ("fql", "alpha", 300.0),
        ("qam", "inv_temp", 3.0),
        ("cgql", "inv_temp", 10.0),
    ):
        fork = tmp_path / f"my_{parent}.py"
        fork.write_text(FORK.format(parent=parent))
        assert own(fork, "puzzle-3x3", key)[0] == (value,)


def test_the_later_name_of_a_lineage_counts():
    lineage = ["Agent", "TRQAM", "QAM", "qam_edit"]
    settings = domain_settings("antmaze-giant-navigate", lineage, {})
    assert (settings["inv_temp"].value, settings["edit_scale"].value) == (10.0, 0.1)
    assert "edit_scale" not in domain_settings("antmaze-giant-navigate", lineage[:-1], {})


def test_every_domain_has_every_tuned_setting():
    for kind, (method, keys) in TUNED.items():
        for mode in ("simple", "mse", "linex") if kind == "CGQL" else (None,):
            expected = set(keys) - ({"noisy_coef"} if mode == "simple" else set())
            for domain in DOMAINS:
                found = own_settings(domain, kind, {"mode": mode})
                assert set(found) == expected, (domain, method, mode)
                assert all(isinstance(value, float) for value, _ in found.values())


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
def test_values_that_no_run_can_use(agent, flag, message):
    with pytest.raises(UserError, match=message):
        resolved("--env_name=scene", f"--agent=agents/{agent}.py", f"--agent.{flag}")
