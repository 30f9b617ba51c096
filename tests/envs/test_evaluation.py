"""Evaluation: reproducible episodes, success, returns, and faults of environments."""

import time

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.evaluation import EpisodeFault, Policy, evaluate, reset_seed
from envs.workers import EnvWorkers, LocalEnvs, Task, WorkerError
from tests.envs.stand_ins import Scripted, Small, Walk

H, A = 3, 2
WALK = Small("walk")


def numpy_policy(observations, ids):
    """Noise from each chunk's id, plus half the observation; often far outside [-1, 1]."""
    noise = np.stack([np.random.default_rng(each).normal(size=H * A) for each in ids])
    return noise + 0.5 * np.tile(observations[:, :A], H)


def evaluation(
    act,
    workers,
    episodes=11,
    seed=3,
    task=WALK,
    horizon=H,
    **kwargs,
):
    """The evaluation of a policy in four slots."""
    with EnvWorkers(task, slots=4, workers=workers) as pool:
        return evaluate(Policy(act, (horizon, A)), pool, episodes, seed, **kwargs)


class InProcess(LocalEnvs):
    """Without the seconds that a process takes to start."""

    slots = 4


def play(name, episodes=5, horizon=H):
    """The evaluation of actions of 0 in a script of stand_ins.py."""
    return evaluate(idle(horizon), InProcess(Scripted(name)), episodes, 0)


def idle(horizon):
    return Policy(lambda *_: np.zeros((4, horizon)), (horizon, 1))


def assert_same(a, b):
    for name in (
        "successes",
        "successes_any",
        "returns",
        "lengths",
        "discounted_returns",
    ):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_a_plain_loop_gives_the_same_episodes():
    result = evaluation(numpy_policy, 2, discount=0.9)
    for episode in range(11):
        env = Walk()
        observation, _ = env.reset(seed=reset_seed(3, episode))
        rewards, done, chunk, any_step = [], False, 0, False
        while not done:
            key = np.array([[3, episode, chunk]], np.uint32)
            actions = numpy_policy(
                np.asarray(observation, np.float32)[None], key
            ).astype(np.float32)
            for action in np.clip(actions.reshape(H, A), -1, 1):
                observation, reward, terminated, truncated, info = env.step(action)
                rewards.append(reward)
                any_step |= info["success"]
                done = terminated or truncated
                if done:
                    break
            chunk += 1
        assert result.lengths[episode] == len(rewards)
        assert result.successes[episode] == info["success"]
        assert result.successes_any[episode] == any_step
        np.testing.assert_allclose(result.returns[episode], sum(rewards), rtol=1e-12)
        discounted = sum(0.9**t * reward for t, reward in enumerate(rewards))
        np.testing.assert_allclose(
            result.discounted_returns[episode], discounted, rtol=1e-12
        )
    assert 0 < result.success < 1, "the test wants both outcomes"
    assert result.env_steps == result.lengths.sum()
    assert result.metrics() == {
        "success": result.successes.mean(),
        "return": result.returns.mean(),
        "length": result.lengths.mean(),
        "discounted_return": result.discounted_returns.mean(),
        "success_any": result.successes_any.mean(),
    }
    assert result.describe(digits=1) == f"success {result.successes.mean():.1%}"


@pytest.mark.parametrize("horizon", [1, 2, 5])
@pytest.mark.parametrize("name", ["in the middle", "is_success", "where it succeeds"])
def test_success_at_the_last_step_and_at_any_step_are_both_reported(name, horizon):
    """It does not matter where chunks end."""
    success = float(name == "is_success")
    result = play(name, horizon=horizon)
    assert result.successes.tolist() == [success] * 5
    assert result.successes_any.tolist() == [1] * 5
    assert result.success == result.metrics()["success"] == success
    assert result.metrics()["success_any"] == 1


def test_without_a_reported_success_there_is_only_a_return():
    result = evaluate(idle(H), InProcess(Scripted("none")), 5, 0, discount=0.5)
    assert result.success is None and np.isnan(result.successes).all()
    assert result.metrics() == {
        "return": 2.0,
        "length": 4.0,
        "discounted_return": 0.5 * 1.875,
    }
    assert result.describe() == "mean return 2 (no success reported)"


def test_an_endless_episode_is_truncated_and_the_others_follow():
    result = play("endless", episodes=6)
    assert result.lengths.tolist() == [6] * 6 and result.returns.tolist() == [6.0] * 6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan reward", "the reward is nan, at step 3 of episode 7"),
        (
            "wide",
            "the observation has the shape (3,) instead of (2,), at step 2 of episode 7",
        ),
    ],
)
def test_an_unusable_value_is_reported_with_its_step_and_episode(name, message):
    with (
        EnvWorkers(Scripted(name), slots=4, workers=1) as pool,
        pytest.raises(WorkerError) as caught,
    ):
        evaluate(idle(2), pool, 1, 0, first_episode=7)
    assert str(caught.value) == f"environment {name}: {message}"


