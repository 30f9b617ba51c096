"""Collects offline data with OGBench's scripted oracles, into files that `ogbench` loads.

The procedure is that of OGBench's data generation (arXiv 2410.20092; its wheel lacks the
scripts). Every episode is seeded by (seed, split, index), so the data does not depend on the
number of workers. Every episode is first written to its own file, so an interrupted run
resumes.
"""

import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import shutil
import signal
import threading
import zipfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

import gymnasium
import numpy as np

from envs.arrays import read_npz
from envs.ogbench import make_raw
from envs.tasks import (
    dataset_name,
    has_oracle,
    is_manipulation,
    is_user_env,
    world_name,
)
from utils.errors import UserError
from utils.files import exclusive_folder, expanded
from utils.progress import Counter
from utils.spawned import (
    UNGUARDED,
    check_program,
    leave_if_unguarded,
    unguarded_program,
)

_STACKING = {
    "single": (0, 0),
    "double": (0, 0.25),
    "triple": (0.05, 0.35),
    "quadruple": (0.1, 0.5),
}
_ROW_TYPES: dict[str, type] = {
    "observations": np.float32,
    "actions": np.float32,
    "terminals": bool,
}
_ROW_TYPES |= {"qpos": np.float32, "qvel": np.float32, "button_states": np.int64}


class _Random:
    """A behaviour with uniform random actions, for any environment."""

    def __init__(self, env: gymnasium.Env, dataset: str):
        self.env = env

    def options(self) -> dict | None:
        """Return the options for `reset`."""
        return None

    def begin(self, observation: np.ndarray, info: dict) -> None:
        """Prepare for an episode; called once after `reset`."""

    def act(self, observation: np.ndarray, info: dict) -> np.ndarray:
        return np.random.uniform(-1, 1, self.env.action_space.shape)

    def after(self, info: dict) -> None:
        """Choose a new goal if the old one is reached; called after every step."""

    def accepts(self, qpos: np.ndarray) -> bool:
        """Whether to keep an episode, judged by its positions [R, nq]."""
        return True


class _ArmOracle(_Random):
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


class _PointOracle(_Random):
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


@dataclass(frozen=True)
class _Job:
    """The settings that, with the simulator's version, determine every episode."""

    dataset: str
    behaviour: str
    episode_steps: int
    seed: int


_Task = tuple[Path, int, int, int]
"""The file of an episode, its split (1: validation), its index and its steps."""


def _run_episode(
    env: gymnasium.Env, behaviour: _Random, seed: int, steps: int
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
        rows: dict[str, list] = {name: [] for name in _ROW_TYPES}
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
                name: np.array(values, _ROW_TYPES[name])
                for name, values in used.items()
            }


def _make_world(job: _Job) -> tuple[gymnasium.Env, _Random]:
    """Make the environment and the behaviour that acts in it."""
    kwargs: dict = {
        "terminate_at_goal": False,
        "max_episode_steps": job.episode_steps + 1,
    }
    if is_manipulation(job.dataset):
        kwargs["mode"] = "data_collection"
    env = make_raw(f"{world_name(job.dataset)}-v0", **kwargs)
    behaviours = {
        "random": _Random,
        "navigate": _PointOracle,
        "play": _ArmOracle,
        "noisy": _ArmOracle,
    }
    return env, behaviours[job.behaviour](env, job.dataset)


_worker: tuple[_Job, gymnasium.Env, _Random]


