"""report.py writes a page, a CSV file and a LaTeX table."""

import csv
import html.parser
import io
import itertools
import re

import pytest

from envs.tasks import short_task
from reports.cells import main_names
from tests.reports.helpers import SCENE, row_of, run_report
from tests.synthetic_runs import write_run


class Page(html.parser.HTMLParser):
    """Collects what a page refers to, and checks that its tags close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.ids, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        self.addresses += [
            given[name]
            for name in ("href", "src", "srcset", "data", "action", "xlink:href")
            if name in given
        ]
        self.ids += [given["id"]] if "id" in given else []
        if tag != "meta" and not self.get_starttag_text().endswith("/>"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.get_starttag_text().endswith("/>") or self.open[-1:] == [tag]:
            assert self.open.pop() == tag


@pytest.mark.ci
def test_the_files_hold_the_numbers_and_the_page_loads_no_other_file(
    table, tmp_path, capsys
):
    folder, _, found = table
    files = [tmp_path / name for name in ("r.html", "r.csv", "r.tex")]
    assert (
        run_report(
            folder,
            "--bootstrap=200",
            *(f"--{path.suffix[1:].replace('tex', 'latex')}={path}" for path in files),
        )
        == 0
    )
    shown = capsys.readouterr().out
    overall = row_of(found, "all tasks", "trqam")
    iqm = f"70.0 [{overall.iqm.low:.1f}, {overall.iqm.high:.1f}]"
    cells = (
        f"70.0 ± {overall.half:.1f}",
        f"{overall.path_kl:.3f} / 1",
        f"{overall.lam:.3g}",
        iqm,
    )
    assert (
        "offline, all tasks: 0.0 % at step 0, 50 tasks, 8 seeds, step 1,000,000\n"
        in shown
    )
    assert re.search(
        "\nC trqam +" + " +".join(map(re.escape, cells)) + r" +best +68\.0 \[\d\]\n",
        shown,
    )

    text = files[0].read_text()
    page = Page(text)
    assert (
        page.open == []
        and "http" not in text.lower()
        and not re.search(r"url\(|@import|@font-face", text)
    )
    links = {
        a for a in page.addresses if not a.startswith("data:image/svg+xml;base64,")
    }
    assert links and {address[0] for address in links} == {"#"}
    assert {address[1:] for address in links} <= set(page.ids) and len(
        set(page.ids)
    ) == len(page.ids)
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    images = re.findall(
        '<img class="chart" alt="[^"]*" src="data:image/svg[+]xml;base64,', text
    )
    # success, path KL and λ of each task, each domain and all tasks
    assert len(images) == page.tags.count("img") == 3 * 61
    assert all(cell in text for cell in cells) and not re.search(
        r"\bnan\b", text, re.IGNORECASE
    )

    lines = list(csv.DictReader(io.StringIO(files[1].read_text())))
    kinds = {
        kind: [line for line in lines if line["kind"] == kind]
        for kind in ("ours", "published", "improvement")
    }
    assert (len(kinds["ours"]), len(kinds["improvement"]), len(kinds["published"])) == (
        183,
        183,
        len(found.comparisons),
    )
    (line,) = (
        line
        for line in kinds["ours"]
        if (line["name"], line["method"]) == ("all tasks", "trqam")
    )
    assert [float(line[key]) for key in ("success", "low", "path_kl")] == pytest.approx(
        [overall.mean, overall.iqm.low, overall.path_kl], rel=1e-5
    )
    latex = files[2].read_text()
    assert (
        latex.count(r"\\") == 61 + 1
        and latex.count(r"\textbf{") == 61
        and "±" not in latex
    )
    assert rf"\textit{{all tasks}} & 20.0 $\pm$ {overall.half:.1f} & 68.0" in latex


def test_method_names_are_escaped_wherever_they_are_shown(tmp_path, capsys):
    for i, value in enumerate(("a<b&c", "50%_x")):
        write_run(
            tmp_path / "exp",
            SCENE.format(1),
            0,
            {0: 0.1, 1_000_000: 0.5},
            given={"agent.mode": value},
            hashed=f"{i}",
        )
    files = [f"--html={tmp_path / 'r.html'}", f"--latex={tmp_path / 'r.tex'}"]
    assert run_report(tmp_path / "exp", *files) == 0
    assert "trqam mode=a&lt;b&amp;c" in (tmp_path / "r.html").read_text()
    assert r"trqam mode=50\%\_x" in (tmp_path / "r.tex").read_text()


@pytest.mark.parametrize("which", ["study", "crowd"])
def test_the_page_begins_with_curves_and_folds_the_details(which, request):
    shown = request.getfixturevalue(which)
    text = shown.page
    sections = ("curves", "tables", "improvement", "details")
    places = [text.index(f'<section id="{key}">') for key in sections]
    assert places == sorted(places) and text.index('<img class="chart') < text.index(
        "<table"
    )
    row = text[text.index('<div class="row">') : text.index('<ul class="legend"')]
    name = "cube-single-play-task1" if which == "study" else "all tasks"
    drawn = re.findall('alt="(.*?)"', row)
    assert drawn == [f"{name}: {what}" for what in ("success (%)", "path KL", "λ")]
    tables = text[places[1] : places[2]]
    columns = re.findall("<th>(.*?)</th>", tables)
    assert columns[:4] == ["method", "success (%)", "path KL / budget", "λ"]
    folded = text[places[3] :]
    assert (
        "<details open" not in text
        and re.sub("<details.*?</details>", "", folded)
        == '<section id="details"><h2>Details</h2></section></main></body></html>\n'
    )
    titles = re.findall("<summary>(.*?)</summary>", folded)
    wanted = ("Notes (", "Methods: ", "Tasks, offline", "Pairs of methods")
    assert all(any(title.startswith(word) for title in titles) for word in wanted)
    assert all(html.escape(note) in folded for note in shown.found.notes)
    # Every table is in a box that scrolls.
    assert text.count('<div class="box"><table>') == text.count("<table>")
    folded_pairs = folded[folded.index('id="offline-pairs"') :].partition("</details>")[
        0
    ]
    main = {
        short_task(name)
        for phase, name in main_names(shown.found)
        if phase == "offline"
    }
    assert set(re.findall("<h3>(.*?)</h3>", folded_pairs)) == main
    count = len(shown.keys) * (len(shown.keys) - 1) // 2
    assert folded_pairs.count("<tr><td>") == count * len(main)


@pytest.mark.parametrize("which", ["study", "crowd"])
def test_the_legend_names_every_line(which, request):
    shown = request.getfixturevalue(which)
    legend = shown.page[shown.page.index('<ul class="legend"') :].partition("</ul>")[0]
    found = re.findall(
        r"border-top: 2px (\w+) (#\w+)\"></i><b>(\w)</b><span>(.*?)<", legend
    )
    assert [(key, html.unescape(name)) for _, _, key, name in found] == [
        (key, name) for name, key in shown.keys.items()
    ]
    styles = [(dashes, colour) for dashes, colour, *_ in found]
    assert len(set(styles)) == len(styles)
    assert all(a[0] != b[0] for a, b in itertools.pairwise(styles))
