"""Tests the progress that a run shows, in terminals of several widths and in files."""

import contextlib
import io
import re
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.terminal import lines_on, terminal, written
from utils.messages import say, warn
from utils.progress import Counter, ProgressBar, clock, fit_line, short_count

NAME = "trqam humanoidmaze-medium-navigate-task2 s10001-10008"
FIGURES = {"success": 0.5, "path_kl": 0.3141, "kl_budget": 0.5, "lam": 1.0234}
FIGURES_TEXT = "success 50%  KL 0.314/0.5  λ 1.02"


@contextlib.contextmanager
def on_terminal(columns, monkeypatch):
    """Put stdout and stderr on one terminal; yield a function that returns all that was written."""
    with (
        terminal(columns) as (ours, programs),
        open(programs, "w", closefd=False) as stream,
        monkeypatch.context() as patch,
    ):
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        yield lambda: written(ours)


@pytest.mark.parametrize("columns", [60, 80, 100, 160])
def test_the_bar_fits_its_terminal_with_all_figures(columns, monkeypatch):
    with on_terminal(columns, monkeypatch) as text:
        with ProgressBar(1_000_000, NAME, initial=455_000) as bar:
            bar.status(**FIGURES)
            # at a speed of seven digits the name would be shorter
            time.sleep(0.01)
            bar.update(123)
            bar.status(**FIGURES)
        drawn = [line for line in re.split(r"[\r\n]+", text()) if line.strip()]
    assert max(map(len, drawn)) <= columns
    assert FIGURES_TEXT in drawn[-1]
    assert ("step 455123/1M" in drawn[-1], "updates/s" in drawn[-1]) == (
        columns > 60,
        columns > 80,
    )
    assert drawn[-1].startswith("trqam") and (NAME in drawn[-1]) == (columns == 160)


def test_a_wide_terminal_shows_a_bar(monkeypatch):
    with on_terminal(120, monkeypatch) as text:
        with ProgressBar(8, "bc scene-play s0") as bar:
            bar.update(4)
        (line,) = filter(None, lines_on(text()))
    full, empty = line.count("█"), re.search(r"█[▉-▏]?( +)\|", line)[1]
    assert full == pytest.approx(len(empty), abs=1) and full > 10
    assert line.startswith("bc scene-play s0  |█") and "|  step 4/8 offline  " in line


def test_messages_have_their_own_lines_above_all_bars(monkeypatch):
    with on_terminal(100, monkeypatch) as text:
        with ProgressBar(10, NAME) as bar:
            bar.update(1)
            say("finished: one")
            bar.update(1)
            with Counter("evaluation", 3, kept=False) as inner:
                inner.update(2)
                warn("two")
            say("saved", sys.stderr)
            bar.status(**FIGURES)
        say("ended")
        lines = lines_on(text())
    assert lines[:3] == ["finished: one", "warning: two", "saved"]
    assert FIGURES_TEXT in lines[3]
    assert lines[4:] == ["ended", ""]


def test_bars_may_end_in_any_order(monkeypatch):
    """Evaluations in threads do so; messages go above the bar that is left."""
    with on_terminal(100, monkeypatch) as text:
        first, second = (Counter("evaluation", 3, kept=False) for _ in range(2))
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        second.update(1)
        second.refresh()
        say("finished: one")
        second.__exit__(None, None, None)
        say("finished: two")
        assert [line for line in lines_on(text()) if line] == [
            "finished: one",
            "finished: two",
        ]


