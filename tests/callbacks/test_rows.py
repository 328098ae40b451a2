"""Which rows are evaluated."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from multitask.callbacks.rows import row_budget, stratified

_LABELS = st.lists(st.sampled_from("abcde"), min_size=1, max_size=60)


@given(labels=_LABELS, count=st.integers(1, 60), seed=st.integers(0, 99))
def test_each_label_has_its_share_rounded_up_or_down(
    labels: list[str], count: int, seed: int
) -> None:
    chosen = stratified(labels, count, seed=seed).tolist()
    assert len(chosen) == min(count, len(labels))
    assert sorted(set(chosen)) == chosen
    found = Counter(labels[i] for i in chosen)
    for label, there in Counter(labels).items():
        share = there * min(1.0, count / len(labels))
        assert share - 1 < found[label] < share + 1


def test_the_choice_follows_its_seed() -> None:
    labels = ["a", "b"] * 50
    first, again, other = (stratified(labels, 10, seed=seed).tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_budget_bounds_the_work_of_all_evaluations() -> None:
    """A forward pass is a third of a training step's work at most."""
    rows = row_budget(10_000, share=0.02, trained_rows=40_000, evaluations=4, tasks=3)
    assert 0.99 * 0.02 * 40_000 < rows * 3 * 4 / 3 <= 0.02 * 40_000


def test_the_budget_is_at_most_what_was_asked_for() -> None:
    assert row_budget(256, share=0.02, trained_rows=1e9, evaluations=4, tasks=3) == 256
    assert row_budget(256, share=0.02, trained_rows=1, evaluations=4, tasks=3) == 16
    assert row_budget(5, share=0.02, trained_rows=1, evaluations=4, tasks=3) == 5
