"""Collects offline data with scripted policies.

OGBench's oracles make files that `ogbench` loads; the script in envs/robomimic_script.py makes
one in robomimic's layout. Every episode is seeded by (seed, split, index), so the data
does not depend on the number of workers. Every episode is first written to its own file, so an
interrupted run resumes.
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
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import gymnasium
import numpy as np

from envs import robomimic_data
from envs.arrays import Arrays, read_npz
from envs.ogbench import make_raw
from envs.oracles import BEHAVIOURS, ROW_TYPES, Behaviour, run_episode
from envs.tasks import (
    dataset_name,
    folder_flag,
    has_oracle,
    is_manipulation,
    is_robomimic,
    is_user_env,
    world_name,
)
from envs.workers import cores
from utils.errors import UserError
from utils.files import exclusive_folder, expanded, put_in_place
from utils.main_guard import (
    UNGUARDED,
    check_program,
    leave_if_unguarded,
    unguarded_program,
)
from utils.progress import Counter

SCRIPT_STEPS = 80  # the limit of a scripted demonstration


@dataclass(frozen=True)
class _Job:
    """The settings that, with the simulator's version, determine every episode."""

    dataset: str
    behaviour: str
    episode_steps: int
    seed: int


class _Task(NamedTuple):
    """An episode to collect."""

    part: Path
    """Its file."""
    split: int
    """0 for training, 1 for validation data."""
    number: int
    """Its number in the split."""
    counts_as: int
    """Its steps; 1 for a demonstration, whose length is not known before."""


_Record = Callable[[int, int, int], Arrays]
"""(seed, number, counts_as) -> the arrays of an episode; see `_Task`."""


def _make_world(job: _Job) -> tuple[gymnasium.Env, Behaviour]:
    """Make the environment and the behaviour that acts in it."""
    kwargs: dict = {
        "terminate_at_goal": False,
        "max_episode_steps": job.episode_steps + 1,
    }
    if is_manipulation(job.dataset):
        kwargs["mode"] = "data_collection"
    env = make_raw(f"{world_name(job.dataset)}-v0", **kwargs)
    return env, BEHAVIOURS[job.behaviour](env, job.dataset)


def _recorder(job: _Job) -> _Record:
    """Make the environment of a job; return the function that records an episode in it."""
    if is_robomimic(job.dataset):
        from envs.robomimic_script import Demonstrator

        demonstrator = Demonstrator(job.dataset, job.behaviour)
        return lambda seed, index, _: demonstrator.record(
            seed, index, job.episode_steps
        )
    env, behaviour = _make_world(job)
    return lambda seed, _, steps: run_episode(env, behaviour, seed, steps)


_worker: tuple[_Job, _Record]


