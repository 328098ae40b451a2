"""The page in a real browser: accessible, silent on the network, working."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from multitask.reports.write import write_report
from multitask.run import Run
from tests.reports.test_report import run as hostile

_BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)

pytestmark = pytest.mark.skipif(not _BROWSER, reason="needs Chromium")

__all__ = ["hostile"]

_AXE = """
axe.run(document, {resultTypes: ["violations"]}).then((found) => {
  const out = document.createElement("pre");
  out.id = "out";
  out.textContent = JSON.stringify(found.violations.map((v) => [v.id, v.nodes.map((n) => n.html)]));
  document.body.append(out);
});
"""
_SEARCH = """
const box = document.querySelector("input[data-searches]");
const table = document.getElementById(box.dataset.searches);
const shown = () => table.tBodies[0].rows.length;
const type = (text) => { box.value = text; box.dispatchEvent(new Event("input")); return shown(); };
const out = document.createElement("pre");
out.id = "out";
setTimeout(() => {
  const every = type("");
  const id = table.tBodies[0].rows[0].querySelector("code").textContent;
  out.textContent = JSON.stringify([every, type(id), type("no such words here")]);
  document.body.append(out);
}, 0);
"""
_TURN = """
const id = document.querySelector("input[data-searches]").dataset.searches;
const part = (end) => document.getElementById(id + end);
const first = () => part("").tBodies[0].rows[0].querySelector("code").textContent;
const out = document.createElement("pre");
out.id = "out";
setTimeout(() => {
  const seen = [[first(), part("-count").textContent, part("-back").disabled]];
  part("-on").click();
  seen.push([first(), part("-count").textContent, part("-on").disabled]);
  part("-back").click();
  seen.push([first()]);
  out.textContent = JSON.stringify(seen);
  document.body.append(out);
}, 0);
"""

Open = Callable[..., str]


@pytest.fixture
def browse(tmp_path: Path) -> Open:
    """Open a page and return its DOM once scripts have run."""

    def browse(page: Path, *flags: str) -> str:
        done = subprocess.run(
            [
                _BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND",
                f"--user-data-dir={tmp_path / 'profile'}",
                "--virtual-time-budget=30000", "--dump-dom", *flags, page.as_uri(),
            ],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return done.stdout

    return browse


@pytest.fixture
def page(evaluated: Run, tmp_path: Path) -> Path:
    """A report with every section: the base's answers stand in for single-task runs too."""
    shutil.copytree(evaluated.root, tmp_path / "run")
    run = Run(tmp_path / "run")
    folder = run.evaluations / "trained"
    results = json.loads((folder / "results.json").read_text())
    base = results["comparisons"]["base"]
    side = {"rows": 9, "seen": 9.0, "steps": 3, "tokens": None, "train": "0" * 32}
    budget = {"same": "rows", "same_training_rows": True, "this": side, "other": side}
    shared = {
        "schema_version": 1, "evaluation": "trained", "split": "test", "limit": 12,
        "tasks": {task: {"run": task, **found, "budget": budget} for task, found in base.items()},
        "not_compared": ["other"], "notes": ["trained with <other> settings"],
        "relative_gain": {"value": -0.1, "low": -0.2, "high": -0.05}, "key": results["key"],
    }  # fmt: skip
    (folder / "interference.json").write_text(json.dumps(shared))
    (folder / "general").mkdir()
    general = {**results, "split": "general", "comparisons": {"base/general": base}}
    (folder / "general/results.json").write_text(json.dumps(general))
    return write_report(run)[0]


def _with_script(page: Path, folder: Path, *scripts: str) -> Path:
    """A copy that runs scripts of ours, for which its policy has to go, with all parts open."""
    text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text())
    text = text.replace("<details", "<details open")
    added = "".join("<script>" + s.replace("</script", "<\\/script") + "</script>" for s in scripts)
    copy = folder / "copy.html"
    copy.write_text(text.replace("</body>", added + "</body>"))
    return copy


def _out(dom: str) -> object:
    (found,) = re.findall(r'<pre id="out">(.*?)</pre>', dom, re.DOTALL)
    return json.loads(html.unescape(found))


