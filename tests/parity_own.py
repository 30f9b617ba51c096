"""What only the files of some agents hold, for parity.py: names, settings, batches, outputs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

MODULES: dict[str, str] = {}
"""The module of an agent that is not called as in its files."""
META = {"critic_input"}
"""What files say of themselves that is no setting."""
Outputs = Callable[..., dict[str, jax.Array]]
"""agent, batch, noise -> quantities by their names in the file."""


def settings_of(meta: dict) -> dict:
    """Settings that a file has under other names."""
    return {}


def batch_of(meta: dict, batch: dict) -> dict:
    """The batch as the agents read it."""
    return batch


def outputs_of(meta: dict) -> Outputs:
    """The quantities of one update, from before its step, that parity.py does not know."""
    return {"rql": reversal}.get(meta["agent"], lambda agent, batch, noise: {})


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
