"""RQL, QGF and QPILOTS-U against updates written straight from the equations, and golden files.

LQL has golden files here too. All of them are of published code, except that of QPILOTS-U,
which has none.
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import cgql, fql, qgf, qpilots, rql
from agents.flow import on_grid
from tests import parity
from tests.agents import straightforward_beyond
from tests.agents.straightforward_rows import timed_q
from tests.agents.test_rows import BARE
from tests.agents.tiny_agents import B, D, diverse, random_batch, tiny
from tests.test_parity import GOLDEN, changed, scale

CASES = {
    "RQL": ("rql", {"expectile": 0.8, "alpha": 3.0, "policy_ema": 0.9}),
    "RQL, no chunks": ("rql", BARE | {"expectile": 0.3, "rho": 0.5}),
    "RQL, first actions": ("rql", {"action_chunking": False}),
    "QGF": ("qgf", {"guidance_weight": 0.5}),
    "QGF, mean": ("qgf", {"q_agg": "mean", "kappa": 0.7, "actor_layer_norm": True}),
    "QPILOTS-U": ("qpilots", {"rho": 0.5}),
    "QPILOTS-U, best of n": ("qpilots", BARE | {"best_of_n": 2, "clip": "exact"}),
}


def ended_batch(seed):
    """Return a batch with a chunk that succeeds and two that reach past the end of a trajectory."""
    batch = random_batch(seed)
    batch["masks"] = batch["masks"].at[1].set(0.0)
    batch["valid"] = batch["valid"].at[0, 1:].set(0.0).at[4, 2:].set(0.0)
    return batch


@pytest.mark.ci
@pytest.mark.parametrize("name", CASES)
def test_equals_the_straightforward_update(name):
    file, settings = CASES[name]
    ours = theirs = diverse(tiny(importlib.import_module(f"agents.{file}"), **settings))
    steps = ours.config.horizon_length
    update, oracle = (
        jax.jit(parity.update_and_states),
        jax.jit(straightforward_beyond.UPDATES[file]),
    )
    for u in range(2):
        batch = ended_batch(u)
        batch |= {k: v[:, :steps] for k, v in batch.items() if k != "observations"}
        noise = ours.draw_noise(jax.random.key(u), B)
        ours, our_metrics, our_fixed = update(ours, batch, noise)
        theirs, their_metrics, their_fixed = oracle(theirs, batch, noise)
        assert our_metrics.keys() == their_metrics.keys()
        assert our_fixed.keys() == their_fixed.keys()
        for a, b in ((our_metrics, their_metrics), (our_fixed, their_fixed)):
            for key, value in b.items():
                allowed = 2e-5 * max(np.abs(value).max(), 0.1)
                np.testing.assert_allclose(
                    a[key], value, rtol=0, atol=allowed, err_msg=key
                )
    pairs = ((parity.networks(agent)) for agent in (ours, theirs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), *pairs)


@pytest.mark.ci
@pytest.mark.parametrize("path", ["approx", "jacobian", "straight_through", "noisy"])
@pytest.mark.parametrize("q_agg", ["min", "mean"])
def test_qgf_acts_by_the_equations(path, q_agg):
    settings = {
        "guidance": path,
        "q_agg": q_agg,
        "guidance_weight": 2.0,
        "best_of_n": 2,
    }
    agent, s = diverse(tiny(qgf, **settings)), random_batch()["observations"]
    x0 = jax.random.normal(jax.random.key(1), (2, B, D))
    acted = agent.act(s, x0)
    np.testing.assert_allclose(
        acted, straightforward_beyond.qgf_act(agent, s, x0), atol=1e-5
    )
    plain = agent.replace(
        config=tiny(qgf, **settings | {"guidance_weight": 0.0}).config
    )
    assert np.abs(plain.act(s, x0) - acted).max() > 1e-3


# ------------------------------------------------------------------------------------- golden


REVERSAL = {"reversed", "td_target", "explored", "params_after/target_base"}
HINGES = {"lower_loss", "upper_terms", "next_values", "params_after/critic"}


@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "quantities", "array"),
    [
        ("rql_chunk5", REVERSAL, "update1/out/reversed"),
        (
            "rql_steps",
            REVERSAL,
            "update2/params_after/target_base/Dense_1/kernel",
        ),
        (
            "qgf_chunk5",
            {"act_qgf", "act_jacobian", "act_noisy", "params_after/value"},
            "update1/out/act_noisy",
        ),
        (
            "qpilots_u_chunk5",
            {"act_exact", "act_straight", "act_plain"},
            "update0/out/act_straight",
        ),
        ("lql_chunk5", HINGES, "update0/out/upper_loss"),
        ("lql_steps", HINGES, "update1/batch/rewards"),
    ],
)
def test_updates_give_the_numbers_of_the_golden_files_and_no_others(
    tmp_path, name, quantities, array
):
    """One percent more in an array of the file is noticed."""
    worst, problems = parity.compare(GOLDEN / f"{name}.npz")
    assert problems == []
    assert quantities <= set(worst)
    _, problems = parity.compare(changed(tmp_path, scale(array), name))
    assert problems and all("error" in problem for problem in problems)


# ---------------------------------------------------------------------------------------- RQL


def test_a_constant_velocity_is_reversed_exactly():
    a, c = jnp.arange(6.0).reshape(3, 2), jnp.array([[0.5, -2.0]])
    d = jnp.array([[0.0], [0.3], [1.0]])
    x = rql.reverse(lambda x, t: jnp.broadcast_to(c, x.shape), a, d, 7)
    np.testing.assert_allclose(x, a - d * c, atol=1e-6)


def test_each_reversed_step_reads_its_own_time():
    """With v = t the action moves back by the sum over k of (d / K) (1 - k d / K)."""
    d, steps = jnp.array([[0.4], [1.0]]), 5
    x = rql.reverse(
        lambda x, t: jnp.broadcast_to(t, x.shape), jnp.zeros((2, 1)), d, steps
    )
    k = np.arange(steps)
    expected = [-sum(one / steps * (1 - k * one / steps)) for one in (0.4, 1.0)]
    np.testing.assert_allclose(x[:, 0], expected, rtol=1e-5)


def test_without_reversal_the_critic_loss_is_half_the_squared_error():
    """With d = 0 and expectile 0.5 it is half of CGQL's loss, whose critic reads a time too."""
    agent, batch = diverse(tiny(rql)), ended_batch(0)
    noise = agent.draw_noise(jax.random.key(0), B) | {"reverse_t": jnp.zeros((B, 1))}
    fixed = agent.fixed_quantities(batch, noise)
    a = agent.flat_actions(batch)
    np.testing.assert_array_equal(fixed["reversed"], a)
    loss = agent.loss(agent.params, batch, noise, fixed)[1]["critic/loss"]
    q = timed_q(agent.params["critic"], batch["observations"], a, 1.0)
    squared = jnp.mean(
        (q - fixed["td_target"][None]) ** 2 * batch["valid"][None, :, -1]
    )
    np.testing.assert_allclose(loss, squared / 2, rtol=1e-5)
    other = diverse(tiny(cgql)).critic_loss(
        agent.params["critic"], batch, fixed["td_target"]
    )
    np.testing.assert_allclose(other[0], squared, rtol=1e-5)


