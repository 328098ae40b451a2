"""Evaluation by task: the sums are right, however rows are batched and spread over processes."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from multitask.callbacks.evaluation import (  # noqa: E402
    IGNORED,
    EvaluationRow,
    EvaluationRows,
    TaskEvaluator,
    answer_sums,
    flat_metrics,
    plan_batches,
)
from multitask.training_spec import PluginSettings  # noqa: E402


def _rows(count: int, *, vocabulary: int = 90, tasks: int = 3, seed: int = 0) -> EvaluationRows:
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        ids = [draw.randrange(4, vocabulary) for _ in range(draw.randrange(4, 30))]
        answer = draw.randrange(1, min(4, len(ids)))
        labels = [IGNORED] * (len(ids) - answer) + ids[-answer:]
        rows.append(EvaluationRow(number % tasks, str(number), ids, labels))
    return EvaluationRows(tuple(f"task{i}" for i in range(tasks)), tuple(rows))


@given(
    count=st.integers(1, 60),
    tokens=st.integers(1, 300),
    logits=st.integers(1, 60),
    whole=st.booleans(),
    seed=st.integers(0, 20),
)
def test_batches_hold_every_row_once_within_bounds(
    count: int, tokens: int, logits: int, whole: bool, seed: int
) -> None:
    rows = _rows(count, seed=seed).rows
    batches = plan_batches(rows, tokens=tokens, logits=logits, whole=whole)
    assert sorted(number for batch in batches for number in batch) == list(range(count))
    for batch in batches:
        width = max(len(rows[i].input_ids) for i in batch)
        columns = width - (0 if whole else min(rows[i].first for i in batch))
        assert len(batch) == 1 or len(batch) * width <= tokens
        assert len(batch) == 1 or len(batch) * columns <= logits


@settings(max_examples=30)
@given(seed=st.integers(0, 1000))
def test_sums_are_those_of_a_loop_over_tokens(seed: int) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(5, 4, 3) * 3
    targets = torch.randint(0, 3, (5, 4))
    targets[torch.rand(5, 4) < 0.4] = IGNORED
    targets[4] = IGNORED  # a row without an answer
    tasks = torch.tensor([0, 1, 0, -1, 1])
    found = answer_sums(logits, targets, tasks, 2)
    expected = torch.zeros(2, 5, dtype=torch.float64)
    for row, task in enumerate(tasks.tolist()):
        wrong = tokens = 0
        loss = 0.0
        for column in range(4):
            if (target := int(targets[row, column])) != IGNORED:
                tokens += 1
                loss -= float(torch.log_softmax(logits[row, column], -1)[target])
                wrong += int(logits[row, column].argmax()) != target
        if tokens and task >= 0:
            values = [loss, tokens, tokens - wrong, float(wrong == 0), 1.0]
            expected[task] += torch.tensor(values, dtype=torch.float64)
    assert torch.allclose(found, expected, atol=1e-5)


class _Process:
    """One process of a training: what an evaluator needs of trainer and accelerator."""

    def __init__(self, model: Any, rank: int = 0, world: int = 1) -> None:
        self.model = model
        self.optimizer = None
        self.processing_class = SimpleNamespace(pad_token_id=0)
        self.accelerator = self
        self.num_processes, self.process_index = world, rank
        self.device = torch.device("cpu")
        self.sums: Any = None
        self.forwards = 0
        self._hook = model.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.forwards += 1

    def unwrap_model(self, model: Any) -> Any:
        return model

    def reduce(self, sums: Any, reduction: str) -> Any:
        assert reduction == "sum"
        self.sums = sums
        self._hook.remove()
        return sums


@pytest.fixture(scope="module")
def model(toy: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(toy)


def _sums(model: Any, rows: EvaluationRows, *, tokens: int = 200) -> Any:
    process = _Process(model)
    TaskEvaluator(rows, PluginSettings(), tokens=tokens).evaluate(process, at_save=False)
    return process.sums


@pytest.mark.parametrize("world", [2, 3, 5, 16])
def test_processes_together_find_what_one_finds(model: Any, world: int) -> None:
    """And each runs as many forward passes as the others, or a sharded model would hang."""
    rows = _rows(37)
    alone = _sums(model, rows)
    processes = []
    for rank in range(world):
        process = _Process(model, rank, world)
        evaluator = TaskEvaluator(rows, PluginSettings(), tokens=100)
        evaluator.evaluate(process, at_save=False) if rank == 0 else evaluator._sums(process)
        processes.append(process)
    assert len({process.forwards for process in processes}) == 1
    together = sum(process.sums for process in processes)
    assert torch.equal(together[:, 1:], alone[:, 1:])
    assert torch.allclose(together, alone, rtol=1e-6)


def test_rows_alone_and_in_batches_give_the_same(model: Any) -> None:
    rows = _rows(25)
    single, batched = _sums(model, rows, tokens=1), _sums(model, rows, tokens=10_000)
    assert torch.equal(single[:, 1:], batched[:, 1:])
    assert torch.allclose(single, batched, rtol=1e-6)


def test_a_model_that_gives_all_logits_gives_the_same(model: Any) -> None:
    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model
            self.config = model.config

        def forward(self, input_ids: Any, attention_mask: Any, use_cache: bool) -> Any:
            return self.inner(input_ids=input_ids, attention_mask=attention_mask)

    rows = _rows(25)
    assert torch.allclose(_sums(Whole(), rows), _sums(model, rows), rtol=1e-6)


def test_logits_are_computed_at_answers_alone(model: Any) -> None:
    """The output layer's work and memory are a few columns', not the whole batch's."""
    widths = []
    hook = model.lm_head.register_forward_hook(
        lambda _m, args, _out: widths.append(args[0].shape[1])
    )
    rows = _rows(25)
    _sums(model, rows, tokens=1)
    hook.remove()
    answers = [len(row.labels) - row.first for row in rows.rows]
    assert sorted(widths) == sorted(answers)


