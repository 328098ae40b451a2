"""Which evaluation a report is about, and what it says of forgetting, labels and origins."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from multitask.data.general import read_entries
from multitask.errors import InputError
from multitask.evaluation.evaluate import evaluate
from multitask.evaluation.requests import Settings
from multitask.reports.load import choose, gather
from multitask.reports.verdicts import label_losses
from multitask.reports.write import write_report
from multitask.run import Run

QUICK = Settings(baselines=False, generate=0, calibration="none", distribution=False)


@pytest.mark.parametrize(
    ("names", "wanted", "chosen", "notes"),
    [
        (["base", "trained", "z"], None, "trained", 0),
        (["base", "other"], "base", "base", 0),
        (["only"], None, "only", 0),
        (["base", "b", "c"], None, "b", 1),
    ],
)
def test_the_named_one_then_the_trained_then_the_first_that_is_not_the_base(
    names: list[str], wanted: str | None, chosen: str, notes: int
) -> None:
    found, said = choose(names, wanted)
    assert (found, len(said)) == (chosen, notes)


def test_where_it_is_not_plain_the_others_are_named() -> None:
    ((note,),) = [choose(["base", "b", "c"], None)[1]]
    assert note == "about the evaluation 'b'; there is also c, base: choose with --name"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'trained'"):
        choose(["base", "trained"], "traned")


def test_the_command_takes_a_name(evaluated: Run, tmp_path: Path) -> None:
    shutil.copytree(evaluated.root, tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-m", "multitask", "report", "run", "--name", "base"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "run/report.html").read_text()
    assert "Evaluation <strong>base</strong>" in text
    assert "multitask report run --name base" in text


def _label(name: str, value: float, p: float) -> dict[str, object]:
    difference = {"value": value, "low": value - 0.1, "high": value + 0.1}
    return {"label": name, "n": 40, "difference": difference, "p_bh": p}


def test_labels_that_lost_are_told_those_beyond_chance_one_by_one() -> None:
    labels = [_label("a", -0.5, 0.001), _label("b", -0.1, 0.6), _label("c", 0.4, 0.01)]
    found = list(label_losses("t", {"labels": labels}, "base"))
    assert [kind for _, kind in found] == ["worse", "unclear"]
    assert "label a: recall -50.0 points (-60.0 to -40.0; 40 rows, p 0.001" in found[0][0]
    assert found[1][0].endswith("each within chance: b (-10.0 points of 40 rows)")


def test_many_labels_are_cut_and_counted() -> None:
    labels = [_label(f"w{i}", -0.5, 0.001) for i in range(7)]
    labels += [_label(f"u{i}", -0.1, 0.6) for i in range(5)]
    found = list(label_losses("t", {"labels": labels}, "base"))
    assert len(found) == 7
    assert "2 more labels lose recall" in found[5][0]
    assert found[6][0].endswith("and 2 more")


@pytest.fixture
def forgetful(trained_copy: Run, tmp_path: Path) -> Run:
    rows = [f"item {i},{'even' if i % 2 == 0 else 'odd'}" for i in range(12)]
    (tmp_path / "parity.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    (tmp_path / "parity.yaml").write_text(
        "{name: parity, kind: classification, source: {path: parity.csv}}"
    )
    entries = read_entries([str(tmp_path / "parity.yaml")])
    evaluate(trained_copy, limit=4, general=entries, settings=QUICK)
    return trained_copy


def test_forgetting_is_on_the_first_screen(forgetful: Run) -> None:
    html, markdown = write_report(forgetful)
    assert "before and after the training, on the same rows" in html.read_text()
    assert "| parity | 4 |" in markdown.read_text()
    assert "--general parity" in markdown.read_text()


def test_forgetting_of_other_weights_is_not_shown(forgetful: Run) -> None:
    path = forgetful.evaluations / "trained/general/results.json"
    record = json.loads(path.read_text())
    record["key"]["model"] = "0" * 64
    path.write_text(json.dumps(record))
    content = gather(forgetful)
    assert content["forgetting"] is None
    assert any("other weights" in note for note in content["notes"])


def test_versions_of_training_and_evaluation_stand_side_by_side(evaluated: Run) -> None:
    evaluated.logs.mkdir(exist_ok=True)
    made = {"versions": {"torch": "0.1"}, "commit": None, "gpus": ["H9"] * 4, "processes": 12}
    event = {"event": "start", "time": 0, "step": 0, "max_steps": 1, "environment": made}
    evaluated.trainer_events.write_text(json.dumps(event) + "\n")
    try:
        found = gather(evaluated)["provenance"]["made_with"]
    finally:
        shutil.rmtree(evaluated.logs)
    assert found["torch"][0] == "0.1"
    assert found["torch"][1] == found["torch"][2] != "0.1"
    assert found["GPUs of a machine"][0] == "4 × H9"  # noqa: RUF001
    assert found["processes"][0] == "12"


def test_the_commands_repeat_what_was_asked_for(evaluated: Run) -> None:
    evaluate_command = gather(evaluated)["provenance"]["commands"][2]
    assert evaluate_command == (
        "multitask evaluate run --split test --name trained --limit 12 --generate 3 "
        "--permutations --base"
    )
