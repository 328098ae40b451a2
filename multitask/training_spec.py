"""The parts of a spec that the plugin reads inside the training: evaluation and balance."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from multitask.task_spec import MOST_ROWS, Positive, StrictModel

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class EarlyStoppingSpec(StrictModel):
    """When training ends before its last step.

    Attributes:
        patience: Evaluations at saves without a better score before it ends.
        min_delta: How much better counts as better.
    """

    patience: Annotated[int, Field(ge=1, le=10**6)]
    min_delta: Annotated[float, Field(ge=0)] = 0.0


class EvaluationSpec(StrictModel):
    """Evaluation of each task on validation rows while it trains, at every save.

    Attributes:
        rows_per_task: Most rows of a task, chosen evenly over its labels; 0 switches it off.
        share: Most of the training's work that evaluations may add; fewer rows are taken where
            the training is short.
        at_start: Evaluate before the first step as well, which says what training brings.
        metric: What a checkpoint is judged by.
        best: Judge by the mean over tasks, or by the worst one.
        floor: What every task must reach, or each its own; a checkpoint with a task below it is
            worse than all without.
        early_stopping: Ends training when the score has stopped rising.
        use: Which model `evaluate`, `push` and `export` take: the last, or the best checkpoint.
    """

    rows_per_task: Annotated[int, Field(ge=0, le=MOST_ROWS)] = 256
    share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.02
    at_start: bool = True
    metric: Literal["exact_match", "token_accuracy"] = "exact_match"
    best: Literal["macro", "worst"] = "macro"
    floor: Share | dict[str, Share] = 0.0
    early_stopping: EarlyStoppingSpec | None = None
    use: Literal["best", "last"] = "last"

    def floor_of(self, task: str) -> float:
        """What a task must reach."""
        return self.floor.get(task, 0.0) if isinstance(self.floor, dict) else self.floor


class BalanceSpec(StrictModel):
    """How tasks are weighed against each other while training.

    Attributes:
        loss_weights: Factor of a task's token losses; 1 where a task is not named.
        schedule: ``lagging`` gives more weight to tasks whose validation loss has fallen less
            than the others', anew after each evaluation; ``off`` keeps the weights.
        strength: Exponent of a task's lag: 0 changes nothing, 1 weighs in proportion.
        limit: Most and (inverted) least that the schedule multiplies a weight by.
    """

    loss_weights: dict[str, Positive] = Field(default_factory=dict)
    schedule: Literal["off", "lagging"] = "off"
    strength: Annotated[float, Field(ge=0, le=100)] = 1.0
    limit: Annotated[float, Field(ge=1, le=1e6)] = 2.0

    @field_validator("schedule", mode="before")
    @classmethod
    def _yaml_off(cls, value: Any) -> Any:
        """YAML reads a bare ``off`` as false."""
        return "off" if value is False else value

    @property
    def weighs(self) -> bool:
        """Whether the training loss differs from the plain mean over tokens."""
        return self.schedule != "off" or any(w != 1.0 for w in self.loss_weights.values())


class PluginSettings(StrictModel):
    """The section ``multitask`` of ``axolotl.yaml``.

    Attributes:
        evaluation: Evaluation of each task.
        balance: How tasks are weighed.
        seed: Seeds the choice of evaluation rows.
    """

    evaluation: EvaluationSpec = EvaluationSpec()
    balance: BalanceSpec = BalanceSpec()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