def test_an_invalid_chunk_still_clones_its_valid_steps():
    """The flow loss depends on the valid steps alone; critic and actor loss are 0."""
    agent, batch = diverse(tiny(rql, alpha=1.0)), random_batch()
    batch["valid"] = jnp.zeros_like(batch["valid"]).at[:, 0].set(1.0)
    noise = agent.draw_noise(jax.random.key(0), B)
    fixed = agent.fixed_quantities(batch, noise)

    def flow_loss(actions):
        changed_batch = batch | {"actions": actions}
        return agent.loss(agent.params, changed_batch, noise, fixed)[1]["flow/loss"]

    later = batch["actions"].at[:, 1:].add(1e-3)
    first = batch["actions"].at[:, :1].add(1e-1)
    before = flow_loss(batch["actions"])
    assert before > 0.01 and abs(flow_loss(later) - before) < 1e-3 * before
    assert abs(flow_loss(first) - before) > 1e-2 * before
    metrics = agent.loss(agent.params, batch, noise, fixed)[1]
    assert metrics["critic/loss"] == metrics["actor/loss"] == 0.0


def test_half_of_the_reversals_are_on_the_grid():
    agent = tiny(rql, flow_steps=4)
    batch = jax.tree.map(lambda x: jnp.repeat(x, 700, axis=0), random_batch())
    noise = agent.draw_noise(jax.random.key(0), 700 * B)
    d = np.asarray(agent.fixed_quantities(batch, noise)["d"])[:, 0]
    half = 350 * B
    on_times = np.isclose((4 * d) % 1, 0)
    assert on_times[half:].all() and on_times[:half].mean() < 0.01
    counts = np.bincount(np.round(4 * d[half:]).astype(int))
    assert len(counts) == 5 and np.abs(counts / half - 0.2).max() < 0.04
    assert abs(d[:half].mean() - 0.5) < 0.03


