"""The figures of a report show its runs; matplotlib's own objects are checked."""

import base64
import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from envs.tasks import ALL_TASKS, dataset_name
from reports.curves import Chart, charts, curve, draw, image, kl_curve, value_range
from reports.reading import read_all
from tests.reports.helpers import row_of

STUDY = Path(__file__).resolve().parents[2] / "results" / "study"
STEPS, NO_BAND = np.arange(3.0), np.full(3, np.nan)


@pytest.fixture(scope="module")
def study():
    results = read_all([str(STUDY)], 1)[0]
    methods = dict.fromkeys(result.method for result in results)
    return {method: chr(65 + i) for i, method in enumerate(methods)}, results


def test_every_method_has_its_own_line_with_its_key_at_the_end(study):
    keys, results = study
    shown = charts(keys, "cube", results)
    assert [chart.title for chart in shown] == [
        "cube: success (%)",
        "cube: path KL",
        "cube: λ",
    ]
    (axes,) = draw(shown[0], keys).axes
    drawn = [line for line in axes.lines if line.get_label() in keys]
    assert [line.get_label() for line in drawn] == list(keys)
    styles = {(line.get_color(), line.get_linestyle()) for line in drawn}
    assert len(styles) == len(keys) == len(axes.collections)  # the bands
    written = sorted((text.get_position()[1], text.get_text()) for text in axes.texts)
    assert {key for _, key in written} == set(keys.values())
    heights = [height for height, _ in written]
    assert all(b - a > 0.9 / len(keys) for a, b in itertools.pairwise(heights))
    assert -0.01 < heights[0] and heights[-1] < 1.01
    ends = {text.get_text(): text.xy for text in axes.texts}
    for line in drawn:
        assert ends[keys[line.get_label()]] == (
            line.get_xdata()[-1],
            line.get_ydata()[-1],
        )


def test_path_kl_is_drawn_beside_its_budget(study):
    keys, results = study
    chart = charts(keys, "cube", results)[1]
    assert {m for m in keys if "kl_budget" in m or m == "sqam"} == chart.budgets.keys()
    for method, (_, budget, _) in chart.budgets.items():
        found = re.search(r"kl_budget=([\d.]+)", method)
        np.testing.assert_allclose(budget, float(found[1]) if found else 0.5, rtol=1e-5)


def test_a_figure_is_one_image_with_readable_text(study):
    keys, results = study
    chart = charts(keys, "<cube>", results)[0]
    tags = [image(chart, draw(chart, keys)) for _ in range(2)]
    assert tags[0] == tags[1] and 'alt="&lt;cube&gt;: success (%)"' in tags[0]
    svg = base64.b64decode(re.search(r"base64,([^\"]*)", tags[0])[1]).decode()
    assert "&lt;cube&gt;: success (%)" in svg and "<script" not in svg


def test_an_axis_is_logarithmic_where_the_ends_are_far_apart():
    near = [(STEPS, np.array([0.0, end, end]), NO_BAND) for end in (1.0, 2.0)]
    assert value_range(near) == (0.0, pytest.approx(2.3))
    far = [(STEPS, np.array([0.0, end, end]), NO_BAND) for end in (0.1, 1.0, 100.0)]
    assert value_range(far) == (pytest.approx(0.1 / 1.2), pytest.approx(115))
    early = (STEPS, np.array([1e-6, 1.0, 1.0]), NO_BAND)
    assert value_range([*far, early]) == (pytest.approx(0.1 / 5), pytest.approx(115))
    keys = {name: name for name in "abc"}
    for lines, scale in ((near, "linear"), (far, "log")):
        series = dict(zip("abc", lines, strict=False))
        (axes,) = draw(Chart("KL", series, {}, set()), keys).axes
        assert axes.get_yscale() == scale and axes.get_ylim() == pytest.approx(
            value_range(lines)
        )


def run(method, offline_steps, online_steps, last_step, kl=None):
    return SimpleNamespace(
        method=method,
        env_name="task",
        seed=0,
        offline_steps=offline_steps,
        online_steps=online_steps,
        last_step=last_step,
        evaluations={
            "step": np.array([0.0, last_step]),
            "success": np.array([0.1, 0.5]),
        },
        kl=lambda step: kl or {},
    )


def test_a_curve_without_an_offline_phase_begins_where_the_others_go_online():
    both, online = run("QAM", 1000, 500, 1500), run("RLPD", 0, 500, 500)
    (chart,) = charts(["QAM", "RLPD"], "scene", [both, online])
    assert chart.online_at == {1000}
    assert chart.series["QAM"][0].tolist() == [0, 1500]
    assert chart.series["RLPD"][0].tolist() == [1000, 1500]
    (axes,) = draw(chart, {"QAM": "A", "RLPD": "B"}).axes
    assert 1000 in [
        line.get_xdata()[0] for line in axes.lines if line.get_color() == "grey"
    ]
    assert all(line.get_marker() == "None" for line in axes.lines)
    (alone,) = charts(["RLPD"], "scene", [online])
    assert alone.online_at == set() and alone.series["RLPD"][0].tolist() == [0, 500]


def test_a_single_evaluation_is_drawn_as_a_point():
    point = np.array([500.0]), np.array([30.0]), np.array([0.0])
    (axes,) = draw(
        Chart("success", {"QAM": point}, {}, set(), 100.0), {"QAM": "A"}
    ).axes
    assert axes.lines[0].get_marker() == "."


@pytest.mark.parametrize(
    ("path_kl", "drawn"),
    [
        ([np.nan, np.nan], None),
        ([0.5, np.nan], [0.5]),
        ([0.5, 0.0], [0.5, 0.0]),
    ],
)
def test_values_that_are_not_finite_are_not_drawn_and_zero_is_on_a_logarithmic_axis(
    path_kl, drawn
):
    steps = np.array([0.0, 1000.0])
    kl = {"step": steps, "path_kl": np.array(path_kl), "kl_budget": np.full(2, np.nan)}
    wide = {"step": steps, "path_kl": np.array([1.0, 100.0])}
    runs = [run("a", 1000, 0, 1000, kl), run("b", 1000, 0, 1000, wide)]
    runs.append(run("c", 1000, 0, 1000, wide | {"path_kl": np.array([1.0, 0.01])}))
    keys = {"a": "A", "b": "B", "c": "C"}
    _, chart = charts(keys, "scene", runs)
    assert image(chart, draw(chart, keys)).startswith("<img")
    line = chart.series.get("a")
    assert (line and line[1].tolist()) == drawn


def test_curves_are_those_of_the_written_runs(table):
    _, final, found = table
    results = [
        r for r in found.results if r.method == "trqam" and r.domain == "scene-play"
    ]
    steps, mean, half = curve(results)
    np.testing.assert_array_equal(steps, 250_000 * np.arange(5))
    inside = [
        i for i, task in enumerate(ALL_TASKS) if dataset_name(task) == "scene-play"
    ]
    np.testing.assert_allclose(mean, 100 * final[2, inside].mean() * np.arange(5) / 4)
    assert half[0] == 0.0 and half[-1] == pytest.approx(
        row_of(found, "scene-play", "trqam").half
    )
    # There are four logs in each window.
    steps, mean, half = kl_curve(results, "path_kl", points=10)
    kl = np.array([1.0 + 0.05 * (-1) ** k + 2.0 / (k + 1) for k in range(40)])
    np.testing.assert_allclose(mean, kl.reshape(10, 4).mean(1), rtol=1e-6)
    np.testing.assert_allclose([steps[-1], *half], [1_000_000, *[0.0] * 10], atol=1e-9)
