"""What only files of certain agents hold, for parity.py: names, settings, batches, outputs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections

from agents.lql import hinged_loss_of
from utils.replay import FIELDS, Rows, sequence_chunks

MODULES = {"qpilots_u": "agents.qpilots", "lql": "tests.lql_critic"}
"""The modules of agents whose golden files have another name."""
META = {"critic_input", "time", "samples", "eps", "L", "points", "eval_interval"}
META |= {"batch_format"}
"""Entries of a golden file that are no settings."""
Outputs = Callable[..., dict[str, jax.Array]]
"""Maps (agent, batch, noise) to quantities by their names in the file."""


def settings_of(meta: dict) -> dict:
    """Settings that a file has under other names."""
    return {
        "qgf": lambda: {"kappa": meta["expectile"]},
        "lql": lambda: {
            "lql_points": meta["points"],
            "batch_size": meta["B"] * meta["points"],
        },
    }.get(meta["agent"], dict)()


def batch_of(meta: dict, batch: dict) -> dict:
    """The batch as the agents read it. A file of LQL has raw rows [B, L, ..]."""
    if meta["agent"] != "lql":
        return batch
    points, gap = meta["points"], meta["H"] * meta["eval_interval"]

    def chunks(name: str) -> jax.Array:
        """The first H of the rows [B n, H g, ..] from each evaluation point on."""
        rows = batch[name].reshape(meta["B"] * points, gap, *batch[name].shape[2:])
        return rows[:, : meta["H"]]

    states = jnp.concatenate(
        [chunks("observations")[:, :1], chunks("next_observations")], axis=1
    )
    rows = Rows(states, *(chunks(name) for name in FIELDS[1:]))
    ends = jnp.maximum(batch["terminals"], 1.0 - batch["masks"])
    return sequence_chunks(rows, meta["discount"]) | {
        "row_rewards": batch["rewards"],
        "ends": ends,
    }


def outputs_of(meta: dict) -> Outputs:
    """A function for quantities before an update's step that parity.py does not know."""
    known = {"rql": reversal, "qgf": first_critic, "lql": hinges}
    own = known.get(meta["agent"], lambda *arguments: {})
    samples = meta.get("samples", {})
    return lambda agent, batch, noise: (
        own(agent, batch, noise) | steered_samples(samples, agent, batch, noise)
    )


def reversal(agent, batch: dict, noise: dict) -> dict[str, jax.Array]:
    """RQL: its target, its total loss, and the actions of both flows."""
    fixed = agent.fixed_quantities(batch, noise)
    explored = agent.flow_sample(
        agent.params["base"], batch["observations"], noise["act_x0"]
    )
    return {
        "td_target": fixed["td_target"],
        "total_loss": agent.loss(agent.params, batch, noise, fixed)[0],
        "actions": agent.act(batch["observations"], noise["act_x0"][None]),
        "explored": jnp.clip(explored, -1.0, 1.0),
    }


def first_critic(agent, batch: dict, noise: dict) -> dict[str, jax.Array]:
    """QGF: the mean of the first critic alone."""
    q = agent.values(agent.params["critic"], batch["observations"])(
        agent.flat_actions(batch)
    )
    return {"q_first_mean": q[0].mean()}


def hinges(agent, batch: dict, noise: dict) -> dict[str, jax.Array]:
    """LQL: Q and v at the points, the sums of weights, and the sum of both hinges."""
    points = agent.config.lql_points
    target = agent.fixed_quantities(batch, noise)["td_target"]
    q = agent.values(agent.params["critic"], batch["observations"])(
        agent.flat_actions(batch)
    )
    parts = hinged_loss_of(q, batch, target, agent.config)
    counts = {f"{name}_terms": part.terms for name, part in parts._asdict().items()}
    return counts | {
        "q": q.reshape(len(q), -1, points),
        "next_values": target.v.reshape(-1, points),
        "hinge_loss": parts.lower.loss + parts.upper.loss,
    }


def steered_samples(
    samples: dict, agent, batch: dict, noise: dict
) -> dict[str, jax.Array]:
    """The agent's actions under the file's other settings of steering, by name."""
    found = {}
    for name, settings in samples.items():
        config = agent.config.to_dict() | steering_of(settings)
        other = agent.replace(config=ml_collections.FrozenConfigDict(config))
        found[f"act_{name}"] = other.act(batch["observations"], noise[f"act_{name}"])
    return found


def steering_of(settings: dict) -> dict:
    """A file's settings of steering under our names."""
    ours = {key: settings[key] for key in settings.keys() - {"approx", "jacobian"}}
    if "approx" in settings:
        path = "jacobian" if settings["jacobian"] else "approx"
        ours["guidance"] = "noisy" if settings["approx"] == "noisy" else path
    return ours