def test_messages_to_a_file_are_complete_at_once_while_a_bar_moves(
    monkeypatch, tmp_path
):
    """The file has no trace of the bar, which moves in a terminal."""
    with on_terminal(100, monkeypatch), (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stdout", log)
        with ProgressBar(10, NAME) as bar:
            bar.update(1)
            say("finished: one")
            assert (tmp_path / "log").read_text() == "finished: one\n"


def test_a_file_gets_one_line_for_each_status():
    file = io.StringIO()
    with ProgressBar(20, "trqam cube-double-play-task2 s0", file=file) as bar:
        for _ in range(10):
            bar.update(1)
        bar.status(seconds=4.0)
        bar.update(8)
        bar.status(seconds=0.65, **FIGURES)
        bar.update(2)
    assert file.getvalue().splitlines() == [
        "trqam cube-double-play-task2 s0  step 10/20 offline  2.5 updates/s  0:04 left",
        f"trqam cu…-task2 s0  step 18/20 offline  12.3 updates/s  {FIGURES_TEXT}  0:00 left",
    ]


def test_training_in_a_file_has_a_line_each_minute(monkeypatch):
    """It has the rate since the last status, whose own rate is not changed."""

    def set_time(seconds):
        monkeypatch.setattr("utils.progress.time.perf_counter", lambda: seconds)

    file = io.StringIO()
    set_time(0)
    with ProgressBar(1000, "trqam x s0", file=file) as bar:
        for seconds in (30, 60, 90, 120):
            set_time(seconds)
            bar.update(60)
        bar.status(seconds=96.0, success=0.5)
        for seconds in (150, 180):
            set_time(seconds)
            bar.update(30)
    lines = [line.split("  ")[1:4] for line in file.getvalue().splitlines()]
    assert lines == [
        ["step 120/1k offline", "2 updates/s", "7:20 left"],
        ["step 240/1k offline", "2 updates/s", "6:20 left"],
        ["step 240/1k offline", "2.5 updates/s", "success 50%"],
        ["step 300/1k offline", "1 updates/s", "success 50%"],
    ]


def test_online_counts_environment_steps():
    file = io.StringIO()
    with ProgressBar(500_000, "trqam x s0", "online", "steps", 100_000, file) as bar:
        bar.update(5_000)
        bar.status(seconds=10.0, lam=0.0)
    line = "trqam x s0  step 105k/500k online  500 steps/s  λ 0  13:10 left\n"
    assert file.getvalue() == line


def test_the_longest_line_of_a_file_fits():
    file = io.StringIO()
    with ProgressBar(1_000_000, NAME, "online", "steps", file=file) as bar:
        bar.update(123_456)
        bar.status(60.0, success=1.0, path_kl=1.23e-5, kl_budget=0.125, lam=0.0123)
    line = file.getvalue().rstrip("\n")
    assert len(line) <= 100 and "success 100%  KL 1.23e-05/0.125  λ 0.0123" in line


def test_no_budget_is_shown_where_there_is_none():
    file = io.StringIO()
    with ProgressBar(2, "trqam x s0", file=file) as bar:
        bar.status(1.0, path_kl=0.25, kl_budget=float("nan"))
        bar.status(1.0, path_kl=0.25)
    assert [line.split("  ")[-1] for line in file.getvalue().splitlines()] == [
        "KL 0.25"
    ] * 2


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (5_000, "5k"),
        (12_345, "12345"),
        (1_500_000, "1500k"),
        (2_000_000, "2M"),
    ],
)
def test_counts_are_exact(count, text):
    assert short_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0:00"),
        (59.9, "0:59"),
        (3599, "59:59"),
        (3600, "1h00m"),
        (86400 * 4 + 3 * 3600, "4d03h"),
    ],
)
def test_durations_have_one_or_two_units(seconds, text):
    assert clock(seconds) == text


words = st.text("abc ", max_size=30)


@given(st.text(min_size=1, max_size=80), words, words, words, st.integers(20, 120))
def test_a_line_is_never_too_long(name, step, left, kl, width):
    shown, rest = fit_line(name, {"step": step, "kl": kl, "left": left}, width)
    assert len(shown) + 2 + len(rest) <= width
    assert kl in rest or len(kl) > width - 10


# ------------------------------------------------------------------------------- counters


def test_a_counter_in_a_file_is_one_line(capsys):
    with Counter(
        "scene-play", 2200, unit=" transitions", unit_scale=True, initial=200
    ) as bar:
        bar.update(1000)
        bar.update(1000)
    error = capsys.readouterr().err
    assert re.fullmatch(
        r"scene-play: 2.20k/2.20k transitions in \S+, \S+ transitions/s\n", error
    )


@pytest.mark.parametrize("kept, lines", [(True, 3), (False, 2)])
def test_a_long_count_in_a_file_has_a_line_each_minute(
    kept, lines, capsys, monkeypatch
):
    clock = iter([0, 30, 61, 61, 100, 121, 121, 122, 130])
    monkeypatch.setattr("utils.progress.time.perf_counter", lambda: next(clock))
    options = {"unit": " transitions", "kept": kept, "mininterval": 0}
    with Counter("scene-play", 1000, **options) as bar:
        for _ in range(4):
            bar.update(200)
    counted = re.findall(
        r"scene-play: (\d+)/1000 transitions in .*/s(.*)\n", capsys.readouterr().err
    )
    assert [count for count, _ in counted] == ["400", "800", "800"][:lines]
    assert [bool(re.fullmatch(", .+ left", left)) for _, left in counted] == [
        True,
        True,
        False,
    ][:lines]


def test_a_counter_that_ends_early_shows_how_far_it_came(capsys):
    with pytest.raises(ValueError), Counter("x.npz", 10, unit="B") as bar:
        bar.update(4)
        raise ValueError
    assert capsys.readouterr().err.startswith("x.npz: 4/10B in ")


@pytest.mark.parametrize("options", [{"kept": False}, {"disable": True}])
def test_temporary_and_disabled_counters_are_not_written_to_a_file(options, capsys):
    with Counter("evaluation", 2, **options) as bar:
        bar.update(2)
    assert capsys.readouterr().err == ""


def test_a_counter_in_a_terminal_moves(monkeypatch):
    with on_terminal(100, monkeypatch) as text:
        with Counter("scene-play", 10, unit="B") as bar:
            bar.update(10)
        assert text().count("\r") > 1
