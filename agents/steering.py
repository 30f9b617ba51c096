"""Steering a flow by the critic's gradient as it samples, for QGF and QPILOTS-U: the flow is
cloned and nothing else. Shapes as in `trqam.py`.

    a_1 = clip(x + (1 - t) v(s, x, t)), where one Euler step to t = 1 ends
    G   approx            grad_a q(s, a) at a_1
        jacobian          grad_x q(s, a_1): the same, through the clip and v
        straight_through  the same, as if there were no clip
        noisy             grad_a q(s, a) at x, where the critic has seen no data
    v is changed by a multiple of G, which each agent chooses
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from agents.flow import Velocity

PATHS = ("approx", "jacobian", "straight_through", "noisy")
Value = Callable[[jax.Array], jax.Array]
"""a [..., B, D] -> q(s, a) [..., B], at given observations."""
Push = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(v, G [..., B, D], t) -> what is added to v."""


def steered(velocity: Velocity, q: Value, path: str, push: Push) -> Velocity:
    """The velocity v + push(v, G, t), with the G of this path, one of PATHS."""

    def steered_velocity(x: jax.Array, t: jax.Array) -> jax.Array:
        v, g = velocity_and_slope(velocity, q, path, x, t)
        return v + push(v, g, t)

    return steered_velocity


def velocity_and_slope(
    velocity: Velocity, q: Value, path: str, x: jax.Array, t: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """v and G at (x, t), both [..., B, D]."""
    slope = jax.grad(lambda a: q(a).sum())
    if path == "noisy":
        return velocity(x, t), slope(x)

    def end(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        v = velocity(x, t)
        a = x + (1.0 - t) * v
        clipped = jnp.clip(a, -1.0, 1.0)
        if path == "straight_through":  # the value of the clip, without its gradient
            clipped = a + jax.lax.stop_gradient(clipped - a)
        return clipped, v

    a, transpose, v = jax.vjp(end, x, has_aux=True)
    if path == "approx":
        return v, slope(a)
    return v, transpose(slope(a))[0]
