"""What each domain sets for each agent, and that agents with a key in common keep their own values of it."""

import pytest

from configs.domains import COLUMNS, DOMAINS, QAM_TABLE, domain_settings
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
    return tuple(settings.agent[key] for key in keys), {settings.sources[f"agent.{key}"] for key in keys}


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
    found = own(f"agents/{agent}.py", domain, *keys)
    assert found == (values, {f"QAM paper (arXiv 2601.14234), its datasets and discount{sparse}"})


@pytest.mark.parametrize(("domain", "tuned"), [("puzzle-4x4", 30.0), ("antmaze-large", 10.0), ("cube-double", 1.0)])
def test_one_key_of_two_agents(domain, tuned):
    """inv_temp is QAM's, tuned by domain, and CGQL's, 10 everywhere."""
    assert own("agents/cgql.py", domain, "inv_temp") == ((10.0,), {"default"})
    assert own("agents/qam.py", domain, "inv_temp")[0] == (tuned,)


def test_plain_qam_has_no_head():
    assert own("agents/qam.py", "puzzle-4x4", "edit_scale", "fql_alpha") == ((0.0, 0.0), {"default"})


def test_a_fork_inherits_the_settings_of_what_it_extends(tmp_path):
    for parent, key, value in (("fql", "alpha", 300.0), ("qam", "inv_temp", 3.0), ("cgql", "inv_temp", 10.0)):
        fork = tmp_path / f"my_{parent}.py"
        fork.write_text(FORK.format(parent=parent))
        assert own(fork, "puzzle-3x3", key)[0] == (value,)


def test_the_later_name_of_a_lineage_counts():
    settings = domain_settings("antmaze-giant-navigate", ["Agent", "TRQAM", "QAM", "qam_edit"])
    assert (settings["inv_temp"].value, settings["edit_scale"].value) == (10.0, 0.1)
    assert "edit_scale" not in domain_settings("antmaze-giant-navigate", ["Agent", "TRQAM", "QAM"])


def test_the_table_is_whole():
    assert set(QAM_TABLE) == set(DOMAINS)
    for row in QAM_TABLE.values():
        assert [len(values) for values in row] == [len(keys) for keys in COLUMNS.values()]


@pytest.mark.parametrize(
    ("agent", "flag", "message"),
    [
        ("cgql", "mode=mean", "--agent.mode=mean: use one of simple, mse, linex"),
        ("fql", "alpha=-1", "--agent.alpha=-1.0: give 0 or a positive number"),
        ("ifql", "kappa=0", "--agent.kappa=0.0: give a number above 0"),
        ("ifql", "num_samples=0", "--agent.num_samples=0: give a positive number"),
        ("dsrl", "noise_scale=nan", "--agent.noise_scale=nan: give a positive number"),
        ("trqam_fixed_lambda", "lam=0", "--agent.lam=0.0: give a positive number"),
        ("trqam", "lambda_min=200", "--agent.lambda_min=200.0 lies above --agent.lambda_max=100.0"),
        ("trqam", "rho=nan", "--agent.rho=nan: give a number"),
    ],
)
def test_values_that_no_run_can_use(agent, flag, message):
    with pytest.raises(UserError, match=message):
        resolved("--env_name=scene", f"--agent=agents/{agent}.py", f"--agent.{flag}")
