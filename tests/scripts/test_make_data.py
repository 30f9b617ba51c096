"""The flags of make_data.py reach the collection."""

import pytest

from scripts import make_data


@pytest.mark.parametrize(
    ("env_name", "folder"),
    [
        ("scene-play", "ogbench_dataset_dir"),
        ("lift-mh-low_dim", "robomimic_dataset_dir"),
    ],
)
def test_every_flag_reaches_the_collection(
    env_name, folder, tmp_path, monkeypatch, capsys
):
    calls = []
    monkeypatch.setattr(
        make_data, "collect", lambda *given, **named: calls.append((given, named))
    )
    values = {
        "env_name": env_name,
        folder: str(tmp_path),
        "transitions": 50,
        "workers": 2,
        "seed": 3,
        "overwrite": True,
        "demonstrations": 7,
    }
    given = [f"--{name}={value}" for name, value in values.items()]
    assert make_data.main(["make_data.py", *given]) == 0
    named = {
        name: values[name]
        for name in ("workers", "seed", "overwrite", "demonstrations")
    }
    assert calls == [((env_name, str(tmp_path), 50), named)]
