"""Tests the warnings about a run's lambda and path KL."""

import pytest

from utils.trust_region import concerns


def lines(lam, ratios, budget=0.2):
    return [
        {"dual/lam": lam, "dual/path_kl": 0.2 * r, "dual/kl_budget": budget}
        for r in ratios
    ]


@pytest.mark.parametrize(
    ("lam", "ratios", "settled", "kinds"),
    [
        (1.0, [1.0, 1.0], True, set()),
        (99.95, [1.0], False, {"lambda_max"}),
        (99.8, [1.0], False, set()),
        (0.01, [0.1, 0.2], False, {"lambda_min"}),
        (0.01, [0.1, 0.2], True, {"lambda_min", "path_kl"}),
        (1.0, [1.6, 9.0], True, {"path_kl"}),
        (1.0, [1.6, 9.0], False, set()),
        (1.0, [1.6, 1.4], True, set()),  # it was near its budget once
        (1.0, [0.4, 0.6], True, set()),
        (1.0, [float("nan")], True, set()),
    ],
)
def test_lambda_at_a_bound_and_a_path_kl_off_its_budget_are_concerns(
    lam, ratios, settled, kinds
):
    found = concerns(lines(lam, ratios), 0.01, 100.0, settled)
    assert found.keys() == kinds
    assert not any(digit in text for text in found.values() for digit in "0123456789")


def test_a_path_kl_above_a_budget_of_zero_is_a_concern():
    assert concerns(lines(1.0, [0.1], 0.0), 0.01, 100.0, True).keys() == {"path_kl"}


def test_lines_without_the_dual_state_give_no_concerns():
    assert concerns([{"dual/path_kl": 9.0}], 0.01, 100.0, True) == {}
