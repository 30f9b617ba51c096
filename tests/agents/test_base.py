"""The code that all agents share: targets, moving averages, optimiser, cloned base and acting."""

import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from agents import bam, bc, fql, rebrac, rlpd, trqam
from agents.base import Agent
from agents.flow import euler_sample, flow_matching_loss
from tests.agents.straightforward import field, q_values
from tests.agents.tiny_agents import OBS, A, B, D, H, random_batch, tiny
from utils.errors import UserError
from utils.networks import VelocityField


@pytest.mark.ci
def test_td_target_by_hand():
    agent = tiny(trqam, rho=0.5, discount=0.9)
    batch = random_batch()
    next_actions = jax.random.normal(jax.random.key(0), (B, D))
    q = np.asarray(
        q_values(
            agent.target_params["critic"],
            batch["next_observations"][:, -1],
            next_actions,
        )
    )
    expected = batch["rewards"][:, -1] + 0.9**H * batch["masks"][:, -1] * (
        q.mean(0) - 0.5 * q.std(0)
    )
    np.testing.assert_allclose(
        agent.td_target(batch, next_actions), expected, rtol=1e-5
    )
    ended = batch | {"masks": jnp.zeros((B, H))}
    np.testing.assert_allclose(
        agent.td_target(ended, next_actions), batch["rewards"][:, -1]
    )


@pytest.mark.ci
def test_a_chunk_past_the_end_of_a_trajectory_does_not_count():
    agent, batch = tiny(trqam), random_batch()
    batch["valid"] = batch["valid"].at[0, -1].set(0.0)
    changed = batch | {
        "actions": batch["actions"].at[0].add(0.5),
        "rewards": batch["rewards"].at[0].add(-9.0),
    }
    for name in ("critic/loss", "flow/loss"):
        values = [agent.update(b, jax.random.key(0))[1][name] for b in (batch, changed)]
        assert values[0] == values[1]


@pytest.mark.ci
def test_averages_move_towards_the_parameters_from_before_the_step():
    agent = tiny(trqam, tau=0.25)
    # After this update, parameters and averages differ.
    agent, _ = agent.update(random_batch(), jax.random.key(0))
    after, _ = agent.update(random_batch(1), jax.random.key(1))
    for name in ("critic", "base"):
        expected = jax.tree.map(
            lambda p, t: 0.25 * p + 0.75 * t,
            agent.params[name],
            agent.target_params[name],
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7),
            after.target_params[name],
            expected,
        )


def test_the_optimiser_has_no_targets_and_bc_has_no_critic():
    moments = tiny(trqam).opt_state[1][0].mu
    assert set(moments) == {"critic", "policy", "base"}
    assert set(tiny(bc).opt_state[0].mu) == {"base"}


@pytest.mark.ci
def test_one_global_clip_over_all_networks():
    """With huge rewards the clipped gradient has norm 1 over all networks together."""
    agent, batch = tiny(trqam), random_batch()
    batch["rewards"] = batch["rewards"] * 1e4
    after, metrics = agent.update(batch, jax.random.key(0))
    assert metrics["grad_norm"] > 100.0
    # The first moment is (1 - b1) times the clipped gradient.
    mu = after.opt_state[1][0].mu
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(mu))) / 0.1
    np.testing.assert_allclose(norm, 1.0, rtol=1e-4)


def test_best_of_n_takes_the_highest_mean_q_and_one_sample_needs_no_critic():
    agent = tiny(trqam, best_of_n=4)
    s, x0 = (
        random_batch()["observations"],
        jax.random.normal(jax.random.key(0), (4, B, D)),
    )
    chosen = agent.act(s, x0)
    candidates = jnp.stack([agent.act(s, x0[i : i + 1]) for i in range(4)])
    values = jnp.stack(
        [q_values(agent.params["critic"], s, a).mean(axis=0) for a in candidates]
    )
    np.testing.assert_allclose(
        chosen, candidates[values.argmax(axis=0), jnp.arange(B)], atol=1e-6
    )
    poisoned = agent.replace(
        params=agent.params
        | {"critic": jax.tree.map(lambda p: p * jnp.nan, agent.params["critic"])}
    )
    assert jnp.isfinite(poisoned.act(s, x0[:1])).all()


def test_pretrained_base_acts_and_fine_tuning_starts_from_it():
    """The evaluation of a base samples the base, and fine-tuning starts from the same policy."""
    base = tiny(bc)
    base, _ = base.update(random_batch(), jax.random.key(0))
    tuned = tiny(trqam).with_base(base.params["base"])
    s, x0 = (
        random_batch()["observations"],
        jax.random.normal(jax.random.key(1), (1, B, D)),
    )
    np.testing.assert_array_equal(base.act(s, x0), tuned.act(s, x0))
    for params in (
        tuned.params["policy"],
        tuned.params["base"],
        tuned.target_params["base"],
    ):
        jax.tree.map(np.testing.assert_array_equal, params, base.params["base"])


def test_euler_converges_at_first_order():
    """dx = -x dt has the solution x0 / e; halving the step halves the error."""
    errors = [
        float(
            jnp.abs(euler_sample(lambda x, t: -x, jnp.ones((1, 1)), k) - jnp.exp(-1.0))[
                0, 0
            ]
        )
        for k in (50, 100)
    ]
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.05)


def test_flow_matching_loss_by_hand():
    """The loss of a zero field is the mean of (a - x0)^2, weighted by `valid`."""
    actions, x0 = (
        jnp.array([[1.0, 0.0], [0.0, 0.0]]),
        jnp.array([[0.0, 2.0], [5.0, 5.0]]),
    )
    loss = flow_matching_loss(
        lambda x, t: jnp.zeros_like(x),
        actions,
        x0,
        jnp.full((2, 1), 0.5),
        jnp.array([1.0, 0.0]),
    )
    np.testing.assert_allclose(loss, (1 + 4) / 2 / 2)


