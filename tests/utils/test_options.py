"""Tests which values a setting accepts, the advice for other values, and the text of --help."""

import numpy as np
import pytest

from utils.errors import UserError
from utils.options import Option, check, defaults

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("option", "fine", "wrong", "advice"),
    [
        (
            Option(1.0, "", above=0),
            [0.1, 7],
            [0, -1.0, NAN, INF],
            "give a positive number",
        ),
        (
            Option(1.0, "", at_least=0),
            [0, 0.5],
            [-0.1, NAN],
            "give 0 or a positive number",
        ),
        (
            Option(0.9, "", above=0, at_most=1),
            [0.5, 1.0],
            [0.0, 1.1, NAN],
            "give a number above 0 and at most 1",
        ),
        (
            Option(0.9, "", at_least=0, at_most=1),
            [0, 1.0],
            [-0.1, 2.0, NAN],
            "give a number from 0 to 1",
        ),
        (Option(2.0, "", above=1), [1.1], [1, 0.5, NAN], "give a number above 1"),
        (Option(0.5, ""), [-3.0, 0], [NAN, -INF], "give a number"),
        (Option("a", "", choices=("a", "b")), ["b"], ["c"], "use one of a, b"),
        (Option("c", "", choices=("a", "b")), ["b"], ["c"], "use one of a, b"),
        (Option(2, "", choices=(1, 2)), [1, 2], [7], "use one of 1, 2"),
        (Option(None, "", choices=("a",)), [None, "a"], ["b"], "use one of a"),
        (
            Option((8,), ""),
            [(8, 8), (1,)],
            [(), (8, 0), (8.0,)],
            "give positive layer widths, such as '(512,512)'",
        ),
        (
            Option((0.1, 0.5), ""),
            [(0.1, 0.5), (1, 2, 3), ()],
            [(0.1, NAN), (INF,)],
            "give finite numbers",
        ),
        (Option((), ""), [(), (8, 8), (0.5,)], [(NAN,)], "give finite numbers"),
        (Option(("a", "b"), ""), [("a",)], [], ""),
        (Option(None, ""), [None, -3.0, "text"], [], ""),
        (Option(True, ""), [True, False], [], ""),
        (Option("free", ""), ["text"], [], ""),
    ],
)
def test_wrong_values_get_advice_and_right_ones_do_not(option, fine, wrong, advice):
    assert [option.fault(value) for value in fine] == [None] * len(fine)
    assert [option.fault(value) for value in wrong] == [advice] * len(wrong)


@pytest.mark.parametrize("default", [[1, 2], {}, np.float32(0.5), np.int64(3)])
def test_a_default_of_another_type_is_refused(default):
    """config.json could not hold it, or not as it is."""
    advice = f"the default is of type {type(default).__name__}; give a number, a text, "
    assert Option(default, "").fault(default).startswith(advice)


def test_the_first_fault_is_an_error_that_names_the_flag():
    options = {"lr": Option(0.1, "", above=0), "mode": Option("a", "", choices=("a",))}
    assert defaults(options).to_dict() == {"lr": 0.1, "mode": "a"}
    check(options, {"lr": 1.0, "other": -1})
    with pytest.raises(UserError, match=r"^--agent.lr=-1: give a positive number$"):
        check(options, {"lr": -1, "mode": "b"})


def test_descriptions_list_the_allowed_values():
    assert (
        Option(1, "weight", above=0, at_most=1).describe()
        == "weight (above 0, at most 1)"
    )
    assert Option("a", "way", choices=("a", "b")).describe() == "way (one of a, b)"
    assert Option(1, "weight").describe() == "weight"
