"""Downloads from OGBench's host and the hub: resuming, checksums, tokens, and errors."""

import errno
import io
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from envs import hub as hub_module
from envs.bases import base_domain, base_path, published_base
from envs.dataset_files import find_dataset
from envs.download import HOSTS, download, measure, open_hosts
from envs.hub import Repository, read_manifest, sum_of
from tests.envs.web import Host, Hub, sha256
from utils.errors import UserError

NAME = "cube-single-play-v0.npz"


def archive(seed: int = 0) -> bytes:
    file = io.BytesIO()
    np.savez(file, observations=np.random.default_rng(seed).normal(size=(100, 30)))
    return file.getvalue()


@pytest.fixture
def host():
    host = Host()
    yield host
    host.stop()


@pytest.fixture
def mirror():
    host = Host()
    yield host
    host.stop()


def test_a_file_is_downloaded_once(host, tmp_path):
    host.files[f"/{NAME}"] = archive()
    path = download(NAME, tmp_path / "new" / NAME, [host.url])
    assert path.read_bytes() == archive() and [
        p.name for p in path.parent.iterdir()
    ] == [NAME]
    download(NAME, path, [host.url])  # it exists already
    assert len(host.requests) == 1


def test_a_log_gets_one_line_for_each_file(host, tmp_path, capsys):
    host.files[f"/{NAME}"] = archive()
    host.break_after = [5000, 7000]
    download(NAME, tmp_path / NAME, [host.url])
    output = capsys.readouterr()
    assert (
        output.err == ""
        and output.out.startswith(f"{NAME}: ")
        and output.out.count("\n") == 1
    )


def test_a_broken_transfer_resumes_by_itself(host, tmp_path):
    host.files[f"/{NAME}"] = archive()
    host.break_after = [5000, 7000]
    path = download(NAME, tmp_path / NAME, [host.url])
    assert path.read_bytes() == archive()
    assert [wanted for _, wanted in host.requests] == [
        None,
        "bytes=5000-",
        "bytes=12000-",
    ]


def test_an_interrupted_download_is_resumed_by_the_next(host, tmp_path):
    host.files[f"/{NAME}"] = archive()
    host.break_after = [5000, 0]  # the first answer breaks off, the next one is empty
    fault = f"{NAME} could not be downloaded .*5000 of {len(archive())} bytes"
    with pytest.raises(UserError, match=fault):
        download(NAME, tmp_path / NAME, [host.url])
    (part,) = tmp_path.iterdir()
    assert part.suffix == ".part" and part.stat().st_size == 5000
    assert download(NAME, tmp_path / NAME, [host.url]).read_bytes() == archive()
    assert host.requests[-1][1] == "bytes=5000-" and len(list(tmp_path.iterdir())) == 1


def test_a_web_page_in_answer_to_a_resumed_download_replaces_nothing(host, tmp_path):
    """Such as the one that a network shows before one has logged in."""
    host.files[f"/{NAME}"] = archive()
    host.break_after = [5000, 0]
    with pytest.raises(UserError):
        download(NAME, tmp_path / NAME, [host.url])
    host.files[f"/{NAME}"] = b"<html>log in to this network first</html>"
    host.content_type, host.resumes = "text/html; charset=utf-8", False
    with pytest.raises(UserError, match="a web page came instead of the file"):
        download(NAME, tmp_path / NAME, [host.url])
    (part,) = tmp_path.iterdir()
    assert part.read_bytes() == archive()[:5000]


def test_a_complete_part_file_is_only_renamed(host, tmp_path):
    host.files[f"/{NAME}"] = archive()
    host.break_after = [len(archive()) - 1, 0]
    with pytest.raises(UserError):
        download(NAME, tmp_path / NAME, [host.url])
    (part,) = tmp_path.iterdir()
    part.write_bytes(archive())
    assert download(NAME, tmp_path / NAME, [host.url]).read_bytes() == archive()


