"""Download published bases and datasets, for jobs on machines without a network.

    python scripts/download.py --env_name=puzzle-4x4                    # the base and the data
    python scripts/download.py --env_name=all50 --base                  # the ten bases
    python scripts/download.py --env_name=scene,cube-double --dry_run   # what is missing

Files are stored where training looks for them. Existing files are compared with the published
checksums. The same command resumes an interrupted transfer. HF_ENDPOINT and HF_TOKEN mean what
they mean to huggingface_hub.
"""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from absl import flags
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from envs import robomimic_data  # noqa: E402
from envs.bases import (  # noqa: E402
    PUBLISHED,
    REPOSITORY,
    base_domain,
    base_name,
    base_path,
    check_published,
    published_base,
)
from envs.dataset_files import (  # noqa: E402
    DATASET_DIR,
    Published,
    fetch_dataset,
    published_files,
    stored_shards,
)
from envs.download import measure  # noqa: E402
from envs.hub import Repository, endpoint  # noqa: E402
from envs.tasks import (  # noqa: E402
    DOMAINS,
    dataset_name,
    is_robomimic,
    is_user_env,
    resolve_env_name,
)
from utils.command_line import (  # noqa: E402
    refuse_words,
    report_error,
    run_program,
    user_errors_of_flags,
)
from utils.errors import UserError  # noqa: E402
from utils.files import expanded, sha256_of  # noqa: E402


def define() -> flags.FlagValues:
    """Define the flags of this script."""
    fv = flags.FlagValues()
    text = "tasks and domains, comma-separated, or all50"
    flags.DEFINE_string("env_name", None, text, flag_values=fv)
    text = "fetch the published behaviour-cloned bases; without --base and --data, both"
    flags.DEFINE_boolean("base", False, text, flag_values=fv)
    flags.DEFINE_boolean("data", False, "fetch the datasets", flag_values=fv)
    text = "where training looks for data; bases go into its folder 'bases'"
    flags.DEFINE_string("ogbench_dataset_dir", DATASET_DIR, text, flag_values=fv)
    flags.DEFINE_boolean(
        "dry_run", False, "list what is missing, with sizes", flag_values=fv
    )
    return fv


def parse(argv: list[str]) -> tuple[flags.FlagValues, list[str]]:
    """Parse a command line; return the flags and the datasets. Raises UserError."""
    fv = define()
    with user_errors_of_flags():
        _, *rest = fv(argv)
    refuse_words(rest)
    if not fv.env_name:
        raise UserError("--env_name is missing: give tasks or domains, or all50")
    folder = fv.ogbench_dataset_dir
    if expanded(folder, "--ogbench_dataset_dir").is_file():
        raise UserError(f"--ogbench_dataset_dir={folder} is a file; give a folder")
    endpoint()  # raises UserError for an invalid address
    datasets = datasets_of(fv.env_name)
    check_published(PUBLISHED if fv.base else None, datasets)
    return fv, datasets


def datasets_of(env_names: str) -> list[str]:
    """Return the datasets of comma-separated tasks, each once; raise UserError."""
    tasks = [
        task for name in env_names.split(",") for task in resolve_env_name(name.strip())
    ]
    for task in filter(is_user_env, tasks):
        raise UserError(
            f"--env_name: {task} is your own, and nothing of it is published"
        )
    for task in filter(is_robomimic, tasks):
        raise robomimic_data.missing_file(task, expanded(robomimic_data.DATASET_DIR))
    return list(dict.fromkeys(map(dataset_name, tasks)))


def base_of(dataset: str, folder: Path, dry_run: bool) -> int:
    """Download a base, or check an existing one; return the missing bytes of a dry run.

    Raises UserError if the download fails, or another file has the base's path.

    Args:
        dataset: the dataset of the base.
        folder: the data folder.
        dry_run: whether to download nothing.
    """
    path = base_path(dataset, folder)
    if not path.exists() and not dry_run:
        published_base(dataset, folder)
        return 0
    repository = Repository(REPOSITORY)
    file = Published(base_name(base_domain(dataset), repository), path, [repository])
    if not path.exists():
        return missing(file)
    if not there_already(file):
        raise UserError(
            f"{path} is not the published base; move it away to fetch that one"
        )
    return 0


