"""``write_report``: report.html and report.md of a run."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from multitask.metrics import METRICS
from multitask.reports.charts import Charts
from multitask.reports.content import ReportContent, gather
from multitask.run import Run, write_atomic
from multitask.scrub import hide_patterns

_ESCAPED = {ord(character): f"&#{ord(character)};" for character in "\\`*_{}[]<>#|~&"}
_TITLES = {key: metric.title for key, metric in METRICS.items()}


def write_report(run: Run) -> tuple[Path, Path]:
    """Write both reports.

    Returns:
        Paths of report.html and report.md.

    Raises:
        InputError: The run has not been evaluated.
    """
    return write_content(run, gather(run))


def write_content(run: Run, content: ReportContent) -> tuple[Path, Path]:
    """Write both reports of what was gathered; returns their paths."""
    html, markdown = run.root / "report.html", run.root / "report.md"
    write_atomic(html, hide_patterns(render_html(content)))
    write_atomic(markdown, hide_patterns(render_markdown(content)))
    return html, markdown


def render_html(content: ReportContent) -> str:
    """One self-contained page; everything that comes from data or specs is escaped."""
    own = files("multitask.reports")
    style, script = (own.joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    digest = b64encode(sha256(script.encode()).digest()).decode()
    return (
        _environment(autoescape=True)
        .get_template("report.html.j2")
        .render(
            report=content,
            metrics=_TITLES,
            charts=Charts(),
            style=Markup(style),  # noqa: S704 (files of this package)
            script=Markup(script),  # noqa: S704
            script_hash=f"sha256-{digest}",
        )
        .lstrip()
    )


def render_markdown(content: ReportContent) -> str:
    """The same numbers for a pull request."""
    return (
        _environment(autoescape=False)
        .get_template("report.md.j2")
        .render(report=content, metrics=_TITLES)
    )


def _environment(*, autoescape: bool) -> Environment:
    # The Markdown report is no HTML; its cells are escaped by the filter `cell`.
    environment = Environment(
        loader=PackageLoader("multitask", "reports"),
        autoescape=autoescape,  # noqa: S701
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = markdown_cell
    # Made by `script_json`, which lets nothing end the element that it stands in.
    environment.filters["raw_json"] = Markup
    return environment


def markdown_cell(value: object) -> str:
    """Text that cannot leave its table cell or start markup or HTML."""
    return " ".join(str(value).split()).translate(_ESCAPED)
