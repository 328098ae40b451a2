"""The rule for the best checkpoint, and early stopping."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("transformers")

from multitask.callbacks.selection import LOSS, SCORE, SelectionCallback, public_name, score, waited
from multitask.training_spec import EarlyStoppingSpec, EvaluationSpec


@pytest.mark.parametrize(
    ("rule", "floor", "values", "expected"),
    [
        ("macro", 0.0, {"a": 0.2, "b": 0.6}, 0.4),
        ("worst", 0.0, {"a": 0.2, "b": 0.6}, 0.2),
        ("macro", 0.2, {"a": 0.2, "b": 0.6}, 0.4),
        ("macro", 0.3, {"a": 0.2, "b": 0.6}, -0.1),
        ("worst", {"b": 0.7}, {"a": 0.2, "b": 0.6}, -0.1),
        ("macro", {"b": 0.5}, {"a": 0.2, "b": 0.6}, 0.4),
    ],
)
def test_the_score_of_a_model(
    rule: str, floor: Any, values: dict[str, float], expected: float
) -> None:
    spec = EvaluationSpec.model_validate({"best": rule, "floor": floor})
    assert score(values, spec) == pytest.approx(expected)


def test_a_task_below_its_floor_loses_against_none_below() -> None:
    spec = EvaluationSpec(floor=0.5)
    assert score({"a": 0.49, "b": 1.0}, spec) < score({"a": 0.5, "b": 0.5}, spec)
    assert score({"a": 0.1, "b": 1.0}, spec) < score({"a": 0.4, "b": 0.5}, spec)


class _Training:
    """A trainer's state and control, as callbacks see them, and a folder of checkpoints."""

    def __init__(self, output: Path, spec: EvaluationSpec) -> None:
        self.latest: dict[str, dict[str, float]] = {}
        self.callback = SelectionCallback(spec, self)
        self.args = SimpleNamespace(
            output_dir=str(output), metric_for_best_model=None, eval_on_start=True
        )
        self.state = SimpleNamespace(
            global_step=0,
            max_steps=100,
            best_metric=None,
            best_global_step=None,
            log_history=[],
            is_world_process_zero=True,
        )
        self.control = SimpleNamespace(
            should_save=False, should_evaluate=False, should_training_stop=False
        )

    def restart_clock(self) -> None:
        pass

    def save_step(self, value: float, loss: float = 1.0) -> None:
        """A step at which a checkpoint is written, with what its evaluation finds."""
        self.state.global_step += 10
        self.control.should_save, self.control.should_evaluate = True, False
        self.callback.on_step_end(self.args, self.state, self.control)
        assert self.control.should_evaluate
        metrics = {SCORE: value, LOSS: loss}
        logged = {public_name(key): found for key, found in metrics.items()}
        self.state.log_history.append({"step": self.state.global_step} | logged)
        self.callback.on_evaluate(self.args, self.state, self.control, metrics)
        Path(self.args.output_dir, f"checkpoint-{self.state.global_step}").mkdir()
        self.callback.on_save(self.args, self.state, self.control)

    @property
    def best(self) -> str:
        record: dict[str, Any] = json.loads(Path(self.args.output_dir, "best.json").read_text())
        return str(record["checkpoint"])


def test_the_highest_score_is_the_best(tmp_path: Path) -> None:
    training = _Training(tmp_path, EvaluationSpec())
    for value in (0.1, 0.4, 0.3):
        training.save_step(value)
    assert training.best == "checkpoint-20"
    assert training.state.best_global_step == 20


def test_of_equal_scores_the_lower_loss_is_the_best(tmp_path: Path) -> None:
    """Early on, and with long answers, no answer is right as a whole."""
    training = _Training(tmp_path, EvaluationSpec())
    for loss in (3.0, 2.0, 2.5):
        training.save_step(0.0, loss)
    assert training.best == "checkpoint-20"


def test_training_stops_when_the_score_has_not_risen(tmp_path: Path) -> None:
    stopping = EarlyStoppingSpec(patience=2, min_delta=0.05)
    training = _Training(tmp_path, EvaluationSpec(early_stopping=stopping))
    for value in (0.1, 0.4, 0.42):
        training.save_step(value)
        assert not training.control.should_training_stop
    training.save_step(0.44)
    assert training.control.should_training_stop
    assert training.best == "checkpoint-40"


def test_patience_lives_in_the_history_and_so_through_a_resume() -> None:
    history = [{"step": s, "eval/score": v} for s, v in ((1, 0.2), (2, 0.3), (3, 0.1))]
    assert waited([*history, {"step": 3, "loss": 1.0}], 0.0) == 1


def test_an_emergency_save_is_not_held_up_by_an_evaluation(tmp_path: Path) -> None:
    training = _Training(tmp_path, EvaluationSpec())
    training.control.should_save = training.control.should_training_stop = True
    training.callback.on_step_end(training.args, training.state, training.control)
    assert not training.control.should_evaluate


def test_a_resumed_training_skips_the_evaluation_at_the_start(tmp_path: Path) -> None:
    training = _Training(tmp_path, EvaluationSpec())
    training.callback.on_train_begin(training.args, training.state, training.control)
    assert training.args.eval_on_start
    training.state.global_step = 10
    training.callback.on_train_begin(training.args, training.state, training.control)
    assert not training.args.eval_on_start


def test_a_metric_that_the_user_chose_is_left_to_the_trainer(tmp_path: Path) -> None:
    training = _Training(tmp_path, EvaluationSpec())
    training.args.metric_for_best_model = "eval_loss"
    training.save_step(0.5)
    assert training.state.best_metric is None
    assert not (tmp_path / "best.json").exists()


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("eval_a/loss", "eval/a/loss"),
        ("eval_score", "eval/score"),
        ("eval_loss", "eval_loss"),
        ("loss", "loss"),
    ],
)
def test_names_are_those_that_trackers_show(key: str, name: str) -> None:
    assert public_name(key) == name