def test_a_part_file_that_is_too_long_is_discarded(host, tmp_path):
    host.files[f"/{NAME}"] = archive()
    host.break_after = [10, 0]
    with pytest.raises(UserError):
        download(NAME, tmp_path / NAME, [host.url])
    (part,) = tmp_path.iterdir()
    part.write_bytes(archive() + b"more")
    assert download(NAME, tmp_path / NAME, [host.url]).read_bytes() == archive()


def test_a_download_starts_over_if_the_host_cannot_resume(host, tmp_path):
    host.files[f"/{NAME}"] = archive()
    host.break_after, host.resumes = [5000], False
    assert download(NAME, tmp_path / NAME, [host.url]).read_bytes() == archive()


def test_the_mirror_is_asked_next_and_bytes_of_two_hosts_are_not_mixed(
    host, mirror, tmp_path
):
    host.files[f"/{NAME}"], mirror.files[f"/{NAME}"] = archive(0), archive(1)
    host.break_after = [5000, 0]
    path = download(NAME, tmp_path / NAME, [host.url, mirror.url])
    assert path.read_bytes() == archive(1) and mirror.requests == [(f"/{NAME}", None)]
    assert paths_in(tmp_path) == [NAME]  # the first host's bytes are deleted


def test_the_mirror_is_asked_for_a_file_that_the_host_lacks(host, mirror, tmp_path):
    mirror.files[f"/{NAME}"] = archive()
    path = download(NAME, tmp_path / NAME, [host.url, mirror.url])
    assert path.read_bytes() == archive()
    assert len(host.requests) == 1  # a 404 is not asked for again


@pytest.mark.parametrize(
    "body",
    [
        b"<html>try again later</html>",
        archive()[:-30],
        archive()[:20000] + bytes([archive()[20000] ^ 1]) + archive()[20001:],
    ],
    ids=["a web page", "truncated", "a flipped bit"],
)
def test_an_incomplete_or_damaged_archive_is_not_kept(host, tmp_path, body):
    host.files[f"/{NAME}"] = body
    with pytest.raises(UserError, match="not a complete npz file"):
        download(NAME, tmp_path / "new" / NAME, [host.url])
    assert not (tmp_path / "new").exists()


def test_if_every_host_fails_each_reason_is_given(host, tmp_path):
    dead = Host()
    dead.stop()
    with pytest.raises(UserError) as error:
        download(NAME, tmp_path / "new" / NAME, [dead.url, host.url])
    message = str(error.value)
    assert (
        "Connection refused" in message
        and "HTTP 404" in message
        and "\n" not in message
    )
    assert not (tmp_path / "new").exists()


def test_a_host_that_does_not_answer_times_out(host, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_module, "TIMEOUT", 0.2)
    release = threading.Event()
    monkeypatch.setattr(host, "answer", lambda request: release.wait(10))
    with pytest.raises(UserError, match="timed out"):
        download(NAME, tmp_path / NAME, [host.url])
    release.set()


# ---------------------------------------------------------------- bases from the hub

MODELS, MIRROR = "yonghoon96/trqam-bc-checkpoints", "datasets/yonghoon96/ogbench-mirror"
BASE = (
    Path(__file__).parents[1] / "published" / "numpy2" / "params_300000.pkl"
).read_bytes()
PUZZLE, TASK = (
    "puzzle-4x4-play/params_300000.pkl",
    "puzzle-4x4-play-singletask-task3-v0",
)


def flipped(body: bytes) -> bytes:
    return body[:500] + bytes([body[500] ^ 1]) + body[501:]


@pytest.fixture
def hub(monkeypatch):
    """A hub with the bases of two domains, which redirects to its storage."""
    hub, hub.storage = (hub := Hub()), Host()
    hub.repositories[MODELS] = {
        PUZZLE: BASE,
        "scene-play/params_300000.pkl": flipped(BASE),
        "README.md": b"MIT",
    }
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield hub
    hub.stop()
    hub.storage.stop()


