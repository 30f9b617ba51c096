"""The flags of make_data.py reach the collection."""

import pytest

from scripts import make_data


@pytest.mark.parametrize(
    ("env_name", "folder", "amount"),
    [
        ("scene-play", "ogbench_dataset_dir", {"transitions": 50}),
        ("lift-mh-low_dim", "robomimic_dataset_dir", {"demonstrations": 7}),
    ],
)
def test_every_flag_reaches_the_collection(
    env_name, folder, amount, tmp_path, monkeypatch, capsys
):
    calls = []
    monkeypatch.setattr(
        make_data, "collect", lambda *given, **named: calls.append((given, named))
    )
    values = {
        "env_name": env_name,
        folder: str(tmp_path),
        "workers": 2,
        "seed": 3,
        "overwrite": True,
    }
    given = [f"--{name}={value}" for name, value in (values | amount).items()]
    assert make_data.main(["make_data.py", *given]) == 0
    named = {name: values[name] for name in ("workers", "seed", "overwrite")}
    amounts = {"transitions": 1_000_000, "demonstrations": 200} | amount
    named["demonstrations"] = amounts["demonstrations"]
    assert calls == [((env_name, str(tmp_path), amounts["transitions"]), named)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--overwrite", "false"], "'false' is not a flag; flags are written"),
        (["--demonstrations=7"], "--demonstrations: scene-play counts transitions;"),
        (["--env_name=lift-mh-low_dim", "--transitions=9"], "give --demonstrations=N"),
    ],
)
def test_words_that_would_be_ignored_are_refused(words, message, monkeypatch, capsys):
    monkeypatch.setattr(make_data, "collect", None)
    assert make_data.main(["make_data.py", "--env_name=scene-play", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_full_disk_is_one_line(monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(make_data, "collect", full)
    assert make_data.main(["make_data.py", "--env_name=scene-play"]) == 1
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env_name=scene", "--transitions=ten"], "--transitions=ten"),
        (["--env_name=antmaze-large"], "expert policies"),
        (["--env_name=scene", "--worker=3"], "worker"),
        ([], "env_name"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_files(words, message, tmp_path, capsys):
    place = f"--ogbench_dataset_dir={tmp_path}"
    assert make_data.main(["make_data.py", place, *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line and not any(tmp_path.iterdir())
