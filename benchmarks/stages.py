"""The time of each part of an update, compiled separately."""

import functools
import statistics
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.common import seconds
from utils.replay import BatchSpec

REPEATS = 6


class Stages:
    """Compiled functions with their arguments, by the name of the stage."""

    def __init__(self) -> None:
        self.calls: dict[str, Callable[[], Any]] = {}

    def add(self, name: str, function: Callable, *arguments: Any) -> Any:
        """Compile a stage, run it once, and return its result.

        Args:
            name: the name of the stage.
            function: the function.
            arguments: its arguments.
        """
        self.calls[name] = functools.partial(jax.jit(function), *arguments)
        return self.calls[name]()

    def medians(self) -> dict[str, float]:
        """Return the median seconds of each stage, of `REPEATS` calls."""
        medians = {}
        for name, call in self.calls.items():
            times = [seconds(call) for _ in range(REPEATS)]
            medians[name] = statistics.median(times)
        return medians


def stage_seconds(agent: Any, replay: Any) -> dict[str, float]:
    """Return the median seconds of the parts of an update.

    Their sum exceeds the time of an update, whose parts share work. `replay` is what batches
    are sampled from.
    """
    config = agent.config
    agent_class = type(agent)
    stages = Stages()

    def draw(replay: Any, seed: int) -> Any:
        return replay.sample(jax.random.key(seed), BatchSpec.of(config))

    def draw_noise(agent: Any, seed: int) -> Any:
        return agent_class.draw_noise(agent, jax.random.key(seed), config.batch_size)

    def gradients(params: Any, agent: Any, *rest: Any) -> Any:
        return jax.grad(lambda params: agent.loss(params, *rest)[0])(params)

    def step(agent: Any, grads: Any) -> Any:
        optimiser = agent.optimiser(config, agent.cloning)
        return optimiser.update(grads, agent.opt_state, agent.params)

    batch = stages.add("sampling", draw, replay, 0)
    noise = stages.add("noise", draw_noise, agent, 1)
    fix = agent_class.fixed_quantities
    fixed = stages.add("fixed quantities", fix, agent, batch, noise)
    if hasattr(agent, "adjoints"):
        add_flow_stages(stages, agent, batch, noise, fixed)
    arguments = (agent.params, agent, batch, noise, fixed)
    grads = stages.add("losses and gradients", gradients, *arguments)
    stages.add("optimiser", step, agent, grads)
    return stages.medians()


def add_flow_stages(
    stages: Stages, agent: Any, batch: Any, noise: Any, fixed: Any
) -> None:
    """Add the stages of an agent that trains a flow by adjoint matching.

    Args:
        stages: the stages to extend.
        agent: the agent.
        batch: a batch.
        noise: the noise of an update.
        fixed: its fixed quantities.
    """
    observations = batch["observations"]
    next_observations = batch["next_observations"][:, -1]
    policy = agent.params["policy"]
    base = agent.target_params["base"]
    shape = (agent.draws, len(observations), agent.flat_action_dim)
    x0 = jax.random.normal(jax.random.key(2), shape)

    def rollout(
        policy: dict, base: dict, s: jax.Array, noise: dict, fixed: dict
    ) -> Any:
        policy_field = agent.velocity(policy, s)
        return agent.rollout(policy_field, agent.velocity(base, s), noise, fixed)

    def adjoint(base: dict, s: jax.Array, xs: jax.Array, end: jax.Array) -> Any:
        return agent.adjoints(agent.velocity(base, s), xs, end)

    stages.add("backup", type(agent).act, agent, next_observations, x0)
    path = stages.add("rollout", rollout, policy, base, observations, noise, fixed)
    stages.add("adjoint", adjoint, base, observations, path.xs, path.x_final)
