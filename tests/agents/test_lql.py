"""agents/lql.py: the hinges against loops over their terms, by hand, and in every agent."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import fql, qgf, trqam, trqam_distributional_critic
from agents.lql import Bootstrap, hinged_loss, traced_metrics
from agents.options import LQL_OPTIONS, without
from tests.agents.straightforward_beyond import sequence_losses
from tests.agents.tiny_agents import OBS, A, B, H, diverse, random_batch, tiny
from tests.small_datasets import make_dataset
from training.updates import one_update
from utils.errors import UserError
from utils.replay import Replay, Rows, sequence_chunks


def random_sequences(seed, sequences, points, horizon, gap, ends=0.1):
    """Return random arguments of `hinged_loss` for E = 3."""
    rng = np.random.default_rng(seed)
    shape, length = (sequences, points), points * horizon * gap
    ended = (rng.uniform(size=(sequences, length)) < ends).astype(np.float32)
    steps = ended.reshape(sequences, points, -1)[:, :, : horizon - 1]
    valid = 1.0 - steps.any(axis=2)
    values = [
        rng.normal(size=size)
        for size in ((3, *shape), shape, shape, (sequences, length))
    ]
    q, y, v, rewards = (jnp.asarray(value, jnp.float32) for value in values)
    return (
        q,
        Bootstrap(y, v),
        jnp.asarray(valid, jnp.float32),
        rewards,
        jnp.asarray(ended),
    )


@pytest.mark.parametrize(
    ("points", "horizon", "gap", "ends"),
    [
        (1, 3, 1, 0.2),
        (4, 5, 1, 0.05),
        (6, 2, 2, 0.1),
        (16, 1, 1, 0.1),
        (3, 2, 3, 0.0),
        (2, 2, 1, 1.0),
    ],
)
def test_the_hinged_loss_equals_the_loops(points, horizon, gap, ends):
    q, target, valid, rewards, ended = random_sequences(
        0, 5, points, horizon, gap, ends
    )
    found = hinged_loss(q, target, valid, rewards, ended, horizon, 0.9)
    losses, counts = sequence_losses(
        q, target.y, target.v, rewards, ended, horizon, 0.9
    )
    for name, part in found._asdict().items():
        assert part.terms == counts[name], name
        np.testing.assert_allclose(
            part.loss, losses[name], rtol=2e-6, atol=1e-7, err_msg=name
        )
    assert (counts["lower"] > 0) == (points > 1 and ends < 1)


def test_two_chunks_by_hand():
    """With H = 1 and gamma = 1/2, lower is 3 + y_2 / 2 - Q_1 and upper is Q_2 - v_1."""
    rows = jnp.array([[3.0, 5.0]]), jnp.zeros((1, 2))
    q = jnp.array([[[1.0, 7.0]]])
    target = Bootstrap(jnp.array([[2.0, 4.0]]), jnp.array([[6.0, 0.0]]))
    found = hinged_loss(q, target, jnp.ones((1, 2)), *rows, 1, 0.5)
    np.testing.assert_allclose(
        [found.td.loss, found.lower.loss, found.upper.loss], [5.0, 16.0, 1.0]
    )
    ended = hinged_loss(
        q, target, jnp.ones((1, 2)), rows[0], jnp.array([[1.0, 0.0]]), 1, 0.5
    )
    assert (ended.td.terms, ended.lower.terms, ended.upper.terms) == (2, 0, 0)
    assert ended.lower.loss == ended.upper.loss == 0.0


def test_the_lower_hinge_raises_q_and_the_upper_one_lowers_it():
    arguments = random_sequences(1, 4, 4, 2, 1)
    slopes = {
        name: jax.grad(
            lambda q, name=name: (
                getattr(hinged_loss(q, *arguments[1:], 2, 0.9), name).loss
            )
        )(arguments[0])
        for name in ("lower", "upper")
    }
    assert (slopes["lower"] <= 0).all() and (slopes["lower"] < 0).any()
    assert (slopes["upper"] >= 0).all() and (slopes["upper"] > 0).any()


def test_vanishing_powers_of_the_discount_give_no_nan():
    arguments = random_sequences(2, 2, 64, 1, 1)
    loss = lambda q: sum(part.loss for part in hinged_loss(q, *arguments[1:], 1, 0.1))  # noqa: E731
    value, slope = jax.value_and_grad(loss)(arguments[0])
    assert np.isfinite(value) and np.isfinite(slope).all()


# ----------------------------------------------------------------------------- in the agents


def batch_of_sequences(seed=0):
    """Return two sequences of three consecutive chunks: one has an end, the other a success."""
    rng = np.random.default_rng(seed)
    rows = Rows(
        rng.normal(size=(B, H + 1, OBS)),
        rng.uniform(-1, 1, (B, H, A)),
        -rng.uniform(size=(B, H)),
        np.ones((B, H)),
        np.zeros((B, H)),
    )
    rows.terminals[1, 1] = 1.0
    rows.masks[3, 0] = 0.0
    return sequence_chunks(
        jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), rows), 0.995
    )


AGENTS = {
    **dict.fromkeys(
        ("trqam", "qam", "fql", "ifql", "qgf", "qpilots", "cgql", "fawac"), {}
    ),
    "qam_edit": {"inv_temp": 3.0},
    **dict.fromkeys(
        ("sqam", "qam_fql", "bam", "dsrl", "fbrac", "fedit", "rebrac", "rlpd"), {}
    ),
    **dict.fromkeys(("qsm", "dac"), {"time_dim": 6, "diffusion_steps": 3}),
}


QUICK = ("trqam", "fql", "ifql", "qgf")


@pytest.mark.ci
@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in AGENTS],
)
def test_every_agent_descends_the_td_loss_and_the_hinges(name):
    """The critic loss is that of the loops at the agent's own Q, y and v."""
    agent = tiny(
        importlib.import_module(f"agents.{name}"),
        lql_points=3,
        hinge_weight=0.7,
        **AGENTS[name],
    )
    agent, batch = diverse(agent), batch_of_sequences()
    noise = agent.draw_noise(jax.random.key(0), B)

    def losses_of(agent):
        fixed = agent.fixed_quantities(batch, noise)
        return agent.loss(agent.params, batch, noise, fixed)[1], fixed

    metrics, fixed = jax.jit(losses_of)(agent)
    q = agent.values(agent.params["critic"], batch["observations"])(
        agent.flat_actions(batch)
    )
    y, v = fixed["td_target"]
    next_v = 0.995**H * batch["masks"][:, -1] * v
    np.testing.assert_allclose(y, batch["rewards"][:, -1] + next_v, rtol=1e-5)
    grouped = [x.reshape(2, 3) for x in (y, v)]
    raw = [batch[key].reshape(2, 3 * H) for key in ("row_rewards", "ends")]
    losses, counts = sequence_losses(q.reshape(-1, 2, 3), *grouped, *raw, H, 0.995)
    assert counts == {"td": 4, "lower": 1, "upper": 4}
    expected = losses["td"] + 0.7 * (losses["lower"] + losses["upper"])
    np.testing.assert_allclose(metrics["critic/loss"], expected, rtol=2e-5)
    for part, loss in losses.items():
        np.testing.assert_allclose(
            metrics[f"critic/{part}_loss"], loss, rtol=2e-4, atol=1e-6
        )


