"""The heads of QAM: the value and gradient of each loss term, acting, and QAM without a head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import qam, sqam, trqam
from agents.flow import euler_sample
from tests.agents.straightforward import (
    field,
    one_step_actions,
    q_values,
    tanh_gaussian,
)
from tests.agents.tiny_agents import OBS, A, B, D, K, diverse, random_batch, tiny
from utils.errors import UserError

HEADS = {"QAM-E": {"edit_scale": 0.3}, "QAM-F": {"fql_alpha": 10.0}}


constants, act, losses = (
    jax.jit(method) for method in (qam.QAM.fixed_quantities, qam.QAM.act, qam.QAM.loss)
)


def prepared(**settings):
    """Return a diverse agent, a batch, the noise of an update and its fixed quantities."""
    agent, batch = diverse(tiny(qam, **settings)), random_batch()
    noise = agent.draw_noise(jax.random.key(0), B)
    return agent, batch, noise, constants(agent, batch, noise)


def head_loss(agent, batch, noise, fixed):
    """Return the loss that the head adds to QAM's, as a function of the parameters."""

    def loss(params):
        total, metrics = agent.loss(params, batch, noise, fixed)
        return total - sum(
            metrics[f"{part}/loss"] for part in ("critic", "flow", "adjoint")
        )

    return jax.jit(loss)


def test_networks_follow_the_settings():
    assert set(tiny(qam).params) == {"critic", "policy", "base"}
    editor = tiny(qam, edit_scale=0.3).params
    assert set(editor) - {"critic", "policy", "base"} == {"editor", "temperature"}
    assert editor["editor"]["Dense_0"]["kernel"].shape[0] == OBS + D
    assert editor["editor"]["Dense_2"]["bias"].shape == (2 * D,)
    assert editor["temperature"]["log_alpha"] == 0.0  # alpha starts at 1
    one_step = tiny(qam, fql_alpha=3.0).params["one_step_actor"]
    assert (
        one_step["Dense_0"]["kernel"].shape[0],
        one_step["Dense_2"]["bias"].shape,
    ) == (
        OBS + D,
        (D,),
    )


def test_policy_and_base_differ_at_first_and_are_equal_after_cloning():
    agent = tiny(qam)
    kernels = [agent.params[name]["Dense_0"]["kernel"] for name in ("policy", "base")]
    assert jnp.abs(kernels[0] - kernels[1]).max() > 0.1
    cloned = agent.with_base(agent.params["base"]).params
    np.testing.assert_array_equal(cloned["policy"]["Dense_0"]["kernel"], kernels[1])
    for module in (trqam, sqam):
        params = tiny(module).params
        jax.tree.map(np.testing.assert_array_equal, params["policy"], params["base"])


def test_without_a_head_noise_and_constants_are_those_of_trqam():
    agent, _, noise, fixed = prepared(best_of_n=2)
    assert agent.draws == 2
    assert set(noise) == {"next_action", "flow_x0", "flow_t", "sde_x0", "sde_noise"}
    assert set(fixed) == {"next_actions", "td_target"}


def test_two_heads_at_once_are_refused():
    with pytest.raises(
        UserError,
        match="--agent.edit_scale=0.1 and --agent.fql_alpha=3.0: set one to 0",
    ):
        tiny(qam, edit_scale=0.1, fql_alpha=3.0)


@pytest.mark.parametrize("n", [1, 3])
def test_editor_acts_on_clipped_flow_samples(n):
    agent, s = (
        diverse(tiny(qam, edit_scale=0.3, best_of_n=n)),
        random_batch()["observations"],
    )
    noise = jax.random.normal(jax.random.key(1), (agent.draws, B, D))
    assert agent.draws == 2 * n
    flow = jnp.clip(euler_sample(field(agent.params["policy"], s), noise[:n], K), -1, 1)
    candidates = []
    for i in range(n):
        edit, _ = tanh_gaussian(
            agent.params["editor"], jnp.concatenate([s, flow[i]], axis=-1), noise[n + i]
        )
        candidates.append(jnp.clip(flow[i] + 0.3 * edit, -1, 1))
    values = jnp.stack(
        [q_values(agent.params["critic"], s, a).mean(axis=0) for a in candidates]
    )
    expected = jnp.stack(candidates)[values.argmax(axis=0), jnp.arange(B)]
    np.testing.assert_allclose(act(agent, s, noise), expected, atol=1e-5)


