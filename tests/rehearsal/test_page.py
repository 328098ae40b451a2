"""What a rehearsal reads from a run, and the page that it makes."""

from __future__ import annotations

import json
from pathlib import Path

from multitask.checks import Checklist
from multitask.rehearsal.adapt import Change
from multitask.rehearsal.checks import losses_by_step, steps_lost
from multitask.rehearsal.rehearse import Rehearsal, curve
from multitask.run import Run


def _events(run: Run, *events: dict[str, object]) -> None:
    run.trainer_events.parent.mkdir(parents=True)
    lines = [json.dumps(event) for event in events]
    run.trainer_events.write_text("\n".join(lines) + '\n{"event": "lo')


def test_losses_and_lost_steps_are_read_from_the_events(tmp_path: Path) -> None:
    run = Run(tmp_path)
    log = [{"event": "log", "step": s, "values": {"loss": s / 10}} for s in (1, 2, 3)]
    again = [{"event": "log", "step": s, "values": {"loss": s / 10}} for s in (3, 4)]
    steps = [{"event": "step", "step": s} for s in (1, 2, 3)]
    _events(run, {"event": "start", "step": 0}, *log, *steps, {"event": "start", "step": 2}, *again)
    assert losses_by_step(run) == {1: "0.1", 2: "0.2", 3: "0.3", 4: "0.4"}
    assert steps_lost(run) == [1]


def test_the_page_escapes_what_it_shows(tmp_path: Path) -> None:
    checks = Checklist()
    with checks.check("a <b>check</b>") as check:
        check.fail("<script>alert(1)</script>")
    result = Rehearsal(Run(tmp_path), 3, 4, checks, changes=[Change("k", "<i>", None, "why")])
    result.losses = {"undisturbed": {1: "2.0", 2: "1.0"}, "disturbed": {1: "2.0"}}
    page = result.write().read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert json.loads((tmp_path / "rehearsal/rehearsal.json").read_text())["passed"] is False


def test_curves_share_their_axes() -> None:
    losses = {"undisturbed": {1: "2.0", 2: "1.0"}, "disturbed": {1: "2.0"}}
    assert curve(losses["disturbed"], losses) == curve(losses["undisturbed"], losses).split()[0]