def _start_worker(job: _Job) -> None:
    """Make the environment of this worker process, once."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _worker = job, *_make_world(job)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_part(part: Path, split: int, index: int, steps: int) -> int:
    """Collect one episode into a file, atomically; return its number of transitions.

    Args:
        part: the file.
        split: 0 for training, 1 for validation data.
        index: the number of the episode in its split.
        steps: the number of transitions.
    """
    job, env, behaviour = _worker
    seed = int(np.random.SeedSequence([job.seed, split, index]).generate_state(1)[0])
    temporary = part.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.savez(file, **_run_episode(env, behaviour, seed, steps))  # type: ignore[arg-type]
    os.replace(temporary, part)
    return steps


def _episode_lengths(transitions: int, episode_steps: int) -> list[int]:
    full, rest = divmod(transitions, episode_steps)
    return [episode_steps] * full + [rest] * (rest > 0)


def _merge(parts: list[Path], path: Path, settings: dict) -> None:
    """Concatenate episode files into one npz atomically, with one episode in memory at a time.

    Args:
        parts: the episode files, in order.
        path: the file to write.
        settings: stored in the file, see `collection_settings`.
    """
    temporary = parts[0].with_name("merged.tmp")
    shapes: dict[str, tuple] = {}
    rows = 0
    for part in parts:
        with np.load(part) as episode:
            shapes = {name: episode[name].shape[1:] for name in episode.files}
            rows += len(episode["terminals"])
    with zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
        for name, shape in shapes.items():
            empty = np.empty((0, *shape), _ROW_TYPES[name])
            header = np.lib.format.header_data_from_array_1_0(empty)
            header["shape"] = (rows, *shape)
            with archive.open(
                zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True
            ) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for part in parts:
                    with np.load(part) as episode:
                        member.write(episode[name].tobytes())
        with archive.open(zipfile.ZipInfo("collection.npy"), "w") as member:
            np.lib.format.write_array(
                member, np.array(json.dumps(settings)), allow_pickle=False
            )
    os.replace(temporary, path)


def collection_settings(path: Path) -> dict | None:
    """Return the settings with which a file was collected here; None for any other file."""
    try:
        found = read_npz(
            path, lambda names: [name for name in names if name == "collection"]
        )
        return json.loads(str(found["collection"])) if found else None
    except ValueError:
        return None


def _collect_missing(
    job: _Job,
    missing: list[_Task],
    workers: int,
    bar: Counter,
) -> None:
    """Collect episodes in worker processes; raise UserError if a process dies."""
    leave_if_unguarded()
    check_program()
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(workers, len(missing)), context, _start_worker, (job,)
    )
    processes = pool._processes  # the exit codes have no public interface
    try:
        for future in as_completed(
            [pool.submit(_write_part, *task) for task in missing]
        ):
            bar.update(future.result())
    except BrokenProcessPool as error:
        if any(process.exitcode == UNGUARDED for process in processes.values()):
            raise unguarded_program() from error
        raise UserError(
            "a worker process died (often for lack of memory: try fewer --workers); the"
            " finished episodes are kept, run the same command again to resume"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _exists_already(outputs: tuple[Path, Path], settings: dict) -> bool:
    """Whether both files exist already with these settings.

    Raises UserError if a file exists with other settings.
    """
    present = [output for output in outputs if output.exists()]
    for output in present:
        found = collection_settings(output)
        if found != settings:
            why = _differences(found or {}, settings) or "from elsewhere"
            raise UserError(
                f"--ogbench_dataset_dir: {output} is there already, {why}; give another folder,"
                " or --overwrite"
            )
    return len(present) == len(outputs)


def _differences(found: dict, settings: dict) -> str:
    """List the settings of a file that differ: 'transitions 20 there and 40 now'."""
    names = [
        name for name in settings if name in found and found[name] != settings[name]
    ]
    return ", ".join(
        f"{name} {found[name]} there and {settings[name]} now" for name in names
    )


def _collect(
    job: _Job,
    folder: Path,
    transitions: int,
    workers: int,
    progress: bool,
    overwrite: bool,
) -> Path:
    """Collect the training and validation files unless they exist; return the training file."""
    versions = {
        name: importlib.metadata.version(name) for name in ("mujoco", "ogbench")
    }
    settings = asdict(job) | {"transitions": transitions} | versions
    path = folder / f"{job.dataset}-v0.npz"
    outputs = (path, folder / f"{job.dataset}-v0-val.npz")
    name = hashlib.sha256(json.dumps(asdict(job) | versions).encode()).hexdigest()[:8]
    parts = folder / f".{job.dataset}-v0-{name}"
    if not overwrite and _exists_already(outputs, settings):
        shutil.rmtree(parts, ignore_errors=True)
        return path
    parts.mkdir(parents=True, exist_ok=True)
    with exclusive_folder(parts):
        if not overwrite and _exists_already(
            outputs, settings
        ):  # another process was faster
            return path
        parts.mkdir(exist_ok=True)
        tasks = _episodes(parts, transitions, job.episode_steps)
        _make_missing(job, tasks, workers, progress)
        for split in (1, 0):
            _merge(
                [task[0] for task in tasks if task[1] == split],
                outputs[split],
                settings,
            )
        shutil.rmtree(parts)
    return path


def _episodes(parts: Path, transitions: int, episode_steps: int) -> list[_Task]:
    """Return the episodes of the training data (split 0) and the validation data (split 1)."""
    tasks = []
    for split, count in enumerate((transitions, max(1, transitions // 10))):
        for index, steps in enumerate(_episode_lengths(count, episode_steps)):
            tasks.append((parts / f"{split}-{index}-{steps}.npz", split, index, steps))
    return tasks


def _make_missing(job: _Job, tasks: list[_Task], workers: int, progress: bool) -> None:
    """Collect the episodes that have no file yet, with a progress bar over all episodes."""
    missing = [task for task in tasks if not task[0].exists()]
    total = sum(steps for *_, steps in tasks)
    done = total - sum(steps for *_, steps in missing)
    with Counter(
        job.dataset,
        total,
        initial=done,
        unit=" transitions",
        unit_scale=True,
        disable=not progress,
    ) as bar:
        if missing:
            _collect_missing(job, missing, workers, bar)


def _check_and_collect(
    job: _Job, folder: Path | str, transitions: int, workers: int | None, **kwargs
) -> Path:
    """Check the numbers and the folder, then collect; raise UserError."""
    workers = (os.cpu_count() or 1) if workers is None else workers
    counts = {
        "transitions": transitions,
        "workers": workers,
        "episode_steps": job.episode_steps,
    }
    for flag, value in counts.items():
        if value <= 0:
            raise UserError(f"--{flag} must be positive, not {value}")
    if job.seed < 0:
        raise UserError(f"--seed must not be negative, it is {job.seed}")
    folder = expanded(folder)
    try:
        return _collect(job, folder, transitions, workers, **kwargs)
    except OSError as error:
        raise UserError(
            f"--ogbench_dataset_dir: cannot write to {folder} ({error.strerror or error})"
        ) from error


def _ogbench_dataset(env_name: str) -> str:
    if is_user_env(env_name):
        raise UserError(
            f"--env_name: data can be made for OGBench alone; {env_name} needs"
            " --dataset=FILE.npz"
        )
    return dataset_name(env_name)


def collect(
    env_name: str,
    path_dir: Path | str,
    transitions: int = 1_000_000,
    workers: int | None = None,
    seed: int = 0,
    progress: bool = True,
    overwrite: bool = False,
    episode_steps: int | None = None,
) -> Path:
    """Collect '<dataset>-v0.npz' with OGBench's oracles, and a tenth as much in '-val.npz'.

    A file with the same settings is kept. Raises UserError if OGBench has no oracle, the folder
    cannot be written, another file has that name, or a worker dies (the same call resumes).

    Args:
        env_name: a task, domain or dataset; 'play', 'noisy' or 'navigate' selects the oracle.
        path_dir: the folder of the two files.
        transitions: the number of transitions in the training file.
        workers: processes; None: one per core. The data does not depend on it.
        seed: determines the data.
        progress: whether to show a bar.
        overwrite: whether to replace existing files.
        episode_steps: transitions of an episode; None: as in OGBench's own datasets.

    Returns:
        The training file.
    """
    dataset = _ogbench_dataset(env_name)
    kind = dataset.rpartition("-")[2]
    if not has_oracle(dataset):
        raise UserError(
            f"--env_name: {dataset} cannot be made here, it needs OGBench's expert policies;"
            f" download {dataset}-v0.npz and give its folder as --ogbench_dataset_dir"
        )
    if episode_steps is None:
        # as OGBench's own datasets
        episode_steps = 2000 if dataset.startswith("pointmaze-giant") else 1000
    job = _Job(dataset, kind, episode_steps, seed)
    return _check_and_collect(
        job, path_dir, transitions, workers, progress=progress, overwrite=overwrite
    )


def collect_random(
    env_name: str,
    path_dir: Path | str,
    transitions: int,
    seed: int = 0,
    episode_steps: int = 100,
    workers: int = 1,
    progress: bool = False,
    overwrite: bool = False,
) -> Path:
    """Collect the same files with random actions, to test programs in any OGBench environment.

    The arguments are those of `collect`.
    """
    job = _Job(_ogbench_dataset(env_name), "random", episode_steps, seed)
    return _check_and_collect(
        job, path_dir, transitions, workers, progress=progress, overwrite=overwrite
    )