@pytest.fixture(scope="session")
def axe() -> str:
    spec = find_spec("axe_core_python")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs axe-core-python")
    return (Path(spec.submodule_search_locations[0]) / "axe.min.js").read_text("utf-8")


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing(browse: Open, page: Path, tmp_path: Path, axe: str, dark: bool) -> None:
    flags = ["--blink-settings=preferredColorScheme=0"] if dark else []
    assert _out(browse(_with_script(page, tmp_path, axe, _AXE), *flags)) == []


def test_axe_does_find_what_is_wrong(browse: Open, tmp_path: Path, axe: str) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<!doctype html><html><body><img src='data:,'><input></body></html>")
    found = _out(browse(_with_script(bad, tmp_path, axe, _AXE)))
    assert {"image-alt", "label"} <= {name for name, _ in found}


# How Chromium's net log marks what a page asks for ("blink_resource_loader"); the browser itself
# asks for other things. Were the number to change, the second of the tests would fail.
_BY_A_PAGE = '"traffic_annotation":101845102'


def _requests(log: Path) -> list[str]:
    events = [line for line in log.read_text().splitlines() if _BY_A_PAGE in line]
    urls = [url for line in events for url in re.findall(r'"url":"([^"]+)"', line)]
    return [url for url in urls if not url.startswith(("file:", "data:"))]


def test_the_page_under_test_has_every_section(page: Path) -> None:
    found = set(re.findall(r"<h[23][^>]*>([^<]*)<", page.read_text()))
    assert {
        "Verdict", "What got worse", "When to hand over to a person", "Forgetting",
        "What sharing one model gave and took", "Option positions", "Confusions",
        "Surest mistakes", "Training", "Provenance", "Made with",
    } <= found  # fmt: skip


def test_opening_the_page_requests_nothing(browse: Open, page: Path, tmp_path: Path) -> None:
    browse(page, f"--log-net-log={tmp_path / 'net.json'}")
    assert _requests(tmp_path / "net.json") == []


def test_a_page_that_requests_something_is_noticed(browse: Open, tmp_path: Path) -> None:
    page = tmp_path / "loud.html"
    page.write_text("<!doctype html><img src='http://127.0.0.1:9/x.png'>")
    browse(page, f"--log-net-log={tmp_path / 'net.json'}")
    assert "http://127.0.0.1:9/x.png" in _requests(tmp_path / "net.json")


def test_the_own_script_runs_under_the_policy(browse: Open, page: Path) -> None:
    before, after = page.read_text(), browse(page)
    assert 'class="tools" hidden' in before
    assert 'class="tools" hidden' not in after


def test_the_search_shows_the_rows_that_fit(browse: Open, page: Path, tmp_path: Path) -> None:
    every, one, none = _out(browse(_with_script(page, tmp_path, _SEARCH)))
    assert (every, none) == (12, 0)
    assert 1 <= one < every


def test_many_predictions_are_turned_page_by_page(browse: Open, page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    rows = [[f"text {i}", 0, 1, [[0, 500]], 1, f"row-{i}"] for i in range(130)]
    data = json.dumps({"names": ["a", "b"], "rows": rows})
    start = text.index(">", text.index('id="task-1-rows-data"')) + 1
    text = text[:start] + data + text[text.index("</script>", start) :]
    page = tmp_path / "many.html"
    page.write_text(text)
    first, second, again = _out(browse(_with_script(page, tmp_path, _TURN)))
    assert first == ["row-0", "1 to 100 of 130 rows", True]
    assert second == ["row-100", "101 to 130 of 130 rows", True]
    assert again == ["row-0"]


def test_a_hostile_row_does_not_run(browse: Open, hostile: Run, tmp_path: Path) -> None:
    attack = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    rows = hostile.split("test").read_text().splitlines()
    first = json.loads(rows[0]) | {"text": attack}
    hostile.split("test").write_text("\n".join([json.dumps(first), *rows[1:]]) + "\n")
    text = write_report(hostile)[0]
    assert "<title>owned" not in browse(_with_script(text, tmp_path))
    assert html.escape("document.title='owned'") in text.read_text().replace("&#39;", "&#x27;")
    dom = browse(_with_script(text, tmp_path, _SEARCH))
    assert "&lt;img src=x onerror" in dom
    assert "<title>owned" not in dom
