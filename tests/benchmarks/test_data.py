"""The benchmark that reads batches from a dataset on the host."""

import json

import numpy as np
import pytest

from benchmarks import data
from scripts import benchmark
from utils.prefetch import OnHost


@pytest.mark.parametrize("written", [False, True])
def test_the_dataset_is_in_sparse_or_written_files(tmp_path, written):
    dataset = data.synthetic(tmp_path, 2100, written)
    assert dataset["observations"].shape == (2100, 55) and dataset["actions"].shape == (
        2100,
        5,
    )
    assert isinstance(dataset["observations"], np.memmap)
    # Two complete trajectories and one of 97 transitions. No transition starts in a final row.
    assert len(dataset["rows"]) == 2097 and not {1000, 2001, 2099} & set(
        dataset["rows"]
    )
    blocks = (tmp_path / "observations.npy").stat().st_blocks
    assert (512 * blocks > 2100 * 55 * 4) == written
    OnHost(dataset, None)


def test_reading_is_measured_at_full_speed_and_at_the_demand(tmp_path, capsys):
    words = ["--rows=2000,3000", "--readers=1", "--seconds=0.5", "--updates_per_call=2"]
    words += ["--demand=20", f"--folder={tmp_path}", "--written", "--json"]
    assert benchmark.main(["benchmark.py", "data", *words]) == 0
    header, small, large, last = capsys.readouterr().out.splitlines()
    assert (
        header.startswith("rows ")
        and small.startswith("2,000 ")
        and large.startswith("3,000 ")
    )
    found = json.loads(last)
    assert found["written"] and found["seeds"] == 1
    assert [entry["rows"] for entry in found["measurements"]] == [2000, 3000]
    for entry in found["measurements"]:
        assert entry["paced_updates_per_s"] < 21 < entry["fastest_updates_per_s"]
        assert 0 <= entry["paced_waiting"] < entry["fastest_waiting"] <= 1
    assert not list(tmp_path.iterdir())
