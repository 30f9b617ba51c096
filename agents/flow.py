"""Flow matching, written once: velocity fields, the interpolation and its loss, the Euler
sampler. Shapes as in `trqam.py`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from utils.networks import Layers, condition, mlp_layers

Velocity = Callable[[jax.Array, jax.Array], jax.Array]
"""(x [..., B, D], t broadcastable to [..., B, 1]) -> velocity [..., B, D], with the
observations inside.
"""


class VelocityField:
    """The velocity v(s, x, t) of the network `params`, which reads concat(s, x, t), at fixed
    observations s [..., B, O].

    What depends on s alone is computed once, however often the field is called.
    """

    def __init__(self, params: dict, observations: jax.Array):
        self.params = condition(params, observations)

    def __call__(self, x: jax.Array, t: jax.Array) -> jax.Array:
        return self.layers(x, t)[-1]

    def layers(self, x: jax.Array, t: jax.Array, known: Layers | None = None) -> Layers:
        """The layers of the network, the last of which is the velocity; see `mlp_layers`."""
        return mlp_layers(
            self.params,
            jnp.concatenate([x, jnp.broadcast_to(t, (*x.shape[:-1], 1))], axis=-1),
            known,
        )


def evaluate(velocity: Velocity, x: jax.Array, t: jax.Array) -> Layers:
    """The velocity at (x, t), as the last entry, behind what `recall` needs besides."""
    return velocity.layers(x, t) if isinstance(velocity, VelocityField) else (velocity(x, t),)


def recall(velocity: Velocity, x: jax.Array, t: jax.Array, known: Layers | None) -> jax.Array:
    """The velocity at (x, t); where it is `known`, evaluated before, a network computes what
    derivatives need and no more.
    """
    return (
        velocity.layers(x, t, known)[-1]
        if isinstance(velocity, VelocityField)
        else velocity(x, t)
    )


def time_grid(flow_steps: int) -> jax.Array:
    """t_k = k / K for k = 0..K-1, shape [K]."""
    return jnp.arange(flow_steps, dtype=jnp.float32) / flow_steps


def unrolled(flow_steps: int) -> bool:
    """Whether a loop over the flow steps is unrolled: XLA fuses across steps; long grids
    compile faster as loops.
    """
    return flow_steps <= 20


def flow_matching_loss(
    velocity: Velocity, actions: jax.Array, x0: jax.Array, t: jax.Array, valid: jax.Array
) -> jax.Array:
    """Conditional flow matching, weighted by row: mean_B( mean_D (v(x_t, t) - (a - x0))^2 *
    valid ).

    actions, x0 [B, D]; t [B, 1] in [0, 1); valid [B]. x_t = (1 - t) x0 + t a. Source: FQL
    (arXiv 2502.02538), eq. 1.
    """
    x_t = (1.0 - t) * x0 + t * actions
    error = velocity(x_t, t) - (actions - x0)
    return jnp.mean(jnp.mean(error**2, axis=-1) * valid)


def euler_step(x: jax.Array, velocity: jax.Array, flow_steps: int) -> jax.Array:
    """x + h v."""
    return x + velocity / flow_steps


def euler_sample(velocity: Velocity, x0: jax.Array, flow_steps: int) -> jax.Array:
    """Integrate dx = v(x, t) dt from x0 [..., B, D] at t = 0 to t = 1 in `flow_steps` Euler
    steps; not clipped.
    """

    def step(x: jax.Array, t: jax.Array) -> tuple[jax.Array, None]:
        return euler_step(x, velocity(x, t), flow_steps), None

    x, _ = jax.lax.scan(step, x0, time_grid(flow_steps), unroll=unrolled(flow_steps))
    return x
