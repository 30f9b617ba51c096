"""The benchmark that measures the size and the time of checkpoints."""

import json
import statistics

import pytest

from scripts import benchmark
from training.replay_file import ReplayFile

TINY = ["--agent=agents/bc.py", "--agent.actor_hidden_dims=(16,16)"]


def test_each_save_reports_its_bytes_and_seconds(tmp_path, capsys):
    out = tmp_path / "cost.json"
    words = [
        *TINY,
        "--saves=3",
        "--transitions=30",
        "--save_interval=20",
        "--updates_per_s=10",
    ]
    assert benchmark.main(["benchmark.py", "checkpoint", *words, f"--out={out}"]) == 0
    found = json.loads(out.read_text())
    saves = found["saves"]
    rows = [save["new_online_transitions"] for save in saves]
    # An episode that ended takes one more row, for its final observation.
    assert rows[0] in (30, 31) and rows[1] in (20, 21) and len(saves) == 3
    size = ReplayFile(tmp_path / "replay.bin", 83, 5).dtype.itemsize
    assert [save["replay_bytes"] for save in saves] == [count * size for count in rows]
    for save in saves:
        assert 5_000 < save["checkpoint_bytes"] < 1_000_000
        assert 0 < save["blocked_seconds"] < save["seconds_to_disk"]
    blocked = statistics.median(save["blocked_seconds"] for save in saves[1:])
    # Twenty updates at 10 per second take two seconds.
    assert found["share_of_time"] == pytest.approx(blocked / (blocked + 2.0))
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("every 20 updates, at 10 updates/s: ")


def test_the_default_interval_between_saves_is_that_of_training(
    tmp_path, capsys, monkeypatch
):
    appended = []
    monkeypatch.setattr(
        "benchmarks.checkpoint.append_random", lambda _, n, rng: appended.append(n)
    )
    assert benchmark.main(["benchmark.py", "checkpoint", *TINY, "--saves=2"]) == 0
    assert appended == [500_000, 50_000]
