"""The policies that collect OGBench's data, and one of their episodes.

The oracles are OGBench's own. How they are used is the procedure of its data generation
(arXiv 2410.20092; its wheel lacks the scripts).
"""

import gymnasium
import numpy as np

_STACKING = {
    "single": (0, 0),
    "double": (0, 0.25),
    "triple": (0.05, 0.35),
    "quadruple": (0.1, 0.5),
}
ROW_TYPES: dict[str, type] = {
    "observations": np.float32,
    "actions": np.float32,
    "terminals": bool,
    "qpos": np.float32,
    "qvel": np.float32,
    "button_states": np.int64,
}
"""The type of each array of a dataset; the last three exist where the environment has them."""


class Behaviour:
    """How data is collected; this one acts uniformly at random, in any environment."""

    def __init__(self, env: gymnasium.Env, dataset: str):
        self.env = env

    def options(self) -> dict | None:
        """Return the options for `reset`."""
        return None

    def begin(self, observation: np.ndarray, info: dict) -> None:
        """Prepare for an episode; called once after `reset`."""

    def act(self, observation: np.ndarray, info: dict) -> np.ndarray:
        """Return the action [A], not yet clipped to [-1, 1], for an observation [O]."""
        return np.random.uniform(-1, 1, self.env.action_space.shape)

    def after(self, info: dict) -> None:
        """Choose a new goal if the old one is reached; called after every step."""

    def accepts(self, qpos: np.ndarray) -> bool:
        """Whether to keep an episode, judged by its positions [R, nq]."""
        return True


class ArmOracle(Behaviour):
    """OGBench's scripted arm: noisy plans for 'play', a noisy Markov policy for 'noisy'."""

    def __init__(self, env: gymnasium.Env, dataset: str):
        super().__init__(env, dataset)
        self.world, _, kind = dataset.rpartition("-")
        self.noisy = kind == "noisy"
        self.oracles = (_markov_oracles if self.noisy else _plan_oracles)(
            env, self.world
        )

    def begin(self, observation: np.ndarray, info: dict) -> None:
        low, high = _STACKING.get(self.world.removeprefix("cube-"), (0.5, 0.5))
        self.p_stack = np.random.uniform(low, high)
        self.noise = np.random.uniform(0, 0.1) * np.array([1, 1, 1, 3, 10])
        self._pursue(observation, info)

    def _pursue(self, observation: np.ndarray, info: dict) -> None:
        self.oracle = self.oracles[info["privileged/target_task"]]
        self.oracle.reset(observation, info)

    def act(self, observation: np.ndarray, info: dict) -> np.ndarray:
        action = np.asarray(self.oracle.select_action(observation, info))
        return action + np.random.normal(0, self.noise) if self.noisy else action

    def after(self, info: dict) -> None:
        if self.oracle.done:
            self._pursue(*self.env.unwrapped.set_new_target(p_stack=self.p_stack))

    def accepts(self, qpos: np.ndarray) -> bool:
        if self.world != "scene":
            return True
        _, y, z = qpos[:, 14:17].T  # the cube must stay in view, or lie in the drawer
        return not (
            np.any(y >= 0.29) or np.any((y <= -0.3) & ((z < 0.06) | (z > 0.08)))
        )


def _plan_oracles(env: gymnasium.Env, world: str) -> dict:
    from ogbench.manipspace.oracles.plan import (
        button_plan,
        cube_plan,
        drawer_plan,
        window_plan,
    )

    common = {"env": env, "noise": 0.1, "noise_smoothing": 0.5}
    closed = world.startswith("puzzle")
    return {
        "cube": cube_plan.CubePlanOracle(**common),
        "button": button_plan.ButtonPlanOracle(gripper_always_closed=closed, **common),
        "drawer": drawer_plan.DrawerPlanOracle(**common),
        "window": window_plan.WindowPlanOracle(**common),
    }


