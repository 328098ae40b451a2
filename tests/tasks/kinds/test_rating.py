"""Ratings: their scale, their metrics against scikit-learn's, and a whole task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, mean_absolute_error

from multitask.data.prepare import prepare
from multitask.data.readers import read_rows
from multitask.errors import InputError
from multitask.metrics import METRICS, Predictions
from multitask.spec import load_spec
from multitask.tasks import KINDS
from multitask.tasks.kinds.rating import scale
from tests.tasks.kinds.whole import whole, write_csv

WORDS = ["awful", "poor", "fair", "good", "superb"]
RATINGS = ["1", "2", "3", "4", "5"]


def _rows(count: int = 100) -> list[dict[str, object]]:
    return [
        {"text": f"the room {i * 7919} was {WORDS[i % 5]} and {WORDS[i % 5]}", "rating": i % 5 + 1}
        for i in range(count)
    ]


def _spec(tmp_path: Path, rows: list[dict[str, object]], **changes: Any) -> Path:
    write_csv(tmp_path / "stars.csv", rows)
    task = {"name": "stars", "kind": "rating", "source": {"path": "stars.csv"}, "scale": "1-5"}
    task |= changes
    content = [f"{key}: {value!r}" for key, value in task.items() if value is not None]
    path = tmp_path / "spec.yaml"
    path.write_text(
        "model: owner/model\nmethod: full\ncluster: cpu\n"
        f"tasks: [{{{', '.join(content)}}}]\n".replace("'", '"')
    )
    return path


@pytest.mark.parametrize(
    ("given", "points"),
    [
        ("1-5", RATINGS),
        ("-1 to 1", ["-1", "0", "1"]),
        ([1, 2, 5], ["1", "2", "5"]),
        (["low", "high"], ["low", "high"]),
    ],
)
def test_a_scale_is_a_list_or_a_span(given: object, points: list[str]) -> None:
    assert scale(given) == points


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scale": None}, "a rating needs its `scale`"),
        ({"scale": "5-1"}, "`scale` is no list"),
        ({"scale": [1]}, "`scale` is no list"),
        ({"scale": [3, 1, 2]}, "`scale` is not in order, the lowest first: 3, 1, 2"),
        ({"scael": "1-5", "scale": None}, "unknown key 'scael'; did you mean 'scale'?"),
        ({"kind": "classification", "columns": None}, "`scale` belongs to a rating"),
        ({"kind": "ratings"}, "did you mean 'rating'?"),
        ({"labels": ["a", "b"]}, "`labels` belongs to a classification"),
        ({"columns": {"text": "text", "label": "rating"}}, "has no part 'label'"),
    ],
)
def test_a_wrong_task_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=r"spec\.yaml|task 'stars'") as error:
        prepare(load_spec(_spec(tmp_path, _rows(), **changes)), tmp_path / "run")
    assert said in str(error.value)
    assert "function-" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_numbers_are_the_points_they_are_equal_to(tmp_path: Path) -> None:
    rows = _rows()
    rows[0]["rating"], rows[1]["rating"] = "1.0", " 2 "
    run = prepare(load_spec(_spec(tmp_path, rows)), tmp_path / "run")
    found = [r["label"] for s in ("train", "validation", "test") for r in read_rows(run.split(s))]
    assert sorted(found) == sorted(RATINGS * 20)


def test_a_rating_beside_the_scale_names_file_and_row(tmp_path: Path) -> None:
    spec = load_spec(_spec(tmp_path, [*_rows(7), {"text": "what", "rating": 7}]))
    with pytest.raises(InputError, match=r"stars\.csv.*row 8.*'7'"):
        prepare(spec, tmp_path / "run")


def _answers(seed: int, labels: list[str] = RATINGS) -> Predictions:
    rng = np.random.default_rng(seed)
    log_probs = np.log(rng.dirichlet(np.ones(len(labels)), 200))
    return Predictions(
        gold=rng.choice(labels, 200).tolist(),
        predicted=[labels[i] for i in log_probs.argmax(axis=1)],
        labels=labels,
        log_probs=log_probs,
    )


@pytest.mark.parametrize("labels", [RATINGS, ["1", "2", "5"]])
def test_metrics_are_scikit_learns(labels: list[str]) -> None:
    rows = _answers(1, labels)
    gold, predicted = (np.array(side, dtype=float) for side in (rows.gold, rows.predicted))
    kappa = cohen_kappa_score(rows.gold, rows.predicted, labels=labels, weights="quadratic")
    assert rows.log_probs is not None
    expected = np.exp(rows.log_probs) @ np.array(labels, dtype=float)
    for name, value in {
        "quadratic_kappa": kappa,
        "mae": mean_absolute_error(gold, predicted),
        "expected_mae": mean_absolute_error(gold, expected),
    }.items():
        found = METRICS[name](rows)
        assert found is not None
        assert found.value == pytest.approx(value)
        assert found.low < value < found.high


def test_points_in_words_count_by_their_places() -> None:
    rows = Predictions(["low", "high"], ["high", "high"], ("low", "middle", "high"))
    found = METRICS["mae"](rows)
    assert found is not None
    assert found.value == 1


def test_an_answer_that_is_no_point_is_as_far_off_as_can_be() -> None:
    rows = Predictions(["4"], [None], RATINGS)
    mae, kappa = METRICS["mae"](rows), METRICS["quadratic_kappa"](rows)
    assert mae is not None
    assert kappa is not None
    assert (mae.value, kappa.value) == (3, 0)


def test_a_rating_goes_all_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    rows = _rows()
    write_csv(tmp_path / "stars.csv", rows)
    task = {"name": "stars", "kind": "rating", "source": {"path": "stars.csv"}, "scale": "1-5"}
    found = whole(tmp_path, task, monkeypatch)
    gold, predicted = ([float(p[k]) for p in found.predictions] for k in ("gold", "predicted"))
    metrics = found.task["metrics"]
    assert next(iter(metrics)) == KINDS["rating"].headline == "accuracy"
    assert metrics["mae"]["value"] == pytest.approx(mean_absolute_error(gold, predicted))
    assert metrics["mae"]["low"] <= metrics["mae"]["value"] <= metrics["mae"]["high"]
    assert found.task["of_kind"]["mean_rating"]["gold"] == pytest.approx(np.mean(gold))
    assert 1 <= found.task["of_kind"]["mean_rating"]["expected"] <= 5
    assert {"accuracy", "mae", "quadratic_kappa"} <= found.task["baselines"]["majority"].keys()
    assert "Quadratic-weighted kappa" in found.report
    assert "text-classification" in found.card
    assert "quadratic_kappa" in found.card
    assert len(found.exported) == len(gold)
    assert len(found.exported[0]["choices"]) == 5
