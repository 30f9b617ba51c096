"""The settings of each domain, every value with its source; presets and flags override them."""

import csv
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

SHARED_BY_ALL = "TRQAM paper (arXiv 2605.27079), settings shared by all methods"
COMMANDS = "the published TRQAM commands (code of arXiv 2605.27079)"
DEMONSTRATIONS = "TRQAM paper (arXiv 2605.27079), its runs on Robomimic, second hand"
FIGURE = "TRQAM paper (arXiv 2605.27079), Fig. 5, second hand"
RERUN = "an independent rerun of the published TRQAM code (configs/published.csv)"
QAM = "QAM paper (arXiv 2601.14234), its datasets and discount"
RQL = "RQL's published commands (arXiv 2606.17551"  # the beginning of its sources
QAM_COMMON = "QAM paper (arXiv 2601.14234), settings shared by all methods"
AS_RUN = "_as_run"  # suffix of a key of the QAM table whose value was used in the actual runs
TYPES: dict[type, tuple[str, ...]] = {
    bool: ("action_chunking", "actor_layer_norm", "value_layer_norm", "sparse"),
    tuple: ("actor_hidden_dims", "value_hidden_dims"),
    float: ("discount", "rho", "lr", "tau"),
    int: (
        *("horizon_length", "num_qs", "batch_size", "utd_ratio", "flow_steps"),
        *("diffusion_steps", "time_dim", "start_training"),
        *("offline_steps", "online_steps", "eval_interval", "eval_episodes"),
    ),
    str: ("beta_schedule",),
}
COMMON = {name: kind for kind, names in TYPES.items() for name in names}
"""The settings in the QAM table that all methods share, with their types."""


class Setting(NamedTuple):
    """A value and its source."""

    value: Any
    source: str


class Domain(NamedTuple):
    """The settings that all agents share in a domain; networks have four layers of `width`."""

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

# The tasks of robomimic, which are no part of the paper's table.
ROBOMIMIC = dict.fromkeys(
    ("lift-mh-low_dim", "can-mh-low_dim", "square-mh-low_dim"),
    Domain(512, False, 5, 0.995, 0.5),
)

# Settings of single agents, by the name of the agent file. Forks inherit them.
OWN = {
    "trqam": {
        "humanoidmaze-medium-navigate": {"kl_budget": Setting(0.5, RERUN)},
        "cube-triple-play": {"kl_budget": Setting(0.5, COMMANDS)},
        "lift-mh-low_dim": {"kl_budget": Setting(0.1, FIGURE)},
        "can-mh-low_dim": {"kl_budget": Setting(0.1, FIGURE)},
    },
}

# The settings for a user's 'module:EnvId'; all others are the agent's defaults.
OWN_ENVIRONMENT = {
    "horizon_length": Setting(5, "own environment"),
    "action_chunking": Setting(True, "own environment"),
}


def read_table(name: str, method: str) -> dict[tuple[str, str], list[dict[str, str]]]:
    """Read the lines of a CSV file of this folder by domain and method.

    Args:
        name: the file.
        method: the column of the method.
    """
    table = defaultdict(list)
    with open(Path(__file__).with_name(name), newline="") as file:
        for line in csv.DictReader(file):
            table[line["domain"], line[method]].append(line)
    return dict(table)


QAM_TABLE = read_table("qam_table.csv", "method")
"""The QAM paper's published commands. A method is an agent file or one of its modes:
cgql_simple, cgql_mse, cgql_linex."""
BEYOND_TABLE = read_table("beyond_table.csv", "agent")
"""Settings of the methods outside the results table. A domain's lines override those of "all".
Lines whose key is a flag are not applied; tests compare them."""

