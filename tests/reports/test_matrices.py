"""The matrices of the terminal and of the page show the probabilities of improvement."""

import itertools
import re

import pytest

from envs.tasks import short_task
from tests.reports.helpers import VisibleTable, text_matrices


def page_matrices(text):
    """Return {(phase, name): {(row, column): (probability, bold, interval)}} of a page."""
    found = {}
    section = text[text.index('id="improvement"') : text.index('id="details"')]
    heading = r'<h3>(.*?) <span class="dim">(.*?)</span></h3><div class="matrix">(.*?)</table>'
    for name, phase, table in re.findall(heading, section):
        head, body = table.split("<tbody>")
        columns = re.findall(r"<th>(\w+)</th>", head)
        cells = found[phase, name] = {}
        for key, line in re.findall(r"<tr><th><b>(\w+)</b>.*?</th>(.*?)</tr>", body):
            cell = r'<td( class="certain")?(?: style="[^"]*")?(?: title="(.*?)")?>(\d*)</td>'
            row = zip(columns, re.findall(cell, line), strict=True)
            for column, (bold, interval, value) in row:
                cells[key, column] = value, bool(bold), interval
    return found


@pytest.mark.ci
@pytest.mark.parametrize("which", ["study", "table", "crowd"])
def test_the_matrices_are_the_pairs_of_the_csv(which, request):
    report_of = request.getfixturevalue(which)
    shown = VisibleTable(report_of[2]) if which == "table" else report_of
    in_text, in_page = text_matrices(shown.details), page_matrices(shown.page)
    assert in_text.keys() == in_page.keys()
    assert len(in_text) == {"study": 1, "table": 11, "crowd": 6}[which]
    pairs = 0
    for (phase, name), cells in in_text.items():
        full = next(
            row.name for row in shown.found.rows if short_task(row.name) == name
        )
        assert len(cells) == len(shown.keys) ** 2
        for x, y in itertools.product(shown.keys, repeat=2):
            key = shown.keys[x], shown.keys[y]
            expected = shown.chance(phase, full, x, y)
            if x == y:
                assert (cells[key], in_page[phase, name][key]) == (".", ("", False, ""))
                continue
            value, *ends = expected
            certain = bool(ends) and (ends[0] > 50 or ends[1] < 50)
            bold = in_page[phase, name][key][1]
            assert (cells[key].endswith("*"), bold) == (certain, certain)
            assert float(cells[key].rstrip("*")) == pytest.approx(value, abs=0.5001)
            numbers = map(float, re.findall(r"[\d.]+", in_page[phase, name][key][2]))
            assert list(numbers) == pytest.approx(expected, abs=0.0501)
            pairs += 1
    methods = len(shown.keys)
    assert pairs == len(in_text) * methods * (methods - 1)