def data_of(dataset: str, folder: Path, dry_run: bool) -> int:
    """Download the missing files of a dataset; return the missing bytes of a dry run.

    Raises UserError if a download fails. The arguments are those of `base_of`.
    """
    files = stored_shards(dataset, folder) or published_files(dataset, folder)
    wanted = [file for file in files if not file.path.exists()]
    for file in files:
        if file.path.exists():
            there_already(file)  # data that was collected here is allowed too
    if wanted and not dry_run:
        fetch_dataset(dataset, folder)
    return sum(map(missing, wanted)) if dry_run else 0


def there_already(file: Published) -> bool:
    """Print the size and checksum of a file; return False if it is not the published one."""
    repositories = [host for host in file.hosts if isinstance(host, Repository)]
    sums = {host.find(file.name).known.sha256 for host in repositories} - {None}
    found = sha256_of(file.path)
    size = size_of(file.path.stat().st_size)
    words = "not a published file" if sums else "no published sum to compare with"
    words = "as published" if found in sums else words
    print(f"{file.path}: there already, {size}, sha256 {found:.12}, {words}")
    return found in sums or not sums


def missing(file: Published) -> int:
    """Print the size and host of a missing file; return its size in bytes.

    Raises UserError if no host has it.
    """
    size, host = measure(file.name, file.hosts)
    print(
        f"{file.path}: missing, {size_of(size) if size else 'of unknown size'} at {host}"
    )
    return size or 0


def size_of(count: int) -> str:
    """Format a number of bytes: '1.23MB'."""
    return tqdm.format_sizeof(count, "B")


def steps(fv: flags.FlagValues, datasets: list[str]) -> Iterator[tuple]:
    """Yield (function, dataset) for every base and dataset to download."""
    both = not (fv.base or fv.data)
    for dataset in datasets:
        if (fv.base or both) and dataset in DOMAINS:
            yield base_of, dataset
        elif both:
            print(f"{dataset}: there is no published base; training clones one")
        if fv.data or both:
            yield data_of, dataset


def fetch(fv: flags.FlagValues, datasets: list[str]) -> int:
    """Download everything, print errors and the training command; return the exit code."""
    folder = expanded(fv.ogbench_dataset_dir)
    total = 0
    code = 0
    for get, dataset in steps(fv, datasets):
        try:
            total += get(dataset, folder, fv.dry_run)
        except (UserError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            code = 1
    if fv.dry_run:
        more = ", besides what could not be looked up (errors above)" if code else ""
        print(
            f"missing: {size_of(total)}{more}; without --dry_run this command fetches it"
        )
    elif not code:
        print(f"to train, with or without a network:\n{training(fv, datasets)}")
    return code


def training(fv: flags.FlagValues, datasets: list[str]) -> str:
    """Return the command that trains with the downloaded files."""
    words = [
        "python",
        "main.py",
        f"--env_name={fv.env_name}",
        "--agent=agents/trqam.py",
    ]
    if (fv.base or not fv.data) and set(datasets) <= set(DOMAINS):
        words.append(f"--pretrained_actor_path={PUBLISHED}")
    if fv["ogbench_dataset_dir"].present:
        words.append(f"--ogbench_dataset_dir={fv.ogbench_dataset_dir}")
    return shlex.join(words)


def main(argv: list[str]) -> int:
    """Run the script; print errors as one line. Returns the exit code."""
    if {"--help", "-help", "-h"} & set(argv):
        print(__doc__, define().get_help(), sep="\n")
        return 0
    try:
        return fetch(*parse(argv))
    except (UserError, OSError) as error:
        return report_error(error)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        return 130


if __name__ == "__main__":
    run_program(lambda: main(sys.argv))
