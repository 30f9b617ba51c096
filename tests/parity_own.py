"""What only the files of some agents hold, for parity.py: names, settings, batches, outputs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

MODULES = {"qpilots_u": "agents.qpilots"}
"""The module of an agent that is not called as in its files."""
META = {"critic_input", "time", "samples", "eps"}
"""What files say of themselves that is no setting."""
Outputs = Callable[..., dict[str, jax.Array]]
"""agent, batch, noise -> quantities by their names in the file."""


def settings_of(meta: dict) -> dict:
    """Settings that a file has under other names."""
    return {"kappa": meta["expectile"]} if meta["agent"] == "qgf" else {}


def batch_of(meta: dict, batch: dict) -> dict:
    """The batch as the agents read it."""
    return batch


def outputs_of(meta: dict) -> Outputs:
    """The quantities of one update, from before its step, that parity.py does not know."""
    own = {"rql": reversal, "qgf": first_critic}.get(meta["agent"], lambda *arguments: {})
    samples = meta.get("samples", {})
    return lambda agent, batch, noise: (
        own(agent, batch, noise) | steered_samples(samples, agent, batch, noise)
    )


def as_arrays(outputs: dict) -> dict[str, np.ndarray]:
    """The quantities as NumPy arrays."""
    return {name: np.asarray(value) for name, value in outputs.items()}


def reversal(agent, batch: dict, noise: dict) -> dict[str, jax.Array]:
    """Of RQL: its target, its sum, and the actions of both flows."""
    fixed = agent.fixed_quantities(batch, noise)
    explored = agent.flow_sample(agent.params["base"], batch["observations"], noise["act_x0"])
    return {
        "td_target": fixed["td_target"],
        "total_loss": agent.loss(agent.params, batch, noise, fixed)[0],
        "actions": agent.act(batch["observations"], noise["act_x0"][None]),
        "explored": jnp.clip(explored, -1.0, 1.0),
    }


def first_critic(agent, batch: dict, noise: dict) -> dict[str, jax.Array]:
    """Of QGF: the mean of the first critic alone."""
    q = agent.values(agent.params["critic"], batch["observations"])(agent.flat_actions(batch))
    return {"q_first_mean": q[0].mean()}


def steered_samples(samples: dict, agent, batch: dict, noise: dict) -> dict[str, jax.Array]:
    """What the agent does at the file's other settings of its steering, by their names."""
    found = {}
    for name, settings in samples.items():
        config = agent.config.to_dict() | steering_of(settings)
        other = agent.replace(config=ml_collections.FrozenConfigDict(config))
        found[f"act_{name}"] = other.act(batch["observations"], noise[f"act_{name}"])
    return found


def steering_of(settings: dict) -> dict:
    """A file's settings of steering in our names."""
    ours = {key: settings[key] for key in settings.keys() - {"approx", "jacobian"}}
    if "approx" in settings:
        path = "jacobian" if settings["jacobian"] else "approx"
        ours["guidance"] = "noisy" if settings["approx"] == "noisy" else path
    return ours