def test_a_numpy_policy_is_bit_identical_for_any_number_of_workers():
    results = [evaluation(numpy_policy, workers) for workers in (1, 2, 3)]
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])
    other = evaluation(numpy_policy, 2, seed=4)
    assert not np.array_equal(other.returns, results[0].returns)


@pytest.mark.ci
def test_a_jax_policy_on_pointmaze_is_bit_identical_for_any_number_of_workers():
    keys = jax.random.split(jax.random.key(0), 3)
    weights = [
        jax.random.normal(k, shape) / 4
        for k, shape in zip(keys, ((2, 64), (64, 64), (64, 50)), strict=True)
    ]

    @jax.jit
    def network(observations, seeds):
        def noise(seed):
            key = jax.random.key(seed[0])
            return jax.random.normal(
                jax.random.fold_in(jax.random.fold_in(key, seed[1]), seed[2]), (50,)
            )

        x = jnp.tanh(observations @ weights[0])
        return jnp.tanh(x @ weights[1]) @ weights[2] + jax.vmap(noise)(seeds)

    task = Short("pointmaze-medium-navigate-singletask-task1-v0")
    short = [
        evaluation(network, workers, 5, 0, task, 25, progress=False)
        for workers in (1, 2, 3)
    ]
    assert (short[0].lengths == 50).all() and len(set(short[0].returns)) == 5
    assert short[0].policy_calls == 4  # five episodes of two chunks in four slots
    for other in short[1:]:
        assert_same(short[0], other)


class Distance(gymnasium.Wrapper):
    """The reward is the position, so that different trajectories have different returns."""

    def step(self, action):
        observation, _, terminated, truncated, info = self.env.step(action)
        return (
            observation,
            float(observation[:2].astype(np.float64).sum()),
            terminated,
            truncated,
            info,
        )


class Short(Task):
    """Episodes of 50 steps whose reward is Distance."""

    def make(self, film=False):
        return gymnasium.wrappers.TimeLimit(Distance(super().make()), 50)


def test_the_batch_is_always_padded_and_episodes_keep_their_slot():
    seen = []

    def policy(observations, ids):
        seen.append((observations, ids))
        return np.zeros((4, H, A))

    result = evaluation(policy, 3, episodes=6, task=Small("counter"))
    # two episodes of three chunks in slots 0 and 1
    assert result.policy_calls == len(seen) == 6
    for observations, ids in seen:
        assert observations.shape == (4, 6) and observations.dtype == np.float32
        assert ids.shape == (4, 3) and ids.dtype == np.uint32
    assert [each.tolist() for each in seen[1][1]] == [[3, e, 1] for e in range(4)]
    assert [each.tolist() for each in seen[3][1][:2]] == [[3, 4, 0], [3, 5, 0]]
    # the observations of idle slots do not change
    np.testing.assert_array_equal(seen[4][0][2:], seen[5][0][2:])
    assert (result.lengths == 7).all() and result.env_steps == 42


def test_an_episode_does_not_depend_on_the_other_episodes():
    all_episodes = evaluation(numpy_policy, 2)
    three_episodes = evaluation(numpy_policy, 2, episodes=3, first_episode=5)
    np.testing.assert_array_equal(three_episodes.returns, all_episodes.returns[5:8])
    np.testing.assert_array_equal(three_episodes.lengths, all_episodes.lengths[5:8])


def test_the_wall_time_is_reported_but_not_logged():
    start = time.perf_counter()
    result = evaluation(numpy_policy, 1, episodes=1)
    assert 0 < result.seconds < time.perf_counter() - start
    assert "seconds" not in result.metrics()


def test_reset_seeds_are_fixed_and_distinct():
    assert reset_seed(0, 0) == int(np.random.SeedSequence([0, 0]).generate_state(1)[0])
    seeds = {reset_seed(seed, episode) for seed in range(20) for episode in range(50)}
    assert len(seeds) == 1000 and all(0 <= seed < 2**32 for seed in seeds)


def test_actions_that_are_not_finite_are_an_error():
    policy = Policy(lambda *_: np.full((4, H * A), np.nan), (H, A))
    with pytest.raises(
        EpisodeFault, match="^the policy's actions for walk are not finite$"
    ):
        evaluate(policy, InProcess(WALK), 1, 0)


def test_zero_episodes_are_an_error():
    with pytest.raises(ValueError, match="nothing to evaluate: 0 episodes"):
        evaluate(idle(H), InProcess(WALK), 0, 0)
