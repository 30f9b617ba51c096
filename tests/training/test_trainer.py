"""Seeds that resume from one step train in one program."""

from types import SimpleNamespace

import pytest

from training.trainer import group_by_step


def journal(newest, previous, interval):
    settings = SimpleNamespace(flags={"save_interval": interval})
    return SimpleNamespace(
        run=SimpleNamespace(settings=settings),
        newest=lambda: newest,
        previous=lambda step: previous,
    )


@pytest.mark.parametrize(
    ("steps", "interval", "groups"),
    [
        ([(12, 8), (12, 8)], 4, [(12, [0, 1])]),
        ([(16, 12), (12, 8), (16, 12)], 4, [(12, [0, 1, 2])]),
        ([(4, -1), (-1, -1)], 4, [(-1, [0, 1])]),
        (
            [(4, -1), (-1, -1)],
            2,
            [(-1, [1]), (4, [0])],
        ),  # more than an interval is lost
    ],
)
def test_a_seed_one_checkpoint_ahead_resumes_with_the_others(steps, interval, groups):
    assert group_by_step([journal(*pair, interval) for pair in steps]) == groups
