"""Splits: stratified, of the wanted size, together for duplicates, and blind to row order."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from multitask.data.fingerprint import fingerprints
from multitask.data.mixture import stratified_split
from multitask.data.prepare import prepare_tasks
from multitask.data.rows import Rows
from multitask.spec import Spec
from multitask.tasks import Example


def _examples(labels: list[str]) -> list[Example]:
    return [Example(id=str(i), text=f"text {i}", label=label) for i, label in enumerate(labels)]


def _first(examples: list[Example], fraction: float, seed: int = 0) -> list[Example]:
    rows = Rows.of(examples)
    mask = stratified_split(rows.ranks, fingerprints(rows)[0], fraction, seed=seed)
    return list(rows.take(mask))


labels = st.lists(st.sampled_from("abcd"), min_size=1, max_size=80)
fractions = st.floats(0.05, 0.95)


@given(labels, fractions)
def test_each_label_is_near_its_share(names: list[str], fraction: float) -> None:
    taken, total = Counter(e.label for e in _first(_examples(names), fraction)), Counter(names)
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
    before, after = _first(examples, fraction, 3), _first(shuffled, fraction, 3)
    assert {e.id for e in before} == {e.id for e in after}


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from("ab")), min_size=1, max_size=60),
    fractions,
)
def test_duplicates_are_never_split(rows: list[tuple[int, str]], fraction: float) -> None:
    groups = np.array([number for number, _ in rows], dtype=np.uint64)
    codes = np.array(["ab".index(label) for _, label in rows])
    mask = stratified_split(codes, groups, fraction, seed=1)
    sides: dict[int, set[bool]] = {}
    for (number, _), chosen in zip(rows, mask.tolist(), strict=True):
        sides.setdefault(number, set()).add(chosen)
    assert all(len(found) == 1 for found in sides.values())


def test_another_seed_draws_other_rows() -> None:
    examples = _examples(["a"] * 100)
    assert _first(examples, 0.5, seed=1) != _first(examples, 0.5, seed=2)


def test_the_size_is_exact_for_balanced_labels() -> None:
    first = _first(_examples(list("abcde") * 20), 0.8)
    assert len(first) == 80
    assert set(Counter(e.label for e in first).values()) == {16}


def _sizes(folder: Path, **splits: int) -> dict[str, int]:
    """Rows of each split of a task whose source has these."""
    files = {}
    for split, count in splits.items():
        rows = [f"{split} row number {i},{'ab'[i % 2]}\n" for i in range(count)]
        files[split] = str(folder / f"{split}.csv")
        Path(files[split]).write_text("text,label\n" + "".join(rows))
    task = {"name": "own", "kind": "classification", "source": files}
    spec = Spec.model_validate(
        {"model": "owner/model", "tasks": [task], "leakage": {"near_duplicates": False}}
    )
    (prepared,) = prepare_tasks(spec).tasks
    return {split: len(part.examples) for split, part in prepared.parts.items()}


def test_missing_splits_are_taken_from_train_and_official_ones_stay(tmp_path: Path) -> None:
    assert _sizes(tmp_path, train=100) == {"train": 80, "validation": 10, "test": 10}
    assert _sizes(tmp_path, train=100, test=8) == {"train": 80, "validation": 20, "test": 8}
    assert _sizes(tmp_path, train=100, validation=8) == {"train": 80, "validation": 8, "test": 20}
    three = {"train": 100, "validation": 8, "test": 10}
    assert _sizes(tmp_path, **three) == three