@pytest.mark.ci
def test_other_losses_read_the_sequences_as_a_batch_of_chunks():
    """Their `valid` is that of the sequences, where a success is an end."""
    agent, batch = diverse(tiny(trqam, lql_points=3)), batch_of_sequences()
    np.testing.assert_array_equal(batch["valid"][:, -1], [1, 0, 1, 0, 1, 1])
    noise = agent.draw_noise(jax.random.key(0), B)
    plain = diverse(tiny(trqam))
    found, expected = (
        jax.jit(lambda agent: agent.update_with_noise(batch, noise)[1])(a)
        for a in (agent, plain)
    )
    for name in ("flow/loss", "adjoint/loss", "dual/path_kl", "critic/q_mean"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
    assert abs(found["critic/loss"] - expected["critic/loss"]) > 1e-3
    assert found["grad_norm"] != expected["grad_norm"]


# -------------------------------------------------------------------------------- at no cost


class NoOption(trqam.TRQAM):
    """TRQAM without the options of LQL."""

    OPTIONS = without(trqam.TRQAM.OPTIONS, *LQL_OPTIONS)


def lowered(kind, **settings):
    """Return the text of the program of one update of TRQAM, sampling included."""
    module = type("module", (), {"AGENT": kind, "get_config": kind.get_config})
    dataset = make_dataset([40])
    config = {"batch_size": 6, **settings}
    agent = tiny(module, **config)
    agent = kind.create(jax.random.key(0), 3, 2, agent.config)
    replay = Replay.create(dataset)
    return jax.jit(one_update).lower(agent, replay, jax.random.key(0)).as_text()


@pytest.mark.ci
def test_lql_is_off_by_default_at_no_cost():
    """By default the program is that of an agent without the options, for any `hinge_weight`."""
    without_it = lowered(NoOption)
    assert lowered(trqam.TRQAM) == without_it
    assert lowered(trqam.TRQAM, hinge_weight=5.0) == without_it
    with_it = lowered(trqam.TRQAM, lql_points=3)
    assert with_it != without_it
    # LQL adds no network and no forward pass; its only products are sums over rows.
    products = [text.count("stablehlo.dot_general") for text in (with_it, without_it)]
    assert 0 < products[0] - products[1] <= 4
    assert len(with_it.splitlines()) < 1.3 * len(without_it.splitlines())


# ------------------------------------------------------------------------------------- errors


def test_sequences_must_fill_a_batch():
    with pytest.raises(
        UserError, match="--agent.lql_points=4: .* --agent.batch_size=6; give a divisor"
    ):
        tiny(trqam, lql_points=4)
    with pytest.raises(UserError, match="--agent.lql_points=0: give a positive number"):
        tiny(fql, lql_points=0)


def test_agents_without_a_squared_td_loss_have_no_lql_options():
    for name in ("rql", "bc", "trqam_distributional_critic"):
        assert not {*LQL_OPTIONS} & {
            *importlib.import_module(f"agents.{name}").AGENT.OPTIONS
        }
    assert {*LQL_OPTIONS} <= {*qgf.AGENT.OPTIONS}
    assert trqam_distributional_critic.AGENT.OPTIONS["bins"]


@pytest.mark.ci
def test_a_target_without_the_values_of_the_next_state_is_refused():
    class Custom(fql.FQL):
        def td_target(self, batch, next_actions):
            return batch["rewards"][:, -1]

    module = type("module", (), {"AGENT": Custom, "get_config": Custom.get_config})
    agent, batch = tiny(module, lql_points=3), batch_of_sequences()
    with pytest.raises(
        UserError, match="--agent.lql_points=3: this agent's td_target gives no"
    ):
        agent.update(batch, jax.random.key(0))
    tiny(module).update(random_batch(), jax.random.key(0))


def custom_loss(error):
    """Return FQL with a custom critic loss, which cannot read sequences."""

    class Custom(fql.FQL):
        def critic_loss(self, critic, batch, td_target):
            q = self.values(critic, batch["observations"])(self.flat_actions(batch))
            return jnp.abs(error(q, td_target)).mean(), {}

    return Custom


class Robust(fql.FQL):
    """FQL with a critic loss that is a function of its parent's."""

    def critic_loss(self, critic, batch, td_target):
        loss, metrics = super().critic_loss(critic, batch, td_target)
        return jnp.sqrt(1.0 + loss) - 1.0, metrics


def traced(kind, points):
    """Return the metrics that an update of this class would have."""
    module = type("module", (), {"AGENT": kind, "get_config": kind.get_config})
    agent = tiny(module, lql_points=points, batch_size=6)
    batch = batch_of_sequences() if points > 1 else random_batch()
    update = lambda: jax.eval_shape(agent.update, batch, jax.random.key(0))[1]  # noqa: E731
    return traced_metrics(update, agent.config)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (lambda q, y: q - y[None], "TypeError: tuple indices"),
        (lambda q, y: q - jnp.clip(y, -200.0, 0.0)[None], "TypeError: "),
        (lambda q, y: q - jnp.stack([*y, *y, *y]).reshape(-1, 6), "[VT]\\w+Error: "),
        (lambda q, y: q - y.reshape(1, -1), "AttributeError: "),
        (lambda q, y: q, "no critic/lower_loss among the metrics"),
    ],
)
def test_a_critic_loss_that_cannot_read_sequences_is_refused(error, fault):
    start = f"--agent.lql_points=3: the losses of this agent file .*{fault}"
    with pytest.raises(UserError, match=start):
        traced(custom_loss(error), 3)


def test_a_critic_loss_that_calls_its_parent_has_the_hinges():
    assert {"critic/lower_loss", "critic/upper_loss"} <= traced(Robust, 3).keys()
    assert "critic/loss" in traced(Robust, 1)
    assert "flow/loss" in traced(custom_loss(lambda q, y: q - y[None]), 1)


def test_other_errors_of_a_critic_loss_are_not_changed():
    with pytest.raises(TypeError, match="NoneType"):
        traced(custom_loss(lambda q, y: q - None), 1)
