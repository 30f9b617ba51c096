"""Checks what training asks of an agent, before any training."""

from typing import Any

import jax
import numpy as np

from agents.base import Agent
from agents.lql import traced_metrics
from training.checkpoints import named_leaves
from training.cloning import clones_as_bc
from training.data import TaskData
from training.run import Run
from training.updates import check_metrics, one_update
from utils.errors import UserError
from utils.replay import FIELDS, Replay, Transitions


def check_agent(run: Run, agent: Agent, data: TaskData) -> None:
    """Trace the critic, the actions and one update of an agent, which compiles nothing.

    A mistake in the agent's code is found here, and not after hours of cloning. Raises what the
    code raises, and UserError for wrong shapes.

    Args:
        run: the run of a seed.
        agent: its agent.
        data: the dataset.
    """
    where = f"--agent={run.settings.agent_file}"
    check_shapes(agent, data.dims[0], where)
    dataset = {name: data.arrays[name] for name in (*FIELDS, "rows")}
    # with the shapes of the offline phase, which then finds this trace in JAX's cache
    replay = Replay(jax.eval_shape(Transitions.create, dataset))
    key = jax.random.key(0)

    def metrics() -> dict[str, Any]:
        updated, found = jax.eval_shape(one_update, agent, replay, key)
        check_state(agent, updated, where)
        return found

    found = traced_metrics(metrics, agent.config)
    check_metrics(found)
    line = {"step": 1, "phase": "offline"} | dict.fromkeys(found, 1.0)
    concerns = agent.concerns([line])  # as at the first line of train.csv
    if not isinstance(concerns, dict):
        raise UserError(f"{where}: concerns returns {concerns!r}; return texts by kind")
    if "base" in agent.params and not clones_as_bc(type(agent), agent.config):
        base = jax.eval_shape(
            lambda: agent.create(key, *data.dims, agent.config, cloning=True)
        )
        check_cloning(base, replay, where)


def check_cloning(agent: Agent, replay: Replay, where: str) -> None:
    """Raise UserError if an update that clones changes a field that fine-tuning starts anew.

    Args:
        agent: an agent that clones.
        replay: what its batches are sampled from.
        where: the start of the message.
    """
    traced = jax.make_jaxpr(one_update)(agent, replay, jax.random.key(0)).jaxpr
    # inputs and outputs both begin with the arrays of the agent
    for name, before, after in zip(
        array_types(agent), traced.invars, traced.outvars, strict=False
    ):
        kept = name.split("/")[0] in ("params", "target_params", "opt_state", "step")
        if after is not before and not kept:
            raise UserError(
                f"{where}: cloning changes {name}, which fine-tuning starts anew; make it a"
                " parameter of the base, or leave it alone while self.cloning is true"
            )


def check_state(before: Agent, after: Agent, where: str) -> None:
    """Raise UserError if an update changes the shape or type of an array of the state.

    where: the start of the message.
    """
    olds, news = array_types(before), array_types(after)
    for name in [*olds, *news]:
        old, new = olds.get(name, "nothing"), news.get(name, "nothing")
        if old != new:
            raise UserError(
                f"{where}: an update turns {name} from {old} into {new}; keep shape and type"
            )


def array_types(agent: Agent) -> dict[str, str]:
    """Return the type and shape of every array of an agent, such as 'float32[3]', by name."""
    return {name: f"{x.dtype}{list(x.shape)}" for name, x in named_leaves(agent)}


def check_shapes(agent: Agent, observation_dim: int, where: str) -> None:
    """Raise UserError if values or actions have a wrong shape, which could be broadcast.

    Args:
        agent: the agent.
        observation_dim: O.
        where: the start of the message.
    """
    states, width = 1009, agent.flat_action_dim  # a prime that no other axis has
    shapes = {
        "observations": (states, observation_dim),
        "actions": (states, width),
        "x0": (agent.draws, states, width),
    }
    inputs = {
        name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()
    }
    if agent.has_critic:
        q = jax.eval_shape(values, agent, inputs["observations"], inputs["actions"])
        if q.ndim != 2 or q.shape[1] != states:
            raise UserError(
                f"{where}: the critic returns values of shape {list(q.shape)} for {states}"
                f" actions; return [E, {states}], E the size of the ensemble"
            )
        value = jax.eval_shape(
            type(agent).expected_return,
            agent,
            inputs["observations"],
            inputs["actions"],
        )
        if value.shape != (states,):
            raise UserError(
                f"{where}: policy_value returns shape {list(value.shape)} of q {list(q.shape)};"
                f" return [{states}], one value for each action"
            )
    actions = jax.eval_shape(
        type(agent).act, agent, inputs["observations"], inputs["x0"]
    )
    if actions.shape != (states, width):
        raise UserError(
            f"{where}: act returns actions of shape {list(actions.shape)} for {states}"
            f" observations; return [{states}, {width}]"
        )


def values(agent: Agent, observations: jax.Array, actions: jax.Array) -> jax.Array:
    """Return Q_e(s, a) of the online critic at s [B, O] and a [B, D]."""
    return agent.values(agent.params["critic"], observations)(actions)
