"""Small environments for the tests of workers, evaluation and filming.

Other processes create them by name.
"""

import os
import signal
import sys
import time

import gymnasium
import numpy as np

from envs.evaluation import reset_seed
from envs.probe import ProbeReward
from envs.workers import Task
from utils.errors import UserError


class Counter(gymnasium.Env):
    """An environment that counts its steps and reports the settings of its process.

    The observation holds the start (drawn from the seed), the number of steps, the process id,
    and three flags: jax is loaded, OpenGL is disabled, one thread is used. The reward is the
    first action. An episode ends after `length` steps; it succeeds if the start is above 0.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (6,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, length: int = 7):
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.start, self.steps = self.np_random.normal(), 0
        return self._observation(), {}

    def step(self, action):
        self.steps += 1
        truncated = self.steps == self.length
        info = {"success": truncated and self.start > 0}
        return self._observation(), float(action[0]), False, truncated, info

    def render(self):
        # the sizes are odd on purpose: h264 needs even ones
        return np.full((257, 301, 3), 20 * self.steps, np.uint8)

    def _observation(self):
        settings = (
            "jax" in sys.modules,
            os.environ["MUJOCO_GL"] == "disabled",
            os.environ["OMP_NUM_THREADS"] == "1",
        )
        return np.array([self.start, self.steps, os.getpid(), *settings], np.float64)


class Trouble(Counter):
    """Fails in the third step: it raises, dies or exits as `how` says, or else hangs."""

    def __init__(self, how: str):
        super().__init__(1000)
        self.how = how

    def step(self, action):
        if self.steps == 2:
            if self.how == "raises":
                raise ValueError("the cube\nmelted")
            if self.how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "exits":
                os._exit(3)
            time.sleep(60)
        return super().step(action)


class Walk(gymnasium.Env):
    """A seeded random walk that drifts along the action.

    An episode terminates beyond 2, so lengths differ.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.normal(size=2), 0
        return self.place, {}

    def step(self, action):
        assert np.abs(action).max() <= 1
        self.steps += 1
        self.place = self.place + 0.3 * action + 0.1 * self.np_random.normal(size=2)
        outside = bool(np.abs(self.place).max() > 2)
        return (
            self.place,
            -self.place[0],
            outside,
            self.steps == 40,
            {"success": bool(self.place[0] > 1)},
        )

    def render(self):
        return np.full(
            (256, 256, 3), min(255, int(50 * np.abs(self.place).max())), np.uint8
        )


class Script(gymnasium.Env):
    """Repeats the given steps (observation, reward, terminated, truncated, info)."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, *steps):
        self.steps, self.start = steps, np.zeros(2, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.start, {}

    def step(self, action):
        self.count += 1
        return self.steps[(self.count - 1) % len(self.steps)]


def step_of(observation=(1.0, 2.0), reward=0.0, end=False, **info):
    """A step for Script; `end` truncates the episode."""
    return np.asarray(observation, np.float32), reward, False, end, info


SCRIPTS = {
    "in the middle": [step_of(success=success) for success in (0, 1, 0, 0)],
    "is_success": [
        step_of(is_success=np.array([0])),
        *[step_of(is_success=np.array([1]))] * 3,
    ],
    "none": [step_of(reward=0.5)] * 4,
    "where it succeeds": [step_of(), step_of(success=True), step_of(), step_of()],
    "nan reward": [step_of()] * 2 + [step_of(reward=np.nan)],
    "wide": [step_of(), step_of(observation=np.zeros(3))],
    "half success": [step_of(), step_of(success="half")],
    "endless": [step_of(reward=1.0, success=0)],
}


class Scripted(Task):
    """A script, wrapped as a user's environment is.

    Episodes have 4 steps; those of "endless" are cut after 6.
    """

    def make(self, film=False):
        from envs.ogbench import SeededEnv

        script = Script(*SCRIPTS[self.env_name])
        if self.env_name == "endless":
            return SeededEnv(script, limit=6)
        return SeededEnv(gymnasium.wrappers.TimeLimit(script, 4))


class Silent(ProbeReward):
    """ProbeReward without a reported success."""

    def step(self, action):
        return (*super().step(action)[:4], {})


class Endless(Silent):
    """Silent with episodes that do not end."""

    def step(self, action):
        observation, reward, _, _, _ = super().step(action)
        return observation, reward, False, False, {}


class Melting(Silent):
    """Silent with rewards of NaN in the third online episode of seed 1."""

    def reset(self, *, seed=None, options=None):
        self.melts = seed == reset_seed(1 + (1 << 20), 2)
        return super().reset(seed=seed)

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, np.nan if self.melts else reward, *rest


class Diverging(Melting):
    """Melting with an exception in place of NaN."""

    def step(self, action):
        if self.melts:
            raise FloatingPointError("the solver diverged")
        return super().step(action)


for name, probe in {
    "Silent-v0": Silent,
    "Endless-v0": Endless,
    "Melting-v0": Melting,
    "Diverging-v0": Diverging,
}.items():
    gymnasium.register(name, f"tests.envs.stand_ins:{probe.__name__}")
gymnasium.register("Limited-v0", "tests.envs.stand_ins:Endless", max_episode_steps=3)


class Small(Task):
    """An environment of this file by its name."""

    def make(self, film=False):
        name = self.env_name
        if name == "walk":
            return Walk()
        if name == "no-such-env":
            raise UserError("--env_name=no-such-env: did you mean walk?")
        return Counter() if name == "counter" else Trouble(name)


class NoStart(Task):
    """A script whose reset gives NaN."""

    def make(self, film=False):
        env = Scripted("none").make()
        env.env.reset = lambda **_: (np.full(2, np.nan), {})
        return env
