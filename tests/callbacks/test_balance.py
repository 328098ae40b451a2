"""Training losses by task, and how tasks are weighed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from datasets import Dataset  # noqa: E402

from multitask.callbacks.balance import (  # noqa: E402
    SampleTable,
    TaskBalance,
    lagging_weights,
)
from multitask.callbacks.loss import IGNORED  # noqa: E402
from multitask.training_spec import BalanceSpec  # noqa: E402

_ROWS = [
    {"input_ids": [5, 9, 7, 21, 30], "labels": [-100, -100, -100, 21, 30]},
    {"input_ids": [5, 8, 44], "labels": [-100, -100, 44]},
    {"input_ids": [6, 6, 6, 50, 51, 52], "labels": [-100, -100, -100, 50, 51, 52]},
]
_NAMES = ("a", "b")
_TASKS = [0, 1, 0]


@pytest.fixture
def model(toy: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(toy).train()


def _balance(spec: BalanceSpec) -> TaskBalance:
    table = SampleTable.build(Dataset.from_list(_ROWS), np.array(_TASKS), 2)
    return TaskBalance(table, _NAMES, spec)


def _batch() -> dict[str, Any]:
    """The rows, padded."""

    def padded(values: list[int], filler: int) -> list[int]:
        return values + [filler] * (8 - len(values))

    masks = [[1] * len(row["input_ids"]) for row in _ROWS]
    return {
        "input_ids": torch.tensor([padded(row["input_ids"], 0) for row in _ROWS]),
        "labels": torch.tensor([padded(row["labels"], IGNORED) for row in _ROWS]),
        "attention_mask": torch.tensor([padded(mask, 0) for mask in masks]),
    }


def _plain(model: Any, inputs: Any, items: Any, function: Any = None) -> Any:
    """The trainer's way: the model's loss, or a function of what it gives without labels."""
    if function is None:
        outputs = model(**inputs)
        return outputs["loss"], outputs
    labels = inputs["labels"]
    outputs = model(**{key: value for key, value in inputs.items() if key != "labels"})
    return function(outputs, labels, num_items_in_batch=items), outputs


def _model_loss(model: Any, batch: Any) -> Any:
    return model(**batch).loss


def _token_losses(model: Any) -> list[list[float]]:
    """By hand: each row alone, one list of losses a row."""
    losses = []
    for row in _ROWS:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        losses.append(
            [
                -float(logits[place - 1, label])
                for place, label in enumerate(row["labels"])
                if label != IGNORED
            ]
        )
    return losses


def _gradient(model: Any, loss: Any) -> Any:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_without_weights_the_loss_is_the_trainer_s_own(model: Any) -> None:
    ours = _balance(BalanceSpec()).compute_loss(_plain, model, _batch(), None)[0]
    assert float(ours) == pytest.approx(float(_model_loss(model, _batch())), rel=1e-6)


def test_weights_multiply_each_token_s_loss(model: Any) -> None:
    weights = {"a": 0.5, "b": 3.0}
    balance = _balance(BalanceSpec(loss_weights=weights))
    ours = balance.compute_loss(_plain, model, _batch(), None)[0]
    by_hand = [_token_losses(model)[row] for row in range(3)]
    total = sum(weights[_NAMES[t]] * sum(x) for t, x in zip(_TASKS, by_hand, strict=True))
    assert float(ours) == pytest.approx(total / 6, rel=1e-5)


def test_weights_multiply_gradients(model: Any) -> None:
    """The gradient is the weighted sum of the gradients of each task alone."""
    weights = {"a": 0.5, "b": 3.0}
    balance = _balance(BalanceSpec(loss_weights=weights))
    ours = _gradient(model, balance.compute_loss(_plain, model, _batch(), None)[0])
    expected = torch.zeros_like(ours)
    for task, name in enumerate(_NAMES):
        batch = _batch()
        for row, its in enumerate(_TASKS):
            if its != task:
                batch["labels"][row] = IGNORED
        tokens = int((batch["labels"] != IGNORED).sum())
        alone = _gradient(model, _model_loss(model, batch))
        expected += weights[name] * alone * tokens / 6
    assert torch.allclose(ours, expected, atol=1e-6)


def test_equal_weights_are_the_plain_loss(model: Any) -> None:
    """The way through supervised columns alone gives the trainer's loss and gradient."""
    balance = _balance(BalanceSpec(schedule="lagging"))
    ours = balance.compute_loss(_plain, model, _batch(), None)[0]
    plain = _model_loss(model, _batch())
    assert float(ours) == pytest.approx(float(plain), rel=1e-6)
    assert torch.allclose(_gradient(model, ours), _gradient(model, plain), atol=1e-6)


def test_the_step_s_token_count_divides_where_the_trainer_gives_one(model: Any) -> None:
    balance = _balance(BalanceSpec(schedule="lagging"))
    by_batch = balance.compute_loss(_plain, model, _batch(), None)[0]
    by_step = balance.compute_loss(_plain, model, _batch(), torch.tensor(24))[0]
    assert float(by_step) == pytest.approx(float(by_batch) * 6 / 24)


