"""Seeds that resume from one step train in one program."""

from types import SimpleNamespace

import pytest

from training.trainer import group_by_step


def journal(newest, previous, interval, unreadable=()):
    settings = SimpleNamespace(flags={"save_interval": interval})
    return SimpleNamespace(
        run=SimpleNamespace(settings=settings),
        newest=lambda: newest,
        previous=lambda step: previous,
        unreadable=unreadable,
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


def test_a_seed_with_a_damaged_later_checkpoint_does_not_start_again():
    """It was given no base, because it seemed to have passed the first checkpoint."""
    journals = [journal(4, -1, 4, unreadable=[8]), journal(-1, -1, 4)]
    assert group_by_step(journals) == [(-1, [1]), (4, [0])]
    journals = [journal(8, 4, 4, unreadable=[12]), journal(4, -1, 4)]
    assert group_by_step(journals) == [(4, [0, 1])]
