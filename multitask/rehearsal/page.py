"""The rehearsal as a page and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, PackageLoader

from multitask.rehearsal.result import Rehearsal
from multitask.run import write_atomic

_WIDTH, _HEIGHT, _EDGE = 640, 200, 30


def write_page(rehearsal: Rehearsal) -> Path:
    """Write ``RUN/rehearsal/rehearsal.json`` and ``rehearsal.html``; return the latter's path."""
    root = rehearsal.run.root / "rehearsal"
    record = rehearsal.record()
    write_atomic(root / "rehearsal.json", json.dumps(record, indent=2) + "\n")
    loader = PackageLoader("multitask.rehearsal", "")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("page.html.j2").render(
        record=record,
        run=rehearsal.run.root.resolve().name,
        curves={name: curve(losses, rehearsal.losses) for name, losses in rehearsal.losses.items()},
        width=_WIDTH,
        height=_HEIGHT,
    )
    path = root / "rehearsal.html"
    write_atomic(path, page)
    return path


def curve(losses: Mapping[int, str], every: Mapping[str, Mapping[int, str]]) -> str:
    """Points of a line for an SVG, on axes that all curves share."""
    steps = [step for one in every.values() for step in one]
    values = [float(loss) for one in every.values() for loss in one.values()]
    if not losses or not values:
        return ""
    low, high = min(values), max(values)
    first, last = min(steps), max(steps)
    points = []
    for step, loss in losses.items():
        x = _EDGE + (step - first) / max(1, last - first) * (_WIDTH - 2 * _EDGE)
        y = _EDGE + (high - float(loss)) / ((high - low) or 1.0) * (_HEIGHT - 2 * _EDGE)
        points.append(f"{x:.1f},{y:.1f}")
    return " ".join(points)