@pytest.mark.parametrize("n", [1, 3])
def test_one_step_actor_acts_without_the_flow(n):
    agent, s = (
        diverse(tiny(qam, fql_alpha=3.0, best_of_n=n)),
        random_batch()["observations"],
    )
    noise = jax.random.normal(jax.random.key(1), (agent.draws, B, D))
    candidates = jnp.clip(
        one_step_actions(agent.params["one_step_actor"], s, noise), -1, 1
    )
    values = jnp.stack(
        [q_values(agent.params["critic"], s, a).mean(axis=0) for a in candidates]
    )
    expected = candidates[values.argmax(axis=0), jnp.arange(B)]
    no_flow = agent.replace(
        params=agent.params
        | {"policy": jax.tree.map(lambda p: p * jnp.nan, agent.params["policy"])}
    )
    np.testing.assert_allclose(act(no_flow, s, noise), expected, atol=1e-6)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("n", [1, 2])
def test_backup_uses_the_policy_that_acts(head, n):
    agent, batch, noise, fixed = prepared(**HEADS[head], best_of_n=n)
    x0 = noise["next_action"]
    x0 = jnp.concatenate([x0, noise["edit"][:-1]]) if head == "QAM-E" else x0
    acted = act(agent, batch["next_observations"][:, -1], x0)
    np.testing.assert_allclose(fixed["next_actions"], acted, atol=1e-5)
    np.testing.assert_allclose(
        fixed["td_target"], agent.td_target(batch, acted), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("head", HEADS)
def test_the_head_learns_from_a_sample_of_the_policys_flow(head):
    agent, batch, noise, fixed = prepared(**HEADS[head], best_of_n=2)
    policy = field(agent.params["policy"], batch["observations"])
    expected = euler_sample(policy, noise["z"], K)
    np.testing.assert_allclose(fixed["flow_actions"], expected, atol=1e-5)


@pytest.mark.ci
def test_one_step_losses_by_hand():
    agent, batch, noise, fixed = prepared(fql_alpha=10.0)
    s = batch["observations"]
    mu = one_step_actions(agent.params["one_step_actor"], s, noise["z"])
    distill = np.mean((np.asarray(mu) - np.clip(fixed["flow_actions"], -1, 1)) ** 2)
    q = q_values(agent.params["critic"], s, jnp.clip(mu, -1, 1)).mean()
    _, metrics = losses(agent, agent.params, batch, noise, fixed)
    np.testing.assert_allclose(metrics["head/distill_loss"], distill, rtol=1e-5)
    np.testing.assert_allclose(metrics["head/q_loss"], -q, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        head_loss(agent, batch, noise, fixed)(agent.params), 10 * distill - q, rtol=1e-4
    )


@pytest.mark.ci
def test_edit_losses_by_hand():
    """The head adds -Q(s, a) + alpha mean log p + alpha (H + D/2), here at two values of alpha."""
    for log_alpha in (0.0, 0.7):
        agent, batch, noise, fixed = prepared(edit_scale=0.3)
        agent = agent.replace(
            params=agent.params | {"temperature": {"log_alpha": jnp.float32(log_alpha)}}
        )
        s, flow = batch["observations"], jnp.clip(fixed["flow_actions"], -1, 1)
        edit, log_probs = tanh_gaussian(
            agent.params["editor"],
            jnp.concatenate([s, flow], axis=-1),
            noise["edit"][-1],
        )
        q = q_values(
            agent.params["critic"], s, jnp.clip(flow + 0.3 * edit, -1, 1)
        ).mean()
        loss = head_loss(agent, batch, noise, fixed)
        alpha, entropy = np.exp(log_alpha), -log_probs.mean()
        np.testing.assert_allclose(
            loss(agent.params),
            -q - alpha * entropy + alpha * (entropy + D / 2),
            rtol=1e-4,
            atol=1e-4,
        )
        slope = jax.grad(loss)(agent.params)["temperature"]["log_alpha"]
        # Descent on this slope raises alpha where the entropy is low.
        np.testing.assert_allclose(slope, alpha * (entropy + D / 2), rtol=1e-4)


@pytest.mark.ci
@pytest.mark.parametrize("head", HEADS)
def test_gradient_of_the_head_by_finite_differences(head):
    """The differences are in float64, along a random direction.

    The loss of the head has no gradient in critic, policy or base.
    """
    with jax.enable_x64(True):
        agent = diverse(tiny(qam, flow_steps=2, **HEADS[head]))
        agent = agent.replace(
            params=jax.tree.map(lambda p: p.astype(jnp.float64), agent.params)
        )
        batch = random_batch()
        noise = agent.draw_noise(jax.random.key(0), B)
        fixed = constants(agent, batch, noise)
        loss, head_net = (
            head_loss(agent, batch, noise, fixed),
            "editor" if head == "QAM-E" else "one_step_actor",
        )
        direction = jax.tree.map(
            lambda p: jax.random.normal(jax.random.key(p.size), p.shape),
            agent.params[head_net],
        )

        def along(e):
            moved = jax.tree.map(
                lambda p, d: p + e * d, agent.params[head_net], direction
            )
            if head == "QAM-F":
                return loss(agent.params | {head_net: moved})
            # The temperature's own term treats the entropy as constant.
            log_probs = lambda params: agent.edited(  # noqa: E731
                params, batch["observations"], fixed["flow_actions"], noise["edit"][-1]
            )[1].mean()
            params, alpha = (
                agent.params | {head_net: moved},
                jnp.exp(agent.params["temperature"]["log_alpha"]),
            )
            return loss(params) + alpha * (log_probs(params) - log_probs(agent.params))

        slopes, along = jax.jit(jax.grad(loss))(agent.params), jax.jit(along)
        slope = sum(
            jax.tree.leaves(
                jax.tree.map(lambda g, d: (g * d).sum(), slopes[head_net], direction)
            )
        )
        np.testing.assert_allclose(
            slope, (along(1e-6) - along(-1e-6)) / 2e-6, rtol=1e-5
        )
    for name in ("critic", "policy", "base"):
        assert (
            max(np.abs(leaf).max() for leaf in jax.tree.leaves(slopes[name])) < 1e-9
        ), name


@pytest.mark.ci
@pytest.mark.parametrize("head", HEADS)
def test_head_learns_the_critics_action(head):
    """The critic is fixed, Q = -8 |a - c|^2, and the acting policy moves towards c."""
    settings = {"edit_scale": 1.0} if head == "QAM-E" else {"fql_alpha": 1e-3}
    agent, c = tiny(qam, **settings, lr=3e-3, action_chunking=False, flow_steps=2), 0.4

    def objective(agent, critic, s, a):
        return 8.0 * ((a - c) ** 2).sum(axis=-1).mean()

    update = jax.jit(type(agent).update)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qam.QAM, "critic_objective", objective)
        before = jnp.abs(
            act(agent, random_batch()["observations"], noise_for(agent)) - c
        ).mean()
        for u in range(300):
            agent, _ = update(agent, random_batch(u), jax.random.key(u))
    after = jnp.abs(
        act(agent, random_batch()["observations"], noise_for(agent)) - c
    ).mean()
    assert after < 0.5 * before
    assert agent.flat_action_dim == A


def noise_for(agent):
    return jax.random.normal(jax.random.key(5), (agent.draws, B, agent.flat_action_dim))
