"""The window of metrics between two rows of train.csv."""

import jax
import jax.numpy as jnp
import numpy as np

from utils.training import Window, updates_per_call


def test_a_window_sums_and_remembers_the_first_update_that_broke_each_metric():
    window = Window.create({"a": 0.5, "b": 0.0, "c": 0.0})
    values = {"a": [1.0, 2.0, 3.0, 4.0], "b": [1.0, np.nan, 2.0, np.inf], "c": [0.0, 0.0, -np.inf, np.nan]}
    add = jax.jit(Window.add)
    for step in range(4):
        window = add(window, {name: jnp.array(value[step]) for name, value in values.items()}, jnp.array(11 + step))
    assert float(window.sums["a"]) == 10.5
    assert jax.tree.map(int, window.broken) == {"a": -1, "b": 12, "c": 13}


def test_calls_have_one_length_that_crosses_no_interval():
    assert updates_per_call(1000, 0, 20, 50, 0) == 2
    assert updates_per_call(1000, 0, 100, 200, 0) == 4  # the most on a CPU
    assert updates_per_call(60, 45, 10, 40, 15) == 1
