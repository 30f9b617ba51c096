"""The code that benchmarks share: synthetic data, the large product and the output."""

import argparse
import json
import os

import jax
import numpy as np

from benchmarks import common


def test_the_synthetic_data_is_a_compact_dataset():
    dataset = common.synthetic(2500)
    assert len(dataset["rows"]) == 2500
    assert len(dataset["observations"]) == len(dataset["terminals"]) == 2503
    ends = dataset["terminals"][dataset["rows"]] > 0
    assert list(np.flatnonzero(ends)) == [999, 1999, 2499]


def test_an_accelerator_is_also_measured_by_a_large_product(monkeypatch, capsys):
    assert common.large_product() == {}
    monkeypatch.setattr(common, "LARGE", 64)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert (
        common.large_product()["large_product_gflops"] > 0
        and "(64,64)x(64,64): " in capsys.readouterr().out
    )


def test_figures_are_published_with_the_machine_and_the_command(tmp_path, capsys):
    options = argparse.Namespace(json=True, out=tmp_path / "figures.json")
    common.publish({"speed": 2.5}, options, "python scripts/benchmark.py update")
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads(options.out.read_text())
    assert (
        record["speed"] == 2.5
        and record["command"] == "python scripts/benchmark.py update"
    )
    assert "cpu (" in record["device"] and record["jax"] == jax.__version__
    assert set(record) == {"speed", "command", *common.machine()}
    options = argparse.Namespace(json=False, out=None)
    common.publish({"speed": 2.5}, options, "python scripts/benchmark.py update")
    assert capsys.readouterr().out == ""


def test_the_cores_are_those_that_a_job_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5})
    assert common.machine()["cores"] == 2 and "2 CPU cores" in common.device()
