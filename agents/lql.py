"""LQL (arXiv 2605.05812) adds two squared hinges between the values along n chunks to
the TD loss of an agent. It needs no further network or forward pass. Shapes as in `trqam.py`.

    sequence L = n H g raw rows from a start on; chunk k = 0..n-1 starts at o_k = k H g
    Q_k, y_k, v_k    Q_e(s_k, a_k), its target, and the value of s'_k in that target
    G(i, j)          sum_{l=i}^{j-1} gamma^(l-i) r_l
    end_l            1 at the last step of a trajectory, and where the task succeeded
    lower    max(0, G(o_j, o_k) + gamma^(o_k-o_j) y_k - Q_j)^2                for j < k
    upper    max(0, G(o_j + H, o_k) + gamma^(o_k-o_j-H) Q_k - v_j)^2          for j < k
    descend  mean_k (Q_k - y_k)^2 + hinge_weight (mean lower + mean upper)

The rewards that followed bound Q_j from below; v_j, the value of acting greedily after chunk j,
must be at least what followed it. The means are over the chunks and pairs that count. Chunk k
counts if no end is in its first H - 1 steps. A pair counts if chunk k does and no end is
between: from o_j to o_k in `lower`, from the last step of chunk j to o_k in `upper`. y and v
are constant, so that `lower` pushes Q up and `upper` pushes it down. g is 1 in every published
run, and in ours.

    python main.py --env_name=cube-triple --agent=agents/trqam.py --agent.lql_points=4
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from utils.errors import UserError
from utils.replay import Batch, chunks_per_sequence


class Bootstrap(NamedTuple):
    """The critic target y [B], and v [B], the values of the next observations in it."""

    y: jax.Array
    v: jax.Array


class Terms(NamedTuple):
    """A mean of squares, and the number of squares."""

    loss: jax.Array
    terms: jax.Array


class HingedLoss(NamedTuple):
    """The three parts of the critic loss."""

    td: Terms
    lower: Terms
    upper: Terms


def hinged_loss(
    q: jax.Array,
    target: Bootstrap,
    valid: jax.Array,
    rewards: jax.Array,
    ends: jax.Array,
    horizon: int,
    discount: float,
) -> HingedLoss:
    """The three parts for sequences of n chunks.

    Source: the published code of arXiv 2605.05812; sums of rewards are direct here, where it
    subtracts sums to the end of the sequence.

    Args:
        q: Q_k [E, B, n].
        target: y_k and v_k [B, n].
        valid: 1 where no end is in the first H - 1 steps of chunk k [B, n].
        rewards, ends: of all rows of the sequences [B, L].
        horizon: H.
        discount: gamma.
    """
    length, points = rewards.shape[1], q.shape[2]
    start = np.arange(points) * (length // points)  # o_k
    gap = np.maximum(start - start[:, None], 0)  # o_k - o_j, where j < k
    pairs = valid[:, None, :] * (start[:, None] < start)[None]

    rows = between(start, start, length)
    bound = sums(rewards, rows, discount) + (discount**gap)[None] * target.y[:, None, :]
    lower = jnp.maximum(bound[None] - q[:, :, :, None], 0.0)
    lower_counts = pairs * without_end(ends, rows)

    rows = between(start + horizon, start, length)
    reached = (discount ** np.maximum(gap - horizon, 0))[None, None] * q[:, :, None, :]
    reached = sums(rewards, rows, discount)[None] + reached
    upper = jnp.maximum(reached - target.v[None, :, :, None], 0.0)
    upper_counts = pairs * without_end(ends, between(start + horizon - 1, start, length))

    return HingedLoss(
        mean_square(q - target.y[None], valid),
        mean_square(lower, lower_counts),
        mean_square(upper, upper_counts),
    )


def hinged_loss_of(q: jax.Array, batch: Batch, target: Bootstrap, config: Any) -> HingedLoss:
    """The three parts for a batch of sequences.

    Args:
        q: Q_e(s, a) [E, B n] of all chunks, those of a sequence together.
        batch: as `utils.replay.sequence_chunks` makes it.
        target: y and v [B n].
        config: the agent's.

    Raises UserError where a target has no v, as that of a `td_target` hook of its own.
    """
    points = config.lql_points
    if not isinstance(target, Bootstrap):
        raise UserError(
            f"--agent.lql_points={points}: this agent's td_target gives no value of s'; leave"
            " the flag out, or return self.backup(batch, values)"
        )

    def by_sequence(values: jax.Array) -> jax.Array:
        """[B n] -> [B, n]."""
        return values.reshape(-1, points)

    valid = by_sequence(batch["valid"][:, -1])
    target = Bootstrap(by_sequence(target.y), by_sequence(target.v))
    rewards = batch["row_rewards"].reshape(len(valid), -1)
    ends = batch["ends"].reshape(len(valid), -1)
    each_q = q.reshape(len(q), -1, points)
    steps = config.horizon_length
    return hinged_loss(each_q, target, valid, rewards, ends, steps, config.discount)


def critic_loss_of_sequences(
    q: jax.Array, batch: Batch, target: Bootstrap, config: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The critic loss of a batch of sequences, and its metrics; arguments as above."""
    parts = hinged_loss_of(q, batch, target, config)
    hinges = parts.lower.loss + parts.upper.loss
    loss = parts.td.loss + config.hinge_weight * hinges
    return loss, {
        "critic/loss": loss,
        "critic/td_loss": parts.td.loss,
        "critic/lower_loss": parts.lower.loss,
        "critic/upper_loss": parts.upper.loss,
        "critic/q_mean": q.mean(),
        "critic/target_mean": target.y.mean(),
    }


