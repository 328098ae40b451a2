"""Charts of a report as inline SVG, by matplotlib (the ``report`` extra).

Colours are written as the page's CSS variables, so that one chart serves light, dark and print.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from io import StringIO
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from multitask.reports.training import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Stand-ins that matplotlib takes for colours, and what the page puts in their place.
_INK, _LINE = "#010101", "#020202"
SERIES = ("#030301", "#030302", "#030303", "#030304", "#030305", "#030306")
_VARIABLES = {_INK: "var(--soft)", _LINE: "var(--line)"} | {
    color: f"var(--c{place})" for place, color in enumerate(SERIES, 1)
}
_DASHES = ("-", "--", ":", "-.")
_SETTINGS = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": _LINE,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def available() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


class Charts:
    """Draws the charts of one page; every chart's ids are its own."""

    def __init__(self) -> None:
        self.available = available()
        self._drawn = 0

    def reliability(
        self,
        title: str,
        before: Sequence[Mapping[str, Any]],
        after: Sequence[Mapping[str, Any]] | None,
    ) -> Markup:
        """Accuracy against confidence with intervals, in bins of equally many rows."""
        sides = [("before calibration", before)] + ([("after", after)] if after else [])

        def draw(axes: Axes) -> None:
            axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle="--")
            for place, (_, bins) in enumerate(sides):
                x = [b["confidence"] for b in bins]
                y = [b["accuracy"]["value"] for b in bins]
                low = [b["accuracy"]["value"] - b["accuracy"]["low"] for b in bins]
                high = [b["accuracy"]["high"] - b["accuracy"]["value"] for b in bins]
                axes.errorbar(
                    x, y, [low, high], color=SERIES[place], fmt="os"[place], markersize=4,
                    linewidth=1, clip_on=False,
                )  # fmt: skip
            axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share right")
            axes.set_aspect("equal")

        return self._figure(title, [name for name, _ in sides], draw, size=(4.2, 4.2))

    def curves(
        self, title: str, curves: Mapping[str, Curve], label: str, *, is_share: bool = False
    ) -> Markup:
        """Values by optimizer step, one line a name; shares on a scale from 0 to 1."""

        def draw(axes: Axes) -> None:
            for place, curve in enumerate(curves.values()):
                axes.plot(
                    [step for step, _ in curve],
                    [value for _, value in curve],
                    color=SERIES[place % len(SERIES)],
                    linestyle=_DASHES[place // len(SERIES) % len(_DASHES)],
                    linewidth=1.6,
                    marker="o" if len(curve) < 30 else None,
                    markersize=3,
                )
            axes.set(xlabel="step", ylabel=label)
            if is_share:
                axes.set_ylim(0, 1)

        return self._figure(title, list(curves), draw)

    def bars(
        self, title: str, names: Sequence[str], series: Mapping[str, Sequence[float]], label: str
    ) -> Markup:
        """Groups of bars, one group a name and one bar a series."""

        def draw(axes: Axes) -> None:
            width = 0.8 / len(series)
            for place, values in enumerate(series.values()):
                shift = (place - (len(series) - 1) / 2) * width
                places = [i + shift for i in range(len(names))]
                axes.bar(places, list(values), width * 0.92, color=SERIES[place % len(SERIES)])
            axes.set_xticks(range(len(names)), [_short(name) for name in names])
            axes.grid(visible=False, axis="x")
            axes.set(ylabel=label)

        return self._figure(title, list(series) if len(series) > 1 else [], draw)

    def time_line(self, title: str, moments: Sequence[Mapping[str, Any]]) -> Markup:
        """Steps over time, with starts, checkpoints and restarts."""
        kinds = {"start": ">", "restart": "X", "checkpoint": "o", "end": "s"}
        shown = [kind for kind in kinds if any(m["kind"] == kind for m in moments)]

        def draw(axes: Axes) -> None:
            # Each attempt is a line of its own: between two, nothing was trained.
            parts: list[list[Mapping[str, Any]]] = []
            for moment in moments:
                if moment["kind"] in ("start", "restart"):
                    parts.append([])
                parts[-1].append(moment)
            for part in parts:
                axes.plot([m["minutes"] for m in part], [m["step"] for m in part], color=_INK)
            for place, kind in enumerate(shown):
                at = [m for m in moments if m["kind"] == kind]
                axes.plot(
                    [m["minutes"] for m in at], [m["step"] for m in at], kinds[kind],
                    color=SERIES[place], markersize=7 if kind == "restart" else 5, clip_on=False,
                )  # fmt: skip
            axes.set(xlabel="minutes", ylabel="step")

        return self._figure(title, shown, draw, size=(6.4, 2.6))

    def _figure(
        self,
        title: str,
        legend: Sequence[str],
        draw: Any,
        size: tuple[float, float] = (5.4, 3.2),
    ) -> Markup:
        import matplotlib
        from matplotlib.figure import Figure

        self._drawn += 1
        prefix = f"chart{self._drawn}-"
        with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": prefix}):
            figure = Figure(figsize=size, layout="constrained")
            axes = figure.add_subplot()
            draw(axes)
            # A clip path is a reference; the page has none.
            for artist in (*axes.lines, *axes.collections, *axes.patches):
                artist.set_clip_on(False)
            for line in (*axes.get_xgridlines(), *axes.get_ygridlines()):
                line.set_clip_on(False)
            out = StringIO()
            figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
        return _markup(out.getvalue(), title, legend, prefix)


def _short(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "…"


def _markup(svg: str, title: str, legend: Sequence[str], prefix: str) -> Markup:
    """The drawing without what only a file of its own needs."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:id|xmlns|xmlns:xlink|version)="(?!m[0-9a-f]{10}")[^"]*"', "", svg)
    svg = re.sub(r'(\bid="|xlink:href="#)', lambda found: found[1] + prefix, svg)
    svg = re.sub(r" font-family: [^;]*;", "", svg)
    width = re.search(r'width="([\d.]+)pt" height="[\d.]+pt"', svg)
    if width is not None:
        svg = svg.replace(width[0], f'style="max-width:{float(width[1]) * 1.25:.0f}px"', 1)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    svg = re.sub(r"\n\s*", "\n", svg)
    head = f'<svg role="img" class="chart" aria-label="{escape(title)}"'
    svg = svg.replace("<svg", head, 1)
    keys = "".join(
        f'<li><span class="key" style="background:var(--c{place % len(SERIES) + 1})"></span>'
        f"{escape(name)}</li>"
        for place, name in enumerate(legend)
    )
    caption = f"<figcaption>{escape(title)}{f'<ul class=legend>{keys}</ul>' if keys else ''}"
    return Markup(f"<figure>{caption}</figcaption>{svg}</figure>")  # noqa: S704 (all of it escaped)
