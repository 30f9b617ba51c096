"""Flow matching, written once: the interpolation and its loss, the Euler sampler, the noise of
the memoryless process. Shapes as in `trqam.py`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Velocity = Callable[[jax.Array, jax.Array], jax.Array]
"""(x [..., B, D], t: a number or [..., 1]) -> velocity [..., B, D], at given observations."""


MAX_UNROLLED = 20  # flow steps


def time_grid(flow_steps: int) -> jax.Array:
    """t_k = k / K for k = 0..K-1, shape [K]."""
    return jnp.arange(flow_steps, dtype=jnp.float32) / flow_steps


def on_grid(u: jax.Array, flow_steps: int) -> jax.Array:
    """u in [0, 1), uniform, as uniform on the K + 1 times 0, 1/K, .., 1; the times of the grid
    themselves stay.
    """
    return jnp.minimum(jnp.floor(u * (flow_steps + 1)), flow_steps) / flow_steps


def loop(
    step: Callable[[Any, Any], tuple[Any, Any]], state: Any, inputs: Any, reverse: bool = False
) -> tuple[Any, Any]:
    """`jax.lax.scan` along the flow steps, unrolled because XLA fuses across steps; long grids
    compile faster as loops.

    In a loop unrolled in Python the axis of the seeds stays the first one. A scan makes the
    steps the first axis, and on a GPU transposes every layer of the network for it.
    """
    length = len(jax.tree.leaves(inputs)[0])
    if length > MAX_UNROLLED:
        return jax.lax.scan(step, state, inputs, reverse=reverse)
    step, results = jax.jit(step), [None] * length
    for k in reversed(range(length)) if reverse else range(length):
        state, results[k] = step(state, jax.tree.map(lambda leaf, k=k: leaf[k], inputs))
    return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)


def simulate(
    step: Callable, x0: jax.Array, inputs: tuple, velocity: Velocity, constant: bool
) -> tuple[jax.Array, jax.Array]:
    """States xs [K, B, D] and the velocities there, which have a gradient.

    An accelerator is limited by its number of kernels, not by arithmetic. There the velocities
    at constant states are computed once more, at all states at once, and so are their
    derivatives.

    Args:
        step: (x, inputs) -> (next x, (x, velocity)).
        x0: [B, D].
        inputs: what each step reads [K, ...], the times [K] first.
        velocity: v(x, t) at given observations.
        constant: whether the states have no gradient.
    """

    def one_by_one() -> tuple[jax.Array, jax.Array]:
        return loop(step, x0, inputs)[1]

    def at_once() -> tuple[jax.Array, jax.Array]:
        xs = jax.lax.stop_gradient(one_by_one()[0])
        return xs, velocity(xs, inputs[0][:, None, None])

    if not constant:
        return one_by_one()
    return jax.lax.platform_dependent(cpu=one_by_one, default=at_once)


def flow_matching_loss(
    velocity: Velocity, actions: jax.Array, x0: jax.Array, t: jax.Array, valid: jax.Array
) -> jax.Array:
    """mean_B( mean_D (v(x_t, t) - (a - x0))^2 * valid ) with x_t = (1 - t) x0 + t a.

    Source: FQL (arXiv 2502.02538), eq. 1; the weights are those of the published code.

    Args:
        velocity: the trained flow at the observations of the batch.
        actions: a [B, D].
        x0: standard normal noise [B, D].
        t: times [B, 1] in [0, 1).
        valid: the weight of each action [B].
    """
    x_t = (1.0 - t) * x0 + t * actions
    error = velocity(x_t, t) - (actions - x0)
    return jnp.mean(jnp.mean(error**2, axis=-1) * valid)


def euler_sample(velocity: Velocity, x0: jax.Array, flow_steps: int) -> jax.Array:
    """Integrate dx = v(x, t) dt from x0 [..., B, D] at t = 0 to t = 1 in `flow_steps` Euler
    steps; the result is not clipped.
    """

    def step(x: jax.Array, t: jax.Array) -> tuple[jax.Array, None]:
        return x + velocity(x, t) / flow_steps, None

    return loop(step, x0, time_grid(flow_steps))[0]


def memoryless_noise(t: jax.Array, h: float) -> jax.Array:
    """g(t), g^2 = 2 (1 - t + h) / (t + h): the noise under which x_0, x_K are independent."""
    return jnp.sqrt(2.0 * (1.0 - t + h) / (t + h))


def step_and_noise(ts: jax.Array) -> tuple[float, jax.Array]:
    """h = 1/K and g_k [K, 1, 1] at the times ts [K]."""
    h = 1.0 / len(ts)
    return h, memoryless_noise(ts, h)[:, None, None]
