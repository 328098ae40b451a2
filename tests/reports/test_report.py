"""Reports: the numbers of the results, and nothing of the data as markup."""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from multitask.data.prepare import prepare
from multitask.data.readers import read_rows
from multitask.errors import InputError
from multitask.metrics import METRICS
from multitask.reports.load import gather
from multitask.reports.terminal import print_results, print_summary
from multitask.reports.write import write_report
from multitask.run import Run
from multitask.spec import Spec

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)> & "quotes" | `code` {{ 7*7 }}'


SCRIPT = files("multitask.reports").joinpath("page.js").read_text("utf-8")


def _estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": max(0.0, value - 0.1), "high": min(1.0, value + 0.1)}


def _metrics(value: float) -> dict[str, object]:
    return {"accuracy": _estimate(value), "macro_f1": _estimate(value)}


@pytest.fixture
def run(sample_spec: Spec, tmp_path: Path) -> Run:
    """A run with results written by hand, in which a test row is hostile."""
    run = prepare(sample_spec.model_copy(update={"name": HOSTILE}), tmp_path / "run")
    rows = read_rows(run.split("test"))
    rows[0]["text"] = HOSTILE
    run.split("test").write_text("".join(json.dumps(row) + "\n" for row in rows))
    directory = run.evaluations / "trained"
    directory.mkdir(parents=True)
    tasks = {
        task: {
            "kind": "classification",
            "n": 30,
            "seconds": 2.0,
            "metrics": _metrics(value),
            "baselines": {"majority": _metrics(0.2), "tfidf_logistic_regression": _metrics(0.5)},
        }
        for task, value in (("text_claims", 0.9), ("banking77", 0.1), ("commonsense_qa", 0.5))
    }
    results = {"model": HOSTILE, "split": "test", "limit": None, "tasks": tasks}
    (directory / "results.json").write_text(json.dumps(results))
    pq.write_table(
        pa.table(
            {
                "task": ["text_claims"],
                "id": [rows[0]["id"]],
                "gold": ["Claim"],
                "predicted": ["Not a Claim"],
                "scores": [
                    [{"label": "Claim", "score": -2.0}, {"label": "Not a Claim", "score": -1.0}]
                ],
            }
        ),
        directory / "predictions.parquet",
    )
    return run


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.data: list[str] = []
        self._into = self.scripts

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._into = self.data if ("type", "application/json") in attrs else self.scripts
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self._into.append(data)


def test_hostile_text_is_shown_and_not_run(run: Run) -> None:
    page, _ = write_report(run)
    parser = _Tags()
    parser.feed(page.read_text())
    assert parser.tags.isdisjoint({"img", "iframe", "link", "object"})
    assert all(re.fullmatch(r"#[a-z0-9-]+", link) for link in parser.links)
    assert parser.scripts == [SCRIPT]
    assert "&lt;script&gt;alert(" in page.read_text()
    (listed,) = [json.loads(text) for text in parser.data]
    assert [row[0] for row in listed["rows"]] == [HOSTILE]


def test_the_page_loads_nothing_from_elsewhere(run: Run) -> None:
    page, _ = write_report(run)
    text = page.read_text()
    assert "default-src 'none'" in text
    assert re.findall(r"@import|url\(", text) == []


def test_only_the_script_of_the_page_may_run(run: Run) -> None:
    page, _ = write_report(run)
    digest = b64encode(sha256(SCRIPT.encode()).digest()).decode()
    (policy,) = re.findall(r"script-src ([^;]*)", page.read_text())
    assert html.unescape(policy) == f"'sha256-{digest}'"


def test_both_reports_show_every_task_and_number(run: Run) -> None:
    for path in write_report(run):
        text = path.read_text()
        assert all(number in text for number in ("90.0 %", "10.0 %", "50.0 %", "20.0 %"))
        assert "TF-IDF + logistic regression" in text
        assert "Majority label" in text


def test_verdicts_follow_the_intervals(run: Run) -> None:
    _, markdown = write_report(run)
    lines = [line for line in markdown.read_text().splitlines() if line.startswith("- **")]
    assert "40.0 points over" in lines[0]
    assert "40.0 points under" in lines[1]
    assert "not clearly different" in lines[2]


def test_own_metrics_are_told_by_title_also_where_a_baseline_lacks_the_headline(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("multitask.metrics.registry.METRICS", known := dict(METRICS))
    monkeypatch.setattr("multitask.reports.verdicts.METRICS", known)
    path = run.evaluations / "trained/results.json"
    results = json.loads(path.read_text())
    about = {"title": "Vowels answered", "higher_is_better": False, "unit": "number"}
    for task in results["tasks"].values():
        task["metrics"] = {"vowels": _estimate(0.4), "macro_f1": _estimate(0.3)}
        task["own_metrics"] = {"vowels": about}
    path.write_text(json.dumps(results))
    page, markdown = write_report(run)
    print_results(results)
    for text in (page.read_text(), markdown.read_text(), capsys.readouterr().out):
        assert "vowels answered" in text.lower()
        assert "0.400" in text
        assert "40.0 %" not in text


def test_a_run_without_evaluation_says_what_to_do(sample_spec: Spec, tmp_path: Path) -> None:
    run = prepare(sample_spec, tmp_path / "other")
    with pytest.raises(InputError, match="multitask evaluate"):
        write_report(run)


def test_a_real_run_is_reported_in_full(evaluated: Run) -> None:
    page, markdown = write_report(evaluated)
    text = page.read_text()
    for words in (
        "Paired comparisons", "What got worse", "When to hand over", "Confusion matrix",
        "Option positions", "Surest mistakes", "Predictions: 12 of 12 rows", "Provenance",
    ):  # fmt: skip
        assert words in text
    assert "multitask evaluate run --split test --name trained --limit 12" in text
    assert "Hand-over to a person" in markdown.read_text()
    assert "p (Holm)" in markdown.read_text()


def test_all_metrics_of_a_real_run_are_shown(evaluated: Run) -> None:
    results = json.loads((evaluated.evaluations / "trained/results.json").read_text())
    text = write_report(evaluated)[0].read_text()
    keys = {key for task in results["tasks"].values() for key in task["metrics"]}
    shown = html.unescape(text)
    assert [key for key in keys if METRICS[key].title not in shown] == []


def test_a_report_without_matplotlib_says_that_charts_are_left_out(
    evaluated: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multitask.reports.charts.find_spec", lambda name: None)
    text = write_report(evaluated)[0].read_text()
    assert "Charts are left out" in text
    assert "<figure>" not in text


def test_a_report_with_matplotlib_has_charts(evaluated: Run) -> None:
    pytest.importorskip("matplotlib")
    text = write_report(evaluated)[0].read_text()
    assert "Charts are left out" not in text
    assert "Reliability of banking77" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_the_terminal_shows_the_verdicts_and_no_markup(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    print_summary(gather(run))
    text = " ".join(capsys.readouterr().out.split())
    assert "40.0 points under" in text
    assert "not calibrated" in text