def test_without_chunking_only_the_first_action_counts():
    agent = tiny(trqam, action_chunking=False)
    assert agent.flat_action_dim == A
    np.testing.assert_array_equal(
        agent.flat_actions(random_batch()), random_batch()["actions"][:, 0]
    )
    assert field(agent.params["policy"], jnp.zeros((B, OBS)))(
        jnp.zeros((B, A)), 0.0
    ).shape == (
        B,
        A,
    )


@pytest.mark.ci
@pytest.mark.parametrize("module", [rebrac, rlpd, bam])
def test_a_single_critic_has_finite_gradients(module):
    """The standard deviation of one number has gradient 0; sqrt alone would make it NaN."""
    agent, batch = tiny(module, num_qs=1, rho=0.5), random_batch()
    after, metrics = agent.update(batch, jax.random.key(0))
    assert all(np.isfinite(value) for value in metrics.values())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))


@pytest.mark.ci
def test_rebrac_delays_its_targets_and_not_its_actor():
    agent = tiny(rebrac, actor_freq=3)
    # After this update, parameters and averages differ.
    agent, _ = agent.update(random_batch(9), jax.random.key(9))
    agent, moved = agent.replace(step=jnp.zeros((), jnp.int32)), []
    for u in range(4):
        after, _ = agent.update(random_batch(u), jax.random.key(u))
        pairs = [
            (agent.target_params, after.target_params),
            (agent.params, after.params),
        ]
        moved.append([differ(*pair) for pair in pairs])
        agent = after
    assert moved == [[False, True], [False, True], [True, True], [False, True]]


def differ(one, other):
    return any(
        jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.any(a != b)), one, other))
    )


@pytest.mark.parametrize(("cloning", "moment"), [(True, (3, 4)), (False, (0.06, 0.08))])
def test_gradients_are_clipped_except_while_cloning(cloning, moment):
    """Adam's first moment is a tenth of the gradient, whose norm of 50 is clipped to 1."""
    config = trqam.get_config()
    optimiser = trqam.AGENT.optimiser(config, cloning)
    gradient = {"w": jnp.array([30.0, 40.0])}
    _, state = optimiser.update(gradient, optimiser.init(gradient), gradient)
    (mu,) = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (2,)][:1]
    np.testing.assert_allclose(mu, moment, rtol=1e-5)


# ------------------------------------------------------------------------ agents of users


def tiny_fork(kind):
    """Return a small agent of a class that is in no agent file."""
    return tiny(SimpleNamespace(get_config=kind.get_config, AGENT=kind))


class TwoDraws(fql.FQL):
    """Its sample needs two draws, and is the second."""

    @property
    def draws(self):
        return 2

    def sample(self, observations, x0):
        return x0[1:]


def test_the_backup_gets_as_many_draws_as_acting_takes():
    agent = tiny_fork(TwoDraws)
    noise = agent.draw_noise(jax.random.key(0), B)
    assert noise["next_action"].shape == (2, B, D)
    fixed = agent.fixed_quantities(random_batch(), noise)
    expected = jnp.clip(noise["next_action"][1], -1.0, 1.0)
    np.testing.assert_array_equal(fixed["next_actions"], expected)


class OwnPolicy(trqam.TRQAM):
    """Its policy is narrower than its base."""

    @classmethod
    def networks(cls, config):
        return super().networks(config) | {"policy": VelocityField((8,), False)}


def test_a_policy_of_other_shapes_than_the_base_keeps_its_parameters():
    agent = tiny_fork(OwnPolicy)
    started = agent.with_base(tiny(bc).params["base"])
    for params in (agent.params, started.params):
        assert params["policy"]["Dense_0"]["kernel"].shape == (OBS + D + 1, 8)
        assert params["base"]["Dense_0"]["kernel"].shape == (OBS + D + 1, 16)


class BatchNormCritic(nn.Module):
    @nn.compact
    def __call__(self, s, a):
        x = nn.BatchNorm(use_running_average=False)(jnp.concatenate([s, a], axis=-1))
        return nn.Dense(1)(x)[None, ..., 0]


class BatchNorm(rlpd.RLPD):
    @classmethod
    def critic_network(cls, config):
        return BatchNormCritic()


class WithReward(rlpd.RLPD):
    @classmethod
    def networks(cls, config):
        return super().networks(config) | {"reward": cls.value_network(config)}


class WithoutWidth(WithReward):
    INPUTS = rlpd.RLPD.INPUTS | {"reward": "sg"}


class WithoutBase(rlpd.RLPD):
    TARGETS = Agent.TARGETS


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (BatchNorm, "the network critic has batch_stats: an agent keeps only params"),
        (WithReward, "INPUTS lacks the network reward: add what it reads, as 'reward'"),
        (WithoutWidth, "INPUTS['reward'] has the letter g: let widths(config) say how"),
        (WithoutBase, "TARGETS names base, which networks(config) does not give"),
    ],
)
def test_networks_that_do_not_fit_an_agent_are_refused_by_name(kind, message):
    with pytest.raises(UserError, match=re.escape(message)):
        tiny_fork(kind)


def test_the_guide_names_every_hook():
    guide = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()
    members = {name: getattr(Agent, name) for name in dir(Agent)}
    hooks = [n for n, m in members.items() if (m.__doc__ or "").startswith("Hook: ")]
    assert len(hooks) > 20
    assert [
        name for name in hooks if not re.search(rf"`(self\.)?{name}\b", guide)
    ] == []