def traced_metrics(trace: Callable[[], dict], config: Any) -> dict:
    """The metrics of one update, which `trace` returns without running it.

    Raises UserError if the agent has losses of its own that cannot read sequences of chunks.
    """
    points = chunks_per_sequence(config)
    try:
        metrics = trace()
    except (TypeError, ValueError, AttributeError) as error:
        if points == 1:
            raise
        fault = f"{type(error).__name__}: {error}".splitlines()[0]
    else:
        if points == 1 or "critic/lower_loss" in metrics:
            return metrics
        fault = "no critic/lower_loss among the metrics"
    raise UserError(
        f"--agent.lql_points={points}: the losses of this agent file cannot read sequences of"
        f" chunks ({fault:.100}); leave the flag out, or let critic_loss call"
        " super().critic_loss"
    )


def between(first: np.ndarray, last: np.ndarray, length: int) -> np.ndarray:
    """The distance [n, n, L] of each row from first_j, if it lies in first_j..last_k - 1; else
    -1.
    """
    row = np.arange(length)
    inside = (first[:, None, None] <= row) & (row < last[:, None])
    return np.where(inside, row - first[:, None, None], -1)


def sums(rewards: jax.Array, rows: np.ndarray, discount: float) -> jax.Array:
    """The discounted sums [B, n, n] of rewards [B, L] over `rows`, as `between` gives them."""
    weights = np.where(rows >= 0, discount ** np.maximum(rows, 0), 0.0)
    return jnp.einsum("bl,jkl->bjk", rewards, weights.astype(np.float32), precision="highest")


def without_end(ends: jax.Array, rows: np.ndarray) -> jax.Array:
    """1 where there is no end in `rows`, and else 0; [B, n, n] of ends [B, L]."""
    found = jnp.einsum("bl,jkl->bjk", ends, (rows >= 0).astype(np.float32))
    return (found < 0.5).astype(jnp.float32)


def mean_square(errors: jax.Array, counts: jax.Array) -> Terms:
    """The mean over E of the mean square of errors [E, B, ...] that count [B, ...], 1 or 0."""
    count = counts.sum()
    total = jnp.sum(errors**2 * counts[None]) / len(errors)
    return Terms(total / jnp.maximum(1.0, count), count)
