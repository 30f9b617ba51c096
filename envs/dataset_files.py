"""The files of a dataset: where they are, and how to download those that are missing."""

import shlex
from pathlib import Path
from typing import NamedTuple

from envs import own_files, robomimic_data
from envs.download import HOSTS, REPOSITORIES, Host, download, open_hosts
from envs.hub import Repository, endpoint
from envs.tasks import (
    dataset_name,
    folder_flag,
    has_oracle,
    is_ogbench,
    is_robomimic,
    is_user_env,
)
from utils.errors import UserError
from utils.files import expanded
from utils.messages import say

DATASET_DIR = "~/.ogbench/data"
DATASET_DIRS = {
    "ogbench_dataset_dir": DATASET_DIR,
    "robomimic_dataset_dir": robomimic_data.DATASET_DIR,
}
"""The default of each flag for a folder of data."""

# How many files of a '<dataset>-100m-v0' release are used, one million transitions each.
SHARDS = {"puzzle-4x4-play": 10, "cube-triple-play": 10, "cube-quadruple-play": 100}

INCOMPLETE = ".incomplete"  # marks a folder whose shards are not all downloaded yet


def needs_data(env_name: str) -> UserError:
    """Return the error for a user's environment without a dataset."""
    return UserError(f"--dataset: {env_name} needs its data as --dataset=FILE.npz")


def find_dataset(env_name: str, dataset_dir: Path | str | None = None) -> Path:
    """Return the file or the folder of shards of a task's dataset; download it if missing.

    Shards ('cube-triple-play-v0-000.npz', ...) lie in '<dataset>-100m-v0' or in `dataset_dir`
    itself. Raises UserError, with the remedy, if the dataset is missing and cannot be
    downloaded, as that of a task of robomimic.

    Args:
        env_name: the task.
        dataset_dir: the folder of the data; None for the default.
    """
    if is_user_env(env_name):
        raise needs_data(env_name)
    name = dataset_name(env_name)
    flag = folder_flag(name)
    folder = expanded(dataset_dir or DATASET_DIRS[flag], f"--{flag}")
    if folder.is_file():
        raise UserError(
            f"--{flag}: {folder} is a file; give its folder, or --dataset={folder}"
        )
    stored = stored_dataset(name, folder)
    if stored is None and is_robomimic(name):
        raise robomimic_data.missing_file(name, folder)
    return stored or fetch_dataset(name, folder)


def stored_dataset(name: str, folder: Path) -> Path | None:
    """Return the dataset's file or folder of shards below `folder`; None if it is missing.

    If both exist, the folder wins for datasets published as shards, else the file.
    """
    if is_robomimic(name):
        file = robomimic_data.file_of(name, folder)
        return file if file.exists() else None
    single = folder / f"{name}-v0.npz"
    in_shards = name in SHARDS or name in REPOSITORIES
    if single.exists() and not in_shards:
        return single
    for candidate in (folder / f"{name}-100m-v0", folder / f"{name}-10m-v0", folder):
        if (candidate / INCOMPLETE).exists():
            continue
        shards = shards_in(candidate, shard_pattern(name, candidate))
        if len(shards) >= SHARDS.get(name, 1):
            return candidate
    return single if single.exists() else None


def dataset_files(
    env_name: str, dataset_dir: Path | str, dataset_path: Path | str | None
) -> list[Path]:
    """Return the files that `load_dataset` would read, [] if they are missing.

    Nothing is downloaded. The arguments are those of `load_dataset`.
    """
    source: Path | None
    if dataset_path is not None:
        source = expanded(dataset_path)
    elif is_user_env(env_name):
        return []
    else:
        source = stored_dataset(dataset_name(env_name), expanded(dataset_dir))
    if source is None or not source.exists():
        return []
    if not source.is_dir():
        return [source]
    if is_ogbench(env_name):
        named = dataset_path is not None
        return used_shards(dataset_name(env_name), source, named)
    minari = own_files.minari_file(source)
    return [minari] if minari else own_shards(source)


def own_shards(folder: Path) -> list[Path]:
    """Return the files of a folder of a user's own data, in order."""
    return sorted(
        path for path in folder.iterdir() if path.suffix in own_files.SUFFIXES
    )


def published_transitions(env_name: str) -> int:
    """Return how many transitions of a task's dataset the published results use."""
    name = dataset_name(env_name)
    return 1_000_000 * SHARDS.get(name, 10 if name in REPOSITORIES else 1)


def shard_pattern(name: str, folder: Path) -> str:
    """Return the glob pattern of a dataset's shards in a folder.

    In a folder named after the dataset every npz file is a shard; in any other folder only
    files with the dataset's name and a number are.
    """
    return (
        "*.npz"
        if folder.name.startswith(f"{name}-")
        else f"{name}-*[0-9][0-9][0-9].npz"
    )


def shards_in(folder: Path, pattern: str, limit: int | None = None) -> list[Path]:
    """Return the first `limit` training shards in a folder, in order; None for all of them."""
    shards = [
        path for path in folder.glob(pattern) if not path.name.endswith("-val.npz")
    ]
    return sorted(shards)[:limit]


