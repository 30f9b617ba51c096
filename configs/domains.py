"""What each domain of the table uses, every value with its source. Applied automatically, below
presets and flags.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TABLE = "TRQAM paper (arXiv 2605.27079), settings shared by all methods"
COMMANDS = "the published TRQAM commands (code of arXiv 2605.27079)"
RERUN = "an independent rerun of the published TRQAM code (configs/published.csv)"
QAM = "QAM paper (arXiv 2601.14234), its datasets and discount"


class Setting(NamedTuple):
    """A value and where it comes from."""

    value: Any
    source: str


class Domain(NamedTuple):
    """What all agents share in one domain: network width (four layers), LayerNorm in the actor,
    H, discount, rho.
    """

    width: int
    actor_layer_norm: bool
    horizon_length: int
    discount: float
    rho: float


DOMAINS = {
    "antmaze-large-navigate": Domain(512, False, 1, 0.995, 0.5),
    "antmaze-giant-navigate": Domain(1024, True, 1, 0.995, 0.5),
    "humanoidmaze-medium-navigate": Domain(512, False, 1, 0.999, 0.0),
    "humanoidmaze-large-navigate": Domain(512, False, 1, 0.999, 0.0),
    "scene-play": Domain(512, False, 5, 0.995, 0.5),
    "puzzle-3x3-play": Domain(512, False, 5, 0.995, 0.5),
    "puzzle-4x4-play": Domain(1024, True, 5, 0.995, 0.5),
    "cube-double-play": Domain(512, False, 5, 0.995, 0.5),
    "cube-triple-play": Domain(1024, True, 5, 0.995, 0.5),
    "cube-quadruple-play": Domain(1024, True, 5, 0.995, 0.5),
}

KL_BUDGETS = {
    "humanoidmaze-medium-navigate": Setting(0.5, RERUN),
    "cube-triple-play": Setting(0.5, COMMANDS),
}

# A user's 'module:EnvId': chunks, and else the agent's defaults.
OWN_ENVIRONMENT = {
    "horizon_length": Setting(5, "own environment"),
    "action_chunking": Setting(True, "own environment"),
}

# Settings that the QAM paper tuned by domain: the method in qam_table.csv, and its keys. By the
# name of a class, whose subclasses inherit them, or of an agent file.
TUNED = {
    "QAM": ("qam", ("inv_temp",)),
    "qam_edit": ("qam_edit", ("inv_temp", "edit_scale")),  # an edit_scale of 0 is QAM
    "qam_fql": ("qam_fql", ("inv_temp", "fql_alpha")),  # and so is an fql_alpha of 0
    "FQL": ("fql", ("alpha",)),
    "IFQL": ("ifql", ("kappa",)),
    "DSRL": ("dsrl", ("noise_scale",)),
    # One method for each mode: cgql_simple, cgql_mse, cgql_linex.
    "CGQL": ("cgql", ("inv_temp", "guidance_coef", "noisy_coef")),
}


def read_qam_table() -> dict[tuple[str, str, str], dict[str, str]]:
    """What the QAM paper's published commands set: CSV lines by domain, method and key."""
    with open(Path(__file__).with_name("qam_table.csv"), newline="") as file:
        lines = list(csv.DictReader(file))
    return {(line["domain"], line["method"], line["key"]): line for line in lines}


QAM_TABLE = read_qam_table()

# First matching prefix wins; every state-based OGBench dataset matches one.
NEAREST = {
    **{name.rpartition("-")[0]: name for name in DOMAINS},
    "cube-octuple": "cube-quadruple-play",
    "cube": "cube-double-play",
    "puzzle": "puzzle-4x4-play",
    "humanoidmaze-giant": "humanoidmaze-large-navigate",
    "humanoidmaze-teleport": "humanoidmaze-large-navigate",
    "humanoidmaze": "humanoidmaze-medium-navigate",
    "antmaze-medium": "antmaze-large-navigate",
    "antmaze-teleport": "antmaze-large-navigate",
    "antmaze": "antmaze-giant-navigate",
    "": "antmaze-large-navigate",
}


def nearest_domain(dataset: str) -> str:
    """The domain whose settings an OGBench dataset takes: its own, else the nearest in body and
    size.
    """
    return next(name for prefix, name in NEAREST.items() if dataset.startswith(prefix))


def own_settings(domain: str, kind: str, agent: Mapping[str, Any]) -> dict[str, Setting]:
    """What the domain sets for one kind of agent alone, by key.

    Args:
        domain: one of DOMAINS.
        kind: the name of a class of agents, or of an agent file.
        agent: the agent's settings; a method with modes has coefficients for each.
    """
    if kind == "TRQAM" and domain in KL_BUDGETS:
        return {"kl_budget": KL_BUDGETS[domain]}
    method, keys = TUNED.get(kind, ("", ()))
    found = {}
    for name in (method, f"{method}_{agent.get('mode')}"):
        for key in keys:
            if line := QAM_TABLE.get((domain, name, key)):
                rewards = ", sparse rewards" if line["sparse"] == "1" else ""
                found[key] = Setting(float(line["value"]), f"{QAM}{rewards}: {name}")
    return found


def domain_settings(
    dataset: str,
    lineage: Sequence[str],
    agent: Mapping[str, Any],
) -> dict[str, Setting]:
    """Settings of a domain for one agent, by key; the agent takes those it has.

    Args:
        dataset: such as 'puzzle-4x4-play'.
        lineage: the names of the agent's classes from the base class up, and of its file.
            A later name overrides an earlier one. One key can mean two things to two agents.
        agent: the agent's settings, from its file and the command line.
    """
    if ":" in dataset:
        return OWN_ENVIRONMENT
    name = nearest_domain(dataset)
    domain = DOMAINS[name]
    shared = {
        "actor_hidden_dims": (domain.width,) * 4,
        "value_hidden_dims": (domain.width,) * 4,
        "actor_layer_norm": domain.actor_layer_norm,
        "horizon_length": domain.horizon_length,
        "action_chunking": domain.horizon_length > 1,
        "discount": domain.discount,
        "rho": domain.rho,
    }
    settings = {key: Setting(value, TABLE) for key, value in shared.items()}
    for kind in lineage:
        settings |= own_settings(name, kind, agent)
    where = "" if name == dataset else f"nearest domain {name}: "
    return {key: Setting(value, where + source) for key, (value, source) in settings.items()}