def _markov_oracles(env: gymnasium.Env, world: str) -> dict:
    from ogbench.manipspace.oracles.markov import (
        button_markov,
        cube_markov,
        drawer_markov,
        window_markov,
    )

    common = {"env": env, "min_norm": 0.4}
    closed = world.startswith("puzzle")
    return {
        "cube": cube_markov.CubeMarkovOracle(
            max_step=100 if world == "scene" else 200, **common
        ),
        "button": button_markov.ButtonMarkovOracle(
            gripper_always_closed=closed, **common
        ),
        "drawer": drawer_markov.DrawerMarkovOracle(**common),
        "window": window_markov.WindowMarkovOracle(**common),
    }


class PointOracle(Behaviour):
    """Moves along shortest paths in a maze with Gaussian noise, from one goal to the next."""

    def __init__(self, env: gymnasium.Env, dataset: str):
        super().__init__(env, dataset)
        self.maze = env.unwrapped
        free = self.maze.maze_map == 0
        self.cells = np.argwhere(free)
        self.goals = [ij for ij in self.cells if not self._is_corridor(free, *ij)]

    @staticmethod
    def _is_corridor(free: np.ndarray, i: int, j: int) -> bool:
        across = int(free[i, j - 1]) + int(free[i, j + 1])
        along = int(free[i - 1, j]) + int(free[i + 1, j])
        return {across, along} == {0, 2}

    def _goal(self) -> np.ndarray:
        return self.goals[np.random.randint(len(self.goals))]

    def options(self) -> dict:
        start = self.cells[np.random.randint(len(self.cells))]
        return {"task_info": {"init_ij": start, "goal_ij": self._goal()}}

    def act(self, observation: np.ndarray, info: dict) -> np.ndarray:
        position = self.maze.get_xy()
        subgoal, _ = self.maze.get_oracle_subgoal(position, self.maze.cur_goal_xy)
        direction = (subgoal - position) / (np.linalg.norm(subgoal - position) + 1e-6)
        return direction + np.random.normal(0, 0.5, direction.shape)

    def after(self, info: dict) -> None:
        if info["success"]:
            self.maze.set_goal(
                goal_xy=self.maze.add_noise(self.maze.ij_to_xy(self._goal()))
            )


BEHAVIOURS: dict[str, type[Behaviour]] = {
    "random": Behaviour,
    "navigate": PointOracle,
    "play": ArmOracle,
    "noisy": ArmOracle,
}
"""The policy of each kind of dataset, and of smoke tests (random)."""


def run_episode(
    env: gymnasium.Env, behaviour: Behaviour, seed: int, steps: int
) -> dict[str, np.ndarray]:
    """Run one episode of `steps` transitions; return its `steps` + 1 rows by name.

    The last row is terminal.

    Args:
        env: the environment.
        behaviour: who acts.
        seed: of all randomness of the episode.
        steps: the number of transitions.
    """
    np.random.seed(seed)  # the oracles and the mazes draw from NumPy's global generator
    env.action_space.seed(seed)
    reset_seed: int | None = seed
    while True:
        observation, info = env.reset(seed=reset_seed, options=behaviour.options())
        reset_seed = None
        behaviour.begin(observation, info)
        rows: dict[str, list] = {name: [] for name in ROW_TYPES}
        for t in range(steps + 1):
            action = np.clip(behaviour.act(observation, info), -1, 1)
            rows["observations"].append(observation)
            rows["actions"].append(action)
            rows["terminals"].append(t == steps)
            observation, _, _, _, info = env.step(action)
            for name in ("qpos", "qvel", "button_states"):
                if f"prev_{name}" in info:
                    rows[name].append(info[f"prev_{name}"])
            behaviour.after(info)
        if behaviour.accepts(np.array(rows["qpos"])):
            used = {name: values for name, values in rows.items() if values}
            return {
                name: np.array(values, ROW_TYPES[name]) for name, values in used.items()
            }