@pytest.mark.ci
def test_times_on_the_grid_do_not_change():
    for steps in range(1, 40):
        times = jnp.arange(steps + 1, dtype=jnp.float32) / steps
        np.testing.assert_array_equal(on_grid(times, steps), times)


def test_rql_acts_with_the_moving_average_and_has_no_cloning_phase():
    agent, s = diverse(tiny(rql)), random_batch()["observations"]
    x0 = jax.random.normal(jax.random.key(0), (1, B, D))
    online = agent.replace(
        target_params=agent.target_params | {"base": agent.params["base"]}
    )
    assert np.abs(agent.act(s, x0) - online.act(s, x0)).max() > 1e-3
    assert agent.phases(agent.config) == ("offline", "online")


# ----------------------------------------------------------------------------------- steering


def test_qpilots_does_not_depend_on_the_scale_of_q():
    agent, s = diverse(tiny(qpilots, alpha=0.5)), random_batch()["observations"]
    x0 = jax.random.normal(jax.random.key(0), (1, B, D))
    critic = agent.target_params["critic"]
    last = {name: 1000.0 * value for name, value in critic["Dense_2"].items()}
    scaled = agent.target_params | {"critic": critic | {"Dense_2": last}}
    found = agent.replace(target_params=scaled).act(s, x0)
    np.testing.assert_allclose(found, agent.act(s, x0), atol=1e-4)
    plain = agent.replace(config=tiny(qpilots, alpha=0.0).config).act(s, x0)
    assert np.abs(plain - found).max() > 0.01


def test_the_first_step_of_qpilots_is_not_steered():
    s, x0 = (
        random_batch()["observations"],
        jax.random.normal(jax.random.key(0), (1, B, D)),
    )
    acted = [
        diverse(tiny(qpilots, alpha=a, flow_steps=1)).act(s, x0) for a in (0.0, 2.0)
    ]
    np.testing.assert_array_equal(*acted)


@pytest.mark.ci
def test_a_clipped_action_has_no_exact_gradient_but_a_straight_through_one():
    """The two settings differ only in the gradient of the clip."""
    s, x0 = random_batch()["observations"], 9.0 * jnp.ones((1, B, D))
    acted = {}
    for clip in ("exact", "straight_through"):
        agent = diverse(tiny(qpilots, alpha=1.0, clip=clip))
        plain = agent.replace(config=tiny(qpilots, alpha=0.0, clip=clip).config)
        moved = agent.sample(s, x0) - plain.sample(s, x0)
        acted[clip] = np.abs(moved).max()
    assert acted["exact"] == 0.0 and acted["straight_through"] > 0.1


@pytest.mark.ci
def test_qpilots_trains_as_fql_without_its_actor():
    """Its losses are those of critic and clone; the action in the backup is steered."""
    agent, batch = diverse(tiny(qpilots)), random_batch()
    noise = agent.draw_noise(jax.random.key(0), B)
    fixed = agent.fixed_quantities(batch, noise)
    other = diverse(tiny(fql)).replace(params=agent.params)
    loss = agent.loss(agent.params, batch, noise, fixed)[0]
    critic = other.critic_loss(agent.params["critic"], batch, fixed["td_target"])[0]
    clone = other.flow_loss(agent.params["base"], batch, noise)
    np.testing.assert_allclose(loss, critic + clone, rtol=1e-6)
    s_next = batch["next_observations"][:, -1]
    np.testing.assert_array_equal(
        fixed["next_actions"], agent.act(s_next, noise["next_action"])
    )
