"""The estimator against published numbers; the document shows what the tests compute."""

from __future__ import annotations

import pytest

from tests.estimate.reference import (
    BEGIN,
    DOCUMENT,
    END,
    Measured,
    Reference,
    qwen,
    references,
    tables,
)


@pytest.mark.parametrize("row", references(), ids=lambda row: row.what)
def test_a_published_number_is_met_within_15_percent(row: Reference) -> None:
    assert abs(row.error) <= 0.15, f"{row.estimated:.4g} {row.unit} for {row.published:g}"


@pytest.mark.parametrize(
    "row", [row for row in qwen() if row.bits == 16], ids=lambda row: f"{row.size}-{row.length}"
)
def test_measured_memory_of_lora_is_met_within_15_percent(row: Measured) -> None:
    assert row.gb_estimated == pytest.approx(row.gb, rel=0.15)


@pytest.mark.parametrize(
    "row",
    [row for row in qwen() if row.length >= 1024],
    ids=lambda row: f"{row.size}-{row.bits}-{row.length}",
)
def test_measured_step_times_are_met_within_a_quarter(row: Measured) -> None:
    assert row.seconds_estimated == pytest.approx(row.seconds, rel=0.25)


def test_the_document_shows_these_tables() -> None:
    """Else: python -m tests.estimate.reference."""
    shown = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    assert shown == tables()
