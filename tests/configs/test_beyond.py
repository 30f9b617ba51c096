"""Tests the settings and figures of the methods beyond the results table, and their sources."""

import csv

import pytest

from agents.qgf import AGGREGATES
from configs.agent_file import load_source
from configs.agent_source import AGENTS
from configs.domains import (
    BEYOND_TABLE,
    DOMAINS,
    parse_value,
    qam_common_settings,
)
from configs.methods import KNOWN, METHODS, row_name
from reports.published import read_published
from tests.tiny_runs import resolved

RQL = {  # alpha, expectile, rho, H, discount, sparse
    "scene-play": (3.0, 0.7, 0.5, 5, 0.99, True),
    "puzzle-3x3-play": (1.0, 0.7, 0.5, 5, 0.99, True),
    "puzzle-4x4-play": (1.0, 0.9, 0.5, 5, 0.99, True),
    "cube-double-play": (10.0, 0.9, 0.5, 5, 0.99, False),
    "cube-triple-play": (1.0, 0.9, 0.5, 5, 0.99, False),
    "cube-quadruple-play": (1.0, 0.7, 0.5, 5, 0.99, False),
    "antmaze-large-navigate": (0.1, 0.5, 0.5, 1, 0.99, False),
    "antmaze-giant-navigate": (0.1, 0.5, 0.5, 1, 0.995, False),
    "humanoidmaze-medium-navigate": (0.3, 0.5, 0.0, 1, 0.995, False),
    "humanoidmaze-large-navigate": (0.3, 0.5, 0.0, 1, 0.995, False),
}


@pytest.mark.parametrize("domain", DOMAINS)
def test_rql_has_its_published_settings(domain):
    settings = resolved(f"--env_name={domain}", "--agent=agents/rql.py")
    agent = settings.agent
    keys = ("alpha", "expectile", "rho", "horizon_length", "discount")
    *values, sparse = RQL[domain]
    assert [agent[key] for key in keys] == values
    assert (agent.num_qs, agent.flow_steps, agent.batch_size) == (10, 10, 256)
    assert (agent.policy_ema, agent.tau, agent.lr) == (0.999, 0.005, 3e-4)
    # RQL has the same widths in every domain, unlike other methods.
    assert agent.actor_hidden_dims == agent.value_hidden_dims == (512,) * 4
    assert (agent.actor_layer_norm, agent.value_layer_norm) == (False, True)
    for key in keys:
        source = settings.sources[f"agent.{key}"]
        assert source.startswith("RQL's published commands (arXiv 2606.17551")
    note = "tuned for sparse rewards (here OGBench's; --preset=qam_paper)"
    assert settings.note == (note if sparse else "")
    # RQL's commands and the QAM paper's have the same rewards and discounts.
    common = qam_common_settings(domain)
    assert (common["sparse"].value, common["discount"].value) == (sparse, values[-1])


@pytest.mark.parametrize("domain", ["scene", "cube-quadruple", "puzzle-4x4"])
def test_qgf_has_its_published_settings_where_it_was_run(domain):
    settings = resolved(f"--env_name={domain}", "--agent=agents/qgf.py")
    agent = settings.agent
    assert (agent.discount, agent.batch_size, agent.kappa) == (0.999, 1024, 0.9)
    assert (agent.num_qs, agent.q_agg, agent.horizon_length) == (2, "min", 5)
    assert agent.actor_hidden_dims == agent.value_hidden_dims == (1024,) * 4
    assert settings.sources["agent.discount"].startswith("QGF's published commands")
    assert settings.sources["agent.guidance_weight"] == "default"


def test_qgf_elsewhere_takes_ifqls_expectile_and_the_shared_settings():
    settings = resolved("--env_name=humanoidmaze-medium", "--agent=agents/qgf.py")
    agent = settings.agent
    assert (agent.kappa, agent.discount, agent.batch_size) == (0.7, 0.999, 256)
    assert settings.sources["agent.kappa"].endswith(": ifql")


@pytest.mark.parametrize(
    ("domain", "alpha", "rho", "discount"),
    [
        ("puzzle-4x4", 2.0, 0.5, 0.99),
        ("cube-triple", 0.3, 0.5, 0.99),
        ("antmaze-giant", 0.3, 0.5, 0.995),
        ("humanoidmaze-large", 0.3, 0.0, 0.995),
    ],
)
def test_qpilots_settings_are_second_hand(domain, alpha, rho, discount):
    settings = resolved(f"--env_name={domain}", "--agent=agents/qpilots.py")
    agent = settings.agent
    assert (agent.alpha, agent.rho, agent.discount) == (alpha, rho, discount)
    assert "second hand" in settings.sources["agent.discount"]
    # Elsewhere it is unknown which of 0.1, 0.2, 0.3 and 0.5 was used.
    known = domain == "puzzle-4x4"
    assert ("second hand" in settings.sources["agent.alpha"]) == known


def test_lql_is_off_in_every_domain():
    for domain in DOMAINS:
        agent = resolved(f"--env_name={domain}", "--agent=agents/trqam.py").agent
        assert (agent.lql_points, agent.hinge_weight) == (1, 1.0)


def test_every_agent_accepts_its_settings_in_the_table():
    compared = 0
    for (domain, name), lines in BEYOND_TABLE.items():
        kind = load_source(AGENTS / f"{name}.py").module.AGENT
        config = kind.get_config()
        assert domain == "all" or domain in DOMAINS
        for line in lines:
            assert line["source"]
            if line["key"] != "sparse":  # a flag
                key = line["key"]
                config[key] = parse_value(line["value"], type(config[key]))
                compared += 1
        kind.check(config)
    assert compared == 117 and set(AGGREGATES) == {"min", "mean"}


def test_published_figures_have_source_steps_seeds_and_protocol():
    """RQL's are compared with two values of the paper's table."""
    figures = [line for line in read_published() if line.method == "RQL"]
    assert {line.name for line in figures} == set(RQL)
    found = {line.name: line for line in figures}
    assert found["cube-quadruple-play"].success == 51.0
    assert found["humanoidmaze-medium-navigate"].success == 93.0
    for name, line in found.items():
        *_, discount, sparse = RQL[name]
        assert (line.discount, line.reward) == (
            discount,
            "sparse" if sparse else "default",
        )
        assert (line.phase, line.step, line.seeds) == ("offline", 2_000_000, 4)
        assert (
            "RQL paper (arXiv 2606.17551)" in line.source
            and "second hand" in line.source
        )


def test_methods_beyond_the_table_have_names_and_are_not_in_the_table():
    beyond = {method.name: method.agent for method in KNOWN if method not in METHODS}
    assert beyond == {"RQL": "rql", "QGF": "qgf", "QPILOTS-U": "qpilots"}
    for name, agent in beyond.items():
        config = load_source(AGENTS / f"{agent}.py").module.get_config()
        assert row_name(agent, config.to_dict()) == name
    with (AGENTS.parent / "configs" / "methods.csv").open() as file:
        assert {line["table"] for line in csv.DictReader(file)} == {"paper", "beyond"}
