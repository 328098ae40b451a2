"""``write_report``: report.html and report.md of a run."""

from __future__ import annotations

from base64 import b64encode
from functools import partial
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from multitask import formatting
from multitask.reports.charts import Charts
from multitask.reports.load import Report, gather
from multitask.reports.verdicts import interval, is_share, number, title
from multitask.run import Run, write_atomic
from multitask.scrub import hide_patterns

_TO = "–"  # noqa: RUF001 (an en dash)


def write_report(run: Run, report: Report | None = None) -> tuple[Path, Path]:
    """Write both reports.

    Args:
        run: The run.
        report: What was gathered already; default: gathered now.

    Returns:
        Paths of report.html and report.md.

    Raises:
        InputError: The run has not been evaluated.
    """
    report = report or gather(run)
    html, markdown = run.root / "report.html", run.root / "report.md"
    write_atomic(html, hide_patterns(render_html(report)))
    write_atomic(markdown, hide_patterns(render_markdown(report)))
    return html, markdown


def render_html(report: Report) -> str:
    """One self-contained page; everything that comes from data or specs is escaped."""
    own = files("multitask.reports")
    style, script = (own.joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    digest = b64encode(sha256(script.encode()).digest()).decode()
    template = _environment(autoescape=True).get_template("report.html.j2")
    return template.render(
        report=report,
        charts=Charts(),
        style=Markup(style),  # noqa: S704 (files of this package)
        script=Markup(script),  # noqa: S704
        script_hash=f"sha256-{digest}",
    ).lstrip()


def render_markdown(report: Report) -> str:
    """The same numbers for a pull request."""
    return _environment(autoescape=False).get_template("report.md.j2").render(report=report)


def _environment(*, autoescape: bool) -> Environment:
    # The Markdown report is no HTML; its cells are escaped by the filter `cell`.
    environment = Environment(
        loader=PackageLoader("multitask", "reports"),
        autoescape=autoescape,  # noqa: S701
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "title": title,
        "is_share": is_share,
        "number": number,
        "interval": partial(interval, to=_TO),
        "percent": lambda share: formatting.number(share["value"]),
        "span": partial(formatting.interval, to=_TO),
    }
    environment.filters["cell"] = formatting.cell
    environment.filters["lowered"] = lambda text: text[:1].lower() + text[1:]
    # Made by `answers.listed`, which lets nothing end the element that it stands in.
    environment.filters["raw_json"] = Markup
    return environment
