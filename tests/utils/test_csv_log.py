"""Tests that a CSV log keeps its numbers and, after kills and resumes, its bytes."""

import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.csv_log import CsvLog

numbers = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False)
line_lists = st.lists(
    st.dictionaries(st.sampled_from("abcde"), numbers, max_size=4), max_size=6
).map(lambda lines: [{"step": 10 * i, **line} for i, line in enumerate(lines, 1)])


def fresh(tmp_path_factory):
    return tmp_path_factory.mktemp("log") / "train.csv"


@settings(deadline=None, max_examples=60)
@given(lines=line_lists)
def test_numbers_round_trip_with_their_type(lines, tmp_path_factory):
    log = CsvLog(fresh(tmp_path_factory))
    for line in lines:
        log.write(line)
    for read in (log.read(), CsvLog(log.path).read()):
        assert read == lines
        assert [[type(v) for v in line.values()] for line in read] == [
            [type(line[key]) for key in seen]
            for line, seen in zip(lines, read, strict=True)
        ]


@settings(deadline=None, max_examples=60)
@given(lines=line_lists, kept=st.integers(0, 6), torn=st.integers(0, 30))
def test_a_cut_and_resumed_file_has_the_bytes_of_one_never_killed(
    lines, kept, torn, tmp_path_factory
):
    uninterrupted, short, killed = (CsvLog(fresh(tmp_path_factory)) for _ in range(3))
    for line in lines:
        uninterrupted.write(line)
        killed.write(line)
    if lines:  # it was killed in the middle of writing the last line
        content = killed.path.read_bytes()
        last = len(content) - content[:-1].rfind(b"\n") - 1
        killed.path.write_bytes(content[: len(content) - min(torn, last)])
    killed = CsvLog(killed.path)
    count = min(kept, max(0, len(lines) - 1))
    killed.cut(count)
    assert killed.count == count == CsvLog(killed.path).count
    for line in lines[:count]:
        short.write(line)
    assert killed.read() == short.read()
    if short.read():
        assert killed.path.read_bytes() == short.path.read_bytes()
    for line in lines[count:]:
        killed.write(line)
    if lines:
        assert killed.path.read_bytes() == uninterrupted.path.read_bytes()
        assert os.listdir(killed.path.parent) == ["train.csv"]


def test_the_header_grows_and_earlier_lines_have_empty_cells(tmp_path):
    log = CsvLog(tmp_path / "a.csv")
    log.write({"step": 1, "loss": 0.5})
    log.write({"step": 2, "loss": 0.25, "kl": 0.1})
    log.write({"kl": 0.2, "step": 3})
    assert log.path.read_text() == "step,loss,kl\n1,0.5,\n2,0.25,0.1\n3,,0.2\n"
    assert log.read() == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 0.25, "kl": 0.1},
        {"step": 3, "kl": 0.2},
    ]


def test_arrays_flags_absent_values_and_text_can_be_logged(tmp_path):
    log = CsvLog(tmp_path / "a.csv")
    third = np.float32(1) / 3
    log.write(
        {
            "step": np.int64(7),
            "x": third,
            "y": np.array(2.0),
            "z": None,
            "ok": True,
            "phase": 'a, "b"',
        }
    )
    (line,) = log.read()
    assert line == {"step": 7, "x": float(third), "y": 2.0, "ok": 1, "phase": 'a, "b"'}
    assert np.float32(line["x"]) == third and "z" not in log.path.read_text()
    log.write({"step": 8, "x": math.nan, "y": math.inf})
    assert math.isnan(log.read()[1]["x"]) and log.read()[1]["y"] == math.inf


def test_each_line_is_on_disk_at_once(tmp_path):
    log = CsvLog(tmp_path / "a.csv")
    for step in range(3):
        log.write({"step": step})
        assert CsvLog(log.path).read()[-1] == {"step": step}


def test_a_torn_last_line_is_dropped_on_opening(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("step,loss\n1,0.5\n2,0.12")
    log = CsvLog(path)
    assert log.read() == [{"step": 1, "loss": 0.5}]
    log.write({"step": 2, "loss": 0.125})
    assert path.read_text() == "step,loss\n1,0.5\n2,0.125\n"
    path.write_text("step,lo")
    log = CsvLog(path)
    log.write({"step": 1, "loss": 0.5})
    assert path.read_text() == "step,loss\n1,0.5\n"


def test_a_cut_replaces_the_file_in_one_step(tmp_path, monkeypatch):
    log = CsvLog(tmp_path / "a.csv")
    for step in range(4):
        log.write({"step": step})
    before = log.path.read_bytes()

    def killed(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        log.cut(2)
    assert log.path.read_bytes() == before
    CsvLog(log.path).cut(2)
    assert [line["step"] for line in CsvLog(log.path).read()] == [0, 1]
