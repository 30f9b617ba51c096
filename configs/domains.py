"""What each domain of the table uses, every value with its source. Applied automatically, below presets and flags."""

from collections.abc import Sequence
from typing import Any, NamedTuple

TABLE = "TRQAM paper (arXiv 2605.27079), settings shared by all methods"
COMMANDS = "the published TRQAM commands"
RERUN = "an independent rerun of the published TRQAM code"
QAM = "QAM paper (arXiv 2601.14234), its datasets and discount"
QAM_SPARSE = QAM + ", sparse rewards"


class Setting(NamedTuple):
    """A value and where it comes from."""

    value: Any
    source: str


class Domain(NamedTuple):
    """What all agents share in one domain: network width (four layers), LayerNorm in the actor, H, discount, rho."""

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

# What one agent uses, by the name of its class, which those that extend it inherit, or by that of its file.
KL_BUDGETS = {"humanoidmaze-medium-navigate": Setting(0.5, RERUN), "cube-triple-play": Setting(0.5, COMMANDS)}
COLUMNS = {
    "QAM": ("inv_temp",),
    "qam_edit": ("inv_temp", "edit_scale"),  # an edit_scale of 0 is QAM
    "qam_fql": ("inv_temp", "fql_alpha"),  # and so is an fql_alpha of 0
    "FQL": ("alpha",),
    "IFQL": ("kappa",),
    "DSRL": ("noise_scale",),
    "CGQL": ("guidance_coef", "noisy_coef"),  # as tuned for mode=linex
}
# fmt: off
QAM_TABLE = {
    #                                QAM       QAM-E        QAM-F          FQL       IFQL      DSRL     CGQL-L
    "puzzle-3x3-play":              ((3.0,),  (1.0, 0.1),  (3.0, 0.0),    (300.0,), (0.95,),  (1.0,),  (0.1, 0.001)),
    "scene-play":                   ((1.0,),  (1.0, 0.0),  (1.0, 300.0),  (300.0,), (0.9,),   (0.4,),  (0.1, 0.1)),
    "cube-double-play":             ((1.0,),  (1.0, 0.0),  (1.0, 0.0),    (300.0,), (0.9,),   (1.0,),  (0.01, 0.001)),
    "antmaze-large-navigate":       ((10.0,), (1.0, 0.1),  (3.0, 30.0),   (3.0,),   (0.9,),   (0.8,),  (0.1, 0.001)),
    "humanoidmaze-medium-navigate": ((3.0,),  (3.0, 0.1),  (1.0, 30.0),   (30.0,),  (0.7,),   (0.6,),  (0.1, 0.1)),
    "cube-triple-play":             ((3.0,),  (3.0, 0.1),  (10.0, 300.0), (30.0,),  (0.95,),  (1.4,),  (0.1, 0.001)),
    "cube-quadruple-play":          ((1.0,),  (3.0, 0.1),  (0.3, 30.0),   (100.0,), (0.95,),  (1.4,),  (0.01, 0.1)),
    "puzzle-4x4-play":              ((30.0,), (0.1, 0.9),  (3.0, 3.0),    (1.0,),   (0.9,),   (1.0,),  (1.0, 0.001)),
    "antmaze-giant-navigate":       ((3.0,),  (10.0, 0.1), (3.0, 30.0),   (3.0,),   (0.8,),   (1.2,),  (0.1, 0.001)),
    "humanoidmaze-large-navigate":  ((3.0,),  (3.0, 0.1),  (0.3, 30.0),   (30.0,),  (0.8,),   (0.8,),  (0.1, 0.1)),
}
# fmt: on
SPARSE = {"puzzle-3x3-play", "scene-play", "puzzle-4x4-play"}


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
    """The domain whose settings a dataset takes: its own, else the nearest in body and size.

    A user's own environment ('module:EnvId') takes those of cube-double-play, the agents' defaults with chunks.
    """
    if ":" in dataset:
        return "cube-double-play"
    return next(name for prefix, name in NEAREST.items() if dataset.startswith(prefix))


def own_settings(domain: str) -> dict[str, dict[str, Setting]]:
    """What the domain sets for one agent alone: by the name of the agent's class or file, then by key."""
    source = QAM_SPARSE if domain in SPARSE else QAM
    found = {"TRQAM": {"kl_budget": KL_BUDGETS[domain]} if domain in KL_BUDGETS else {}}
    for (kind, keys), values in zip(COLUMNS.items(), QAM_TABLE[domain], strict=True):
        found[kind] = {key: Setting(value, source) for key, value in zip(keys, values, strict=True)}
    return found


def domain_settings(dataset: str, lineage: Sequence[str]) -> dict[str, Setting]:
    """Settings for a dataset such as 'puzzle-4x4-play', by key; an agent takes those it has.

    lineage: the names of the agent's classes from the base class up, and of its file; the later ones count. By them,
    because one key means two things to two agents.
    """
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
    own = own_settings(name)
    for kind in lineage:
        settings |= own.get(kind, {})
    where = "" if name == dataset else f"nearest domain {name}: "
    return {key: Setting(value, where + source) for key, (value, source) in settings.items()}
