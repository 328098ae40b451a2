"""What an evaluation is asked for, beyond model and rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from multitask.errors import InputError, did_you_mean
from multitask.scoring.model import Quantisation
from multitask.scoring.scorer import FULL_DISTRIBUTION

CalibrationMethod = Literal["temperature", "contextual", "none"]

_METHODS = ("temperature", "contextual", "none")


@dataclass(frozen=True)
class Settings:
    """What an evaluation is asked for.

    Attributes:
        distribution: Score labels until the others hold hardly any probability, so that there are
            metrics of probabilities and a calibration. Without it only the best label is proven:
            several times faster where a model is sure.
        unvisited: How much probability may lie on labels not visited, as a share of the others'.
        calibration: ``temperature``; ``contextual``, which takes out first how much the model
            likes each label whatever the text; or ``none``.
        target_precision: The precision wanted of answers that are not handed over to a person.
        generate: Rows of each task with a closed label set that are also answered freely, spread
            evenly over the split; 0: none.
        max_new_tokens: Longest freely generated answer of a generation task, in tokens.
        option_texts: Score the options of multiple choice both by letter and by text.
        permutations: Ask every multiple-choice question with its options in all cyclic orders.
        baselines: Add the majority label and TF-IDF with logistic regression.
        dtype: Precision of the weights; default: that which suits the device.
        quantisation: Load the weights in 4 or 8 bits.
        token_budget: Most tokens in a batch; default: the scorer's.
        block: Rows that are put to the model, and kept, together. The last digits of a score
            depend on what it shares a batch with, so they follow from the block alone, whichever
            process scores it and when.
    """

    distribution: bool = True
    unvisited: float = FULL_DISTRIBUTION
    calibration: CalibrationMethod = "temperature"
    target_precision: float = 0.95
    generate: int = 100
    max_new_tokens: int = 128
    option_texts: bool = True
    permutations: bool = False
    baselines: bool = True
    dtype: str | None = None
    quantisation: Quantisation | None = None
    token_budget: int | None = None
    block: int = 256

    def __post_init__(self) -> None:
        if self.calibration not in _METHODS:
            raise InputError(
                f"unknown calibration {self.calibration!r}",
                fix=did_you_mean(self.calibration, _METHODS),
            )
        if not 0 < self.target_precision <= 1:
            raise InputError(f"a target precision of {self.target_precision} is not in 0 to 1")
        if not 0 <= self.unvisited < 1:
            raise InputError(f"an unvisited mass of {self.unvisited} is not in 0 to 1")
        for what in ("block", "max_new_tokens", "token_budget"):
            value = getattr(self, what)
            if value is not None and value < 1:
                raise InputError(f"{what} is {value}", fix="use at least 1")

    @property
    def wanted(self) -> float | None:
        """``unvisited`` as the scorer takes it: None where no distribution is wanted."""
        return self.unvisited if self.distribution else None

    def record(self) -> dict[str, object]:
        """As written to results.json."""
        return asdict(self)
