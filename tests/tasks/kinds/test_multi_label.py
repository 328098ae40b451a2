"""Multi-label tasks: their cells, their questions, their metrics against scikit-learn's."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn import metrics as sklearn

from multitask.data.general import read_general, write_general
from multitask.data.prepare import prepare
from multitask.data.readers import read_rows
from multitask.data.render import Row
from multitask.errors import InputError
from multitask.metrics import METRICS, Predictions
from multitask.metrics.registry import compute, metrics_of
from multitask.run import Run
from multitask.spec import load_spec, resolve_task
from multitask.task_spec import TaskSpec
from multitask.tasks.kinds.multi_label import best_threshold
from tests.tasks.kinds.whole import whole, write_csv

LABELS = ["billing", "delivery", "returns"]
CELLS = ["billing;delivery", "delivery", "returns; billing", "billing"]


def _rows(count: int = 80, labels: list[str] = CELLS) -> list[dict[str, object]]:
    return [
        {"text": f"mail {i * 7919}: {labels[i % len(labels)]}", "labels": labels[i % len(labels)]}
        for i in range(count)
    ]


def _prepared(tmp_path: Path, rows: list[dict[str, object]], **changes: Any) -> Run:
    if "source" not in changes:
        write_csv(tmp_path / "mail.csv", rows)
    task = {"name": "mail", "kind": "multi_label", "source": {"path": "mail.csv"}, **changes}
    path = tmp_path / "spec.yaml"
    content = {"model": "owner/model", "method": "full", "cluster": "cpu", "tasks": [task]}
    path.write_text(json.dumps(content))
    return prepare(load_spec(path), tmp_path / "run")


def _asked(run: Run, split: str) -> dict[str, dict[str, str]]:
    """Of each item, the answer to each label that is asked for."""
    found: dict[str, dict[str, str]] = {}
    for row in read_rows(run.split(split)):
        item, _, label = row["id"].partition("#")
        assert label == row["asked"]
        found.setdefault(item, {})[label] = row["answer"]
    return found


def _set_of(row: dict[str, str]) -> list[str]:
    return sorted(label for label, answer in row.items() if answer == "yes")


@pytest.mark.parametrize("separator", [";", ",", "|", " / "])
def test_each_label_of_a_cell_is_a_question_of_its_own(tmp_path: Path, separator: str) -> None:
    cells = [cell.replace(";", separator) for cell in CELLS]
    own = {"separator": separator} if separator == " / " else {}
    run = _prepared(tmp_path, _rows(labels=cells), **own)
    found = _asked(run, "train") | _asked(run, "validation") | _asked(run, "test")
    assert len(found) == 80
    for item, row in found.items():
        cell = CELLS[(int(item.split("-")[1]) - 1) % 4]
        assert sorted(row) == LABELS
        assert _set_of(row) == sorted(label.strip() for label in cell.split(";"))


def test_labels_that_hold_the_mark_of_ids_are_told_apart(tmp_path: Path) -> None:
    run = _prepared(tmp_path, _rows(labels=["a#b;a_b", "a%23b", "a#b"]))
    rows = [row for split in ("train", "validation", "test") for row in read_rows(run.split(split))]
    assert len({row["id"] for row in rows}) == len(rows) == 80 * 3


def test_questions_name_text_and_label_and_answer_yes_or_no(tmp_path: Path) -> None:
    run = _prepared(tmp_path, _rows())
    for row in read_rows(run.split("test")):
        prompt, answer = (message["content"] for message in row["messages"])
        assert row["text"] in prompt
        assert row["asked"] in prompt.replace(row["text"], "")
        assert answer == row["answer"]
    record = json.loads(run.manifest.read_text())["tasks"]["mail"]
    assert (record["labels"], record["asked_labels"]) == (["no", "yes"], LABELS)


def test_all_questions_about_a_text_are_in_one_split(tmp_path: Path) -> None:
    run = _prepared(tmp_path, _rows())
    items = [set(_asked(run, split)) for split in ("train", "validation", "test")]
    assert sum(map(len, items)) == len(set.union(*items)) == 80


def test_of_many_labels_training_asks_for_those_that_hold_and_some_others(tmp_path: Path) -> None:
    names = [f"topic{i}" for i in range(20)]
    cells = [";".join(names[i : i + 1 + i % 3]) for i in range(18)]
    run = _prepared(tmp_path, _rows(120, cells), labels=names)
    for item, row in _asked(run, "train").items():
        cell = cells[(int(item.split("-")[1]) - 1) % 18]
        assert len(row) == 8
        assert _set_of(row) == sorted(cell.split(";"))
    assert all(len(row) == 20 for row in _asked(run, "test").values())
    assert {label for row in _asked(run, "train").values() for label in row} == set(names)


def test_a_general_task_asks_for_every_label(tmp_path: Path) -> None:
    names = [f"topic{i}" for i in range(12)]
    cells = [f"{a};{b}" for a, b in pairwise(names)]
    write_csv(tmp_path / "topics.csv", _rows(30, cells))
    topics = {"name": "topics", "kind": "multi_label", "source": {"path": "topics.csv"}}
    run = _prepared(tmp_path, [{**row, "text": f"other {i}"} for i, row in enumerate(_rows())])
    spec = load_spec(tmp_path / "spec.yaml")
    general = [resolve_task(TaskSpec.model_validate(topics), tmp_path)]
    write_general(run, general, spec, read_rows(run.split("train")), alpaca=False)
    (found,) = read_general(run, ["topics"])
    assert len(found.rows) == 30 * 12
    assert {row["asked"] for row in found.rows} == set(names)


def test_lists_are_taken_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "mail.jsonl"
    lines = [
        {"text": f"mail {i * 7919}", "labels": [["a;b", "c"], ["c"]][i % 2]} for i in range(40)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = _prepared(tmp_path, [], source={"path": path.name})
    assert json.loads(run.manifest.read_text())["tasks"]["mail"]["asked_labels"] == ["a;b", "c"]


def test_rows_may_have_no_label_where_the_task_says_so(tmp_path: Path) -> None:
    rows = _rows(labels=[*CELLS, ""])
    with pytest.raises(InputError, match=r"mail\.csv.*row 5.*allow_empty: true"):
        _prepared(tmp_path, rows)
    run = _prepared(tmp_path, rows, allow_empty=True)
    assert [] in [_set_of(row) for row in _asked(run, "train").values()]


@pytest.mark.parametrize(
    ("cells", "changes", "said"),
    [
        ([*CELLS, "biling"], {"labels": LABELS}, ["mail.csv", "row 5", "did you mean 'billing'?"]),
        ([*CELLS, "a,b"], {}, ["mail.csv", "hold ';' and ','", "separator: ';'"]),
        (["", ""], {"allow_empty": True}, ["mail.csv", "no row of task 'mail' has a label"]),
        (CELLS, {"separator": 3}, ["spec.yaml", "`separator` is what stands between"]),
        (CELLS, {"allow_empty": "yes"}, ["spec.yaml", "`allow_empty` is neither true nor false"]),
        (CELLS, {"seperator": ";"}, ["spec.yaml", "did you mean 'separator'?"]),
        (
            CELLS,
            {"template": {"prompt": "{{ text }}?", "response": "{{ answer }}"}},
            ["template 'own'", "put {{ label }} into it"],
        ),
    ],
)
def test_a_wrong_task_is_refused(
    tmp_path: Path, cells: list[str], changes: dict[str, Any], said: list[str]
) -> None:
    with pytest.raises(InputError) as error:
        _prepared(tmp_path, _rows(labels=cells), **changes)
    assert all(part in str(error.value) for part in said), str(error.value)
    assert not (tmp_path / "run").exists()


def _table(rows: Predictions, side: str) -> npt.NDArray[np.bool_]:
    """Answers by item and label."""
    answers = rows.fitted if side == "fitted" else getattr(rows, side)
    return np.array([answer == "yes" for answer in answers]).reshape(-1, len(LABELS))


def _random(seed: int, items: int = 60) -> Predictions:
    rng = np.random.default_rng(seed)
    sides = [rng.choice(["no", "yes"], items * 3).tolist() for _ in range(3)]
    return Predictions(
        gold=sides[0],
        predicted=sides[1],
        fitted=sides[2],
        labels=("no", "yes"),
        asked=LABELS * items,
        items=[i for i in range(items) for _ in LABELS],
    )


def test_metrics_are_scikit_learns() -> None:
    rows = _random(1)
    gold, predicted, fitted = (_table(rows, side) for side in ("gold", "predicted", "fitted"))
    found = compute(rows, metrics_of("multi_label"))
    assert {name: one.value for name, one in found.items()} == pytest.approx(
        {
            "label_micro_f1": sklearn.f1_score(gold, predicted, average="micro"),
            "label_macro_f1": sklearn.f1_score(gold, predicted, average="macro"),
            "subset_accuracy": sklearn.accuracy_score(gold, predicted),
            "hamming_loss": sklearn.hamming_loss(gold, predicted),
            "fitted_micro_f1": sklearn.f1_score(gold, fitted, average="micro"),
            "fitted_macro_f1": sklearn.f1_score(gold, fitted, average="macro"),
        }
    )
    assert all(one.low < one.value < one.high for one in found.values())


def test_intervals_count_a_text_once_however_many_labels_it_has() -> None:
    """Questions of a text that are right or wrong together say no more than one of them."""
    wrong = np.random.default_rng(2).random(100) < 0.3
    gold = ["yes"] * 300
    predicted = ["no" if w else "yes" for w in np.repeat(wrong, 3)]
    items = np.repeat(np.arange(100), 3).tolist()
    rows = Predictions(gold, predicted, ("no", "yes"), asked=LABELS * 100, items=items)
    loss = METRICS["hamming_loss"](rows)
    assert loss is not None
    assert loss.high - loss.low == pytest.approx(2 * 1.96 * np.sqrt(0.3 * 0.7 / 100), rel=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_a_threshold_is_the_best_there_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gold = rng.random(40) < 0.4
    yes = np.round(np.clip(rng.normal(0.3 + 0.2 * gold, 0.2), 0, 1), 2)
    cut = best_threshold(yes, gold)
    best = max(sklearn.f1_score(gold, yes >= one) for one in np.linspace(0, 1, 201))
    assert sklearn.f1_score(gold, yes >= cut) == pytest.approx(best)


def test_a_threshold_is_a_half_where_nothing_holds() -> None:
    assert best_threshold(np.array([0.2, 0.9]), np.array([False, False])) == 0.5


@pytest.mark.long
def test_a_multi_label_task_goes_all_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    write_csv(tmp_path / "mail.csv", _rows(120))
    task = {"name": "mail", "kind": "multi_label", "source": {"path": "mail.csv"}}
    found = whole(tmp_path, task, monkeypatch)
    rows: list[Row] = read_rows(found.run.split("test"))
    assert [p["id"] for p in found.predictions] == [row["id"] for row in rows]
    gold, predicted = (
        np.array([p[key] == "yes" for p in found.predictions]).reshape(-1, 3)
        for key in ("gold", "predicted")
    )
    metrics = found.task["metrics"]
    for name, value in {
        "label_micro_f1": sklearn.f1_score(gold, predicted, average="micro"),
        "subset_accuracy": sklearn.accuracy_score(gold, predicted),
    }.items():
        assert metrics[name]["value"] == pytest.approx(value)
        assert metrics[name]["low"] <= value <= metrics[name]["high"]
    for p in found.predictions:
        scores = {one["label"]: one["score"] for one in p["scores"]}
        assert p["predicted"] == max(scores, key=scores.__getitem__)
    assert found.task["of_kind"]["thresholds"].keys() == set(LABELS)
    assert [one["label"] for one in found.task["per_label"]] == LABELS
    assert {"label_micro_f1", "subset_accuracy"} <= found.task["baselines"]["majority"].keys()
    assert "Subset accuracy" in found.report
    assert "subset_accuracy" in found.card
    assert len(found.exported) == len(rows)
