"""The whole build: figures, claims and page in one go; holes and crashes shown; the page stands alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import drawing, figures, findings, report

TINY = '''"""A small finding."""
from bnstudy.analysis.findings import Comparison, Evidence, claim, judge

TITLE, CAPTION, SWEEP, SIZE = "A <b>title</b> & more", "caption", "lenet_lr_grid", (4, 3)
NEEDS = {"runs": "model == 'lenet'"}


def plot(fig, frames):
    fig.subplots().plot([1, 2])


@claim(id="{name}", where="w", says="<script>x</script>", criterion="c", scale="reduced")
def holds(frames):
    return Evidence("m", "s", 3, judge(3, full=True, partial=True))


def numbers(frames):
    return [Comparison("q", "1", "2", "3", "4")]
'''


def analysis(folder: Path, **findings: str) -> Path:
    """A small project's analysis folder with findings of these texts."""
    (folder / "findings").mkdir(parents=True)
    shutil.copy(synthetic.FINDINGS.parent / "bnstudy.mplstyle", folder)
    for name, text in findings.items():
        (folder / "findings" / f"{name}.py").write_text(text.replace("{name}", name))
    return folder / "findings"


class Page(HTMLParser):
    """Tags that must be closed, ids, and references of a page."""

    VOID = frozenset({"meta", "br", "img", "link", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self._attributes(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._attributes(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def _attributes(self, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key == "id":
                self.ids.append(str(value))
            elif key in ("href", "xlink:href", "src"):
                self.links.append(str(value))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    workspace = synthetic.copy(synthetic.shared(), tmp_path_factory.mktemp("workspace"))
    told: list[str] = []
    made = report.build(workspace, synthetic.FINDINGS, progress=told.append)
    assert all(path.exists() for path in made) and made[-1] == workspace / "report.html"
    return workspace, told


@pytest.mark.slow
def test_every_claim_is_judged_or_says_what_would_run_it(built: tuple[Path, list[str]]) -> None:
    rows = json.loads((built[0] / "claims.json").read_text())
    verdicts = {row["id"]: row["verdict"] for row in rows}
    assert {verdicts[number] for number in ("9", "13", "lenet-lr-1") if number in verdicts} <= {"reproduced", "not run"}
    assert all(row["reason"] for row in rows if row["verdict"] == "undecided" and not row["id"].startswith("textbook"))
    assert all(verdicts[str(number)] == "not run" for number in (1, 2, 3, 4, 5, 7, 8, 10, 13, 14, 15, 16, 17))
    assert all(row["to_run"] for row in rows if row["verdict"] == "not run")
    assert all(row["n"] > 0 and row["commit"] and row["data"] for row in rows if row["verdict"] != "not run")


def test_progress_says_what_and_how_far(built: tuple[Path, list[str]]) -> None:
    lines = built[1]
    fig2 = next(line for line in lines if " fig2: " in line)
    assert re.match(r"figure \d+/\d+ fig2: 6 \w+", fig2) and "left" in fig2
    assert " not run" in lines[-1] and "paper: " in lines[-1]  # group by group


def test_the_page_stands_alone_and_is_well_formed(built: tuple[Path, list[str]]) -> None:
    text = (built[0] / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids)) or _same_glyphs(text)
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert not page.tags & {"link", "iframe", "object"} and "@import" not in text
    assert text.count("<script") == 1  # its own, that sorts the table of claims
    assert not re.search(r"url\((?!#)", text)
    assert str(built[0]) not in text


def test_contents_name_every_section_figures_come_first_and_what_was_not_run_is_folded(
    built: tuple[Path, list[str]],
) -> None:
    text = (built[0] / "report.html").read_text(encoding="utf-8")
    contents = text[text.index('<nav class="contents"') : text.index("</nav>")]
    assert re.findall('href="#([^"]+)"', contents) == re.findall('<section id="([^"]+)"', text)
    assert re.findall('href="#([^"]+)"', contents)[:2] == ["fig5", "fig2"]
    assert text.index("<table") > text.index("<svg") and 'class="sortable"' in text
    rows = json.loads((built[0] / "claims.json").read_text())
    folded = {each[: each.index("</details>")] for each in text.split("<details>")[1:]}
    ids = {len(found): found for each in folded if (found := re.findall('<td class="id">(?:<a [^>]*>)?([^<]+)<', each))}
    waiting = [row["id"] for row in rows if row["verdict"] == "not run"]
    assert "fig1_paper" not in contents and ids[len(waiting)] == waiting
    assert ids[len(rows) - len(waiting)] == [row["id"] for row in rows if row["verdict"] != "not run"]


def test_backticks_are_code(tmp_path: Path) -> None:
    workspace = synthetic.copy(synthetic.shared(), tmp_path / "w")
    text = TINY.replace('criterion="c"', 'criterion="`make <b>` does"')
    report.build(workspace, analysis(tmp_path / "analysis", one=text), progress=lambda line: None)
    assert "<dd><code>make &lt;b&gt;</code> does</dd>" in (workspace / "report.html").read_text()


def _same_glyphs(text: str) -> bool:
    """Glyphs may be defined again by a later figure text of the same drawing, never differently."""
    shapes: dict[str, set[str]] = {}
    for name, shape in re.findall(r'<path id="([^"]+)" d="([^"]*)"', text):
        shapes.setdefault(name, set()).add(shape)
    return all(len(s) == 1 for s in shapes.values())


def test_real_data_carry_no_stand_in_mark(built: tuple[Path, list[str]]) -> None:
    for name in ("report.html", "claims.md", "claims.json"):
        text = re.sub(r"<style>.*?</style>", "", (built[0] / name).read_text(encoding="utf-8"), flags=re.DOTALL)
        assert "synthetic" not in text.lower()


def test_a_stand_in_is_on_every_figure_claim_row_and_page(tmp_path: Path) -> None:
    workspace = synthetic.write_workspace(tmp_path / "results", synthetic=True, sweeps=("lenet_lr_grid",))
    folder = analysis(tmp_path / "analysis", one=TINY)
    shutil.copy(synthetic.FINDINGS / "lenet_lr.py", folder)
    report.build(workspace, folder, progress=lambda line: None)
    rows = json.loads((workspace / "claims.json").read_text())
    assert len(rows) == 4 and all(row["data"].startswith("synthetic data") for row in rows)
    table = [line for line in (workspace / "claims.md").read_text().splitlines() if line.startswith("|")]
    assert len(table) == 2 + 4 and all("synthetic data" in line for line in table[2:])
    assert "synthetic data" in (workspace / "figures" / "one.svg").read_text()  # in its metadata, and drawn
    text = (workspace / "report.html").read_text()
    assert "<title>SYNTHETIC DATA" in text and text.count('<span class="synthetic">synthetic data') >= 3 * 2


def test_a_missing_table_is_not_run_printed_and_removes_the_old_figure(tmp_path: Path) -> None:
    workspace = synthetic.copy(synthetic.shared(), tmp_path / "w")
    folder = analysis(tmp_path / "analysis", one=TINY)
    report.build(workspace, folder, progress=lambda line: None)
    assert (workspace / "figures" / "one.png").exists()
    (workspace / "tables" / "lenet_lr_grid" / "runs.parquet").unlink()
    told: list[str] = []
    report.build(workspace, folder, progress=told.append)
    assert told[0].startswith("not run: 1 finding") and "(one)" in told[0]
    assert not (workspace / "figures" / "one.png").exists() and not (workspace / "figures" / "one.svg").exists()
    assert json.loads((workspace / "claims.json").read_text())[0]["verdict"] == "not run"


def test_an_empty_workspace_still_gives_a_report(tmp_path: Path) -> None:
    told: list[str] = []
    report.build(tmp_path, synthetic.FINDINGS, progress=told.append)
    assert {row["verdict"] for row in json.loads((tmp_path / "claims.json").read_text())} == {"not run"}
    assert str(tmp_path) not in (tmp_path / "claims.json").read_text()


@pytest.mark.parametrize(
    "crash",
    [
        TINY.replace("return Evidence", "1 / 0\n    return Evidence"),
        TINY.replace("fig.subplots()", "fig.no_such()"),
        TINY.replace("fig.subplots().plot([1, 2])", "raise SystemExit(0)"),
        TINY + "\n1 / 0\n",
        TINY + "\nraise SystemExit(0)\n",
        "def half(:\n",
        "TITLE = 'half'\n",
    ],
)
def test_a_crash_is_named_after_the_others_are_finished(tmp_path: Path, crash: str) -> None:
    folder = analysis(tmp_path / "analysis", a_bad=crash, good=TINY)
    told: list[str] = []
    workspace = synthetic.copy(synthetic.shared(), tmp_path / "w")
    with pytest.raises(report.ReportError, match="a_bad") as caught:
        report.build(workspace, folder, progress=told.append)
    assert list(caught.value.failures) == ["a_bad"] and "Traceback" in "\n".join(told)
    rows = {row["id"]: row["verdict"] for row in json.loads((workspace / "claims.json").read_text())}
    assert rows["good"] == "reproduced" and rows.get("a_bad", "not run") == "not run"
    assert (workspace / "figures" / "good.svg") in caught.value.paths
    assert not (workspace / "figures" / "a_bad.svg").exists()
    assert "a_bad" in (workspace / "report.html").read_text()


def test_make_tells_paths_and_failures_and_gives_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = synthetic.copy(synthetic.shared(), tmp_path / "w")
    folder = analysis(tmp_path / "analysis", good=TINY)
    assert report.write(workspace, html=False, findings_dir=folder) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(workspace / "claims.json")
    assert not (workspace / "report.html").exists()
    analysis(tmp_path / "other", bad=TINY.replace("fig.subplots()", "fig.no_such()"), good=TINY)
    assert report.write(workspace, html=True, findings_dir=tmp_path / "other" / "findings") == 1
    told = capsys.readouterr()
    assert told.err.startswith("bad: AttributeError") and told.out.splitlines()[-1].endswith("report.html")


def test_text_is_escaped(tmp_path: Path) -> None:
    workspace = synthetic.copy(synthetic.shared(), tmp_path / "w")
    report.build(workspace, analysis(tmp_path / "analysis", one=TINY), progress=lambda line: None)
    text = (workspace / "report.html").read_text()
    assert "<script>x" not in text and "&lt;script&gt;x&lt;/script&gt;" in text
    assert "A &lt;b&gt;title&lt;/b&gt; &amp; more" in text


def test_what_a_run_said_when_it_failed_runs_nothing_on_the_page(tmp_path: Path) -> None:
    workspace = synthetic.copy(synthetic.shared(), tmp_path / "w")
    path = workspace / "tables" / "lenet_lr_grid" / "runs.parquet"
    runs, bad = pd.read_parquet(path), "<script>alert(1)</script>"
    runs["error"] = bad
    runs.loc[0, "status"] = "failed"
    for column in ("run_id", "device", "data_title", "commit", "commits"):
        runs.loc[0 if column == "run_id" else 1, column] = bad
    runs.to_parquet(path)
    report.build(workspace, analysis(tmp_path / "analysis", one=TINY), progress=lambda line: None)
    text = (workspace / "report.html").read_text()
    assert "<script>alert" not in text and text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3


def test_the_same_tables_give_the_same_bytes(tmp_path: Path) -> None:
    folder = analysis(tmp_path / "analysis", one=TINY)
    shutil.copy(synthetic.FINDINGS / "lenet_lr.py", folder)
    contents = []
    for name in ("once", "again"):
        workspace = synthetic.copy(synthetic.shared(), tmp_path / name)
        made = report.build(workspace, folder, progress=lambda line: None)
        contents.append([path.read_bytes() for path in made])
    assert contents[0] == contents[1]


@pytest.mark.slow
def test_two_processes_draw_the_committed_tables_alike_and_leave_what_is_committed(tmp_path: Path) -> None:
    """`make report` in a fresh clone: the same bytes in every process, nothing but `redrawn` written, no torch."""
    script = """
import sys
from bnstudy.cli import main
try:
    main(["report", "--results", sys.argv[1]])
except SystemExit as end:
    assert end.code == 0, end.code
assert not {"torch", "wandb", "hydra", "torchvision"} & set(sys.modules)
"""
    processes, trees = [], []
    for seed in ("1", "2"):
        results = tmp_path / seed
        for sweep in ("lenet_lr_grid", "jacobian_blocks"):  # not all, which takes a minute
            shutil.copytree(synthetic.REPOSITORY / "results" / "tables" / sweep, results / "tables" / sweep)
        (results / "figures").mkdir()
        for committed in ("figures/lenet_lr.svg", "figures/lenet_lr.png", "claims.json", "claims.md"):
            (results / committed).write_text("as it was published")
        command = [sys.executable, "-c", script, str(results)]
        processes.append(subprocess.Popen(command, env={**os.environ, "PYTHONHASHSEED": seed}, stdout=subprocess.PIPE))
        trees.append(results)
    assert [process.wait(300) for process in processes] == [0, 0]
    first, second = (
        {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
        for root in trees
    )
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    outside = {name: content for name, content in first.items() if not name.startswith(("redrawn/", "tables/"))}
    assert set(outside.values()) == {b"as it was published"} and len(outside) == 4
    made = {name.removeprefix("redrawn/") for name in first if name.startswith("redrawn/")}
    assert {"claims.json", "claims.md", "report.html", "figures/lenet_lr.svg", "figures/lenet_lr.png"} <= made
    for process in processes:
        assert process.stdout is not None
        with process.stdout as told:
            assert b"redrawn/report.html" in told.read()


def test_what_the_data_are_called_and_n_stand_by_every_figure(tmp_path: Path) -> None:
    workspace = synthetic.copy(synthetic.shared(), tmp_path / "w")
    path = workspace / "tables" / "lenet_lr_grid" / "runs.parquet"
    pd.read_parquet(path).assign(data_title="Fashion-MNIST (69,999 of 70,000 exact)").to_parquet(path)
    report.build(workspace, analysis(tmp_path / "analysis", one=TINY), progress=lambda line: None)
    title = "Fashion-MNIST (69,999 of 70,000 exact)"
    assert f"{title}, arrays" in (workspace / "figures" / "one.svg").read_text()  # in its metadata
    assert all(row["data"].startswith(f"{title}, ") for row in json.loads((workspace / "claims.json").read_text()))
    text = (workspace / "report.html").read_text()
    assert f"LeNet on {title}, 2 epochs · commit 01234567" in text
    assert re.search(r"caption n = 3 seeds an arm, 48 runs\.</figcaption>", text)


@pytest.mark.parametrize(("elsewhere", "told"), [("none", "3 seeds an arm"), ("norm1", "3 seeds, all with BN")])
def test_bn_that_stands_nowhere_is_the_arm_without(tmp_path: Path, elsewhere: str, told: str) -> None:
    """Regression: of BN behind subsets of the layers, those behind none among them, it said n = 5 with BN."""
    workspace = synthetic.copy(synthetic.shared(), tmp_path / "w")
    path = workspace / "tables" / "lenet_lr_grid" / "runs.parquet"
    runs = pd.read_parquet(path)
    where = runs["norm_where"].where(runs["norm"] == "batch", elsewhere)
    runs.assign(norm="batch", norm_where=where).to_parquet(path)
    finding = findings.load(analysis(tmp_path / "analysis", one=TINY) / "one.py")
    with figures.style(tmp_path / "analysis" / drawing.STYLE):
        fig = drawing.draw(finding, *drawing.load(finding, workspace, tmp_path / "analysis"))
    assert fig.texts[1].get_text().endswith(f", n = {told}, 48 runs")


def test_the_time_of_runs_side_by_side_is_counted_once(tmp_path: Path) -> None:
    workspace = synthetic.copy(synthetic.shared(), tmp_path / "w")
    path, folder = workspace / "tables" / "lenet_lr_grid" / "runs.parquet", analysis(tmp_path / "analysis", one=TINY)
    runs = pd.read_parquet(path)  # 48 of 12.5 s
    for made, told in ((runs.drop(columns="num_runs"), "at most 10 min 0 s"), (runs.assign(num_runs=6), "1 min 40 s")):
        made.to_parquet(path)
        report.build(workspace, folder, progress=lambda line: None)
        assert f'<td class="tight">{told}</td>' in (workspace / "report.html").read_text()


def test_strict_refuses_a_mixture_of_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    folder = analysis(tmp_path / "analysis", one=TINY)
    original = synthetic.manifest

    def other_commit(*args: object, **values: object) -> dict[str, object]:
        made = original(*args, **values)  # type: ignore[arg-type]
        made["provenance"]["commit"] = f"{made['config']['seed']}" * 40
        return made

    monkeypatch.setattr(synthetic, "manifest", other_commit)
    workspace = synthetic.write_workspace(results, sweeps=("lenet_lr_grid",))
    report.build(workspace, folder, progress=lambda line: None)
    with pytest.raises(report.ReportError, match="several commits"):
        report.build(workspace, folder, progress=lambda line: None, strict=True)