def line_of(call, *arguments) -> str:
    """The message of the UserError that a call raises; it must be one line."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def paths_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_the_base_of_a_domain_is_fetched_once(hub, tmp_path, capsys):
    path = published_base(TASK, tmp_path)
    assert path == tmp_path / "bases" / PUZZLE == base_path("puzzle-4x4", tmp_path)
    assert path.read_bytes() == BASE and paths_in(path.parent) == ["params_300000.pkl"]
    assert f"sha256 {sha256(BASE):.12} as published" in capsys.readouterr().out
    assert [path for path, _ in hub.storage.requests] == [f"/blobs/{sha256(BASE)}"]
    asked = len(hub.requests)
    assert published_base("puzzle-4x4", tmp_path) == path and len(hub.requests) == asked
    assert published_base("scene", tmp_path).read_bytes() == flipped(BASE)


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("links", [True, False])
def test_the_checksum_is_taken_from_the_list_or_the_answer(
    lists, links, hub, tmp_path, capsys
):
    hub.lists, hub.links_sums = lists, links
    published_base(TASK, tmp_path)
    known = f"sha256 {sha256(BASE):.12} as published"
    wanted = known if lists or links else "no sha256 there: size alone checked"
    assert wanted in capsys.readouterr().out
    (tmp_path / "bases" / PUZZLE).unlink()
    hub.damaged[PUZZLE] = flipped(BASE)
    if not (lists or links):
        assert published_base(TASK, tmp_path).read_bytes() == flipped(BASE)
        return
    line = line_of(published_base, TASK, tmp_path)
    found, wanted = sha256(flipped(BASE)), sha256(BASE)
    assert f"its sha256 is {found} instead of the published {wanted}; deleted" in line
    assert not [path for path in paths_in(tmp_path) if "params" in path]
    hub.damaged.clear()
    assert published_base(TASK, tmp_path).read_bytes() == BASE


def test_a_file_of_another_size_is_not_kept(hub, tmp_path):
    hub.damaged[PUZZLE] = BASE + b"more"
    line = line_of(published_base, TASK, tmp_path)
    assert f"{len(BASE) + 4} bytes came instead of {len(BASE)}; deleted" in line
    assert paths_in(tmp_path) == []


def test_a_web_page_is_not_accepted_as_a_base(hub, tmp_path):
    hub.lists = hub.links_sums = False
    hub.repositories[MODELS][PUZZLE] = b"<html>log in to this network first</html>"
    assert "what came: not a pickle file" in line_of(published_base, TASK, tmp_path)
    assert paths_in(tmp_path) == []


@pytest.mark.parametrize("says_length", [True, False])
def test_a_broken_transfer_resumes_at_the_storage_that_the_hub_redirects_to(
    says_length, hub, tmp_path
):
    hub.storage.break_after, hub.storage.says_length = [100, 300], says_length
    assert published_base(TASK, tmp_path).read_bytes() == BASE
    assert [wanted for _, wanted in hub.storage.requests] == [
        None,
        "bytes=100-",
        "bytes=400-",
    ]


def test_a_resumed_file_is_verified_from_its_first_byte(hub, tmp_path):
    hub.storage.break_after = [700, 0]
    line = line_of(published_base, TASK, tmp_path)
    assert f"broke off after 700 of {len(BASE)} bytes" in line
    (part,) = (tmp_path / "bases" / "puzzle-4x4-play").iterdir()
    part.write_bytes(flipped(part.read_bytes()))  # damaged on the disk
    assert "instead of the published" in line_of(published_base, TASK, tmp_path)
    assert hub.storage.requests[-1][1] == "bytes=700-"
    assert published_base(TASK, tmp_path).read_bytes() == BASE


def test_a_complete_part_file_is_verified_too(hub, tmp_path):
    hub.lists = False
    hub.storage.break_after = [700, 0]
    line_of(published_base, TASK, tmp_path)
    (part,) = (tmp_path / "bases" / "puzzle-4x4-play").iterdir()
    part.write_bytes(flipped(BASE))
    assert "instead of the published" in line_of(published_base, TASK, tmp_path)


def test_the_token_is_sent_only_to_the_endpoint(hub, host, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret\n")
    hub.wanted_token = "hf_secret"
    # a redirect on the same host, as for a renamed repository
    hub.moved[MODELS] = "someone/else"
    hub.repositories["someone/else"] = hub.repositories.pop(MODELS)
    assert published_base(TASK, tmp_path).read_bytes() == BASE
    assert hub.storage.tokens == [None]
    assert len(hub.tokens) > 1 and set(hub.tokens) == {"Bearer hf_secret"}
    host.files[f"/{NAME}"] = archive()
    download(NAME, tmp_path / NAME, [host.url])
    assert host.tokens == [None]


def test_a_refusal_says_whether_the_token_is_missing_or_wrong(
    hub, tmp_path, monkeypatch
):
    hub.wanted_token = "hf_right"
    line = line_of(published_base, TASK, tmp_path)
    assert (
        "HTTP 401: private or gated; set HF_TOKEN to a token that may read it" in line
    )
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    line = line_of(published_base, TASK, tmp_path)
    assert "HTTP 403: the token in HF_TOKEN may not read this" in line
    assert "hf_wrong" not in line
    monkeypatch.setenv("HF_TOKEN", "hf_…")
    assert "HF_TOKEN: a token has only ASCII characters" in line_of(
        published_base, TASK, tmp_path
    )


def test_a_refusal_by_another_host_does_not_mention_the_token(host, tmp_path, hub):
    host.answer = lambda request: request.send_error(403)
    line = line_of(download, NAME, tmp_path / NAME, [host.url])
    assert "HTTP 403)" in line and "HF_TOKEN" not in line


@pytest.mark.parametrize(
    "folder", ["puzzle-4x4", "puzzle-4x4-play-v0", "b/puzzle-4x4-play_h"]
)
def test_a_base_is_found_in_a_folder_with_another_form_of_the_name(
    folder, hub, tmp_path
):
    files = hub.repositories[MODELS]
    files[f"{folder}/params_300000.pkl"] = files.pop(PUZZLE)
    others = [f"puzzle-{kind}/params_300000.pkl" for kind in ("4x4-noisy", "4x5-play")]
    files |= dict.fromkeys(others, flipped(BASE))
    assert published_base(TASK, tmp_path).read_bytes() == BASE
    assert paths_in(tmp_path / "bases") == ["puzzle-4x4-play", PUZZLE]


def test_a_missing_base_is_one_line_with_the_bases_that_exist(hub, tmp_path):
    line = line_of(published_base, "cube-triple", tmp_path)
    wanted = (
        "has no bases of cube-triple-play (there: puzzle-4x4-play, scene-play); bring"
    )
    assert f"{MODELS} {wanted}" in line
    hub.lists = False
    line = line_of(published_base, "cube-triple", tmp_path)
    address = f"{hub.url}/{MODELS}/resolve/main/cube-triple-play/params_300000.pkl"
    assert "HTTP 404" in line and address in line
    assert paths_in(tmp_path) == []


def test_two_folders_for_one_domain_are_refused(hub, tmp_path):
    files = hub.repositories[MODELS]
    both = [f"puzzle-4x4-play-{seed}/params_300000.pkl" for seed in "ab"]
    files |= dict.fromkeys(both, files.pop(PUZZLE))
    line = line_of(published_base, TASK, tmp_path)
    folders = "puzzle-4x4-play-a, puzzle-4x4-play-b"
    assert f"has 2 bases of puzzle-4x4-play (there: {folders}); bring" in line


def test_offline_the_error_says_which_file_to_bring_and_where(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    line = line_of(published_base, TASK, tmp_path / "data")
    assert line.startswith("--pretrained_actor_path=published: ")
    assert "Connection refused" in line
    flags = f"--env_name=puzzle-4x4-play --base --ogbench_dataset_dir={tmp_path}/data"
    assert f"python scripts/download.py {flags}" in line
    address = f"http://127.0.0.1:9/{MODELS}/resolve/main/{PUZZLE}"
    assert f"bring {address} to {tmp_path}/data/bases/{PUZZLE}" in line
    assert paths_in(tmp_path) == []
    path = base_path(TASK, tmp_path / "data")
    path.parent.mkdir(parents=True)
    path.write_bytes(BASE)
    assert published_base(TASK, tmp_path / "data") == path


def test_a_folder_that_cannot_be_written_is_reported_in_one_line(hub, tmp_path):
    (tmp_path / "bases").touch()
    assert "--pretrained_actor_path=published: " in line_of(
        published_base, TASK, tmp_path
    )


@pytest.mark.parametrize("name", ["cube-single", "antmaze-large-stitch", "mine:Toy-v0"])
def test_a_task_outside_the_ten_domains_has_no_published_base(name, tmp_path):
    line = line_of(base_domain, name)
    assert line.startswith(
        "--pretrained_actor_path=published: there is no published base of "
    )
    assert "antmaze-large-navigate, " in line and "leave the flag out" in line


@pytest.mark.parametrize("address", ["hub.example", "file:///etc", "http://"])
def test_an_endpoint_that_is_no_web_address_is_refused(address, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", address)
    line = line_of(published_base, TASK, tmp_path)
    assert f"HF_ENDPOINT={address.rstrip('/')}: give a web address" in line


# ---------------------------------------------------------------- datasets from the hub


@pytest.fixture
def hosts(hub, host, monkeypatch):
    """OGBench's host and two mirrors on the hub, in the order of HOSTS; all are empty."""
    assert HOSTS[0].startswith("https://rail.eecs.berkeley.edu/")
    assert HOSTS[2] == f"hf://{MIRROR}"
    monkeypatch.setattr("envs.dataset_files.HOSTS", (host.url, *HOSTS[1:]))
    hub.repositories[MIRROR] = {}
    return [host.url, *open_hosts(HOSTS[1:])]


