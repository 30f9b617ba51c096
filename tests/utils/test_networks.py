"""Tests that parameters have the published names and that inputs are read as if concatenated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.agents.straightforward import MLP, network
from utils.networks import Critic, SplitDense, VelocityField, ensemble

S, X, T = np.zeros((5, 3)), np.zeros((5, 2)), np.zeros((5, 1))


def random(tree, seed=0):
    """Return a tree of the same shapes with random numbers that all differ."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [
        jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)


def test_a_split_layer_equals_the_dense_layer_on_the_concatenation():
    layer = SplitDense(4)
    params = random(layer.init(jax.random.key(0), S, X)["params"])
    s = jax.random.normal(jax.random.key(1), (5, 3))
    x = jax.random.normal(jax.random.key(2), (7, 5, 2))
    both = np.concatenate([np.broadcast_to(s, (7, 5, 3)), x], axis=-1)
    expected = both @ params["kernel"] + params["bias"][None, None]
    np.testing.assert_allclose(
        layer.apply({"params": params}, s, x), expected, atol=1e-5
    )


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_velocity_field_equals_the_published_network(layer_norm):
    module = VelocityField((8, 8), layer_norm)
    params = module.init(jax.random.key(0), S, X, T)["params"]
    published = MLP((8, 8, 2), layer_norm).init(jax.random.key(0), np.zeros((1, 6)))[
        "params"
    ]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, published)
    params = random(params)
    s, x, t = (
        jax.random.normal(jax.random.key(i), v.shape) for i, v in enumerate((S, X, T))
    )
    expected = network(params, s, x, t)
    np.testing.assert_allclose(
        module.apply({"params": params}, s, x, t), expected, atol=1e-5
    )


def test_an_ensemble_equals_its_members():
    module = ensemble(Critic, 3)((8,), True)
    params = random(module.init(jax.random.key(0), S, X)["params"])
    assert params["Dense_0"]["kernel"].shape == (3, 5, 8)
    q = module.apply({"params": params}, S + 1.0, X - 1.0)
    for i in range(3):
        member = jax.tree.map(lambda leaf, i=i: leaf[i], params)
        expected = network(member, S + 1.0, X - 1.0)[..., 0]
        np.testing.assert_allclose(q[i], expected, atol=1e-5)
    assert np.ptp(np.asarray(q), axis=0).min() > 0
    fresh = module.init(jax.random.key(0), S, X)["params"]["Dense_0"]["kernel"]
    assert not np.array_equal(fresh[0], fresh[1])
