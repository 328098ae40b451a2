"""calibration.json: written, read, used and refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from multitask.calibration import TaskCalibration, calibrate, fit_contextual, load, save
from multitask.errors import InputError
from multitask.metrics.probabilities import normalised

LABELS = ("yes", "no", "perhaps")
NAN = float("nan")


def _rows(n: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 3, n)
    scores = rng.normal(size=(n, 3)) + 4 * np.eye(3)[gold]
    return [LABELS[i] for i in gold], 2 * scores


def _calibration(n: int = 400) -> TaskCalibration:
    return calibrate("moods", LABELS, *_rows(n), target=0.95)


def test_what_is_written_is_read_back_exactly(tmp_path: Path) -> None:
    with_prior = calibrate("b", LABELS, *_rows(50), prior=fit_contextual([0.0, 0.5, 1.0]))
    both = {"moods": _calibration(), "b": with_prior}
    save(tmp_path / "calibration.json", both.values())
    assert load(tmp_path / "calibration.json") == both
    assert with_prior.threshold is None  # 50 rows are too few for 95 %


def test_decisions_are_those_of_validation() -> None:
    gold, scores = _rows(400)
    calibration = calibrate("moods", LABELS, gold, scores)
    decisions = [calibration.decide(row) for row in scores]
    answered = [(d, g) for d, g in zip(decisions, gold, strict=True) if not d.hand_over]
    right = np.mean([d.label == g for d, g in answered])
    assert calibration.expected_precision is not None
    assert right == pytest.approx(calibration.expected_precision.value)
    assert len(answered) / 400 == pytest.approx(calibration.expected_coverage.value)
    assert calibration.expected_precision.low >= 0.95


def test_scores_by_name_and_by_place_decide_alike() -> None:
    calibration = _calibration()
    row = [5.0, 0.0, 1.0]
    assert calibration.decide(row) == calibration.decide(dict(zip(LABELS, row, strict=True)))
    assert calibration.decide({"no": 9.0, "yes": 0.0}) == calibration.decide([0.0, 9.0, NAN])


def test_a_sure_row_is_answered_and_an_unsure_one_handed_over() -> None:
    calibration = _calibration()
    sure, unsure = calibration.decide([0.0, 30.0, 0.0]), calibration.decide([0.1, 0.0, 0.0])
    assert (sure.label, sure.hand_over) == ("no", False)
    assert (unsure.label, unsure.best, unsure.hand_over) == (None, "yes", True)


def test_without_a_threshold_everything_is_handed_over() -> None:
    assert _calibration(20).decide([0.0, 99.0, 0.0]).hand_over


def test_mass_on_labels_not_visited_lowers_the_confidence() -> None:
    calibration = _calibration()
    row = [0.0, 6.0, NAN]
    sure = calibration.decide(row).confidence
    less = calibration.decide(row, unvisited=0.05).confidence
    expected = np.exp(normalised(normalised([row], 0.05) / calibration.temperature))[0, 1]
    assert less == pytest.approx(expected)
    assert less < sure


def test_wrong_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="scores for 3 labels"):
        _calibration().decide([0.0, 1.0])
    with pytest.raises(KeyError, match="maybe"):
        _calibration().decide({"maybe": 0.0})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"temperature": -1}, "tasks.0.temperature"),
        ({"temprature": 1}, "tasks.0.temprature"),
        ({"threshold": 1.5}, "tasks.0.threshold"),
        ({"log_prior": [0.0]}, "1 priors for 3 labels"),
        ({"labels": ["yes", "yes", "no"]}, "names a label twice"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(
    tmp_path: Path, change: dict[str, object], expected: str
) -> None:
    path = tmp_path / "calibration.json"
    save(path, [_calibration()])
    content = json.loads(path.read_text())
    content["tasks"][0] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=expected):
        load(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "there is no calibration"),
        ("{", "not valid JSON"),
        ('{"version": 2, "tasks": []}', "version"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str | None, expected: str) -> None:
    path = tmp_path / "calibration.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=expected):
        load(path)
