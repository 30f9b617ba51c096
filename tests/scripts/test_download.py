"""scripts/download.py fetches from servers on this machine that answer as the hub does."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from envs.bases import published_base
from envs.dataset_files import SHARDS, find_dataset
from scripts.download import main
from tests.envs.web import Host, Hub, sha256

ROOT = Path(__file__).resolve().parents[2]
MODELS, MIRROR = "yonghoon96/trqam-bc-checkpoints", "datasets/yonghoon96/ogbench-mirror"
BASE = (ROOT / "tests" / "published" / "numpy2" / "params_300000.pkl").read_bytes()
SIZE = f"{len(BASE) / 1000:.2f}kB"


def archive(seed: int = 0) -> bytes:
    file = io.BytesIO()
    np.savez(file, observations=np.random.default_rng(seed).normal(size=(100, 30)))
    return file.getvalue()


def sum_of(content: bytes) -> str:
    """Return a checksum as the script prints it."""
    return f"sha256 {sha256(content):.12}"


@pytest.fixture
def hub(monkeypatch):
    """Start a hub with base and data of scene-play, and its storage, to which it redirects."""
    hub = Hub()
    hub.storage = Host()
    hub.repositories[MODELS] = {"scene-play/params_300000.pkl": BASE}
    hub.repositories[MIRROR] = {"scene-play-v0.npz": archive()}
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setattr(
        "envs.dataset_files.HOSTS", ("http://127.0.0.1:9", f"hf://{MIRROR}")
    )
    yield hub
    hub.stop()
    hub.storage.stop()


def run(folder, *words) -> int:
    return main(["download.py", *words, f"--ogbench_dataset_dir={folder}"])


def test_base_and_data_of_a_domain_are_fetched(hub, tmp_path, capsys):
    assert run(tmp_path, "--env_name=scene") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"params_300000.pkl: {SIZE} from {hub.url[7:]}, {sum_of(BASE)} as published",
        f"scene-play-v0.npz: 24.3kB from {hub.url[7:]}, {sum_of(archive())} as published",
        "to train, with or without a network:",
        "python main.py --env_name=scene --agent=agents/trqam.py "
        f"--pretrained_actor_path=published --ogbench_dataset_dir={tmp_path}",
    ]
    hub.stop()  # training needs no network now
    assert published_base("scene", tmp_path).read_bytes() == BASE
    assert find_dataset("scene", tmp_path).read_bytes() == archive()


def test_existing_files_are_compared_with_the_published_ones(hub, tmp_path, capsys):
    assert run(tmp_path, "--env_name=scene-play-singletask-task2-v0") == 0
    capsys.readouterr()
    requests_before = len(hub.storage.requests)
    assert (
        run(tmp_path, "--env_name=scene") == 0
        and len(hub.storage.requests) == requests_before
    )
    lines = capsys.readouterr().out.splitlines()
    name = "bases/scene-play/params_300000.pkl"
    assert (
        lines[0]
        == f"{tmp_path}/{name}: there already, {SIZE}, {sum_of(BASE)}, as published"
    )
    assert lines[1].startswith(f"{tmp_path}/scene-play-v0.npz: ")
    assert lines[1].endswith("as published")

    (tmp_path / "scene-play-v0.npz").write_bytes(archive(7))  # as if by make_data.py
    assert run(tmp_path, "--env_name=scene", "--data") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f"{sum_of(archive(7))}, not a published file")
    assert lines[-1].startswith("python main.py --env_name=scene ")
    assert "published" not in lines[-1]

    (tmp_path / name).write_bytes(BASE[:-1])
    assert run(tmp_path, "--env_name=scene", "--base") == 1
    error = capsys.readouterr().err
    fault = (
        f"{tmp_path / name} is not the published base; move it away to fetch that one"
    )
    assert error == f"error: {fault}\n"


def test_existing_files_are_accepted_without_a_network(hub, tmp_path, capsys):
    assert run(tmp_path, "--env_name=scene") == 0
    capsys.readouterr()
    hub.stop()
    assert run(tmp_path, "--env_name=scene") == 0
    assert capsys.readouterr().out.count("no published sum to compare with") == 2


def test_a_dry_run_prints_sizes_and_fetches_nothing(hub, tmp_path, capsys):
    hub.repositories[MIRROR]["puzzle-3x3-play-v0.npz"] = archive(1)
    (tmp_path / "scene-play-v0.npz").write_bytes(archive())
    assert run(tmp_path, "--env_name=scene", "--dry_run") == 0
    lines = capsys.readouterr().out.splitlines()
    place = f"{tmp_path}/bases/scene-play/params_300000.pkl"
    assert lines[0] == f"{place}: missing, {SIZE} at {hub.url[7:]}/{MODELS}"
    assert lines[1].startswith(f"{tmp_path}/scene-play-v0.npz: there already, 24.3kB")
    assert lines[2] == f"missing: {SIZE}; without --dry_run this command fetches it"
    assert run(tmp_path, "--env_name=scene,puzzle-3x3", "--data", "--dry_run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"{tmp_path}/puzzle-3x3-play-v0.npz: missing, 24.3kB at")
    assert lines[2].startswith("missing: 24.3kB; ")
    assert [path.name for path in tmp_path.iterdir()] == ["scene-play-v0.npz"]
    assert hub.storage.requests == []


def test_domains_tasks_and_lists_may_be_named(hub, tmp_path, capsys):
    """all50 asks for all ten bases; a list fetches each dataset once, however it is named."""
    domains = {path.partition("/")[0] for path in hub.repositories[MODELS]}
    names = "--env_name=puzzle-3x3-play-singletask-task1-v0,scene, puzzle-3x3"
    hub.repositories[MIRROR]["puzzle-3x3-play-v0.npz"] = archive(3)
    assert run(tmp_path, names, "--data") == 0
    assert {path.name for path in tmp_path.iterdir()} == set(hub.repositories[MIRROR])
    assert capsys.readouterr().out.count("as published") == 2
    # The hub has only one of the ten bases.
    assert run(tmp_path, "--env_name=all50", "--base") == 1
    output = capsys.readouterr()
    assert (
        len(output.err.splitlines()) >= 9 and output.err.count("has no bases of") == 9
    )
    assert {path.name for path in (tmp_path / "bases").iterdir()} == domains


def test_shards_are_reported_one_by_one(hub, tmp_path, monkeypatch, printed):
    monkeypatch.setitem(SHARDS, "cube-triple-play", 2)
    folder = tmp_path / "cube-triple-play-100m-v0"
    names = [f"cube-triple-play-v0-{i:03d}.npz" for i in range(2)]
    hub.repositories[MIRROR] |= {f"{folder.name}/{name}": archive() for name in names}
    folder.mkdir()
    (folder / names[0]).write_bytes(archive())
    # The paper does not use this file.
    (tmp_path / "cube-triple-play-v0.npz").write_bytes(archive())
    assert run(tmp_path, "--env_name=cube-triple", "--data") == 0
    first, output, second, *_ = printed().out.splitlines()
    assert first.startswith(f"{folder / names[0]}: there already, 24.3kB, ")
    assert first.endswith(f"{sum_of(archive())}, as published")
    assert "2 files of a million transitions" in output
    assert second.startswith(f"{names[1]}: 24.3kB")

    for path in folder.iterdir():
        path.rename(tmp_path / path.name)
    requests_before = len(hub.storage.requests)
    assert run(tmp_path, "--env_name=cube-triple", "--data") == 0
    lines = printed().out.splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == [
        str(tmp_path / n) for n in names
    ]
    assert len(hub.storage.requests) == requests_before


def test_a_domain_without_a_published_base_gets_only_its_data(hub, tmp_path, capsys):
    hub.repositories[MIRROR]["cube-single-play-v0.npz"] = archive()
    assert run(tmp_path, "--env_name=cube-single") == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0] == "cube-single-play: there is no published base; training clones one"
    )
    assert lines[-1].startswith("python main.py --env_name=cube-single ")
    assert "published" not in lines[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--env_name is missing"),
        (["--env_name=puzle-4x4"], "the nearest name is 'puzzle-4x4'"),
        (["--env_name=cube-single", "--base"], "no published base of cube-single-play"),
        (
            ["--env_name=mine:Toy-v0"],
            "mine:Toy-v0 is your own, and nothing of it is published",
        ),
        (["--env_name=scene", "--bases"], "bases"),
        (["--env_name=scene", "data"], "'data' is not a flag"),
    ],
)
def test_a_mistake_prints_one_line(words, message, hub, tmp_path, capsys):
    assert run(tmp_path, *words) == 2
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert line.startswith("error: ") and message in line and output.out == ""
    assert hub.requests == []


def test_a_folder_that_is_a_file_is_refused(hub, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run(tmp_path / "file", "--env_name=scene") == 2
    line = f"error: --ogbench_dataset_dir={tmp_path}/file is a file; give a folder\n"
    assert capsys.readouterr().err == line


def test_a_folder_that_cannot_be_looked_into_is_one_line(hub, tmp_path, capsys):
    assert run(tmp_path / ("long" * 100), "--env_name=scene") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "File name too long" in line
    assert hub.requests == []


def test_a_file_that_fails_does_not_stop_the_others(hub, tmp_path, capsys):
    hub.damaged["scene-play/params_300000.pkl"] = BASE[:-1] + b"x"
    assert run(tmp_path, "--env_name=scene") == 1
    output = capsys.readouterr()
    assert "instead of the published" in output.err and "Traceback" not in output.err
    assert "python main.py" not in output.out
    assert {path.name for path in tmp_path.iterdir()} == set(hub.repositories[MIRROR])


def test_without_a_network_every_line_says_what_to_bring(hub, tmp_path, capsys):
    hub.stop()
    assert run(tmp_path, "--env_name=scene,antmaze-large,antmaze-giant") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6 and all("Connection refused" in line for line in lines)
    assert all("python scripts/download.py" in line for line in lines)
    assert "or bring http" in lines[0]
    assert f"to {tmp_path}/bases/scene-play/params_300000.pkl" in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_a_broken_transfer_resumes_in_the_next_process(hub, tmp_path):
    """The script runs as a process, whose exit code and last line a job script sees."""
    hub.storage.break_after = [900, 0]
    command = [
        sys.executable,
        "scripts/download.py",
        "--env_name=scene",
        "--base",
        f"--ogbench_dataset_dir={tmp_path}",
    ]

    def start():
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    broken = start()
    assert broken.returncode == 1
    assert f"broke off after 900 of {len(BASE)} bytes" in broken.stderr
    resumed = start()
    assert resumed.returncode == 0
    assert resumed.stdout.splitlines()[-1].startswith(
        "python main.py --env_name=scene "
    )
    assert [wanted for _, wanted in hub.storage.requests] == [
        None,
        "bytes=900-",
        "bytes=900-",
    ]
    assert (tmp_path / "bases/scene-play/params_300000.pkl").read_bytes() == BASE