def _start_worker(job: _Job) -> None:
    """Make the environment of this worker process, once."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _worker = job, _recorder(job)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_part(task: _Task) -> int:
    """Collect one episode into its file, atomically; return its `counts_as`."""
    job, record = _worker
    entropy = [job.seed, task.split, task.number]
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    temporary = task.part.with_suffix(f".{os.getpid()}.tmp")
    episode = record(seed, task.number, task.counts_as)
    with temporary.open("wb") as file:
        np.savez(file, **episode)  # type: ignore[arg-type]
    put_in_place(temporary, task.part)
    return task.counts_as


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
            # they differ in the number of rows alone
            shapes = shapes or {name: episode[name].shape[1:] for name in episode.files}
            rows += len(episode["terminals"])
    count = len(parts) * len(shapes)
    bar = Counter(f"writing {path.name}", count, kept=False, unit=" arrays")
    with bar, zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
        for name, shape in shapes.items():
            empty = np.empty((0, *shape), ROW_TYPES[name])
            header = np.lib.format.header_data_from_array_1_0(empty)
            header["shape"] = (rows, *shape)
            with archive.open(
                zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True
            ) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for part in parts:
                    with np.load(part) as episode:
                        member.write(episode[name].tobytes())
                    bar.update()
        with archive.open(zipfile.ZipInfo("collection.npy"), "w") as member:
            np.lib.format.write_array(
                member, np.array(json.dumps(settings)), allow_pickle=False
            )
    put_in_place(temporary, path)


def collection_settings(path: Path) -> dict | None:
    """Return the settings with which a file was collected here; None for any other file."""
    if path.suffix == ".hdf5":
        return robomimic_data.made_settings(path)
    try:
        stored = read_npz(
            path, str(path), lambda names: [n for n in names if n == "collection"]
        )
        return json.loads(str(stored["collection"])) if stored else None
    except (ValueError, UserError):
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
            [pool.submit(_write_part, task) for task in missing]
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


def _exists_already(outputs: list[Path], settings: dict, flag: str) -> bool:
    """Whether all files exist already with these settings.

    Raises UserError, which begins with the flag, if a file exists with other settings.
    """
    present = [output for output in outputs if output.exists()]
    for output in present:
        stored = collection_settings(output)
        if stored != settings:
            differing = _differences(stored or {}, settings)
            fault = (
                f"with other settings ({differing})" if differing else "from elsewhere"
            )
            raise UserError(
                f"--{flag}: {output} exists, {fault}; give another folder, or --overwrite"
            )
    return len(present) == len(outputs)


def _differences(stored: dict, settings: dict) -> str:
    """List the settings of a file that differ: 'transitions: 20 there, 40 now'."""
    names = [
        name for name in settings if name in stored and stored[name] != settings[name]
    ]
    return "; ".join(
        f"{name}: {stored[name]} there, {settings[name]} now" for name in names
    )


def _collect(
    job: _Job, folder: Path, amount: int, workers: int, overwrite: bool
) -> Path:
    """Collect the files of a dataset unless they exist; return the training file."""
    simulator = "robosuite" if is_robomimic(job.dataset) else "ogbench"
    versions = {
        name: importlib.metadata.version(name) for name in ("mujoco", simulator)
    }
    settings = asdict(job) | {_unit(job): amount} | versions
    outputs = _outputs(job, folder)
    flag = folder_flag(job.dataset)
    name = hashlib.sha256(json.dumps(asdict(job) | versions).encode()).hexdigest()[:8]
    parts = outputs[0].parent / f".{outputs[0].stem}-{name}"
    if not overwrite and _exists_already(outputs, settings, flag):
        _remove_old(parts)
        return outputs[0]
    with exclusive_folder(parts):
        # unless another process has been faster
        if overwrite or not _exists_already(outputs, settings, flag):
            tasks = _episodes(job, parts, amount)
            _make_missing(job, tasks, workers)
            for split, output in reversed(list(enumerate(outputs))):
                written = [task.part for task in tasks if task.split == split]
                _write(job, written, output, settings)
        shutil.rmtree(parts)
    return outputs[0]


def _remove_old(parts: Path) -> None:
    """Remove the episodes of a process that was killed before it did; wait for one at work."""
    if parts.exists():
        with exclusive_folder(parts):
            shutil.rmtree(parts, ignore_errors=True)


def _unit(job: _Job) -> str:
    """Return what a dataset is measured in: transitions, or demonstrations for robomimic."""
    return "demonstrations" if is_robomimic(job.dataset) else "transitions"


def _outputs(job: _Job, folder: Path) -> list[Path]:
    """Return the training file, and for OGBench the validation file."""
    if is_robomimic(job.dataset):
        return [robomimic_data.file_of(job.dataset, folder)]
    return [folder / f"{job.dataset}-v0{mark}.npz" for mark in ("", "-val")]


def _write(job: _Job, parts: list[Path], output: Path, settings: dict) -> None:
    """Write the episodes of a split into its file, atomically.

    Args:
        job: the job.
        parts: the episode files, in order.
        output: the file to write.
        settings: stored in the file, see `collection_settings`.
    """
    if is_robomimic(job.dataset):
        from envs.robomimic_script import env_args_of

        env_args = env_args_of(job.dataset)
        complete = parts[0].with_name("complete.tmp")
        robomimic_data.write_demonstrations(parts, complete, env_args, settings)
        put_in_place(complete, output)
    else:
        _merge(parts, output, settings)


def _episodes(job: _Job, parts: Path, amount: int) -> list[_Task]:
    """Return the episodes of the training data (split 0) and the validation data (split 1)."""
    if is_robomimic(job.dataset):
        return [_Task(parts / f"{index}.npz", 0, index, 1) for index in range(amount)]
    tasks = []
    for split, count in enumerate((amount, max(1, amount // 10))):
        for index, steps in enumerate(_episode_lengths(count, job.episode_steps)):
            part = parts / f"{split}-{index}-{steps}.npz"
            tasks.append(_Task(part, split, index, steps))
    return tasks


def _make_missing(job: _Job, tasks: list[_Task], workers: int) -> None:
    """Collect the episodes that have no complete file yet, with a progress bar over all."""
    missing = [task for task in tasks if not zipfile.is_zipfile(task.part)]
    total = sum(task.counts_as for task in tasks)
    done = total - sum(task.counts_as for task in missing)
    unit = f" {_unit(job)}"
    with Counter(job.dataset, total, initial=done, unit=unit, unit_scale=True) as bar:
        if missing:
            _collect_missing(job, missing, workers, bar)


def _check_and_collect(
    job: _Job, folder: Path | str, amount: int, workers: int | None, overwrite: bool
) -> Path:
    """Check the numbers and the folder, then collect; raise UserError."""
    if is_robomimic(job.dataset):
        robomimic_data.require_packages(f"--env_name={job.dataset}")
    workers = cores() if workers is None else workers
    counts = {
        _unit(job): amount,
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
        return _collect(job, folder, amount, workers, overwrite)
    except OSError as error:
        raise UserError(
            f"--{folder_flag(job.dataset)}: cannot write to {folder}"
            f" ({error.strerror or error})"
        ) from error


def _dataset_to_make(env_name: str) -> str:
    if env_name in ("all50", "robomimic") or "," in env_name:
        raise UserError(f"--env_name={env_name}: give one dataset, such as scene-play")
    if is_user_env(env_name):
        raise UserError(
            f"--env_name: data can be made for OGBench and robomimic's lift alone; {env_name}"
            " needs --dataset=FILE.npz"
        )
    return dataset_name(env_name)


def collect(
    env_name: str,
    path_dir: Path | str,
    transitions: int = 1_000_000,
    workers: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    episode_steps: int | None = None,
    demonstrations: int = 200,
) -> Path:
    """Collect '<dataset>-v0.npz' with OGBench's oracles, and a tenth as much in '-val.npz'.

    For robomimic's lift, collect '<task>/<kind>/low_dim_v15.hdf5' with a script. A file with
    the same settings is kept. Raises UserError if there is no oracle or script, the folder
    cannot be written, another file has that name, or a worker dies (the same call resumes).

    Args:
        env_name: a task, domain or dataset; 'play', 'noisy' or 'navigate' selects the oracle.
        path_dir: the folder of the files.
        transitions: the number of transitions in the training file, for OGBench.
        workers: processes; None: one per core. The data does not depend on it.
        seed: determines the data.
        overwrite: whether to replace existing files.
        episode_steps: transitions of an episode, at most for robomimic; None: as in OGBench's
            own datasets, or as many as the script needs.
        demonstrations: how many there are in a file of robomimic.

    Returns:
        The training file.
    """
    dataset = _dataset_to_make(env_name)
    if not has_oracle(dataset) and is_robomimic(dataset):
        raise UserError(
            f"--env_name: {dataset} cannot be made here, there is a script for lift alone;"
            " robomimic's own downloader fetches it"
        )
    if not has_oracle(dataset):
        raise UserError(
            f"--env_name: {dataset} cannot be made here, it needs OGBench's expert policies;"
            f" download {dataset}-v0.npz and give its folder as --ogbench_dataset_dir"
        )
    job = _Job(
        dataset,
        "script" if is_robomimic(dataset) else dataset.rpartition("-")[2],
        _usual_steps(dataset) if episode_steps is None else episode_steps,
        seed,
    )
    amount = demonstrations if is_robomimic(dataset) else transitions
    return _check_and_collect(job, path_dir, amount, workers, overwrite)


def _usual_steps(dataset: str) -> int:
    """Return the transitions of an episode, as in OGBench's own datasets or for a script."""
    if is_robomimic(dataset):
        return SCRIPT_STEPS
    return 2000 if dataset.startswith("pointmaze-giant") else 1000


def collect_random(
    env_name: str, path_dir: Path | str, transitions: int, episode_steps: int = 100
) -> Path:
    """Collect the same files with random actions, to test programs in any environment.

    The arguments are those of `collect`; robomimic gets as many demonstrations as are needed
    for the transitions.
    """
    job = _Job(_dataset_to_make(env_name), "random", episode_steps, seed=0)
    amount = transitions
    if is_robomimic(job.dataset):
        amount = -(-transitions // episode_steps)
    return _check_and_collect(job, path_dir, amount, workers=1, overwrite=False)
