"""The updates of TRQAM and its variants against updates written straight from the equations.

The numbers agree, and ours need less work.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import qam, trqam, trqam_fixed_lambda, trqam_scalar_adjoint
from tests.agents import straightforward
from tests.agents.tiny_agents import B, diverse, random_batch, tiny
from tests.parity import update_and_states


@pytest.mark.ci
@pytest.mark.parametrize(
    ("module", "settings"),
    [
        (trqam, {}),
        (
            trqam,
            {
                "actor_layer_norm": True,
                "value_layer_norm": False,
                "action_chunking": False,
            },
        ),
        pytest.param(
            trqam, {"best_of_n": 2, "dual_mode": "closed_form"}, marks=pytest.mark.slow
        ),
        pytest.param(
            trqam, {"clip_adj": False, "clip_grad": False}, marks=pytest.mark.slow
        ),
        (trqam, {"flow_steps": 1}),
        (trqam_scalar_adjoint, {}),
        # So many flow steps are not unrolled.
        pytest.param(
            trqam, {"flow_steps": 25, "actor_layer_norm": True}, marks=pytest.mark.slow
        ),
        (qam, {"inv_temp": 3.0, "best_of_n": 3, "actor_layer_norm": True}),
        (trqam_fixed_lambda, {"lam": 0.3}),
    ],
)
def test_equals_the_straightforward_update(module, settings):
    ours = theirs = diverse(tiny(module, **settings))
    update, oracle = (
        jax.jit(update_and_states),
        jax.jit(straightforward.update_with_noise),
    )
    for u in range(2):
        noise = ours.draw_noise(jax.random.key(u), B)
        ours, our_metrics, our_fixed = update(ours, random_batch(u), noise)
        theirs, their_metrics, their_fixed = oracle(theirs, random_batch(u), noise)
        assert our_metrics.keys() == their_metrics.keys()
        for name in our_metrics:
            np.testing.assert_allclose(
                our_metrics[name],
                their_metrics[name],
                rtol=2e-5,
                atol=1e-7,
                err_msg=name,
            )
        for name in their_fixed:
            scale = np.abs(their_fixed[name]).max()
            np.testing.assert_allclose(
                our_fixed[name],
                their_fixed[name],
                rtol=0,
                atol=2e-5 * scale,
                err_msg=name,
            )
    ours, theirs = (
        jax.tree.leaves_with_path((a.params, a.target_params, a.opt_state, a.dual))
        for a in (ours, theirs)
    )
    for (path, a), (_, b) in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(
            a, b, rtol=1e-4, atol=1e-6, err_msg=jax.tree_util.keystr(path)
        )


def gflop(update, agent, observation_dim, action_dim):
    """Return XLA's count for one compiled update, in GFLOP.

    XLA counts the body of a loop once, so there must be no loop.
    """
    batch_size, horizon = agent.config.batch_size, agent.config.horizon_length
    shapes = {
        "observations": (batch_size, observation_dim),
        "actions": (batch_size, horizon, action_dim),
        **dict.fromkeys(("rewards", "masks", "valid"), (batch_size, horizon)),
        "next_observations": (batch_size, horizon, observation_dim),
    }
    batch = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()
    }
    noise = jax.eval_shape(lambda: agent.draw_noise(jax.random.key(0), batch_size))
    compiled = (
        jax.jit(lambda *arguments: update(*arguments)[:2])
        .lower(agent, batch, noise)
        .compile()
    )
    assert " while(" not in compiled.as_text()
    return compiled.cost_analysis()["flops"] / 1e9


@pytest.mark.slow
def test_the_update_at_paper_size_saves_work():
    """Our update takes at most 57.5 GFLOP; straightforward code takes 62.8.

    The sizes are O 83, A 5, H 5, 512x4, 10 critics, K 10 and batch 256.
    """
    config = trqam.get_config()
    config.update(dict(action_chunking=True, horizon_length=5))
    agent = jax.eval_shape(lambda: trqam.TRQAM.create(jax.random.key(0), 83, 5, config))
    assert gflop(trqam.TRQAM.update_with_noise, agent, 83, 5) <= 57.5
    assert gflop(straightforward.update_with_noise, agent, 83, 5) == pytest.approx(
        62.8, rel=0.01
    )
