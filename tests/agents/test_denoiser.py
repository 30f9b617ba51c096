"""agents/denoiser.py: noise schedules, random draws, invalid chunks and samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import dac, qsm
from tests.agents.tiny_agents import B, random_batch, tiny
from utils.errors import UserError

VP = (0.0578, 0.1466, 0.2270, 0.2999, 0.3659, 0.4256, 0.4798, 0.5288, 0.5732, 0.6135)


def test_the_default_schedule_is_the_published_one():
    betas = tiny(qsm).betas()
    np.testing.assert_allclose(betas, (0.0, *VP), atol=5e-5)
    assert jnp.prod(1.0 - betas) == pytest.approx(0.00641, rel=1e-3)


@pytest.mark.parametrize(
    ("schedule", "ends"), [("cosine", (0.02791, 0.999)), ("linear", (1e-4, 2e-2))]
)
def test_the_other_schedules_by_hand(schedule, ends):
    betas = tiny(dac, beta_schedule=schedule, diffusion_steps=10).betas()
    assert betas[0] == 0.0 and np.all(np.diff(betas) > 0)
    np.testing.assert_allclose(betas[jnp.array([1, -1])], ends, rtol=1e-3)


def test_times_are_uniform_over_the_steps():
    agent = tiny(dac, diffusion_steps=4)
    t = agent.draw_noise(jax.random.key(0), 4000)["ddpm_t"]
    assert t.dtype == jnp.int32
    np.testing.assert_allclose(
        np.bincount(t, minlength=6), [0, *[1000] * 4, 0], atol=120
    )


@pytest.mark.ci
@pytest.mark.parametrize("module", [qsm, dac])
def test_an_invalid_chunk_adds_one_to_each_mean_and_no_gradient(module):
    agent, batch = tiny(module), random_batch()
    noise = agent.draw_noise(jax.random.key(0), B)
    fixed = agent.fixed_quantities(batch, noise)

    def actor(params, batch):
        _, metrics = agent.loss(params, batch, noise, fixed)
        return metrics["actor/loss"]

    invalid = batch | {"valid": batch["valid"].at[:, -1].set(0.0)}
    value, slopes = jax.value_and_grad(actor)(agent.params, invalid)
    assert value == 1.0 and not any(leaf.any() for leaf in jax.tree.leaves(slopes))
    first = batch | {"valid": batch["valid"].at[0, -1].set(0.0)}
    others = batch | {"valid": batch["valid"].at[1:, -1].set(0.0)}
    without_first, only_first = (actor(agent.params, b) for b in (first, others))
    assert only_first != pytest.approx(1.0)
    assert without_first + only_first == pytest.approx(1.0 + actor(agent.params, batch))


def test_samples_of_dac_are_inside_the_range_without_a_last_clip():
    agent = tiny(dac)
    noise = 3.0 * jax.random.normal(
        jax.random.key(0), (agent.draws, B, agent.flat_action_dim)
    )
    samples = agent.sample(random_batch()["observations"], noise)
    assert samples.shape == (1, B, agent.flat_action_dim)
    assert float(jnp.abs(samples).max()) <= 1.0 + 1e-6


def test_an_odd_number_of_time_features_is_refused():
    with pytest.raises(UserError, match="--agent.time_dim=7: give an even number"):
        tiny(qsm, time_dim=7)
