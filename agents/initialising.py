"""Fresh parameters of an agent's networks."""

from typing import Any

import jax
import jax.numpy as jnp

from agents.losses import Networks
from utils.errors import UserError, join_first


def fresh_params(
    key: jax.Array, networks: Networks, inputs: dict[str, str], widths: dict[str, int]
) -> dict[str, Any]:
    """Parameters by network. Raises UserError for a network that no agent can hold.

    Args:
        key: of all networks.
        networks: by name.
        inputs: what each network reads, in letters.
        widths: of what the letters mean.
    """
    check_inputs(networks, inputs, widths)
    keys = zip(networks, jax.random.split(key, len(networks)), strict=True)
    params = {}
    for name, k in keys:
        examples = [jnp.zeros((1, widths[letter])) for letter in inputs[name]]
        variables = networks[name].init(k, *examples)
        if lost := variables.keys() - {"params"}:
            raise UserError(
                f"the network {name} has {join_first(sorted(lost))}: an agent keeps only params"
            )
        params[name] = variables.get("params", {})
    return params


def check_inputs(networks: Networks, inputs: dict[str, str], widths: dict[str, int]) -> None:
    """Raise UserError for a network whose inputs or their widths are not given.

    The arguments are those of `fresh_params`.
    """
    if missing := [name for name in networks if name not in inputs]:
        name = missing[0]
        raise UserError(f"INPUTS lacks the network {name}: add what it reads, as '{name}': 's'")
    read = [(name, letter) for name in networks for letter in inputs[name]]
    if unknown := [pair for pair in read if pair[1] not in widths]:
        name, letter = unknown[0]
        raise UserError(
            f"INPUTS['{name}'] has the letter {letter}: let widths(config) say how wide it is"
        )


def policy_matches_base(params: dict[str, Any]) -> bool:
    """Whether there is a policy whose arrays have the names and shapes of the base's."""
    if not {"policy", "base"} <= params.keys():
        return False
    return jax.tree.map(jnp.shape, params["policy"]) == jax.tree.map(jnp.shape, params["base"])
