"""The published bases (behaviour-cloned flows), one per domain of the paper; downloads them."""

from collections.abc import Iterable
from pathlib import Path

from envs.dataset_files import published_transitions
from envs.download import download
from envs.hub import Repository
from envs.tasks import DOMAINS, dataset_name
from utils.errors import UserError
from utils.files import expanded

# the value of --pretrained_actor_path for the domain's published base
PUBLISHED = "published"
REPOSITORY = "yonghoon96/trqam-bc-checkpoints"
FILE = "params_300000.pkl"
_FLAG = f"--pretrained_actor_path={PUBLISHED}"


def base_domain(env_name: str) -> str:
    """Return the domain of a task's base; raise UserError if none is published."""
    domain = dataset_name(env_name)
    if domain not in DOMAINS:
        known = ", ".join(DOMAINS)
        fault = f"there is no published base of {domain}, only of {known}"
        raise UserError(f"{_FLAG}: {fault}; leave the flag out to train one")
    return domain


def check_published(path: str | None, datasets: Iterable[str]) -> None:
    """Raise UserError if `path` is PUBLISHED and a dataset has no published base."""
    if path == PUBLISHED:
        for dataset in datasets:
            base_domain(dataset)


def base_path(env_name: str, dataset_dir: Path | str) -> Path:
    """Return the local path of the base of a task's domain, in the data folder."""
    return expanded(dataset_dir) / "bases" / base_domain(env_name) / FILE


def base_source(env_name: str) -> str:
    """Return the repository and domain of a task's base; it names no local path."""
    return f"{REPOSITORY}/{base_domain(env_name)}"


def base_data(env_name: str) -> str:
    """Describe the data that the base of a task's domain was cloned from."""
    return f"{published_transitions(env_name) // 1_000_000}M transitions"


def published_base(env_name: str, dataset_dir: Path | str) -> Path:
    """Return the file of the base of a task's domain; download it if it is missing.

    Raises UserError if the task has no published base or the download fails.
    """
    domain = base_domain(env_name)
    path = base_path(env_name, dataset_dir)
    if path.is_file():
        return path
    repository = Repository(REPOSITORY)
    name = base_name(domain, repository)
    try:
        return download(name, path, [repository])
    except (UserError, OSError) as error:
        command = f"python scripts/download.py --env_name={domain} --base"
        raise UserError(
            f"{_FLAG}: {error}; where there is a network: {command} "
            f"--ogbench_dataset_dir={dataset_dir}, or bring {repository.url(name)} to {path}"
        ) from error


def base_name(domain: str, repository: Repository) -> str:
    """Return the path of a domain's base in the repository.

    Its folder has the domain's name or a similar one. Raises UserError, which lists the
    folders, if there is not exactly one.
    """
    if repository.listing is None:
        return f"{domain}/{FILE}"
    bases = sorted(path for path in repository.listing if path.endswith(f"/{FILE}"))
    found = _bases_of(domain, bases)
    if len(found) == 1:
        return found[0]
    folders = (
        ", ".join(path.removesuffix(f"/{FILE}") for path in found or bases) or "none"
    )
    fault = (
        f"{repository} has {len(found) or 'no'} bases of {domain} (there: {folders})"
    )
    remedy = (
        "bring the file and name it in the flag, or leave the flag out to train one"
    )
    raise UserError(f"{_FLAG}: {fault}; {remedy}")


def _bases_of(domain: str, bases: list[str]) -> list[str]:
    """Return the bases in a folder of the domain's name, or else of a similar name."""
    for fits in (_is_folder, _is_called, _begins_with):
        if found := [path for path in bases if fits(path, domain)]:
            return found
    return []


def _is_folder(path: str, domain: str) -> bool:
    """Whether the folder is exactly the domain's name."""
    return path == f"{domain}/{FILE}"


def _is_called(path: str, domain: str) -> bool:
    """Whether a folder has the domain's name, with or without 'play' or 'navigate'."""
    return bool({domain, domain.rpartition("-")[0]} & set(path.split("/")[:-1]))


def _begins_with(path: str, domain: str) -> bool:
    """Whether a folder has the domain's name plus a suffix."""
    prefixes = tuple(f"{domain}{mark}" for mark in "-_.")
    return any(folder.startswith(prefixes) for folder in path.split("/"))
