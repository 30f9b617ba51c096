"""Precision of the products inside the networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from utils.networks import MLP, apply_mlp, init_mlp, known_affine, product


def derivatives(x, kernel):
    """x kernel and the derivatives of the sum of its squares."""
    return product(x, kernel), *jax.grad(
        lambda *factors: jnp.sum(product(*factors) ** 2), (0, 1)
    )(x, kernel)


@pytest.mark.parametrize("precision", ["default", "bfloat16"])
def test_small_whole_numbers_are_multiplied_exactly(precision):
    """They are bfloat16 numbers, and so are these sums; a wrong derivative would show."""
    x = np.array([[[1.0, -2.0], [0.0, 1.0]], [[3.0, 1.0], [1.0, 1.0]]], np.float32)  # [2, 2, 2]
    kernel = np.array([[1.0, 2.0, 0.0], [-1.0, 0.0, 1.0]], np.float32)
    y = x @ kernel
    with jax.default_matmul_precision(precision):
        ours = jax.jit(derivatives)(x, kernel)
    for value, expected in zip(
        ours, (y, 2 * y @ kernel.T, 2 * np.einsum("abi,abj->ij", x, y)), strict=True
    ):
        np.testing.assert_array_equal(value, expected)
        assert value.dtype == jnp.float32


def test_bfloat16_rounds_on_every_device():
    """To 8 bits: an error of some 0.4 % in value and derivatives, where float32 has less than
    1e-5.
    """
    params = init_mlp(jax.random.key(0), MLP((64, 64), 4, True), 32)
    x = jax.random.normal(jax.random.key(1), (16, 32))

    def errors(precision):
        with jax.default_matmul_precision(precision):
            return jax.tree.leaves(
                jax.jit(jax.value_and_grad(lambda params: jnp.sum(apply_mlp(params, x) ** 2)))(
                    params
                )
            )

    exact = errors("highest")
    for precision, least, most in (("default", 0.0, 1e-5), ("bfloat16", 1e-5, 5e-2)):
        for ours, theirs in zip(errors(precision), exact, strict=True):
            assert least <= np.abs(ours - theirs).max() / np.abs(theirs).max() <= most


def test_the_gradient_of_a_recalled_bias_is_a_sum_in_full_precision():
    """It is written as a product with ones, which a device would else round."""
    x, kernel, bias, result = jnp.ones((8, 4)), jnp.ones((4, 3)), jnp.ones(3), jnp.ones((8, 3))
    with jax.default_matmul_precision("bfloat16"):
        gradient = jax.grad(lambda bias: known_affine(x, kernel, bias, result).sum())
        products = [
            eqn
            for eqn in jax.make_jaxpr(gradient)(bias).eqns
            if eqn.primitive.name == "dot_general"
        ]
    highest = jax.lax.Precision.HIGHEST
    assert [
        eqn.params["precision"] for eqn in products if eqn.outvars[0].aval.shape == (3,)
    ] == [(highest, highest)]
