"""What each domain of the table uses, every value with its source. Applied automatically, below
presets and flags.
"""

import csv
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

TABLE = "TRQAM paper (arXiv 2605.27079), settings shared by all methods"
COMMANDS = "the published TRQAM commands (code of arXiv 2605.27079)"
RERUN = "an independent rerun of the published TRQAM code (configs/published.csv)"
QAM = "QAM paper (arXiv 2601.14234), its datasets and discount"
QAM_COMMON = "QAM paper (arXiv 2601.14234), settings shared by all methods"
AS_RUN = "_as_run"  # ends a key of the QAM table whose value the commands that were run have
COMMON_TYPES = {
    **dict.fromkeys(
        ("action_chunking", "actor_layer_norm", "value_layer_norm", "sparse"), True
    ),
    **dict.fromkeys(("actor_hidden_dims", "value_hidden_dims"), (512,)),
    **dict.fromkeys(("discount", "rho", "lr", "tau"), 0.5),
    **dict.fromkeys(("horizon_length", "num_qs", "batch_size", "utd_ratio", "flow_steps"), 1),
    **dict.fromkeys(("diffusion_steps", "time_dim", "start_training"), 1),
    **dict.fromkeys(("offline_steps", "online_steps", "eval_interval", "eval_episodes"), 1),
    "beta_schedule": "vp",
}
"""The settings in the QAM table that all methods share, each with a value of its type."""


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

# By the name of an agent file; its forks inherit them.
OWN = {
    "trqam": {
        "humanoidmaze-medium-navigate": {"kl_budget": Setting(0.5, RERUN)},
        "cube-triple-play": {"kl_budget": Setting(0.5, COMMANDS)},
    },
}

# A user's 'module:EnvId': chunks, and else the agent's defaults.
OWN_ENVIRONMENT = {
    "horizon_length": Setting(5, "own environment"),
    "action_chunking": Setting(True, "own environment"),
}


def read_qam_table() -> dict[tuple[str, str], list[dict[str, str]]]:
    """What the QAM paper's published commands set: CSV lines by domain and method. A method is
    an agent file or, where it has modes, one of them: cgql_simple, cgql_mse, cgql_linex.
    """
    found = defaultdict(list)
    with open(Path(__file__).with_name("qam_table.csv"), newline="") as file:
        for line in csv.DictReader(file):
            found[line["domain"], line["method"]].append(line)
    return dict(found)


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


def own_settings(dataset: str, name: str, agent: Mapping[str, Any]) -> dict[str, Setting]:
    """What the domain of a dataset sets for one agent file alone, by key.

    Args:
        dataset: such as 'puzzle-4x4-play', or a user's own 'module:EnvId', which sets nothing.
        name: of the file, such as 'qam_edit'.
        agent: the agent's settings; a method with modes has coefficients for each.
    """
    if ":" in dataset:
        return {}
    domain = nearest_domain(dataset)
    found = dict(OWN.get(name, {}).get(domain, {}))
    for method in (name, f"{name}_{agent.get('mode')}"):
        # The commands that were run leave these as they are, whatever a domain lists.
        as_run = {
            line["key"].removesuffix(AS_RUN): line["value"]
            for line in QAM_TABLE.get(("all", method), ())
            if line["key"].endswith(AS_RUN)
        }
        for line in QAM_TABLE.get((domain, method), ()):
            key = line["key"]
            if key in agent and key != "mode":
                rewards = ", sparse rewards" if line["sparse"] == "1" else ""
                value = typed(as_run.get(key, line["value"]), agent[key])
                found[key] = Setting(value, f"{QAM}{rewards}: {method}")
    return from_domain(dataset, found)


def typed(text: str, default: Any) -> Any:
    """A value of the QAM table as a setting with this default has it."""
    match default:
        case bool():
            return text == "True"
        case str():
            return text
        case tuple():
            width, layers = text.split("x")
            return (int(width),) * int(layers)
        case int():
            return int(text)
    return float(text)


def qam_common_settings(dataset: str) -> dict[str, Setting]:
    """What the QAM paper set for all methods in the domain of a dataset: flags and settings of
    agents, by name.
    """
    domain = "" if ":" in dataset else nearest_domain(dataset)
    lines = [*QAM_TABLE["all", "common"], *QAM_TABLE.get((domain, "common"), ())]
    found = {
        line["key"]: Setting(typed(line["value"], COMMON_TYPES[line["key"]]), QAM_COMMON)
        for line in lines
        if line["key"] in COMMON_TYPES
    }
    return from_domain(dataset, found) if domain else found


def tuned_otherwise(dataset: str, settings: Mapping[str, Setting]) -> str:
    """What the coefficients of the QAM paper were tuned for, and what a run has instead; "" for
    a run without such coefficients, and where they agree.

    Args:
        dataset: such as 'puzzle-4x4-play'.
        settings: of the run by name, those of the agent as agent.KEY.
    """
    if ":" in dataset or not any(QAM in setting.source for setting in settings.values()):
        return ""
    tuned = qam_common_settings(dataset)
    there, here = [], []
    discount, ours = tuned["discount"].value, settings["agent.discount"].value
    if discount != ours:
        there.append(f"discount {discount}")
        here.append(f"{ours}")
    if tuned["sparse"].value != settings["sparse"].value:
        kinds = ("sparse", "OGBench's")
        theirs, own = kinds if tuned["sparse"].value else kinds[::-1]
        there.append(f"{theirs} rewards")
        here.append(own)
    if not there:
        return ""
    return f"tuned for {', '.join(there)} (here {', '.join(here)}; --preset=qam_paper)"


def shared_settings(dataset: str) -> dict[str, Setting]:
    """What the domain of a dataset sets for every agent that has the setting, by key."""
    if ":" in dataset:
        return dict(OWN_ENVIRONMENT)
    domain = DOMAINS[nearest_domain(dataset)]
    values = {
        "actor_hidden_dims": (domain.width,) * 4,
        "value_hidden_dims": (domain.width,) * 4,
        "actor_layer_norm": domain.actor_layer_norm,
        "horizon_length": domain.horizon_length,
        "action_chunking": domain.horizon_length > 1,
        "discount": domain.discount,
        "rho": domain.rho,
    }
    return from_domain(dataset, {key: Setting(value, TABLE) for key, value in values.items()})


def from_domain(dataset: str, settings: dict[str, Setting]) -> dict[str, Setting]:
    """The settings, whose sources name the domain where it is not the dataset's own."""
    name = nearest_domain(dataset)
    where = "" if name == dataset else f"nearest domain {name}: "
    return {key: Setting(value, where + source) for key, (value, source) in settings.items()}