def test_a_batch_without_answers_gives_no_loss_and_no_nan(model: Any) -> None:
    batch = _batch()
    batch["labels"][:] = IGNORED
    balance = _balance(BalanceSpec(schedule="lagging"))
    loss = balance.compute_loss(_plain, model, batch, None)[0]
    assert float(loss) == 0.0
    assert not _gradient(model, loss).any()


@pytest.mark.parametrize("spec", [BalanceSpec(), BalanceSpec(loss_weights={"b": 2.0})])
def test_losses_tokens_and_rows_are_those_of_each_task(model: Any, spec: BalanceSpec) -> None:
    """Unweighted, whatever the weights: they say how far a task is."""
    balance = _balance(spec)
    for _ in range(2):
        balance.compute_loss(_plain, model, _batch(), None)[0]
    found = balance.take(lambda sums: sums)
    a0, b, a1 = _token_losses(model)
    assert found["a/loss"] == pytest.approx(sum(a0 + a1) / 5, rel=1e-5)
    assert found["b/loss"] == pytest.approx(sum(b), rel=1e-5)
    assert (found["a/tokens"], found["b/tokens"]) == (10, 2)
    assert (found["a/rows"], found["b/rows"]) == (4, 2)
    assert ("b/weight" in found) == spec.weighs
    assert balance.take(lambda sums: sums) == {}


def test_lagging_tasks_get_more_weight() -> None:
    """`a` has kept 80 % of its loss, `b` 20 %: their mean lag is 50 %."""
    factors = lagging_weights({"a": 2.4, "b": 0.4}, {"a": 3.0, "b": 2.0}, BalanceSpec())
    assert factors == pytest.approx({"a": 1.6, "b": 0.5})  # b: 0.4, held by the limit
    wide = lagging_weights({"a": 2.4, "b": 0.4}, {"a": 3.0, "b": 2.0}, BalanceSpec(limit=10))
    assert wide == pytest.approx({"a": 1.6, "b": 0.4})


def test_without_strength_or_lag_nothing_moves() -> None:
    first = {"a": 3.0, "b": 2.0}
    half = {"a": 1.5, "b": 1.0}
    assert lagging_weights(half, first, BalanceSpec()) == pytest.approx({"a": 1.0, "b": 1.0})
    uneven = {"a": 3.0, "b": 0.1}
    still = lagging_weights(uneven, first, BalanceSpec(strength=0))
    assert still == pytest.approx({"a": 1.0, "b": 1.0})


def test_the_schedule_reads_the_trainer_s_history_and_so_survives_a_resume() -> None:
    history = [
        {"step": 0, "eval/a/loss": 3.0, "eval/b/loss": 2.0},
        {"step": 5, "loss": 1.0},
        {"step": 8, "eval/a/loss": 2.4, "eval/b/loss": 0.4},
    ]
    spec = BalanceSpec(schedule="lagging", loss_weights={"b": 3.0})
    balance = _balance(spec)
    balance.reweigh(history)
    assert balance.weights == pytest.approx({"a": 1.6, "b": 1.5})
    still = _balance(BalanceSpec(loss_weights={"b": 3.0}))
    still.reweigh(history)
    assert still.weights == {"a": 1.0, "b": 3.0}


def test_the_schedule_moves_the_loss_towards_the_lagging_task(model: Any) -> None:
    """After an evaluation in which `b` lags, its tokens weigh more in the very loss."""
    balance = _balance(BalanceSpec(schedule="lagging"))
    before = balance.compute_loss(_plain, model, _batch(), None)[0]
    balance.reweigh(
        [
            {"eval/a/loss": 4.0, "eval/b/loss": 4.0},
            {"eval/a/loss": 1.0, "eval/b/loss": 3.0},
        ]
    )
    after = balance.compute_loss(_plain, model, _batch(), None)[0]
    a0, b, a1 = _token_losses(model)
    assert balance.weights == pytest.approx({"a": 0.5, "b": 1.5})
    assert float(before) == pytest.approx(sum(a0 + b + a1) / 6, rel=1e-5)
    assert float(after) == pytest.approx((0.5 * sum(a0 + a1) + 1.5 * sum(b)) / 6, rel=1e-5)


def test_a_router_s_own_loss_stays(model: Any) -> None:
    """A mixture of experts adds it to its loss, which a weighted loss replaces."""

    class Routed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model
            self.config = SimpleNamespace(router_aux_loss_coef=0.1)

        def forward(self, **kwargs: Any) -> Any:
            outputs = self.inner(**kwargs)
            outputs["aux_loss"] = torch.tensor(5.0)
            return outputs

    balance = _balance(BalanceSpec(schedule="lagging"))
    routed = balance.compute_loss(_plain, Routed(), _batch(), None)[0]
    plain = _model_loss(model, _batch())
    assert float(routed) == pytest.approx(float(plain) + 0.5, rel=1e-5)
