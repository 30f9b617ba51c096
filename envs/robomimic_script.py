"""Demonstrations of robomimic's lift by a script, and of any task by random actions.

The script reaches, grasps and raises the cube. Like the people of robomimic's multi-human data
it acts with unequal skill (`SKILLS`): the less skilled often close the hand beside the cube and
give up. After a success a demonstration holds the cube for some steps, and its last row has
`dones` 1. Without one it ends when the person gives up or the steps run out, with `dones` 0.
"""

import random
from typing import Any, NamedTuple

import numpy as np

from envs.arrays import Arrays
from envs.ogbench import imports_gl
from envs.robomimic import import_robosuite, observed
from envs.robomimic_data import observation_keys
from envs.tasks import robomimic_task

_CLOSING = 4  # steps until the fingers hold
_RAISING = 0.25  # the largest action upwards with the cube
_HOLDING = 10  # steps after the first success
_WAITING = 25  # steps with a closed and empty hand before a person gives up
_STEP = 0.05  # metres that the controller moves for an action of 1


class Skill(NamedTuple):
    """How one kind of people demonstrates."""

    speed: float
    """The largest action towards the next position."""
    noise: float
    """The standard deviation of the noise on actions."""
    error: float
    """The standard deviation of where the hand closes, in metres along x and y."""


SKILLS = {
    "better": Skill(1.0, 0.1, 0.008),
    "okay": Skill(0.8, 0.2, 0.025),
    "worse": Skill(0.6, 0.3, 0.04),
}
_PEOPLE = {"mh": ("better", "okay", "worse"), "ph": ("better",)}


class Lift:
    """One demonstration of lift by a person of a certain skill.

    Args:
        skill: the skill.
        rng: the source of all randomness.
    """

    def __init__(self, skill: Skill, rng: np.random.Generator):
        self.skill = skill
        self.rng = rng
        self.error = np.append(rng.normal(0, skill.error, 2), 0)
        self.target: np.ndarray | None = None
        self.turn = np.zeros(3)
        self.phase = 0
        self.closed_for = 0

    @property
    def gave_up(self) -> bool:
        """Whether the person has waited long enough for a success."""
        return self.closed_for >= _WAITING

    def act(self, raw: dict[str, np.ndarray]) -> np.ndarray:
        """Return an action [7]: a step of the hand, a rotation, and the fingers (1: close)."""
        hand = raw["robot0_eef_pos"]
        if self.target is None:
            self.target = raw["cube_pos"] + self.error
        goal = self.target + [0, 0, (0.08, 0.0, 0.0, 0.1)[self.phase]]
        away = goal - hand
        self._advance(away)
        action = np.zeros(7)
        speed = _RAISING if self.phase == 3 else self.skill.speed
        action[:3] = np.clip(away / _STEP, -speed, speed)
        action[:3] += self.rng.normal(0, self.skill.noise, 3)
        turn = self.rng.normal(0, self.skill.noise, 3)
        action[3:6] = turn - self.turn  # each turn is taken back at once
        self.turn = turn
        action[6] = 1 if self.phase >= 2 else -1
        return np.clip(action, -1, 1)

    def _advance(self, away: np.ndarray) -> None:
        """Begin the next phase if the hand is there: above, at the cube, closed, raised."""
        if self.phase == 0 and np.linalg.norm(away[:2]) < 0.015 and abs(away[2]) < 0.03:
            self.phase = 1
        elif self.phase == 1 and np.linalg.norm(away) < 0.015:
            self.phase = 2
        elif self.phase >= 2:
            self.closed_for += 1
            if self.closed_for >= _CLOSING:
                self.phase = 3


class Randomly:
    """Uniform random actions [A]."""

    gave_up = False

    def __init__(self, action_dim: int, rng: np.random.Generator):
        self.action_dim = action_dim
        self.rng = rng

    def act(self, raw: dict[str, np.ndarray]) -> np.ndarray:
        return self.rng.uniform(-1, 1, self.action_dim)


class Demonstrator:
    """Records demonstrations of a task in one simulator.

    Args:
        env_name: the task.
        behaviour: script or random.
    """

    def __init__(self, env_name: str, behaviour: str):
        self.people = _PEOPLE[env_name.split("-")[1]]
        self.behaviour = behaviour
        self.env_args = env_args_of(env_name)
        kwargs = self.env_args["env_kwargs"]
        self.keys = observation_keys(kwargs)
        import robosuite

        self.world = robosuite.make(self.env_args["env_name"], **kwargs)

    def record(self, seed: int, index: int, steps: int) -> Arrays:
        """Record one demonstration, as the arrays of its group in a file.

        Args:
            seed: of all randomness.
            index: the number of the demonstration, which decides who demonstrates.
            steps: the most steps it has.
        """
        np.random.seed(seed)
        random.seed(seed)
        self.world.rng = np.random.default_rng(seed)
        rng = np.random.default_rng([seed, 1])
        raw = self.world.reset()
        person = self._person(index, rng)
        rows: dict[str, list] = {"actions": [], "rewards": [], "states": []}
        seen = [observed(raw, self.keys)]
        left = steps
        while left and not person.gave_up:
            action = np.clip(person.act(raw), -1, 1)
            rows["states"].append(self.world.sim.get_state().flatten())
            raw, reward, _, _ = self.world.step(action)
            first = reward > 0 and not any(rows["rewards"])
            left = _HOLDING if first else left - 1
            rows["actions"].append(action)
            rows["rewards"].append(float(reward))
            seen.append(observed(raw, self.keys))
        arrays = {name: np.array(values) for name, values in rows.items()}
        arrays["dones"] = np.zeros(len(arrays["rewards"]), np.int64)
        arrays["dones"][-1] = reward > 0
        for key in self.keys:
            values = np.array([observation[key] for observation in seen])
            arrays |= {f"obs/{key}": values[:-1], f"next_obs/{key}": values[1:]}
        return arrays

    def _person(self, index: int, rng: np.random.Generator) -> Lift | Randomly:
        if self.behaviour == "random":
            return Randomly(self.world.action_dim, rng)
        return Lift(SKILLS[self.people[index % len(self.people)]], rng)


def env_args_of(env_name: str) -> dict[str, Any]:
    """Return robomimic's description of a task's environment; imports robosuite."""
    with imports_gl(film=False):
        import_robosuite()
    import robosuite

    environment = robomimic_task(env_name).environment
    arms = 2 if environment.startswith("TwoArm") else 1
    controller = robosuite.load_composite_controller_config(robot="Panda")
    kwargs = {
        "robots": ["Panda"] * arms,
        "controller_configs": controller,
        "control_freq": 20,
        "reward_shaping": False,
        "has_renderer": False,
        "has_offscreen_renderer": False,
        "use_camera_obs": False,
        "use_object_obs": True,
        "ignore_done": True,
    }
    version = robosuite.__version__
    return {
        "env_name": environment,
        "env_version": version,
        "type": 1,  # robosuite, in robomimic's numbering
        "env_kwargs": kwargs,
    }