# The first matching prefix counts; every dataset of robomimic and OGBench matches one.
NEAREST = {
    **{name.partition("-")[0]: name for name in ROBOMIMIC},
    "transport": "square-mh-low_dim",
    "tool_hang": "square-mh-low_dim",
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
    """Return the domain whose settings a dataset uses: its own, or the most similar one."""
    return next(name for prefix, name in NEAREST.items() if dataset.startswith(prefix))


def folder_flag_of_dataset(dataset: str) -> str:
    """Return the name of the flag for the folder that holds a dataset."""
    of_robomimic = ":" not in dataset and nearest_domain(dataset) in ROBOMIMIC
    return "robomimic_dataset_dir" if of_robomimic else "ogbench_dataset_dir"


def own_settings(
    dataset: str, name: str, agent: Mapping[str, Any]
) -> dict[str, Setting]:
    """Return the settings that a domain has for one agent only, by key.

    Args:
        dataset: such as 'puzzle-4x4-play'; a user's own 'module:EnvId' has none.
        name: the name of the agent file, such as 'qam_edit'.
        agent: the agent's settings; a method with modes has coefficients for each mode.
    """
    if ":" in dataset:
        return {}
    domain = nearest_domain(dataset)
    settings = dict(OWN.get(name, {}).get(domain, {}))
    for method in (name, f"{name}_{agent.get('mode')}"):
        as_run = values_as_run(method)
        for line in QAM_TABLE.get((domain, method), ()):
            key = line["key"]
            if key in agent and key != "mode":
                rewards = ", sparse rewards" if line["sparse"] == "1" else ""
                value = parse_value(as_run.get(key, line["value"]), type(agent[key]))
                settings[key] = Setting(value, f"{QAM}{rewards}: {method}")
    for section in ("all", domain):
        for line in BEYOND_TABLE.get((section, name), ()):
            key = line["key"]
            if key in agent:
                value = parse_value(line["value"], type(agent[key]))
                settings[key] = Setting(value, line["source"])
    return from_domain(dataset, settings)


def values_as_run(method: str) -> dict[str, str]:
    """Return the values that the actual runs of a method used in place of the domain's."""
    values = {}
    for line in QAM_TABLE.get(("all", method), ()):
        if line["key"].endswith(AS_RUN):
            values[line["key"].removesuffix(AS_RUN)] = line["value"]
    return values


def parse_value(text: str, kind: type) -> Any:
    """Convert a value of a table to a type; layers are written 512x4."""
    if kind is bool:
        return text == "True"
    if kind is tuple:
        width, layers = text.split("x")
        return (int(width),) * int(layers)
    if kind is str:
        return text
    # a fork may set None or 3 where its parent has a number such as 0.5
    number = float(text)
    return int(number) if kind is int and number.is_integer() else number


def qam_common_settings(dataset: str) -> dict[str, Setting]:
    """Return the QAM paper's settings of all methods in a domain: flags and agent settings."""
    domain = "" if ":" in dataset else nearest_domain(dataset)
    settings = {}
    for line in [*QAM_TABLE["all", "common"], *QAM_TABLE.get((domain, "common"), ())]:
        key = line["key"]
        if key in COMMON:
            settings[key] = Setting(parse_value(line["value"], COMMON[key]), QAM_COMMON)
    return from_domain(dataset, settings) if domain else settings


def tuning_note(dataset: str, settings: Mapping[str, Setting]) -> str:
    """Say which settings a run's coefficients were tuned for, if it has others.

    The QAM paper and RQL tuned theirs for the same ones. Returns "" if the settings agree,
    and for a run without such coefficients.

    Args:
        dataset: such as 'puzzle-4x4-play'.
        settings: the settings of the run by name, those of the agent as agent.KEY.
    """
    if ":" in dataset or nearest_domain(dataset) in ROBOMIMIC:
        return ""  # neither ran there
    if not has_tuned_settings(settings):
        return ""
    tuned = qam_common_settings(dataset)
    there = []
    here = []
    discount = tuned["discount"].value
    ours = settings["agent.discount"].value
    if discount != ours:
        there.append(f"discount {discount}")
        here.append(f"{ours}")
    if tuned["sparse"].value != settings["sparse"].value:
        there.append("sparse rewards" if tuned["sparse"].value else "OGBench's rewards")
        here.append("OGBench's" if tuned["sparse"].value else "sparse")
    if not there:
        return ""
    return f"tuned for {', '.join(there)} (here {', '.join(here)}; --preset=qam_paper)"


def has_tuned_settings(settings: Mapping[str, Setting]) -> bool:
    """Return whether a setting was tuned by the QAM paper or for RQL."""
    sources = [setting.source for setting in settings.values()]
    return any(QAM in source or RQL in source for source in sources)


def shared_settings(dataset: str) -> dict[str, Setting]:
    """Return the settings that a domain has for all agents, by key."""
    if ":" in dataset:
        return dict(OWN_ENVIRONMENT)
    domain = (DOMAINS | ROBOMIMIC)[nearest_domain(dataset)]
    values = {
        "actor_hidden_dims": (domain.width,) * 4,
        "value_hidden_dims": (domain.width,) * 4,
        "actor_layer_norm": domain.actor_layer_norm,
        "horizon_length": domain.horizon_length,
        "action_chunking": domain.horizon_length > 1,
        "discount": domain.discount,
        "rho": domain.rho,
    }
    source = SHARED_BY_ALL if nearest_domain(dataset) in DOMAINS else DEMONSTRATIONS
    return from_domain(
        dataset, {key: Setting(value, source) for key, value in values.items()}
    )


def from_domain(dataset: str, settings: dict[str, Setting]) -> dict[str, Setting]:
    """Add the domain's name to the sources of settings if it is not the dataset's own."""
    name = nearest_domain(dataset)
    where = "" if name == dataset else f"nearest domain {name}: "
    return {
        key: Setting(value, where + source) for key, (value, source) in settings.items()
    }
