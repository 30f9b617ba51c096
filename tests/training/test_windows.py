"""Tests what is measured between two logs: the sums of metrics, and the time."""

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np

from training.windows import Window, WindowClock


def test_a_window_sums_and_remembers_the_first_update_that_broke_each_metric():
    window = Window.create({"a": 0.5, "b": 0.0, "c": 0.0})
    values = {
        "a": [1.0, 2.0, 3.0, 4.0],
        "b": [1.0, np.nan, 2.0, np.inf],
        "c": [0.0, 0.0, -np.inf, np.nan],
    }
    add = jax.jit(Window.add)
    for step in range(4):
        window = add(
            window,
            {name: jnp.array(value[step]) for name, value in values.items()},
            jnp.array(11 + step),
        )
    # All metrics are in one array, so that one kernel adds them.
    assert window.sums.shape == window.broken.shape == (3,)
    assert window.by_name(window.sums[None])[0]["a"] == 10.5
    assert window.by_name(window.broken[None]) == [{"a": -1, "b": 12, "c": 13}]


def test_the_clock_leaves_out_what_is_untimed(monkeypatch):
    """The time advances by one second each time it is read."""
    seconds = itertools.count(0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: next(seconds))
    clock = WindowClock()  # 0
    clock.seen_busy()  # 1
    with clock.untimed():  # 2 to 3
        pass
    clock.seen_idle()  # 4: three seconds after 1, one of them untimed
    assert clock.idle == 2.0
    assert clock.seconds() == 4.0  # 5
    clock.restart()  # 6
    assert (clock.seconds(), clock.idle) == (1.0, 0.0)
