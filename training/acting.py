"""Agents as functions on a device: actions for evaluation, values for films."""

import jax
import jax.numpy as jnp
import numpy as np

from agents.base import Agent
from envs.evaluation import Policy, Values
from training.keys import stream
from utils.replay import chunk_length


def clipped_actions(agent: Agent, observations: jax.Array, x0: jax.Array) -> jax.Array:
    """Return the agent's actions [B, D], in [-1, 1] even if its own `act` does not clip them.

    Args:
        agent: the agent.
        observations: [B, O].
        x0: [draws, B, D] normal noise.
    """
    return jnp.clip(agent.act(observations, x0), -1.0, 1.0)


@jax.jit
def evaluation_actions(
    agent: Agent, observations: jax.Array, ids: jax.Array
) -> jax.Array:
    """Return actions [S, D], each with noise that depends only on its own id.

    Args:
        agent: the agent.
        observations: [S, O].
        ids: [S, 3] uint32: seed, episode, chunk index.
    """

    def noise(numbers: jax.Array) -> jax.Array:
        seed, episode, chunk = numbers
        key = stream(jax.random.key(seed), "evaluation")
        key = jax.random.fold_in(jax.random.fold_in(key, episode), chunk)
        return jax.random.normal(key, (agent.draws, agent.flat_action_dim))

    return clipped_actions(agent, observations, jax.vmap(noise, out_axes=1)(ids))


def evaluation_policy(agent: Agent) -> Policy:
    """Return an agent as a policy for `envs.evaluation.evaluate`."""

    def act(observations: np.ndarray, ids: np.ndarray) -> np.ndarray:
        return np.asarray(evaluation_actions(agent, observations, ids))

    return Policy(act, chunk_shape(agent))


def chunk_shape(agent: Agent) -> tuple[int, int]:
    """Return (H, A): the environment steps per call of an agent, and an action's width."""
    length = chunk_length(agent.config)
    return length, agent.flat_action_dim // length


@jax.jit
def mean_q(agent: Agent, observations: jax.Array, actions: jax.Array) -> jax.Array:
    """Return the mean of the agent's critics [S].

    Args:
        agent: the agent.
        observations: [S, O].
        actions: [S, D].
    """
    return agent.expected_return(observations, actions)


def evaluation_values(agent: Agent) -> Values | None:
    """Return the critic's values as a function for films; None if there is no critic."""
    if not agent.has_critic:
        return None
    return lambda observations, actions: np.asarray(
        mean_q(agent, observations, actions)
    )