def test_the_hub_is_not_asked_if_ogbenchs_host_has_the_files(
    hosts, host, hub, tmp_path, capsys
):
    """Nothing here reads the validation file, so it is not downloaded."""
    for name in ("cube-double-play-v0.npz", "cube-double-play-v0-val.npz"):
        host.files[f"/{name}"] = archive()
    assert find_dataset("cube-double", tmp_path) == tmp_path / "cube-double-play-v0.npz"
    assert paths_in(tmp_path) == ["cube-double-play-v0.npz"]
    assert hub.requests == []
    assert (
        capsys.readouterr().out.count("no sha256 there: size and CRC-32 checked") == 1
    )


@pytest.mark.parametrize("place", ["", "data/", "ogbench/v1/"])
def test_the_mirror_comes_last_and_its_checksums_are_verified(
    place, hosts, host, hub, tmp_path, capsys
):
    good, name = archive(), f"{place}cube-double-play-v0.npz"
    hub.repositories[MIRROR][name] = good
    assert find_dataset("cube-double", tmp_path).read_bytes() == good
    lines = capsys.readouterr().out.splitlines()
    found = f"{len(good) / 1000:.1f}kB from {hub.url[7:]}, sha256 {sha256(good):.12}"
    assert f"cube-double-play-v0.npz: {found} as published" in lines
    assert "/cube-double-play-v0.npz" in [path for path, _ in host.requests]
    (tmp_path / "cube-double-play-v0.npz").unlink()
    hub.damaged[name] = archive(2)  # intact, but not the published one
    line = line_of(find_dataset, "cube-double", tmp_path)
    found, wanted = sha256(archive(2)), sha256(good)
    assert f"its sha256 is {found} instead of the published {wanted}; deleted" in line
    assert paths_in(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_cannot_be_written_is_not_blamed_on_the_hosts(
    code, hosts, host, hub, tmp_path, monkeypatch
):
    fault, real = os.strerror(code), Path.open

    def full(path, *arguments):
        if path.suffix == ".part":
            raise OSError(code, fault)
        return real(path, *arguments)

    monkeypatch.setattr(Path, "open", full)
    host.files["/cube-double-play-v0.npz"] = archive()
    line = line_of(find_dataset, "cube-double", tmp_path)
    assert line == (
        f"--ogbench_dataset_dir: cannot write to {tmp_path} ({fault}); make room or give"
        " another folder, and the same command resumes"
    )
    assert len(host.requests) == 1 and hub.requests == []


def lines(form: str, sums: dict[str, str], end: str = "\n") -> str:
    return end.join(
        form.format(name=name, sum=checksum) for name, checksum in sums.items()
    )


def entry(name: str, checksum: str) -> dict:
    return {"size": 9, "name": f"./{name}", "hashes": {"sha256": f"sha256:{checksum}"}}


MANIFESTS = {
    "manifest.json": json.dumps,
    "meta/MANIFEST.json": lambda sums: json.dumps({"name": "a.mirror", "files": sums}),
    "manifest1.json": lambda sums: json.dumps(
        [{"path": n, "sha256": sums[n]} for n in sums]
    ),
    "manifest2.json": lambda sums: json.dumps(
        {n: {"sha256": sums[n].upper()} for n in sums}
    ),
    "manifest3.json": lambda sums: json.dumps(
        {"files": [entry(n, sums[n]) for n in sums]}
    ),
    "data/SHA256SUMS": lambda sums: lines("{sum}  {name}", sums).replace("data/", ""),
    "sha256sum.txt": lambda sums: (
        "# by hand\n\n" + lines("{sum} *{name}", sums, "\r\n")
    ),
    "sha256.bsd": lambda sums: lines("SHA256 ({name}) = {sum}", sums),
}


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_checksums_of_a_manifest_are_verified(manifest, hosts, hub, tmp_path, capsys):
    """A manifest in any common format is used if neither the list nor the answers have sums."""
    hub.lists_sums = hub.links_sums = False
    names = ("cube-double-play-v0", "cube-double-play-v0-val")
    files = {f"data/{name}.npz": archive(i) for i, name in enumerate(names)}
    sums = {name: sha256(body) for name, body in files.items()}
    text = MANIFESTS[manifest](sums)
    assert {(Path(name).name, checksum) for name, checksum in read_manifest(text)} == {
        (Path(name).name, checksum) for name, checksum in sums.items()
    }
    hub.repositories[MIRROR] |= files | {manifest: text.encode()}
    find_dataset("cube-double", tmp_path)
    checksum = sums["data/cube-double-play-v0.npz"]
    assert f"sha256 {checksum:.12} as published" in capsys.readouterr().out
    (tmp_path / "cube-double-play-v0.npz").unlink()
    hub.damaged["data/cube-double-play-v0.npz"] = archive(2)
    assert "instead of the published" in line_of(find_dataset, "cube-double", tmp_path)


def test_a_manifest_names_a_file_by_its_path_or_by_a_unique_name():
    assert read_manifest("no sums in here") == read_manifest("[1, null, 2.5]") == []
    sums = {"a/x.npz": "1" * 64, "b/x.npz": "2" * 64, "c/y.npz": "3" * 64}
    assert sum_of("b/x.npz", sums) == "2" * 64 and sum_of("x.npz", sums) is None
    assert sum_of("elsewhere/y.npz", sums) == "3" * 64 and sum_of("z.npz", sums) is None
    facts = {"path": "a.npz", "sha256": "1" * 64, "xetHash": "2" * 64}
    assert read_manifest(json.dumps([facts])) == [("a.npz", "1" * 64)]


def test_a_list_of_several_pages_is_read_completely(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.page, hub.wanted_token = 2, "hf_secret"
    files = {f"{i}.npz": archive(i) for i in range(5)}
    hub.repositories["datasets/me/data"] = files
    assert set(Repository("datasets/me/data").listing) == set(files)
    assert len(hub.requests) == 3


def test_shards_come_from_ogbenchs_host_and_the_rest_from_the_mirror(
    hosts, host, hub, tmp_path, capsys
):
    """OGBench's host lacks two of ten shards, which come from a folder of the mirror."""
    names = [f"cube-triple-play-v0-{i:03d}.npz" for i in range(10)]
    contents = {name: archive(i) for i, name in enumerate(names)}
    host.files |= {
        f"/cube-triple-play-100m-v0/{name}": contents[name] for name in names[:8]
    }
    files = hub.repositories[MIRROR]
    files |= {f"cube-triple-10M/{name}": content for name, content in contents.items()}
    files |= {f"cube-triple-10M/{name}.npz": archive(99) for name in names}
    folder = find_dataset("cube-triple", tmp_path)
    assert folder == tmp_path / "cube-triple-play-100m-v0" and paths_in(folder) == names
    assert all(
        (folder / name).read_bytes() == content for name, content in contents.items()
    )
    assert [path.startswith(f"/api/{MIRROR}/") for path, _ in hub.requests].count(
        True
    ) == 1
    assert (
        "cube-triple-play is 10 files of a million transitions"
        in capsys.readouterr().out
    )
    asked = len(host.requests)
    assert (
        find_dataset("cube-triple", tmp_path) == folder and len(host.requests) == asked
    )


OWN = "datasets/yonghoon96/antmaze-giant-navigate-10m-v0"


@pytest.mark.parametrize("gone", [False, True])
def test_a_dataset_comes_from_its_own_repository_or_its_copy_in_the_mirror(
    gone, hosts, hub, tmp_path
):
    files = {f"part-{i}.npz": archive(i) for i in range(3)}
    place = "all/antmaze-giant-navigate-10m-v0"
    hub.repositories[MIRROR] |= {
        f"{place}/{name}": body for name, body in files.items()
    }
    hub.repositories[MIRROR]["antmaze-large-navigate-v0.npz"] = archive(9)
    if not gone:
        own = {f"data/{name}": body for name, body in files.items()}
        hub.repositories[OWN] = own | {"README.md": b""}
    folder = find_dataset("antmaze-giant", tmp_path)
    assert folder == tmp_path / "antmaze-giant-navigate-10m-v0" and paths_in(
        folder
    ) == list(files)
    assert all((folder / name).read_bytes() == body for name, body in files.items())
    asked = [path for path, _ in hub.requests]
    assert (f"/{OWN}/resolve/main/data/part-1.npz" in asked) is not gone


def test_an_incomplete_copy_of_a_repository_is_not_taken_for_the_dataset(
    hosts, hub, tmp_path
):
    """Only the repository's list says how many files there are; it may be out of reach later."""
    files = {f"part-{i}.npz": archive(i) for i in range(3)}
    hub.repositories[OWN], hub.damaged = files, {"part-1.npz": archive(9)}
    line_of(find_dataset, "antmaze-giant", tmp_path)
    assert (tmp_path / "antmaze-giant-navigate-10m-v0" / "part-0.npz").exists()
    del hub.repositories[OWN]
    assert "HTTP 404" in line_of(find_dataset, "antmaze-giant", tmp_path)
    hub.repositories[OWN], hub.damaged = files, {}
    assert paths_in(find_dataset("antmaze-giant", tmp_path)) == list(files)


def test_sizes_are_measured_without_downloading(hosts, host, hub):
    host.files[f"/{NAME}"] = archive()
    assert measure(NAME, hosts) == (len(archive()), host.url.removeprefix("http://"))
    hub.repositories[MIRROR]["scene-play-v0.npz"] = archive() + b"more"
    assert measure("scene-play-v0.npz", hosts)[0] == len(archive()) + 4
    hub.lists = False
    assert measure("scene-play-v0.npz", open_hosts(HOSTS[1:]))[0] == len(archive()) + 4
    line = line_of(measure, "none.npz", hosts)
    assert line.startswith("no host has none.npz (127.0.0.1")
    assert line.count("HTTP 404") == 3
    assert "GET" not in hub.storage.methods


def test_a_length_that_is_no_number_counts_as_unknown(hosts, host, tmp_path):
    host.files[f"/{NAME}"] = archive()
    host.length = "many"
    assert measure(NAME, hosts) == (None, host.url.removeprefix("http://"))
    path = download(NAME, tmp_path / NAME, hosts)
    assert path.read_bytes() == archive()


def test_the_archive_of_these_tests_is_long_enough():
    assert len(archive()) > 20001
