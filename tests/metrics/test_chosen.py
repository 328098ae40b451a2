"""A task's own choice of metrics: in the spec, in the run, in the results."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from multitask.data.prepare import prepare
from multitask.errors import InputError, MultitaskError
from multitask.evaluation.evaluate import evaluate
from multitask.evaluation.requests import Settings
from multitask.metrics import METRICS, Predictions
from multitask.metrics.registry import chosen
from multitask.reports.write import write_report
from multitask.run import Run
from multitask.spec import load_spec

OWN = """
import numpy as np
from multitask.metrics import metric

@metric(name="vowels", title="Vowels answered", higher_is_better=False, unit="number")
def vowel_rate(predictions):
    '''How often a vowel is answered.'''
    return np.array([p in "aeiou" for p in predictions.predicted], dtype=float)

@metric(name="likeliest", title="Likeliest", needs=["log_probs"])
def likeliest(predictions):
    '''Needs probabilities.'''
    return predictions.log_probs.max(axis=1)

def no_metric(predictions):
    return 0.0
"""


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    known = dict(METRICS)
    yield
    METRICS.clear()
    METRICS.update(known)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = "".join(f"text {i} {'abe'[i % 3]},{'abe'[i % 3]}\n" for i in range(90))
    (tmp_path / "rows.csv").write_text("text,label\n" + rows)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("import missing_module_of_mine\n")
    return tmp_path


def _spec(folder: Path, metrics: object, kind: str = "classification") -> Path:
    parts = ("prompt", "response") if kind == "generation" else ("text", "label")
    task = {
        "name": "letters",
        "kind": kind,
        "source": {"path": "rows.csv"},
        "columns": dict(zip(parts, ("text", "label"), strict=True)),
        "template": {"prompt": "{{ text }}", "response": "{{ label }}"},
        "metrics": metrics,
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump({"model": "owner/model", "tasks": [task], "cluster": "cpu"}))
    return path


def test_results_have_the_chosen_metrics_the_headline_first(folder: Path, toy: Path) -> None:
    spec = load_spec(_spec(folder, ["macro_f1", "own:vowel_rate", "accuracy"]))
    run = prepare(spec, folder / "run")
    METRICS.pop("vowels")
    assert load_spec(run.root).tasks == spec.tasks
    # The run has the module with it, and can be evaluated elsewhere.
    (folder / "own.py").unlink()
    run = Run(run.root.rename(folder / "moved"))
    evaluate(run, model=str(toy), name="mine", settings=Settings(generate=0))
    results = json.loads((run.evaluations / "mine" / "results.json").read_text())
    task = results["tasks"]["letters"]
    for metrics in (task["metrics"], *task["baselines"].values()):
        assert list(metrics) == ["macro_f1", "vowels", "accuracy"]
        assert metrics["vowels"].keys() == {"value", "low", "high"}
    assert task["own_metrics"] == {
        "vowels": {"title": "Vowels answered", "higher_is_better": False, "unit": "number"}
    }
    # A report knows what they are where their module is not.
    METRICS.pop("vowels")
    shutil.rmtree(run.root / "metrics")
    page, _ = write_report(run)
    assert "Vowels answered" in page.read_text()
    assert METRICS["vowels"].unit == "number"


@pytest.mark.parametrize(
    ("metrics", "kind", "expected"),
    [
        (["acuracy"], "classification", "unknown metric 'acuracy'\n  fix: did you mean 'accuracy'"),
        (["bleu"], "classification", "'bleu' is of generation, not of classification"),
        (["accuracy", "accuracy"], "classification", "'accuracy' is there twice"),
        (["own:likeliest"], "generation", "needs probabilities, which a task of the kind gen"),
        (
            ["own:vowel_rat"],
            "classification",
            "no metric 'vowel_rat'\n  fix: did you mean 'vowel_r",
        ),
        (["own:no_metric"], "classification", "'no_metric' of .*own.py' is no metric"),
        (["broken:x"], "classification", "cannot be imported: No module named 'missing_module"),
        (["nowhere:x"], "classification", "cannot be imported: No module named 'nowhere'"),
    ],
)
def test_wrong_metrics_are_refused_with_the_key_before_any_work(
    folder: Path, metrics: list[str], kind: str, expected: str
) -> None:
    spec = load_spec(_spec(folder, metrics, kind))
    with pytest.raises(InputError, match=f"task 'letters': key 'metrics'(.|\n)*{expected}"):
        prepare(spec, folder / "run")
    assert not (folder / "run").exists()


def test_a_module_that_needs_another_beside_it_cannot_go_with_the_run(folder: Path) -> None:
    (folder / "vowels.py").write_text("VOWELS = 'aeiou'\n")
    (folder / "own.py").write_text("from vowels import VOWELS\n" + OWN)
    spec = load_spec(_spec(folder, ["own:vowel_rate"]))
    sys.modules.pop("vowels", None)
    with pytest.raises(InputError, match=r"key 'metrics'(.|\n)*by itself(.|\n)*one file"):
        prepare(spec, folder / "run")
    assert not (folder / "run").exists()


def test_the_command_names_file_and_key_and_ends_with_2(folder: Path) -> None:
    spec = _spec(folder, ["macro-f1"])
    command = [sys.executable, "-m", "multitask", "prepare", str(spec), "--out", str(folder / "r")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    shown = " ".join(done.stderr.split())
    assert "spec.yaml: task 'letters': key 'metrics': unknown metric 'macro-f1'" in shown
    assert "did you mean 'macro_f1'?" in shown


def test_an_own_metric_that_fails_is_named(folder: Path) -> None:
    (folder / "own.py").write_text(OWN.replace('p in "aeiou"', "1 / 0"))
    task = load_spec(_spec(folder, ["own:vowel_rate"])).tasks[0]
    (failing,) = chosen(task.metrics, "classification", (), "here")  # type: ignore[union-attr,arg-type]
    with pytest.raises(MultitaskError, match="'vowels' failed: ZeroDivisionError"):
        failing(Predictions(["a"], ["a"], "ab"))


def test_no_metrics_at_all_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="metrics"):
        load_spec(_spec(folder, []))
