"""Tests that accelerators compute the same as CPUs, and that small arrays can be packed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from agents import trqam
from agents.optimising import clip_norm, gradient_norm
from utils.dense import LayerNorm, joined, split
from utils.packing import Packing
from utils.replay import BatchSpec, Replay

TREE = {
    "a": {"bias": jnp.arange(6.0).reshape(2, 3), "kernel": jnp.ones((2, 3, 4))},
    "b": {"scale": 7.0 + jnp.arange(4.0).reshape(2, 2), "bias": jnp.arange(5.0)},
}


def on_accelerator(monkeypatch):
    """Trace what an accelerator would run; return the list of the functions so chosen."""
    functions = []

    def chosen(*arguments, cpu, default):
        functions.append(default)
        return default(*arguments)

    monkeypatch.setattr(jax.lax, "platform_dependent", chosen)
    return functions


def updated():
    """Return an agent after one update of `trqam`, and the metrics."""
    config = trqam.get_config()
    config.update(
        action_chunking=True, actor_hidden_dims=(16, 16), num_qs=3, batch_size=8
    )
    config.update(value_hidden_dims=(16, 16), flow_steps=4, horizon_length=2)
    agent = trqam.AGENT.create(jax.random.key(0), 3, 2, config)
    rng = np.random.default_rng(0)
    columns = {"rewards": np.ones(30), "masks": np.ones(30), "terminals": np.zeros(30)}
    columns |= {
        "observations": rng.normal(size=(31, 3)),
        "actions": rng.normal(size=(30, 2)),
    }
    data = {name: np.float32(value) for name, value in columns.items()}
    replay = Replay.create(data | {"rows": np.arange(29)})
    batch = replay.sample(jax.random.key(1), BatchSpec(8, 2, 0.99))
    # A new function, so that JAX traces the update anew.
    update = jax.jit(lambda *arguments: trqam.AGENT.update(*arguments))
    return update(agent, batch, jax.random.key(2))


@pytest.mark.ci
def test_an_update_is_the_same_on_an_accelerator(monkeypatch):
    agent, metrics = updated()
    chosen = on_accelerator(monkeypatch)
    other, other_metrics = updated()
    assert {function.__name__ for function in chosen} >= {"joined", "at_once"}
    same = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-6)
    jax.tree.map(same, agent.opt_state[1][0].mu, other.opt_state[1][0].mu)
    jax.tree.map(same, metrics, other_metrics)
    assert float(metrics["dual/kl_bound"]) > 0


def test_one_joined_product_equals_the_sum_of_the_products_of_the_inputs():
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = ((6, 3), (5, 1, 2), (1,), (6, 8))
    *inputs, kernel = (
        jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)
    )
    result = split(
        kernel[:, :4], *(x[None] if x.ndim == 2 else x for x in inputs[:2]), inputs[2]
    )
    expected = joined(kernel[:, :4], inputs[0][None], *inputs[1:])
    assert expected.shape == (5, 6, 4)
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("accelerator", [False, True])
def test_a_layer_norm_equals_that_of_flax(accelerator, monkeypatch):
    if accelerator:
        on_accelerator(monkeypatch)
    x = 2.0 + jax.random.normal(jax.random.key(0), (5, 7))
    params = {"scale": 1.5 + jnp.arange(7.0), "bias": jnp.arange(7.0)}
    expected = nn.LayerNorm().apply({"params": params}, x)
    np.testing.assert_allclose(
        LayerNorm().apply({"params": params}, x), expected, atol=1e-4
    )


def test_only_biases_and_norms_of_ensembles_are_packed():
    packing = Packing.of(TREE)
    packed = packing.pack(TREE)
    assert packed.vector.shape == (6 + 4,)
    assert sorted(leaf.shape for leaf in packed.others) == [(2, 3, 4), (5,)]
    jax.tree.map(np.testing.assert_array_equal, packing.unpack(packed), TREE)
    none = {"kernel": jnp.ones(3)}
    assert Packing.of(none).unpack(Packing.of(none).pack(none))["kernel"].shape == (3,)


@pytest.mark.parametrize("accelerator", [False, True])
@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_the_gradients_norm_is_clipped_as_by_optax(accelerator, scale, monkeypatch):
    if accelerator:
        on_accelerator(monkeypatch)
    tree = jax.tree.map(lambda leaf: scale * leaf, TREE)
    assert float(gradient_norm(tree)) == pytest.approx(float(optax.tree.norm(tree)))
    clipped = (
        clip.update(tree, clip.init(tree))[0]
        for clip in (clip_norm(), optax.clip_by_global_norm(1.0))
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), *clipped)
