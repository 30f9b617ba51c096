"""What each domain of the table uses, every value with its source. Applied automatically, below presets and flags."""

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
    """The row of one domain: network width (four layers), LayerNorm in the actor, H, discount, rho, further ones."""

    width: int
    actor_layer_norm: bool
    horizon_length: int
    discount: float
    rho: float
    own: dict[str, Setting]


DOMAINS = {
    "antmaze-large-navigate": Domain(512, False, 1, 0.995, 0.5, {"inv_temp": Setting(10.0, QAM)}),
    "antmaze-giant-navigate": Domain(1024, True, 1, 0.995, 0.5, {"inv_temp": Setting(3.0, QAM)}),
    "humanoidmaze-medium-navigate": Domain(
        512, False, 1, 0.999, 0.0, {"inv_temp": Setting(3.0, QAM), "kl_budget": Setting(0.5, RERUN)}
    ),
    "humanoidmaze-large-navigate": Domain(512, False, 1, 0.999, 0.0, {"inv_temp": Setting(3.0, QAM)}),
    "scene-play": Domain(512, False, 5, 0.995, 0.5, {"inv_temp": Setting(1.0, QAM_SPARSE)}),
    "puzzle-3x3-play": Domain(512, False, 5, 0.995, 0.5, {"inv_temp": Setting(3.0, QAM_SPARSE)}),
    "puzzle-4x4-play": Domain(1024, True, 5, 0.995, 0.5, {"inv_temp": Setting(30.0, QAM_SPARSE)}),
    "cube-double-play": Domain(512, False, 5, 0.995, 0.5, {"inv_temp": Setting(1.0, QAM)}),
    "cube-triple-play": Domain(1024, True, 5, 0.995, 0.5, {"inv_temp": Setting(3.0, QAM), "kl_budget": Setting(0.5, COMMANDS)}),
    "cube-quadruple-play": Domain(1024, True, 5, 0.995, 0.5, {"inv_temp": Setting(1.0, QAM)}),
}


# First matching prefix wins; every state-based OGBench dataset matches one.
NEAREST = {
    **{name.rpartition("-")[0]: name for name in DOMAINS},
    "cube-octuple": "cube-quadruple-play",
    "cube": "cube-double-play",
    "puzzle": "puzzle-4x4-play",
    "humanoidmaze-giant": "humanoidmaze-large-navigate",
    "humanoidmaze": "humanoidmaze-medium-navigate",
    "antmaze-medium": "antmaze-large-navigate",
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


def domain_settings(dataset: str) -> dict[str, Setting]:
    """Agent settings for a dataset such as 'puzzle-4x4-play', by key; an agent takes those it has."""
    name = nearest_domain(dataset)
    domain = DOMAINS[name]
    chunking = domain.horizon_length > 1
    shared = {
        "actor_hidden_dims": (domain.width,) * 4,
        "value_hidden_dims": (domain.width,) * 4,
        "actor_layer_norm": domain.actor_layer_norm,
        "horizon_length": domain.horizon_length,
        "action_chunking": chunking,
        "discount": domain.discount,
        "rho": domain.rho,
    }
    where = "" if name == dataset else f"nearest domain {name}: "
    settings = {key: Setting(value, TABLE) for key, value in shared.items()} | domain.own
    return {key: Setting(value, where + source) for key, (value, source) in settings.items()}
