"""Which label or letter a generated text names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multitask.metrics.estimate import wilson
from multitask.metrics.parse import off_list_rate, parse_labels, parse_letter

LABELS = (
    "card_arrival",
    "card payment",
    "card payment fee",
    "Refund_not_showing_up",
    "reverted_card_payment?",
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("card_arrival", "card_arrival"),
        (" card_arrival\n", "card_arrival"),
        ("Card Arrival.", "card_arrival"),
        ("`card-arrival`", "card_arrival"),
        ("card_arrival, since the card is late", "card_arrival"),
        ("ｃａｒｄ arrival", "card_arrival"),  # noqa: RUF001 (full-width letters)
        ("refund not showing up", "Refund_not_showing_up"),
        ("reverted_card_payment", "reverted_card_payment?"),
        ("card payment", "card payment"),
        ("card payment fee!", "card payment fee"),
        ("card payment fee charged", "card payment fee"),  # the longest label
        ("card payment feels odd", "card payment"),  # whole words
        ("card_arrivals", None),
        ("card", None),
        ("it is card_arrival", None),
        ("", None),
        ("?!", None),
    ],
)
def test_labels(text: str, expected: str | None) -> None:
    assert parse_labels([text], LABELS) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A+", "A+"),
        ("A-", "A-"),
        (" A- ", "A-"),
        ("a+", None),
        ("A+ of course", None),
        ("?", "?"),
        ("C", "C"),
    ],
)
def test_labels_of_the_same_words_are_told_apart_only_letter_for_letter(
    text: str, expected: str | None
) -> None:
    assert parse_labels([text], ["A+", "A-", "?", "C"]) == [expected]


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, unique_by=str.strip))
def test_every_label_names_itself(labels: list[str]) -> None:
    assert parse_labels(labels, labels) == labels


@given(st.text(), st.permutations(LABELS))
def test_the_order_of_labels_does_not_matter(text: str, labels: list[str]) -> None:
    assert parse_labels([text], labels) == parse_labels([text], LABELS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(b)", "B"),
        ("**B**", "B"),
        ("B. the second", "B"),
        ("The answer is B.", "B"),
        ("A or B", "A"),
        ("I think C", "C"),
        ("E, or rather D", "D"),  # four options: there is no E
        ("A's is wrong, D", "D"),
        ("Because", None),
        ("a dog or b", None),
        ("e", None),
        ("", None),
    ],
)
def test_letters(text: str, expected: str | None) -> None:
    assert parse_letter(text, 4) == expected


def test_the_off_list_rate_counts_answers_that_name_nothing() -> None:
    assert off_list_rate(["a", None, "b", None]) == wilson(2, 4)
    with pytest.raises(ValueError, match="no rows"):
        off_list_rate([])