def test_the_loss_is_the_model_s_own_over_all_tokens(model: Any) -> None:
    rows = _rows(20, tasks=1)
    total = tokens = 0.0
    for row in rows.rows:
        ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
        count = int((labels != IGNORED).sum())
        total += float(model(input_ids=ids, labels=labels).loss) * count
        tokens += count
    process = _Process(model)
    metrics = TaskEvaluator(rows, PluginSettings(), tokens=200).evaluate(process, at_save=True)
    assert metrics["eval_task0/loss"] == pytest.approx(total / tokens, rel=1e-5)
    assert metrics["eval_loss"] == metrics["eval_task0/loss"]
    assert metrics["eval_score"] == metrics["eval_task0/exact_match"]


def test_a_model_that_writes_the_answer_matches_exactly(model: Any) -> None:
    """The rows are continued greedily by the model itself; one is then spoilt."""
    rows = []
    for row in _rows(6, tasks=1).rows:
        prompt = torch.tensor([row.input_ids])
        out = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=3,
            do_sample=False, eos_token_id=None, pad_token_id=0,
        )[0].tolist()  # fmt: skip
        labels = [IGNORED] * len(row.input_ids) + out[len(row.input_ids) :]
        rows.append(EvaluationRow(0, row.id, out, labels))
    metrics = TaskEvaluator(EvaluationRows(("a",), tuple(rows)), PluginSettings(), tokens=99)
    assert metrics.evaluate(_Process(model), at_save=False)["eval_a/exact_match"] == 1.0
    last = rows[-1]
    spoilt = [*last.input_ids[:-1], (last.input_ids[-1] + 1) % 90]
    rows[-1] = EvaluationRow(0, last.id, spoilt, [*last.labels[:-1], spoilt[-1]])
    evaluator = TaskEvaluator(EvaluationRows(("a",), tuple(rows)), PluginSettings(), tokens=99)
    found = evaluator.evaluate(_Process(model), at_save=False)
    assert found["eval_a/exact_match"] == pytest.approx(5 / 6)
    assert found["eval_a/token_accuracy"] == pytest.approx(17 / 18)


def test_evaluation_leaves_the_model_and_the_random_numbers_as_they_were(model: Any) -> None:
    model.train()
    before = torch.get_rng_state()
    _sums(model, _rows(5))
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    model.eval()
    _sums(model, _rows(5))
    assert not model.training


def test_mean_and_worst_are_over_tasks_not_rows() -> None:
    tasks = {
        "a": {"loss": 1.0, "token_accuracy": 0.5, "exact_match": 0.0, "rows": 100.0},
        "b": {"loss": 3.0, "token_accuracy": 1.0, "exact_match": 1.0, "rows": 2.0},
    }
    metrics = flat_metrics(tasks)
    assert metrics["eval_macro/exact_match"] == 0.5
    assert (metrics["eval_worst/loss"], metrics["eval_worst/exact_match"]) == (3.0, 0.0)