def used_shards(name: str, folder: Path, named: bool) -> list[Path]:
    """Return the training shards that a run reads from a folder of OGBench's, in order.

    Args:
        name: the dataset.
        folder: the folder.
        named: whether the user named it. Then all its shards are used, else as many as the
            paper uses.
    """
    if named:
        return shards_in(folder, "*.npz")
    return shards_in(folder, shard_pattern(name, folder), SHARDS.get(name))


def _how_to_get(name: str, folder: Path) -> str:
    missing = f"the data of {name} is not in {folder} and cannot be downloaded"
    flag = shlex.quote(f"--ogbench_dataset_dir={folder}")
    fetch = f"python scripts/download.py --env_name={name} --data {flag}"
    if has_oracle(name):
        many = f" --transitions={published_transitions(name)}" if name in SHARDS else ""
        command = f"python scripts/make_data.py --env_name={name} {flag}{many}"
        return f"{missing}; make it: {command}, or fetch it where there is a network: {fetch}"
    if name in REPOSITORIES:
        source = f"{endpoint()}/{REPOSITORIES[name]} to {folder}/{name}-10m-v0"
    else:
        source = f"{HOSTS[0]}/{name}-v0.npz to {folder}"
    return (
        f"{missing}, and scripts/make_data.py cannot make it (that takes OGBench's expert"
        f" policies); fetch it where there is a network: {fetch}, or bring {source}"
    )


class Published(NamedTuple):
    """A file of a published dataset: its name on each of the hosts, and its local path."""

    name: str
    path: Path
    hosts: list[Host]


def stored_shards(name: str, folder: Path) -> list[Published]:
    """Return the files of a dataset of shards that exists locally; [] if it does not."""
    stored = stored_dataset(name, folder)
    hosts = _hosts_of(name)
    if stored is None or not stored.is_dir():
        return []
    shards = shards_in(stored, shard_pattern(name, stored))
    return [
        Published(f"{_subfolder(name)}/{path.name}", path, hosts) for path in shards
    ]


def published_files(name: str, folder: Path) -> list[Published]:
    """Return the files of a dataset, with their paths below `folder` once they are downloaded.

    Raises UserError if the files have to be listed by a repository and that request fails.
    """
    hosts = _hosts_of(name)
    subfolder = _subfolder(name)
    if name in SHARDS:
        names = [
            f"{subfolder}/{name}-v0-{index:03d}.npz" for index in range(SHARDS[name])
        ]
    elif name in REPOSITORIES:
        repositories = [host for host in hosts if isinstance(host, Repository)]
        names = _listed_names(subfolder, repositories)
        if not names:
            failures = "; ".join(f"{host}: {host.fault()}" for host in repositories)
            raise _unavailable(name, folder, failures)
    else:
        names = [f"{name}-v0.npz"]
    return [
        Published(file, folder / subfolder / Path(file).name, hosts) for file in names
    ]


def _listed_names(folder: str, repositories: list[Repository]) -> list[str]:
    """Return the npz files of the first repository that lists any there; [] if none does."""
    for repository in repositories:
        if names := repository.names(folder):
            return names
    return []


def _subfolder(name: str) -> str:
    """Return the folder of a dataset's shards, locally and on hosts; "." for a single file."""
    if name in SHARDS:
        return f"{name}-100m-v0"
    return f"{name}-10m-v0" if name in REPOSITORIES else "."


def _hosts_of(name: str) -> list[Host]:
    hosts = open_hosts(HOSTS)
    if name not in REPOSITORIES:
        return hosts
    own = Repository(REPOSITORIES[name], folder=_subfolder(name))
    return [own, *(host for host in hosts if isinstance(host, Repository))]


def fetch_dataset(name: str, folder: Path) -> Path:
    """Download the missing files of a dataset; return its path, as `find_dataset` does.

    Raises UserError, with the remedy, if a download fails.
    """
    files = published_files(name, folder)
    target = files[0].path.parent
    if name in SHARDS:
        many = f"{SHARDS[name]} files of a million transitions"
        say(f"{name} is {many}, fetched to {target} where they are missing")
    try:
        # Without a network, only this mark shows that files of a repository are missing.
        mark = target / INCOMPLETE
        if name in REPOSITORIES and not all(file.path.exists() for file in files):
            target.mkdir(parents=True, exist_ok=True)
            mark.touch()
        for file in files:
            download(*file)
        mark.unlink(missing_ok=True)
    except UserError as error:
        raise _unavailable(name, folder, error) from error
    except OSError as error:
        raise UserError(
            f"--ogbench_dataset_dir: cannot write to {target} ({error.strerror or error}); make"
            " room or give another folder, and the same command resumes"
        ) from error
    return files[-1].path if target == folder else target


def _unavailable(name: str, folder: Path, why: object) -> UserError:
    return UserError(f"--ogbench_dataset_dir: {_how_to_get(name, folder)} [{why}]")
