"""How long the parts of an update take, each compiled alone."""

import functools
import statistics
from collections.abc import Callable
from typing import Any

import jax

from agents.trqam import lean_adjoint, memoryless_rollout
from benchmarks.common import seconds
from utils.replay import run_points


class Stages:
    """Functions with their arguments, by the name of the stage."""

    def __init__(self) -> None:
        self.calls: dict[str, Callable[[], Any]] = {}

    def add(self, name: str, function: Callable, *arguments: Any) -> Any:
        """Compile a stage and keep it; returns what it returns."""
        self.calls[name] = functools.partial(jax.jit(function), *arguments)
        return self.calls[name]()

    def medians(self, repeats: int) -> dict[str, float]:
        """The median seconds of each stage."""
        return {
            name: statistics.median(seconds(call) for _ in range(repeats))
            for name, call in self.calls.items()
        }


def stage_seconds(agent: Any, replay: Any, repeats: int = 6) -> dict[str, float]:
    """Median seconds of the parts of an update.

    Their sum is longer than an update, whose parts share work.
    """
    config, kind, stages = agent.config, type(agent), Stages()

    def draw(replay: Any, seed: int) -> Any:
        key = jax.random.key(seed)
        sizes = config.batch_size, config.horizon_length, config.discount
        return replay.sample(key, *sizes, run_points(config))

    def draw_noise(agent: Any, seed: int) -> Any:
        return kind.draw_noise(agent, jax.random.key(seed), config.batch_size)

    def gradients(params: Any, agent: Any, *rest: Any) -> Any:
        return jax.grad(lambda params: agent.loss(params, *rest)[0])(params)

    def step(agent: Any, grads: Any) -> Any:
        return agent.optimiser(config, agent.cloning).update(
            grads, agent.opt_state, agent.params
        )

    batch = stages.add("sampling", draw, replay, 0)
    noise = stages.add("noise", draw_noise, agent, 1)
    if "sde_noise" in noise:
        add_flow_stages(stages, agent, batch, noise)
    fixed = stages.add("fixed quantities", kind.fixed_quantities, agent, batch, noise)
    arguments = (agent.params, agent, batch, noise, fixed)
    grads = stages.add("losses and gradients", gradients, *arguments)
    stages.add("optimiser", step, agent, grads)
    return stages.medians(repeats)


def add_flow_stages(stages: Stages, agent: Any, batch: Any, noise: Any) -> None:
    """Add the parts of an agent that steers a flow by adjoint matching."""
    observations = batch["observations"]
    policy, base = agent.params["policy"], agent.target_params["base"]
    x0 = jax.random.normal(jax.random.key(2), (agent.draws, *noise["sde_x0"].shape))

    def rollout(policy: dict, base: dict, s: jax.Array, noise: dict) -> Any:
        fields = agent.velocity(policy, s), agent.velocity(base, s)
        return memoryless_rollout(*fields, noise["sde_x0"], noise["sde_noise"])

    def adjoint(base: dict, s: jax.Array, xs: jax.Array, end: jax.Array) -> Any:
        return lean_adjoint(agent.velocity(base, s), xs, end)

    stages.add("backup", type(agent).act, agent, batch["next_observations"][:, -1], x0)
    path = stages.add("rollout", rollout, policy, base, observations, noise)
    stages.add("adjoint", adjoint, base, observations, path.xs, path.x_final)
