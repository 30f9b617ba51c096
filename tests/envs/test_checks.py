"""Values that an environment may return, and the messages for all others."""

import numpy as np
import pytest

from envs.checks import EnvFault, check_number, check_observation, success_of


def message_of(check, *arguments):
    with pytest.raises(EnvFault) as caught:
        check(*arguments)
    (line,) = str(caught.value).splitlines()
    return line


def test_an_observation_is_copied_as_float32():
    buffer = np.array([1.0, 2.0], np.float32)
    observation = check_observation(buffer, (2,))
    buffer[:] = 9.0  # as if the next one were written into the same array
    assert observation.tolist() == [1.0, 2.0] and observation.dtype == np.float32
    for value in ([1, 2], (1.0, 2.0), np.array([1, 2], np.int8), np.longdouble([1, 2])):
        assert check_observation(value, (2,)).tolist() == [1.0, 2.0]
    assert check_observation(np.array([True, False]), (2,)).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ([1.0, np.nan], "the observation has nan at index 1"),
        (np.array([-np.inf, 0.0]), "the observation has -inf at index 0"),
        ([0.0, 1e39], "the observation has 1e+39 at index 1"),  # infinite as float32
        (np.zeros(3), "the observation has the shape (3,) instead of (2,)"),
        (np.zeros((1, 2)), "the observation has the shape (1, 2) instead of (2,)"),
        (0.5, "the observation has the shape () instead of (2,)"),
        (
            np.array([1.0, 2.0], object),
            "the observation is of type object, not numeric: ",
        ),
        (["a", "b"], "the observation is of type <U1, not numeric: "),
        (
            {"position": 1},
            "the observation is of type object, not numeric: {'position': 1}",
        ),
        (None, "the observation is of type object, not numeric: None"),
        ([1j, 0], "the observation is of type complex128, not numeric: "),
        (
            [[1.0], [1.0, 2.0]],
            "the observation is not an array of numbers (setting an array",
        ),
    ],
)
def test_an_unusable_observation_is_reported(observation, message):
    assert message_of(check_observation, observation, (2,)).startswith(message)


def test_a_number_may_be_an_array_of_one_element():
    for value in (0.5, np.float32(0.5), np.array(0.5), np.array([[0.5]]), [0.5]):
        number = check_number(value, "reward")
        assert number == 0.5 and type(number) is float
    assert check_number(True, "reward") == 1.0


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (np.nan, "the reward is nan"),
        (np.array([-np.inf]), "the reward is -inf"),
        (1e39, "the reward is 1e+39"),  # infinite as float32 in the replay
        (np.zeros(2), "the reward has the shape (2,) instead of one element"),
        ([], "the reward has the shape (0,) instead of one element"),
        ("high", "the reward is of type <U4, not numeric: 'high'"),
        (None, "the reward is of type object, not numeric: None"),
    ],
)
def test_an_unusable_reward_is_reported(reward, message):
    assert message_of(check_number, reward, "reward") == message


def test_success_is_read_from_info():
    assert (
        success_of({"success": True})
        == success_of({"is_success": np.array([1.0])})
        == 1.0
    )
    assert success_of({"success": 0.25, "is_success": 1}) == 0.25
    assert success_of({"success": None, "is_success": False}) == 0.0
    assert np.isnan(success_of({})) and np.isnan(success_of({"success": None}))


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"success": np.nan}, "the success in info is nan"),
        (
            {"is_success": [1, 0]},
            "the is_success in info has the shape (2,) instead of one element",
        ),
        ({"success": "yes"}, "the success in info is of type <U3, not numeric: 'yes'"),
        ({"success": 100}, "the success in info is 100, which is not between 0 and 1"),
        ({"success": -1}, "the success in info is -1, which is not between 0 and 1"),
    ],
)
def test_an_unusable_success_is_reported(info, message):
    assert message_of(success_of, info) == message
