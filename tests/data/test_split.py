"""Splits: stratified, of the wanted size, and the same whatever the order of the rows."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from multitask.data.adapters import TaskData
from multitask.data.prepare import divide
from multitask.data.split import stratified_split
from multitask.tasks import Example


def _examples(labels: list[str]) -> list[Example]:
    return [Example(id=str(i), text=f"text {i}", label=label) for i, label in enumerate(labels)]


labels = st.lists(st.sampled_from("abcd"), min_size=1, max_size=80)
fractions = st.floats(0.05, 0.95)


@given(labels, fractions, st.integers(0, 5))
def test_every_row_is_in_exactly_one_part(names: list[str], fraction: float, seed: int) -> None:
    examples = _examples(names)
    first, second = stratified_split(examples, fraction, seed=seed)
    assert sorted(e.id for e in first + second) == sorted(e.id for e in examples)


@given(labels, fractions)
def test_each_label_is_within_a_row_of_its_share(names: list[str], fraction: float) -> None:
    first, _ = stratified_split(_examples(names), fraction, seed=0)
    taken, total = Counter(e.label for e in first), Counter(names)
    for label, n in total.items():
        # Rounding of the running totals at both ends, and rows forced into train before it.
        assert abs(taken[label] - fraction * n) <= 1 + len(total)
        assert n < 2 or taken[label] >= 1


@given(labels, fractions, st.randoms(use_true_random=False))
def test_a_shuffled_file_gives_the_same_parts(
    names: list[str], fraction: float, rng: object
) -> None:
    examples = _examples(names)
    shuffled = list(examples)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    before, _ = stratified_split(examples, fraction, seed=3)
    after, _ = stratified_split(shuffled, fraction, seed=3)
    assert {e.id for e in before} == {e.id for e in after}


def test_another_seed_draws_other_rows() -> None:
    examples = _examples(["a"] * 100)
    one, _ = stratified_split(examples, 0.5, seed=1)
    two, _ = stratified_split(examples, 0.5, seed=2)
    assert one != two


def test_the_size_is_exact_for_balanced_labels() -> None:
    first, second = stratified_split(_examples(list("abcde") * 20), 0.8, seed=0)
    assert (len(first), len(second)) == (80, 20)
    assert set(Counter(e.label for e in first).values()) == {16}


def test_official_test_rows_stay_test() -> None:
    data = TaskData(
        labels=("a",), splits={"train": _examples(["a"] * 10), "test": _examples(["a"])}
    )
    parts = divide(data, 0.8, seed=0)
    assert {split: len(rows) for split, rows in parts.items()} == {
        "train": 8,
        "validation": 2,
        "test": 1,
    }


def test_without_a_test_set_the_rest_is_halved() -> None:
    data = TaskData(labels=("a",), splits={"train": _examples(["a"] * 100)})
    parts = divide(data, 0.8, seed=0)
    assert {split: len(rows) for split, rows in parts.items()} == {
        "train": 80,
        "validation": 10,
        "test": 10,
    }
